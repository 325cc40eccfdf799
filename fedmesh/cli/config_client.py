"""Whether a device's file can work here: identity, data, packages for its tier, and what its policy comes to."""

from typing import TYPE_CHECKING

from fedmesh.cli.checks import Check
from fedmesh.cli.config_learner import examine_learner
from fedmesh.cli.config_places import (
    examine_folder,
    examine_identity,
    examine_listener,
    examine_metrics,
    examine_root,
)

if TYPE_CHECKING:
    from fedmesh.configuration import ClientConfig
    from fedmesh.identity import Membership

__all__ = ["examine_client"]


def examine_client(config: "ClientConfig", clock: float) -> list[Check]:
    """All that can be known without the network."""
    membership, identity = examine_identity(config.identity.folder, clock)
    checks = [identity, _coordinators(config, membership), examine_folder("state", config.state.folder)]
    checks += examine_learner(config)
    if config.registry is not None:
        checks.append(examine_root(config.registry.trusted_root))
    if config.inference is not None:
        checks += _inference(config)
    return [*checks, examine_metrics(config.metrics)]


def _coordinators(config: "ClientConfig", membership: "Membership | None") -> Check:
    listed = ", ".join(config.coordinators)
    if membership is None:
        return Check("coordinators", "note", listed)
    if strangers := sorted(set(config.coordinators) - membership.roster.keys.keys()):
        advice = "correct coordinators, or fetch a newer roster (fedmesh enroll --renew --now)"
        return Check("coordinators", "note", f"not on this device's roster: {', '.join(strangers)}", advice)
    return Check("coordinators", "ok", listed)


def _inference(config: "ClientConfig") -> list[Check]:
    section = config.inference
    assert section is not None
    checks = [examine_folder("models", config.registry_folder)]
    if section.listen is not None:
        checks.append(examine_listener("inference", section.listen))
    if section.handoff is not None:
        clear = section.handoff.startswith("http:")
        advice = "over http anyone in between can read and change them: use https" if clear else ""
        detail = f"examples below {section.threshold:g} go to {section.handoff}"
        checks.append(Check("hand-off", "note" if clear else "ok", detail, advice))
    return checks
