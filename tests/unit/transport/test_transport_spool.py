import os
import random
from dataclasses import replace

import pytest
from transport_pair import Pair, frames_of

from fedmesh.errors import ConfigError, IdentityError, PeerError
from fedmesh.transport.content import Content
from fedmesh.transport.frames import Chunk
from fedmesh.transport.limits import MAX_CHUNK_BYTES
from fedmesh.transport.spool import Spool

LARGE = random.Random(1).randbytes(950)


def spool(folder, **changes):
    return Spool(folder, **{"incarnation": 1_000_000_000_000, **changes})


def both(tmp_path):
    return Pair(spools=(spool(tmp_path / "a"), spool(tmp_path / "b")))


def reopen(pair, name, tmp_path):
    """As after `kill -9`: nothing was closed in good order."""
    pair.spools[name].close()
    pair.spools[name] = spool(tmp_path / name, incarnation=5)
    pair.restart(name)


def test_messages_outlive_their_sender_in_order(tmp_path):
    pair = both(tmp_path)
    for number in range(5):
        pair.submit(bytes([number]))
    pair.poll("a")
    pair.wires["a"].clear()
    reopen(pair, "a", tmp_path)
    pair.run()
    assert pair.data() == [bytes([number]) for number in range(5)]
    assert list((tmp_path / "a" / "out").iterdir()) == []


def test_a_message_that_arrived_before_the_sender_was_restarted_is_not_given_out_twice(tmp_path):
    pair = both(tmp_path)
    pair.submit(LARGE)
    pair.run(bend=lambda sender, parcel: [] if sender == "b" and len(pair.delivered["b"]) else [parcel])
    assert pair.data() == [LARGE]
    assert pair.settled["a"] == {}
    reopen(pair, "a", tmp_path)
    pair.run()
    assert pair.data() == [LARGE]
    assert pair.settled["a"] == {1: ""}


def test_numbers_are_never_given_out_again(tmp_path):
    first = spool(tmp_path / "s")
    numbers = [first.next_sequence() for _ in range(1500)]
    first.close()
    second = spool(tmp_path / "s")
    numbers += [second.next_sequence() for _ in range(10)]
    assert numbers == sorted(set(numbers))
    assert second.incarnation == first.incarnation


def test_a_receiver_goes_on_where_it_was_killed(tmp_path):
    pair = both(tmp_path)
    pair.submit(LARGE)
    sent = []

    def bend(sender, parcel):
        sent.extend(frame.place for frame in frames_of(parcel) if isinstance(frame, Chunk))
        if len(sent) == 6 and not bend.killed:
            bend.killed = True
            reopen(pair, "b", tmp_path)
        return [parcel]

    bend.killed = False
    pair.run(bend=bend)
    for _ in range(5):
        pair.advance(2)
        pair.run(bend=bend)
    assert pair.data() == [LARGE]
    assert len(sent) < 2 * 10
    assert pair.refused.get("chunk_hash") is None


def test_a_sender_that_was_restarted_is_answered_at_once(tmp_path):
    pair = both(tmp_path)
    pair.submit(LARGE)
    for _ in range(4):
        pair.run(bend=lambda sender, parcel: [] if isinstance(frames_of(parcel)[0], Chunk) else [parcel])
        pair.advance(10)
    reopen(pair, "a", tmp_path)  # it counts its questions anew
    pair.run()
    assert pair.data() == [LARGE]


def test_what_was_begun_by_a_sender_that_began_anew_is_not_gone_on_with(tmp_path):
    pair = both(tmp_path)
    pair.submit(LARGE)
    pair.run(bend=lambda sender, parcel: [] if isinstance(frames_of(parcel)[0], Chunk) else [parcel])
    kept = tmp_path / "b" / "in" / "a"
    [old] = [path.read_bytes() for path in kept.glob("*.part")]
    old_name = next(kept.glob("*.part")).name
    pair.spools["a"].close()
    pair.spools["a"] = spool(tmp_path / "a2", incarnation=1_000_000_000_001)
    pair.restart("a")
    pair.submit(b"new")
    pair.run()
    pair.ends["b"].taken(pair.delivered["b"][0])
    (kept / old_name).write_bytes(old)
    reopen(pair, "b", tmp_path)
    assert pair.ends["b"]._receiver.held_bytes == 0
    assert list(kept.glob("*.part")) == []
    pair.submit(LARGE)
    pair.run()
    assert pair.data()[-1] == LARGE


