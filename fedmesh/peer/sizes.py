"""Whether what a run is about fits a mesh: its inputs into a message, model and state into what members fetch."""

from fedmesh.client.averaging import AveragingTerms, rule_of
from fedmesh.errors import ConfigError
from fedmesh.federation.sums import sums_of
from fedmesh.fleet.kit import Kit
from fedmesh.mesh.gossip import group_sizes
from fedmesh.peer.blobs import MAX_BLOB_BYTES
from fedmesh.peer.limits import MOST_MB, longest_message

__all__ = ["check_averaged", "check_blobs", "check_input", "input_bytes"]

_ROOM = 1 << 20  # what an input or a sum has beside its elements: names, keys, commitments


def input_bytes(kit: Kit, members: int) -> int:
    """The longest message of a run: an input, or the sum of all, in as many bits as a sum of `members` takes."""
    sums = sums_of(kit.read_task())
    return _message_bytes(sums.length(kit.layout), sums.ring_bits(members))


def check_input(kit: Kit, members: int, message_mb: int = MOST_MB) -> None:
    """Raises: ConfigError: an input of the run is longer than this member's messages, or those of a mesh."""
    bits, wanted = sums_of(kit.read_task()).ring_bits(members), input_bytes(kit, members)
    what = f"an input of this run has {_mb(wanted)} ({kit.layout.size:,} parameters at {bits} bits, {members} members)"
    _check(what, wanted, message_mb, advice="take a smaller model, or fewer delta.bits")


def check_averaged(kit: Kit, members: int, message_mb: int = MOST_MB) -> None:
    """The same for a run of gossip averaging, whose sums are of whole models, among a group."""
    terms = AveragingTerms.of(kit.scenario["strategy"]["options"])
    rule, group = rule_of(kit.read_task(), terms.grid, kit.layout.size), max(group_sizes(members, terms.group))
    bits = rule.ring_bits(group)
    wanted = _message_bytes(rule.length, bits)
    what = f"a sum of this run has {_mb(wanted)} ({rule.length:,} numbers of {bits} bits)"
    _check(what, wanted, message_mb, advice="take a smaller model")


def check_blobs(*, model: int, state: int) -> None:
    """Of so many bytes. Raises: ConfigError: one is longer than what members fetch from each other."""
    for what, size in (("the model", model), ("the state of the strategy", state)):
        if size > MAX_BLOB_BYTES:
            raise ConfigError(
                f"{what} has {_mb(size)}, members fetch {_mb(MAX_BLOB_BYTES)} at most: take a smaller model, or "
                "another strategy.name"
            )


def _message_bytes(length: int, bits: int) -> int:
    return (length + 1) * bits // 8 + _ROOM


def _check(what: str, wanted: int, message_mb: int, *, advice: str) -> None:
    """Raises: ConfigError: so many bytes are longer than this member's messages, or those of a mesh."""
    if wanted > longest_message(message_mb):
        most = min(message_mb, MOST_MB)
        advice = "raise [limits] message_mb" if most < MOST_MB else advice
        raise ConfigError(f"{what}, a message {most} MB at most: {advice}")


def _mb(size: int) -> str:
    return f"{size / (1 << 20):.1f} MB"
