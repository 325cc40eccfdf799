import pytest

from fedmesh.errors import DecodeError
from fedmesh.fleet.protocol import Abandon, Answer, End, Here, Instruct, Offer, Reply, Report, node_id_of
from fedmesh.identity import Name
from fedmesh.wire import dumps, loads

BODIES = [
    Here("lite", ("lite",), True, "", 3, "0.1.0"),
    Offer(5, "digits", "ab" * 32, 20, "vision"),
    Answer(5, False, "budget"),
    Instruct(5, "m-1", "train", 2),
    Reply(5, "m-1", ""),
    Reply(5, "m-1", "restarted"),
    Abandon(5, ("m-1", "m-2")),
    End(5),
    Report(4, "installed"),
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.kind)
def test_what_is_written_is_what_is_read(body):
    plain = loads(dumps(body.plain()), max_bytes=1 << 16)
    assert type(body).read(plain) == body


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.kind)
def test_fields_that_are_missing_unknown_or_of_another_type_are_refused(body):
    plain = body.plain()
    for name, value in plain.items():
        for wrong in (None, -1, [3], "x" * 201, {}, 1.5, not value):
            if type(wrong) is type(value) and wrong not in (-1, "x" * 201):
                continue
            with pytest.raises(DecodeError):
                type(body).read({**plain, name: wrong})
        with pytest.raises(DecodeError, match="wanted"):
            type(body).read({key: plain[key] for key in plain if key != name})
    with pytest.raises(DecodeError, match="wanted"):
        type(body).read({**plain, "more": 1})


@pytest.mark.parametrize(
    "plain", [{"run": 1, "accepted": False, "why": "he is asleep"}, {"version": 1, "outcome": "fine"}]
)
def test_words_outside_the_closed_sets_are_refused(plain):
    body = Answer if "why" in plain else Report
    with pytest.raises(DecodeError, match="none of"):
        body.read(plain)


def test_a_list_has_a_bound():
    with pytest.raises(DecodeError, match="no list of up to"):
        Abandon.read({"run": 1, "messages": ["m"] * 257})


def test_node_ids_are_stable_and_never_the_servers():
    ids = {node_id_of(Name("home", f"device-{number}")) for number in range(1000)}
    assert len(ids) == 1000
    assert all(1 < node_id < 2**63 for node_id in ids)
    assert node_id_of(Name("home", "pi-1")) == node_id_of(Name("home", "pi-1"))
    assert node_id_of(Name("home", "pi-1")) != node_id_of(Name("work", "pi-1"))
