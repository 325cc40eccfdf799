"""What every device that learns has to have: packages for its tier, data, client apps, and what its policy comes to."""

import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from fedmesh import plugins
from fedmesh.cli.checks import Check

if TYPE_CHECKING:
    from fedmesh.configuration.learner import Learner

__all__ = ["examine_learner"]

_NEEDS = {"full": ("torch", "flwr", "opacus"), "lite": ("onnxruntime",), "inference": ("onnxruntime",)}


def examine_learner(config: "Learner") -> list[Check]:
    """All of it; of a device that never trains, the packages."""
    checks = [_packages(config.tier)]
    if config.tier != "inference":
        checks += [_data(config), _clients(config), _privacy(config), _secure(config)]
    return checks


def _packages(tier: str) -> Check:
    missing = [package for package in _NEEDS[tier] if find_spec(package) is None]
    if missing:
        advice = "pip install 'fedmesh[train]'" if tier == "full" else "pip install --force-reinstall fedmesh"
        return Check("tier", "failed", f"{tier} needs {', '.join(missing)}", advice)
    return Check("tier", "ok", f"{tier}: there is {', '.join(_NEEDS[tier])}")


def _data(config: "Learner") -> Check:
    from fedmesh.configuration.learner import DataSetData, HookData, NpzData

    match config.data:
        case NpzData(path=path):
            return _npz(path)
        case HookData(function=function):
            package = function.partition(":")[0].partition(".")[0]
            if find_spec(package) is None:
                return Check("data", "failed", f"{function}: there is no module {package}", "install it, or correct it")
            return Check("data", "ok", f"{function}; it is called when the device trains")
        case DataSetData(name=name, partition=partition, of=of, folder=folder):
            if folder is not None and not folder.is_dir():
                return Check("data", "failed", f"{folder} is not a folder", "see docs/data.md")
            return Check(
                "data", "note", f"part {partition} of {of} of {name}", "for demonstrations: not a device's own"
            )
    raise AssertionError(config.data)


def _npz(path: Path) -> Check:
    """Names and not values are read: a file of gigabytes is looked at in no time."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
    except FileNotFoundError:
        return Check("data", "failed", f"there is no file {path}", "put it there, or correct [data] path")
    except (OSError, zipfile.BadZipFile) as error:
        return Check("data", "failed", f"{path} cannot be read: {error}", "numpy.savez writes such a file")
    if missing := {"x", "y"} - names:
        detail = f"{path} has {', '.join(sorted(names)) or 'nothing'}, and no {' and no '.join(sorted(missing))}"
        return Check("data", "failed", detail, "numpy.savez(path, x=examples, y=labels) writes such a file")
    return Check("data", "ok", str(path))


def _clients(config: "Learner") -> Check:
    installed = plugins.available(plugins.CLIENTS)
    if config.clients is None:
        return Check("clients", "ok", f"any that is installed: {', '.join(installed) or 'none'}")
    if missing := [name for name in config.clients if name not in installed]:
        detail = f"not installed: {', '.join(missing)}; there are {', '.join(installed) or 'none'}"
        return Check("clients", "failed", detail, "install the package that offers it, or correct clients")
    return Check("clients", "ok", ", ".join(config.clients))


def _privacy(config: "Learner") -> Check:
    policy = config.privacy
    detail = (
        f"at most epsilon {policy.example_epsilon:g} (delta {policy.example_delta:g}) for an example, "
        f"{policy.client_epsilon:g} (delta {policy.client_delta:g}) for the device; modes {', '.join(policy.modes)}"
    )
    if not policy.required:
        return Check(
            "privacy", "note", f"tasks WITHOUT privacy are taken; else {detail}", "required = true refuses them"
        )
    if "central" in policy.modes:
        return Check("privacy", "note", detail, "central: the server sees updates without noise, and is trusted")
    return Check("privacy", "ok", detail)


def _secure(config: "Learner") -> Check:
    policy = config.secure_aggregation
    detail = f"among {policy.smallest_cohort} to {policy.largest_cohort} devices"
    if not policy.required:
        return Check(
            "secure aggregation", "note", "the server may see this device's updates", "required = true hides them"
        )
    return Check("secure aggregation", "ok", f"required, {detail}")
