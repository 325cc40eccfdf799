"""Workers of the lite client: the same packets as in one process, and no torch in any of them."""

from pathlib import Path

import heads
import training

from fedmesh.client.home import SimulatedHomes
from fedmesh.flower import Fleet, InlineFleet
from fedmesh.simulation.engine import ClientSpec, WorkerFleet
from fedmesh.simulation.shared import SharedExamples
from fedmesh.simulation.zygote import Zygote, preload_of
from fedmesh_clients import lite

DEVICES = 5


def train(fleet: Fleet) -> dict[int, bytes]:
    for node_id in fleet.node_ids:
        fleet.submit(training.train_message(node_id, heads.start(), tensors=1))
    packets = {}
    while replies := fleet.collect(60.0):
        packets |= {reply.metadata.src_node_id: training.packet_of(reply) for reply in replies}
    assert len(packets) == DEVICES
    return packets


def test_workers_train_heads_without_torch(tmp_path: Path) -> None:
    task = heads.task(dp=heads.DP)
    data = SharedExamples.pack([heads.examples(device) for device in range(DEVICES)])
    folders = [tmp_path / name for name in ("workers", "inline")]
    for folder in folders:
        folder.mkdir()
    zygote = Zygote(preload_of("lite", private=True))
    spec = ClientSpec("lite", task, data, folders[0])
    with WorkerFleet(spec, DEVICES, workers=2, launcher=zygote) as fleet:
        packets = train(fleet)
        maps = [Path(f"/proc/{pid}/maps").read_text(encoding="utf-8") for pid in fleet.pids]
    assert len(maps) == 2
    assert not any("libtorch" in text for text in maps)
    inline = InlineFleet(lite.build(task, heads.examples, homes=SimulatedHomes(folders[1])), DEVICES)
    assert train(inline) == packets