def test_a_receiver_goes_on_though_its_record_is_of_an_earlier_sender(tmp_path):
    pair = both(tmp_path)
    pair.submit(b"one")
    pair.run()
    pair.ends["b"].taken(pair.delivered["b"][0])
    pair.spools["a"].close()
    pair.spools["a"] = spool(tmp_path / "a2", incarnation=1_000_000_000_001)
    pair.restart("a")
    pair.submit(LARGE)
    pair.run(bend=lambda s, parcel: [parcel] if not late_chunk(parcel) else [])
    reopen(pair, "b", tmp_path)
    sent = []
    pair.advance(4)
    pair.run(bend=lambda s, parcel: sent.extend(f for f in frames_of(parcel) if isinstance(f, Chunk)) or [parcel])
    assert pair.data()[-1] == LARGE
    assert len(sent) == 5


def late_chunk(parcel):
    return any(isinstance(frame, Chunk) and frame.place > 4 for frame in frames_of(parcel))


def test_what_waits_in_a_spool_is_taken_up_whatever_the_limits_are_now(tmp_path):
    pair = both(tmp_path)
    pair.submit(LARGE)
    pair.submit(b"one")
    pair.limits = replace(pair.limits, queued=1, message_bytes=500, outgoing_bytes=500)
    reopen(pair, "a", tmp_path)
    pair.run()
    assert sorted(pair.data()) == sorted([LARGE, b"one"])


def test_a_chunk_that_the_crash_tore_is_asked_for_again(tmp_path):
    pair = both(tmp_path)
    pair.submit(LARGE)
    pair.run(
        bend=lambda s, parcel: [] if any(isinstance(f, Chunk) and f.place > 4 for f in frames_of(parcel)) else [parcel]
    )
    [part] = (tmp_path / "b" / "in" / "a").glob("*.part")
    torn = bytearray(part.read_bytes())
    torn[-450] ^= 1  # of chunk 0 or 1: five have arrived
    part.write_bytes(torn)
    reopen(pair, "b", tmp_path)
    for _ in range(3):
        pair.advance(2)
        pair.run()
    assert pair.data() == [LARGE]


@pytest.mark.parametrize("data", [b"short", LARGE])
def test_a_message_that_was_not_taken_is_given_out_again_and_one_that_was_is_not(tmp_path, data):
    pair = both(tmp_path)
    pair.submit(data)
    pair.run()
    reopen(pair, "b", tmp_path)
    assert pair.data() == [data, data]
    pair.ends["b"].taken(pair.delivered["b"][0])
    reopen(pair, "b", tmp_path)
    assert pair.data() == [data, data]
    assert list((tmp_path / "b" / "in" / "a").glob("*.msg")) == []


def test_what_was_taken_is_not_taken_again_after_a_restart(tmp_path):
    pair = both(tmp_path)
    pair.submit(b"one")
    pair.poll("a")
    parcel = pair.wires["a"][0]
    pair.run()
    pair.ends["b"].taken(pair.delivered["b"][0])
    reopen(pair, "b", tmp_path)
    pair.give("a", parcel)
    assert pair.data() == [b"one"]
    assert pair.refused == {"duplicate": 1}


def test_taking_a_later_message_does_not_lose_an_earlier_one(tmp_path):
    pair = both(tmp_path)
    for number in range(3):
        pair.submit(bytes([number]))
        pair.run()
    pair.ends["b"].taken(pair.delivered["b"][2])
    pair.ends["b"].taken(pair.delivered["b"][0])
    reopen(pair, "b", tmp_path)
    assert pair.data()[3:] == [b"\1"]


def test_a_crash_between_the_record_and_the_file_gives_nothing_out_twice(tmp_path):
    pair = both(tmp_path)
    pair.submit(b"one")
    pair.run()
    [path] = (tmp_path / "b" / "in" / "a").glob("*.msg")
    data = path.read_bytes()
    pair.ends["b"].taken(pair.delivered["b"][0])
    path.write_bytes(data)  # as if the record had been written, and the power had failed then
    reopen(pair, "b", tmp_path)
    assert pair.data() == [b"one"]
    assert not path.exists()


