"""Results, certificates, the chain of them, and what is kept on a disk."""

import pytest
from round_sessions import digest
from round_worlds import FakeKeys, charter, identity

from fedmesh.errors import ChainError, ConfigError, DecodeError
from fedmesh.mesh.rounds import Certificate, Chain, DurableMemory, Keyring, Result, read_fork
from fedmesh.mesh.rounds.result import founding, read_certificate, read_result, result_statement, void
from fedmesh.mesh.rounds.voting import Ballot, Phase, Proof
from fedmesh.wire import dumps, loads

CHARTER = charter(5)
KEYS = Keyring(identity("m0"), CHARTER.members)


def result(number=1, parent=None, model="model", **changes):
    facts = {
        "charter": CHARTER.hash, "round": number, "attempt": 0, "parent": parent or CHARTER.hash,
        "survivors": ("m0", "m1", "m2", "m4"), "context": digest("context"), "model": digest(model),
        "state": digest("state"), "privacy": {"epsilon": 1.5},
    }  # fmt: skip
    return Result(**{**facts, **changes})


def certified(of, signers=("m0", "m1", "m2", "m3")):
    return Certificate(of, {name: identity(name).sign(result_statement(of)) for name in signers})


def chain_of(length, **changes):
    chain = Chain(CHARTER, KEYS)
    for number in range(1, length + 1):
        assert chain.add(certified(result(number, chain.parent, f"model {number}", **changes)))
    return chain


def test_golden_bytes():
    assert result().hash.hex() == "47b44d2b25e5eceee7bc96100f4d32ca7f51a2646ab3481ae5c0061e95a77db5"
    assert (
        digest(certified(result()).to_bytes()).hex()
        == "23a139954e29f8796938c656f75896d3b8c6ef604725023c64748e17ab92f775"
    )


def test_they_are_read_as_they_were_written():
    assert read_result(result().to_bytes()) == result()
    assert read_certificate(certified(result()).to_bytes()) == certified(result())
    assert void(CHARTER, founding(CHARTER), CHARTER.hash).is_void


@pytest.mark.parametrize(
    "wrong",
    [
        {"round": 0},
        {"attempt": -1},
        {"parent": b"short"},
        {"survivors": ("m1", "m0")},
        {"survivors": ("m0", "m0")},
        {"survivors": ("M",)},
        {"context": b""},
        {"survivors": ()},
        {"privacy": {"epsilon": "much"}},
        {"privacy": {"epsilon": float("inf")}},
        {"privacy": {str(number): 1.0 for number in range(9)}},
    ],
)
def test_what_no_result_says_is_not_read(wrong):
    with pytest.raises(DecodeError):
        read_result(result(**wrong).to_bytes())


@pytest.mark.parametrize("data", [b"", dumps([]), dumps([b"", {}]), dumps([result().to_bytes(), {"m0": b"short"}])])
def test_other_bytes_are_no_certificate(data):
    with pytest.raises(DecodeError):
        read_certificate(data)


def test_a_quorum_has_to_sign_and_nobody_else():
    certified(result()).verify(CHARTER, KEYS)
    for signers in [("m0", "m1", "m2"), ("m0", "m1", "m2", "stranger"), ("m0", "m1", "m2", "m3", "stranger")]:
        with pytest.raises(ChainError, match="the quorum is 4"):
            certified(result(), signers).verify(CHARTER, KEYS)
    stolen = Certificate(result(model="other"), certified(result()).signatures)
    with pytest.raises(ChainError, match="0 of 4"):
        stolen.verify(CHARTER, KEYS)
    with pytest.raises(ChainError, match="another run"):
        certified(result(charter=digest("run"))).verify(CHARTER, KEYS)


def test_a_late_joiner_catches_up_from_any_peer():
    known, late = chain_of(3), Chain(CHARTER, KEYS)
    for certificate in known.since(1, 10):
        assert late.add(read_certificate(certificate.to_bytes()))
    assert late.parent == known.parent
    assert late.is_complete
    assert not late.add(known.since(2, 1)[0])  # known


