from dataclasses import replace

import pytest
from round_worlds import charter, identity

from fedmesh.errors import ChainError, ConfigError, DecodeError
from fedmesh.mesh.rounds import Schedule, counted_out, open_charter, sign_charter
from fedmesh.mesh.rounds.charter import MAX_CHARTER_BYTES, read_charter
from fedmesh.mesh.rounds.quorum import colluders_for, quorum_for
from fedmesh.secagg import SessionHeader
from fedmesh.wire import dumps, loads

GOLDEN = (
    "837b7e380190f582a6f21bf92cea1f20b6d62a798b5b023f03ad727ad16e77d41789afe832bb357b7ccd08914cd22b2d7001"
    "fe717d853c406d1e30df8b808b038e716665646d6573682d636861727465722f31656669656c646664696769747350000000"
    "000000000000000000000000005820e563d24e821cfdc9bcd41decd810c691b615c1dd1ac7b60556e65e75eb01d7c9848262"
    "6d3058201cbd53f2046ffa34c3ad0d6690fee6b9e106ac76fc3618f41cdc02664706049d82626d31582053ba8ea2610f74bf"
    "d9599d89766e9775bdfee465282561f03c89f934c9b58b6c82626d3258205632ca992b8451f2e84a4d0e5bd63191f128d806"
    "a16a07fc6d1fe2e272cbd44582626d335820fd4bf72ba0bde2a699f318cdebb851e40c73b4a0ff59731ff224a29374edbf2e"
    "0303040358208eecd7d6a91721a77300636ddc328a6e2e9f227aa023b39e7d0cce624c0e2da45820e59293a007d6ef0032e4"
    "290c3f1ffeed4d25a1fe4d3ba1b7010b435a8b47a15083190fa01903e81903e8686f70657261746f72"
)


def keys(name):
    return {**charter(4).members, "operator": identity("operator").public}.get(name)


def opened(raw, **changes):
    facts = {"mesh": "field", "key_of": keys, "may_charter": lambda name: name == "operator"}
    return open_charter(raw, **{**facts, **changes})


def test_golden_bytes():
    assert charter(4).raw.hex() == GOLDEN
    assert charter(4).hash.hex() == "19a1ed9d4a90dca5cff528b1aa9f0a852e6f3a0d21a449b17870eaffc258e76e"


def test_a_charter_of_gossip_averaging_is_another_one_and_of_its_kind():
    signed = sign_charter(replace(charter(4), kind="gossip"), identity("operator"))
    assert b"fedmesh-gossip-charter/1" in signed.raw
    assert signed.hash.hex() == "3e694b5e2c93a23518e6c692d2030232aa9cac27dd4bee0dc19ae21bef3ac5dc"
    assert (opened(signed.raw).kind, opened(charter(4).raw).kind) == ("gossip", "rounds")


def test_it_is_read_as_it_was_signed():
    signed = charter(5)
    assert opened(charter(4).raw) == charter(4)
    assert read_charter(signed.raw) == signed
    assert signed.schedule.attempt_s == 4 + 7 + 3
    assert [signed.schedule.window_s(attempt) for attempt in (0, 2, 100)] == [14, 28, 112]


def test_only_who_may_charter_is_believed_and_only_with_the_keys_of_the_roster():
    raw = charter(4).raw
    with pytest.raises(ChainError, match="no right"):
        opened(raw, may_charter=lambda name: False)
    with pytest.raises(ChainError, match="no right"):
        opened(raw, key_of=lambda name: None)
    with pytest.raises(ChainError, match="of the mesh 'field' came"):
        opened(raw, mesh="meadow")
    with pytest.raises(ChainError, match="other keys than the roster for m2"):
        opened(raw, key_of=without("m2"))
    with pytest.raises(ChainError, match="did not sign"):
        opened(bytes([raw[0] ^ 1]) + raw[1:])


def without(*names, key=None):
    return lambda name: key if name in names else keys(name)


@pytest.mark.parametrize("key", [None, identity("m2 anew").public])
def test_a_member_that_is_revoked_is_counted_out_when_more_took_part_than_can_be_in_league(key):
    raw, key_of = charter(4).raw, without("m2", key=key)
    assert opened(raw, key_of=key_of, vouchers=["m0", "m3"]) == charter(4)
    assert counted_out(charter(4), key_of) == {"m2"}
    assert not counted_out(charter(4), keys)
    for vouchers in ([], ["m0"], ["m0", "m2"], ["m0", "stranger", "operator"]):  # it could be the signer's own key
        with pytest.raises(ChainError, match="members say that they take part, 2 have to"):
            opened(raw, key_of=key_of, vouchers=vouchers)


def test_with_fewer_members_than_a_quorum_a_charter_is_refused_whoever_took_part():
    with pytest.raises(ChainError, match=r"2 of the 4 members .* the quorum is 3; not m1, m2: .*start the run anew"):
        opened(charter(4).raw, key_of=without("m1", "m2"), vouchers=charter(4).names)


def test_nobody_else_signs_for_the_operator():
    plain = charter(4)
    forged = sign_charter(plain, identity("m0"))
    with pytest.raises(ChainError, match="did not sign") as raised:
        opened(forged.raw)
    assert raised.value.code == "charter"


@pytest.mark.parametrize(
    "wrong",
    [
        {"quorum": 2},
        {"quorum": 5},
        {"fewest": 3},
        {"fewest": 5},
        {"rounds": 0},
        {"attempts": 0},
        {"run": b"short"},
        {"model": b""},
        {"task": ""},
        {"mesh": "A"},
        {"members": {"m0": identity("m0").public}},
        {"members": {f"m{number}": identity("m0").public for number in range(4)}},
        {"schedule": Schedule(0, 1, 1)},
    ],
)
def test_what_no_charter_can_say_is_not_signed(wrong):
    with pytest.raises(ConfigError, match="cannot be signed"):
        sign_charter(replace(charter(4), **wrong), identity("operator"))


@pytest.mark.parametrize("data", [b"", b"\x00" * 64, b"\x00" * (MAX_CHARTER_BYTES + 1), b"\x00" * 64 + dumps([])])
def test_other_bytes_are_none(data):
    with pytest.raises(DecodeError):
        read_charter(data)


def test_a_later_format_and_a_missing_field_are_refused():
    content = loads(charter(4).raw[64:], max_bytes=MAX_CHARTER_BYTES)
    with pytest.raises(DecodeError, match="of format 'fedmesh-charter/2'"):
        read_charter(bytes(64) + dumps(["fedmesh-charter/2", *content[1:]]))
    with pytest.raises(DecodeError, match="fields"):
        read_charter(bytes(64) + dumps(content[:-1]))
    content[5].reverse()
    with pytest.raises(DecodeError, match="not sorted"):
        read_charter(bytes(64) + dumps(content))


@pytest.mark.parametrize("members", range(4, 129))
def test_two_quorums_share_more_members_than_can_collude(members):
    quorum, colluders = quorum_for(members), colluders_for(members)
    assert 2 * quorum - members > colluders
    assert quorum <= members - colluders
    assert 2 * (quorum - 1) - members <= colluders + 1  # and it is no larger than it has to be, give or take one
    assert (quorum, colluders) == (SessionHeader.threshold_for(members), SessionHeader.colluders_for(members))