def test_a_damaged_file_is_removed_and_counted(tmp_path):
    pair = both(tmp_path)
    pair.submit(b"one")
    pair.submit(LARGE)
    for path in (tmp_path / "a" / "out").iterdir():
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    reopen(pair, "a", tmp_path)
    assert pair.spools["a"].damaged == 2
    pair.run()
    assert pair.data() == []


def test_a_spool_is_bounded(tmp_path):
    kept = spool(tmp_path / "s", max_bytes=1000)
    data = bytes(400)
    kept.put("b", 1, Content.of(data, 100), 2e9, data)
    with pytest.raises(PeerError, match="raise its max_bytes"):
        kept.put("b", 2, Content.of(data, 100), 2e9, data)
    kept.drop(1)
    kept.put("b", 3, Content.of(data, 100), 2e9, data)
    kept.close()
    again = spool(tmp_path / "s", max_bytes=1000)
    with pytest.raises(PeerError):
        again.put("b", 4, Content.of(data, 100), 2e9, data)
    assert [one.sequence for one in again.outgoing()] == [3]


def test_other_chunks_than_before_do_not_lose_a_message(tmp_path):
    kept = spool(tmp_path / "s")
    data = bytes(MAX_CHUNK_BYTES // 2)
    kept.put("b", 1, Content.of(data, MAX_CHUNK_BYTES), 2e9, data)
    kept.put("b", 2, Content.of(data, 1000), 2e9, data)
    assert [one.content.digest for one in kept.outgoing()] == [
        Content.of(data, MAX_CHUNK_BYTES).digest,
        Content.of(data, 1000).digest,
    ]
    assert kept.damaged == 0


def test_a_spool_belongs_to_one_process(tmp_path):
    kept = spool(tmp_path / "s")
    with pytest.raises(ConfigError, match="another process"):
        spool(tmp_path / "s")
    kept.close()
    spool(tmp_path / "s").close()


def test_nobody_else_reads_a_spool(tmp_path):
    pair = both(tmp_path)
    pair.submit(LARGE)
    pair.run(bend=lambda sender, parcel: [] if sender == "b" and len(pair.delivered["b"]) else [parcel])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 6
    assert {path.stat().st_mode & 0o077 for path in files} == {0}


def test_a_full_disk_makes_a_receiver_busy(tmp_path, monkeypatch):
    pair = both(tmp_path)
    sequence = pair.submit(b"one")
    folder = tmp_path / "b" / "in" / "a"
    folder.mkdir()
    real = os.open
    monkeypatch.setattr(
        os,
        "open",
        lambda path, *rest: (
            real(tmp_path / "nowhere" / "x", *rest) if str(path).startswith(str(folder)) else real(path, *rest)
        ),
    )
    pair.run()
    assert pair.refused == {"disk": 1, "busy": 1}
    monkeypatch.undo()
    pair.advance(4)
    pair.run()
    assert pair.data() == [b"one"]
    assert pair.settled["a"] == {sequence: ""}


def test_a_lower_incarnation_is_outgrown_for_good(tmp_path):
    pair = both(tmp_path)
    pair.submit(b"one")
    pair.run()
    pair.spools["a"].close()
    for path in sorted((tmp_path / "a").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    pair.spools["a"] = spool(tmp_path / "a", incarnation=7)
    pair.restart("a")
    pair.submit(b"two")
    pair.run()
    assert pair.data() == [b"one", b"two"]
    reopen(pair, "a", tmp_path)
    assert pair.spools["a"].incarnation_for("b") > 1_000_000_000_000


def test_files_of_a_write_that_was_cut_off_are_removed(tmp_path):
    spool(tmp_path / "s").close()
    (tmp_path / "s" / "out" / ".1.msg.abcd").write_bytes(b"half")
    spool(tmp_path / "s").close()
    assert list((tmp_path / "s" / "out").iterdir()) == []


def test_a_state_that_is_none_is_refused_and_the_lock_let_go(tmp_path):
    spool(tmp_path / "s").close()
    (tmp_path / "s" / "state.cbor").write_bytes(b"nonsense")
    for _ in range(2):
        with pytest.raises(ConfigError, match="remove the spool"):
            spool(tmp_path / "s")


def test_a_peer_that_is_no_name_gets_no_folder(tmp_path):
    kept = spool(tmp_path / "s")
    with pytest.raises(IdentityError, match="is no name"):
        kept._in("../../etc")