def test_what_does_not_follow_is_refused():
    chain = chain_of(1)
    with pytest.raises(ChainError, match="ask for those in between") as raised:
        chain.add(certified(result(3, chain.parent)))
    assert raised.value.code == "round"
    with pytest.raises(ChainError, match="another result") as raised:
        chain.add(certified(result(2, digest("other"))))
    assert raised.value.code == "parent"
    with pytest.raises(ChainError):
        chain_of(3).add(certified(result(4)))
    assert len(chain) == 1


def test_two_certificates_of_one_round_name_who_signed_both():
    chain = chain_of(2)
    other = certified(result(1, model="other"), ("m1", "m2", "m3", "m4"))
    assert not chain.add(other)
    assert chain.fork.signers == ("m1", "m2", "m3")
    proof = read_fork(chain.fork.to_bytes())
    proof.verify(CHARTER, KEYS)
    assert proof == chain.fork
    assert not chain.add(certified(result(3, chain.parent)))  # it is over
    with pytest.raises(ChainError, match="do not contradict"):
        type(proof)(other, other).verify(CHARTER, KEYS)


def test_what_nobody_certified_is_no_fork():
    chain = chain_of(1)
    with pytest.raises(ChainError, match="quorum"):
        chain.add(certified(result(1, model="other"), ("m1", "m2")))
    assert chain.fork is None


def test_a_ballot_and_certificates_outlive_a_process(tmp_path):
    proof = Proof(Phase.PREPARE, 3, result(), {"m0": bytes(64)})
    for ballot in [Ballot(), Ballot(2, 3, (3, digest("x")), proof, digest("y"))]:
        DurableMemory(tmp_path).keep(ballot)
        assert DurableMemory(tmp_path).ballot() == ballot
    for certificate in chain_of(3).since(1, 3):
        DurableMemory(tmp_path).append(certificate)
    assert Chain(CHARTER, KEYS, DurableMemory(tmp_path).certificates()).is_complete


def test_a_damaged_or_lost_ballot_stops_the_member(tmp_path):
    memory = DurableMemory(tmp_path)
    assert memory.ballot() == Ballot()
    memory.append(certified(result()))
    with pytest.raises(ConfigError, match="is gone, with what this member signed"):
        memory.ballot()
    for content in [b"", b"\x00", dumps(["fedmesh-ballot/1", 1]), dumps(["fedmesh-ballot/1", 1, 0, [0], None, None])]:
        (tmp_path / "ballot").write_bytes(content)
        with pytest.raises(ConfigError, match="takes no part in this run any more"):
            memory.ballot()
    (tmp_path / "round-0000001.certificate").write_bytes(b"")
    with pytest.raises(ConfigError, match="any peer has them"):
        list(memory.certificates())
    with pytest.raises(ConfigError, match="no folder"):
        DurableMemory(tmp_path / "none")


def test_a_ballot_s_bytes_are_golden():
    ballot = Ballot(2, 3, (3, digest("x")), Proof(Phase.PREPARE, 3, result(), {"m0": bytes(64)}), digest("y"))
    assert digest(ballot.to_bytes()).hex() == "e1cc4f46da1abc999b107397682df689b34ca7e54dd4d9cbdacaad0204165941"
    assert loads(Ballot(1).to_bytes(), max_bytes=100) == ["fedmesh-ballot/1", 1, 0, None, None, None]


def test_fakes_agree_with_the_real_keys():
    for keys in (KEYS, FakeKeys("m0")):
        assert keys.is_signed("m0", keys.sign(b"x"), b"x")
        assert not keys.is_signed("m1", keys.sign(b"x"), b"x")
        assert not keys.is_signed("m0", keys.sign(b"x"), b"y")
        assert not keys.is_signed("nobody", bytes(64), b"x")
