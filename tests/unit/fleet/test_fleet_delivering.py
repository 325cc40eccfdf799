"""What a coordinator delivers: which rounds, signed by whom, announced when, and what it tells when it cannot."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from served_models import FEATURES, write_linear

from fedmesh.errors import ConfigError, RegistryError
from fedmesh.events import ModelPublished, Notice
from fedmesh.fleet.delivering import Deliveries, open_repository
from fedmesh.fleet.task_run import Handover
from fedmesh.registry import FolderSource, GoldenSet, Pointer
from fedmesh.registry.founding import create
from fedmesh.registry.repository import Repository
from fedmesh.registry.signing import create_key

X = np.random.default_rng(0).normal(size=(20, FEATURES)).astype(np.float32)


class Site:
    def __init__(self, folder: Path, repository: Repository | None = None, **options: object) -> None:
        self.folder, self.events = folder, []
        self.repository = repository or open_repository(folder / "registry", events=self.events.append)
        self.deliveries = Deliveries(self.repository, "digits", events=self.events.append, look_s=0.01, **options)

    def hand_over(self, number: int, *, seed: int | None = None, **changes: object) -> None:
        path = self.folder / "model.onnx"
        write_linear(path, np.random.default_rng(number if seed is None else seed).normal(size=(FEATURES, 3)))
        given = {"task": "digits", "run": 1, "round": number, "survivors": 4, "model": path, "epsilon": 0.5}
        given |= {"scenario": bytes(32), "examples": X, "last": False, **changes}
        self.deliveries.publish(Handover(**given))

    @property
    def rounds(self) -> list[int | None]:
        return [version.manifest.round for version in self.repository.versions()]

    def notices(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Notice)]


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


class Heard:
    def __init__(self) -> None:
        self.pointers: list[bytes] = []
        self.news = asyncio.Event()

    async def announce(self, what: str, data: bytes) -> None:
        assert what == "model"
        self.pointers.append(data)
        self.news.set()

    async def next(self) -> Pointer:
        async with asyncio.timeout(120):
            await self.news.wait()
        self.news.clear()
        return Pointer.decode(self.pointers[-1])


def test_a_version_says_where_it_comes_from(site):
    site.hand_over(3)
    (version,) = site.repository.versions()
    manifest = version.manifest
    assert (manifest.task, manifest.round, manifest.survivors, manifest.epsilon) == ("digits", 3, 4, 0.5)
    assert manifest.scenario == bytes(32)
    assert [schema.shape for schema in (*manifest.inputs, *manifest.outputs)] == [(None, FEATURES), (None, 3)]
    digest, length = manifest.golden
    data = site.deliveries.read(f"targets/{digest.hex()}.golden.cbor", max_bytes=length)
    np.testing.assert_array_equal(GoldenSet.decode(data).inputs, X[:16])
    assert [event.round for event in site.events if isinstance(event, ModelPublished)] == [3]


def test_every_few_rounds_and_the_last(tmp_path):
    site = Site(tmp_path, every=3)
    for number in range(1, 9):
        site.hand_over(number, last=number == 8)
    assert site.rounds == [3, 6, 8]


def test_another_tasks_model_is_left(site):
    site.hand_over(1, task="other")
    assert site.rounds == []


def test_what_was_signed_before_it_was_cut_off_is_not_signed_again(site):
    site.hand_over(1)
    Site(site.folder).hand_over(1)
    assert site.rounds == [1]


def test_signatures_that_are_missing_are_told_and_end_nothing(tmp_path):
    elsewhere = create_key(tmp_path / "signer.key").public_key
    site = Site(tmp_path, create(tmp_path / "registry", signers=[elsewhere]))
    site.hand_over(1)
    assert ["fedmesh model sign" in text for text in site.notices()] == [True]
    assert site.repository.rollout is None


def test_only_public_files_are_served(site):
    site.hand_over(1)
    assert set(site.deliveries.files) == {"metadata", "targets", "chunks"}
    for name in ("metadata/../../keys/online.key", "keys/online.key", "metadata/9.root.json"):
        with pytest.raises(RegistryError):
            site.deliveries.read(name, max_bytes=1 << 20)


def test_a_version_is_announced_and_so_is_what_somebody_else_rolls_out(site):
    async def scene():
        heard = Heard()
        serving = asyncio.ensure_future(site.deliveries.serve(heard))
        assert (await heard.next()).version == 0
        await asyncio.to_thread(site.hand_over, 1)
        assert (await heard.next()).version == 1
        await asyncio.to_thread(site.hand_over, 2)
        assert (await heard.next()).version == 2
        await asyncio.to_thread(Repository.open(site.repository.folder).restore, 1)
        assert (await heard.next()).version == 3
        assert len(heard.pointers) == 4
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    asyncio.run(scene())


def test_what_keeps_it_from_announcing_is_told_once(site):
    class Mute:
        tried = 0

        async def announce(self, what: str, data: bytes) -> None:
            self.tried += 1
            raise ConfigError("a device announces nothing")

    async def scene():
        mute = Mute()
        serving = asyncio.ensure_future(site.deliveries.serve(mute))
        async with asyncio.timeout(120):
            while mute.tried < 3:
                await asyncio.sleep(0.01)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    asyncio.run(scene())
    assert [text for text in site.notices() if "announces nothing" in text] == [site.notices()[-1]]


def test_a_repository_is_made_once_and_its_root_is_told(tmp_path):
    events: list[object] = []
    first = open_repository(tmp_path / "registry", events=events.append)
    again = open_repository(tmp_path / "registry", events=events.append)
    assert first.root_bytes() == again.root_bytes()
    assert len(events) == 1
    assert "1.root.json" in events[0].text
    root = FolderSource(tmp_path / "registry" / "public").fetch("metadata/1.root.json", max_bytes=1 << 20)
    assert root == first.root_bytes()
