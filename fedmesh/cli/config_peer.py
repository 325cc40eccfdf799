"""Whether the file of a member of a mesh can work here: identity, addresses, seeds, and what it takes or publishes."""

from typing import TYPE_CHECKING

from fedmesh.cli.checks import Check
from fedmesh.cli.config_learner import examine_learner
from fedmesh.cli.config_places import examine_folder, examine_identity, examine_metrics, examine_root

if TYPE_CHECKING:
    from pathlib import Path

    from fedmesh.configuration import PeerConfig
    from fedmesh.identity import Membership

__all__ = ["examine_peer"]


def examine_peer(config: "PeerConfig", clock: float) -> list[Check]:
    """All that can be known without the network."""
    membership, identity = examine_identity(config.identity.folder, clock)
    checks = [identity, examine_folder("folder", config.mesh.folder), _listen(config), _seeds(config, membership)]
    if config.registry is not None:
        checks += [examine_root(config.registry.trusted_root), examine_folder("models", config.registry_folder)]
    elif config.publish is not None:
        checks.append(_repository(config.publish.folder))
    else:
        checks.append(Check("models", "note", "none are taken and none are published", "add [registry] or [publish]"))
    if config.bridge is not None:
        checks.append(_bridge(config))
    if config.data is not None:
        checks += [*examine_learner(config), _inputs(config)]
    else:
        checks.append(Check("training", "note", "none: this member votes only", "add [data]"))
    return [*checks, examine_metrics(config.metrics)]


def _inputs(config: "PeerConfig") -> Check:
    """How long the inputs of a run may be; how long they are is known when it is started."""
    from fedmesh.peer.limits import MOST_MB

    most = min(config.limits.message_mb, MOST_MB)
    if most < MOST_MB:
        advice = f"raise [limits] message_mb to {MOST_MB}, what a mesh has"
        return Check("inputs", "note", f"runs whose inputs have more than {most} MB are declined", advice)
    return Check("inputs", "ok", f"up to {most} MB: {most * 8 // 24} million parameters at 24 bits")


def _listen(config: "PeerConfig") -> Check:
    listed = ", ".join(map(str, config.mesh.listen))
    if all(each.loopback for each in config.mesh.listen):
        return Check("listen", "note", listed, "no other machine reaches it there")
    if any(each.port == 0 for each in config.mesh.listen):
        return Check("listen", "note", listed, "another port at each start: nobody can name it as a seed")
    return Check("listen", "ok", listed)


def _seeds(config: "PeerConfig", membership: "Membership | None") -> Check:
    seeds = config.mesh.seeds
    if not seeds:
        return Check("seeds", "note", "none: others are found by multicast on the same link only", "name [mesh.seeds]")
    listed = ", ".join(seeds)
    if membership is not None and (strangers := sorted(set(seeds) - membership.roster.keys.keys())):
        advice = "correct them, or fetch a newer roster (fedmesh enroll --renew --now)"
        return Check("seeds", "note", f"not on this member's roster: {', '.join(strangers)}", advice)
    return Check("seeds", "ok", listed)


def _bridge(config: "PeerConfig") -> Check:
    bridge = config.bridge
    assert bridge is not None, "asked only where there is one"
    text = f"{bridge.coordinator} at {bridge.host}:{bridge.port}"
    if config.registry is None:
        return Check("bridge", "note", f"{text}: signed lists cross, no models", "for its models add [registry]")
    return Check("bridge", "ok", text)


def _repository(folder: "Path") -> Check:
    if not (folder / "public" / "metadata").is_dir():
        return Check("publish", "failed", f"there is no repository in {folder}", "make one with fedmesh model init")
    return Check("publish", "ok", str(folder))
