"""How long a model of 11 MB takes to eight peers behind slow links, and what its publisher uploads.

    python -m benchmarks.mesh.delivery [--peers 8] [--megabytes 11] [--kbit 8000] [--limit link|sender]

Each member is a process on a machine of its own, a network namespace with a token bucket on its link, up and down
(``link``). Where there are none (no root, no iproute2), and with ``sender``, all are on loopback and each limits what
it sends itself (``[mesh] bytes_per_s``): nothing limits what arrives. The publisher's link is as slow as the others.

A peer has the model when it is verified and in a slot; it runs when its probe, a process with ONNX Runtime, is through.
"""

import argparse
import hashlib
import json
import os
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.mesh.members import names_of, wait_for_all, wait_for_start
from fedmesh.registry import Slots
from fedmesh.registry.describing import Facts
from fedmesh.registry.founding import create
from fedmesh.registry.repository import Repository
from fedmesh.testing.mesh_peers import MeshPeers
from fedmesh.testing.namespaces import Lan, missing

__all__ = ["GOALS", "lines", "measure"]

GOALS = {"times": 1.4, "copies": 2.5}
_CLASSES = 1_000
_HERE = frozenset({"pending", "trying", "good"})
_PATIENCE = 20
"""Times one link's transfer."""


def measure(*, peers: int = 8, megabytes: float = 11.0, kbit_s: int = 8_000, limit: str = "link") -> dict[str, Any]:
    """Seconds until each has it, against one link's transfer time, and how many copies the publisher sent."""
    needed = missing() if limit == "link" else ""
    limit = "sender" if needed else limit
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        lan = stack.enter_context(Lan()) if limit == "link" else None
        names = names_of(peers + 1)
        mesh = stack.enter_context(MeshPeers(folder, *names, lan=lan))
        repository = _configure(mesh, names, kbit_s if lan is None else None)
        model = _model(folder / "model.onnx", int(megabytes * 1_000_000))
        for at in range(0, len(names), 4):
            mesh.start(*names[at : at + 4])
            wait_for_start(mesh, names[at : at + 4])
        wait_for_all(mesh, names)
        for machine in mesh.machines.values():
            machine.limit(kbit_s)
        found = _delivered(mesh, names, repository, model, one_s=model.stat().st_size * 8 / (kbit_s * 1_000))
        return {"peers": peers, "bytes": model.stat().st_size, "kbit_s": kbit_s, "limit": limit, "why": needed, **found}


def _configure(mesh: MeshPeers, names: tuple[str, ...], kbit_s: int | None) -> Repository:
    """The first is the publisher."""
    repository = create(mesh.folder / "repository")
    (mesh.folder / "root.json").write_bytes(repository.root_bytes())
    limited = "" if kbit_s is None else f"bytes_per_s = {kbit_s * 125}"
    for name in names:
        kind = '[registry]\ntrusted_root = "root.json"' if name != names[0] else '[publish]\nfolder = "repository"'
        mesh.configure(name, mesh=limited, more=kind)
    return repository


def _delivered(
    mesh: MeshPeers, names: tuple[str, ...], repository: Repository, model: Path, *, one_s: float
) -> dict[str, Any]:
    digest = hashlib.sha256(model.read_bytes()).digest()
    sent = _sent(mesh, names[0])
    began = time.monotonic()
    repository.publish(model, Facts(task="benchmark", round=1))
    published_s = time.monotonic() - began  # signing, and cutting it into chunks: not the mesh's time
    began = time.monotonic()
    here: dict[str, float] = {}
    runs: dict[str, float] = {}
    copies: float | None = None
    while len(runs) < len(names) - 1:
        for name in names[1:]:
            found = _state(mesh.state(name) / "registry" / "slots", digest)
            now = time.monotonic() - began
            if found in _HERE:
                here.setdefault(name, now)
            if found == "good":
                runs.setdefault(name, now)
        if len(here) == len(names) - 1 and copies is None and sent is not None:
            copies = round(((_sent(mesh, names[0]) or 0) - sent) / model.stat().st_size, 2)
        if time.monotonic() - began > _PATIENCE * one_s + 120:
            raise SystemExit(f"{len(runs)} of {len(names) - 1} run it:\n{mesh.said(names[-1])}")
        time.sleep(0.1)
    return {
        "one_link_s": round(one_s, 2),
        "publishing_s": round(published_s, 2),
        "first_has_it_s": round(min(here.values()), 2),
        "all_have_it_s": round(max(here.values()), 2),
        "all_run_it_s": round(max(runs.values()), 2),
        "times": round(max(here.values()) / one_s, 2),
        "copies": copies,
    }


def _state(slots: Path, digest: bytes) -> str:
    state = Slots(slots).state
    return next((state[name].state for name in ("a", "b") if state[name].sha256 == digest), "")


def _sent(mesh: MeshPeers, name: str) -> int | None:
    """Bytes that a member's machine has sent so far, with the heads of TCP and IP; None: it has none of its own."""
    if name not in mesh.machines:
        return None
    lines = Path(f"/proc/{mesh.processes[name].pid}/net/dev").read_text().splitlines()
    return int(next(line.split(":")[1].split() for line in lines if line.strip().startswith("eth0:"))[8])


def _model(path: Path, size: int) -> Path:
    """A model that answers, of random weights that no compression makes smaller."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    features = size // (4 * _CLASSES)
    weights = np.random.default_rng(1).standard_normal((features, _CLASSES)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "w"], ["logits"])],
        "benchmark",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", features])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", _CLASSES])],
        [numpy_helper.from_array(weights, "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, str(path))
    return path


def lines(found: dict[str, Any]) -> list[str]:
    """A table."""
    way = "token buckets on the links" if found["limit"] == "link" else "each limits what it sends itself"
    way += f", for there are no namespaces: {found['why']} is missing" if found["why"] else ""
    mbit = found["kbit_s"] / 1_000
    copies = "not known on loopback" if found["copies"] is None else f"{found['copies']} copies"
    return [
        f"| {found['bytes'] / 1e6:.1f} MB to {found['peers']} peers, {mbit:g} Mbit/s each ({way}) | | goal |",
        "|" + "---|" * 3,
        f"| one link's transfer | {found['one_link_s']} s | |",
        f"| all have it after | {found['all_have_it_s']} s, {found['times']}x | {GOALS['times']}x |",
        f"| the publisher uploads | {copies} | {GOALS['copies']} |",
        f"| the first has it, all run it after | {found['first_has_it_s']} s, {found['all_run_it_s']} s | |",
    ]


def main() -> None:
    """Prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=int, default=8)
    parser.add_argument("--megabytes", type=float, default=11.0)
    parser.add_argument("--kbit", type=int, default=8_000)
    parser.add_argument("--limit", choices=["link", "sender"], default="link")
    told = parser.parse_args()
    found = measure(peers=told.peers, megabytes=told.megabytes, kbit_s=told.kbit, limit=told.limit)
    print(json.dumps({"load": os.getloadavg()[0], **found}, indent=2))


if __name__ == "__main__":
    main()
