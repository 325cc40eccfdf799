"""What every part of a fleet or mesh names in its file: an identity, folders, addresses. Looked at, never changed."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from fedmesh.cli.checks import Check
from fedmesh.errors import ConfigError
from fedmesh.files import read_bounded

if TYPE_CHECKING:
    from fedmesh.configuration.shared import MetricsSection
    from fedmesh.configuration.values import Address
    from fedmesh.identity import Membership

__all__ = ["examine_folder", "examine_identity", "examine_listener", "examine_metrics", "examine_root"]

_MAX_ROOT_BYTES = 1 << 20


def examine_identity(folder: Path, clock: float) -> "tuple[Membership | None, Check]":
    """The party enrolled in `folder`, if any, and whether its certificate is good when the clock says `clock`."""
    from fedmesh.identity import Membership

    try:
        membership = Membership(folder)
        membership.signing_key()
    except ConfigError as error:
        return None, Check("identity", "failed", str(error))
    except OSError as error:
        return None, Check("identity", "failed", f"{folder}: {error.strerror or error}", "see who may read it")
    return membership, _certificate(membership, clock)


def _certificate(membership: "Membership", clock: float) -> Check:
    begins, ends = membership.leaf.not_valid_before_utc, membership.leaf.not_valid_after_utc
    who = f"{membership.name.id} of the mesh {membership.name.mesh}, good until {ends:%Y-%m-%d %H:%M} UTC"
    if membership.expired(clock):
        return Check("identity", "failed", who, "it has expired: enrol anew with a token made by --again")
    if membership.revocations.revoked(membership.leaf.serial_number):
        return Check("identity", "failed", f"{who}, and revoked", "enrol anew with a new token")
    if begins.timestamp() > clock:  # we know better (`Membership.now`), a TLS library does not
        return Check("identity", "note", who, "this machine's clock is before its beginning: TLS fails until it is set")
    if membership.due(clock):
        return Check("identity", "note", who, "it is due: fedmesh enroll --renew, or leave it to the agent")
    return Check("identity", "ok", who)


def examine_folder(name: str, folder: Path) -> Check:
    """Whether `folder` can be written to, or made."""
    place = folder
    while not place.exists() and place.parent != place:
        place = place.parent
    if not place.is_dir():
        return Check(name, "failed", f"{place} is a file, and {folder} was to be a folder", "name another")
    if not os.access(place, os.W_OK | os.X_OK):
        return Check(
            name, "failed", f"{folder}: {place} cannot be written to by this user", "chown it, or name another"
        )
    return Check(name, "ok", str(folder) if place == folder else f"{folder}, which will be made in {place}")


def examine_metrics(section: "MetricsSection") -> Check:
    """Where metrics are served."""
    if section.listen is None:
        return Check(
            "metrics", "note", "not exported", 'to be scraped by Prometheus: [metrics] listen = "127.0.0.1:9464"'
        )
    return examine_listener("metrics", section.listen)


def examine_listener(name: str, address: "Address") -> Check:
    """Whether others than this machine reach what listens without a password."""
    if address.loopback:
        return Check(name, "ok", f"on http://{address}, for this machine alone")
    return Check(
        name, "note", f"on http://{address}", "anyone who reaches that address can read it: no TLS, no password"
    )


def examine_root(path: Path) -> Check:
    """Whether `path` is the root metadata (TUF) of a registry."""
    try:
        signed = json.loads(read_bounded(path, _MAX_ROOT_BYTES, called="the trusted root"))["signed"]
        kind, version, expires = signed["_type"], signed["version"], signed["expires"]
    except ConfigError as error:
        return Check("registry", "failed", str(error), "copy the root metadata of the coordinator's registry there")
    except (ValueError, KeyError, TypeError):
        return Check("registry", "failed", f"{path} is not TUF metadata", "copy the registry's root metadata there")
    if kind != "root":
        return Check("registry", "failed", f"{path} is TUF metadata of {kind!r}, wanted root", "copy the root there")
    # An old root is no fault: newer ones, each signed by the one before, lead on from it (TUF 5.3).
    return Check("registry", "ok", f"{path}, version {version}, until {expires}; its signatures show when it is used")
