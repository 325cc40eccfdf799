"""Models from a coordinator to a device that answers with them, over a real Mosquitto: swaps, kills and lies."""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from model_delivery import DEVICE, DeviceProcess, Shop, X, constant, model, until
from mqtt_fleet import require_mosquitto

from fedmesh.inference import Engine
from fedmesh.registry import Facts, Pointer
from fedmesh.registry.founding import create, replace_signers
from fedmesh.registry.repository import Repository
from fedmesh.registry.signing import create_key
from fedmesh.testing.loopback_fleet import LoopbackFleet

require_mosquitto()


@pytest.fixture
def fleet(tmp_path):
    with LoopbackFleet(tmp_path) as fleet:
        fleet.membership("coordinator")
        fleet.membership(DEVICE)
        fleet.spread()
        yield fleet


def test_a_version_replaces_another_under_load_and_no_request_fails(fleet, tmp_path):
    paths = [model(tmp_path / f"{seed}.onnx", seed) for seed in range(3)]
    digests = [Engine(path).sha256 for path in paths]

    async def scene():
        shop = Shop(fleet)
        with DeviceProcess(fleet, shop.root) as device:
            async with shop:
                assert await shop.deliver(paths[0]) == 1
                await until(device.answers)
                await until(lambda: device.good(1))  # there is none to go back to, so it is on trial no longer
                stop, answered, failed = threading.Event(), [], []

                def hammer():
                    while not stop.is_set():
                        try:
                            answered.append(device.predict()[0]["model"])
                        except Exception as error:  # noqa: BLE001 - any failure is one
                            failed.append(error)

                with ThreadPoolExecutor(2) as pool:
                    for _ in range(2):
                        pool.submit(hammer)
                    for number in (1, 2):
                        assert await shop.deliver(paths[number]) == number + 1
                        await until(lambda number=number: answered and answered[-1] == digests[number])
                        await until(lambda number=number: device.good(number + 1))
                    stop.set()
                assert not failed
                assert set(answered) == set(digests)
                assert [item for item in device.predict(X[:3]) if item["model"] != digests[2]] == []
                await until(lambda: len(shop.reports) >= 3)
                assert shop.reports == [(DEVICE, number, "installed") for number in (1, 2, 3)]
                assert json.loads(device.get("/readyz"))
                assert device.get("/healthz")
                assert 'fedmesh_inference_swaps_total{result="swapped"} 3.0' in device.get("/metrics")

    asyncio.run(scene())


def test_a_bad_version_does_not_run_and_one_that_turns_out_bad_is_gone_back_from(fleet, tmp_path):
    good, other = model(tmp_path / "good.onnx", 0), model(tmp_path / "other.onnx", 1)
    nan = constant(tmp_path / "nan.onnx", 1, logit=float("inf"))
    digest = Engine(good).sha256

    async def scene():
        shop = Shop(fleet)
        with DeviceProcess(fleet, shop.root) as device:
            async with shop:
                await shop.deliver(good)
                await until(lambda: device.good(1))
                probe_fails = await asyncio.to_thread(shop.publish_with, other, good)
                await until(lambda: "failed-probe" in shop.outcomes(probe_fails))
                assert device.predict()[0]["model"] == digest
                turns_out_bad = await asyncio.to_thread(shop.publish_with, nan, None)
                await until(lambda: device.running == turns_out_bad)
                found = [device.predict()[0]["model"] for _ in range(5)]
                assert set(found) == {digest}  # the one before answers where the new one fails
                await until(lambda: "rolled-back" in shop.outcomes(turns_out_bad))
                assert device.running == 1
                assert device.refused("probe") == 1
                assert await shop.deliver(other) > turns_out_bad
                await until(lambda: device.predict()[0]["model"] == Engine(other).sha256)

    asyncio.run(scene())


def test_killed_while_it_fetches_and_while_it_tries_it_goes_on(fleet, tmp_path):
    first, second, third = (model(tmp_path / f"{seed}.onnx", seed) for seed in range(3))

    async def scene():
        shop = Shop(fleet)
        device = DeviceProcess(fleet, shop.root, listen=False)
        try:
            async with shop:
                await shop.deliver(first)
                fetched = []

                def slow(name, *, max_bytes):
                    fetched.append(name)
                    if name.startswith("chunks/") and len(fetched) < 1000:
                        raise LookupError(name)
                    return shop.deliveries.read(name, max_bytes=max_bytes)

                shop.read = slow
                device.start()
                await until(lambda: any(name.startswith("chunks/") for name in fetched))
                device.kill()
                assert device.running == 0
                shop.read = shop.deliveries.read
                device.start()
                await until(lambda: device.good(1))
                device.kill()
                for step, path in (("filled", second), ("trying", third)):
                    number = await shop.deliver(path)
                    await asyncio.to_thread(killed_at, step, device)
                    assert device.running == number - 1
                    device.start()
                    await until(lambda number=number: device.good(number))
                    await until(lambda number=number: shop.outcomes(number) == ["installed"])
                    device.kill()
        finally:
            device.kill()

    asyncio.run(scene())


@pytest.mark.slow
def test_killed_while_a_version_is_on_trial_it_tries_it_again_with_the_good_one_behind_it(fleet, tmp_path):
    """Without requests a trial lasts ten minutes: nothing here waits for its end."""
    paths = {seed: model(tmp_path / f"{seed}.onnx", seed) for seed in (1, 3, 4, 5)}
    digests = {number: Engine(path).sha256 for number, path in paths.items()}
    nan = constant(tmp_path / "nan.onnx", 1, logit=float("inf"))

    async def scene():
        shop = Shop(fleet)
        with DeviceProcess(fleet, shop.root) as device:

            def on_trial(version, attempts=1):
                state = device.state
                return (state.running.version, state.running.state, state.running.attempts) == (
                    version,
                    "trying",
                    attempts,
                ) and (state[state.spare].version, state[state.spare].state) == (1, "good")

            async def killed():
                device.kill()
                device.start()
                await until(device.ready)

            async with shop:
                await shop.deliver(paths[1])
                await until(lambda: device.good(1))
                # Nobody has asked yet, so nobody knows that it is bad.
                assert await asyncio.to_thread(shop.publish_with, nan, None) == 2
                await until(lambda: on_trial(2))
                await killed()
                assert on_trial(2, attempts=2)
                assert device.predict()[0]["model"] == digests[1], "the one before answers where the new one fails"
                await until(lambda: "rolled-back" in shop.outcomes(2))
                assert device.good(1)
                assert [item.version for item in device.state.failed] == [2]
                assert 'fedmesh_inference_swaps_total{result="rolled_back"} 1.0' in device.get("/metrics")
                # What is on trial gives way to what is newer, before the end and after it.
                assert await shop.deliver(paths[3]) == 3
                await until(lambda: on_trial(3))
                assert await shop.deliver(paths[4]) == 4
                await until(lambda: on_trial(4))
                await killed()
                assert on_trial(4, attempts=2)
                assert device.predict()[0]["model"] == digests[4]
                device.kill()
                assert await shop.deliver(paths[5]) == 5
                device.start()
                await until(lambda: on_trial(5))
                await until(lambda: device.answers() and device.predict()[0]["model"] == digests[5])
                for _ in range(60):
                    assert await asyncio.to_thread(lambda: device.predict()[0]["model"]) == digests[5]
                await until(lambda: device.good(5))
                assert [item.version for item in device.state.failed] == [2], "who gives way has not failed"

    asyncio.run(scene())


def test_forged_pointers_unsigned_models_and_old_metadata_are_refused_and_counted(fleet, tmp_path):
    """What a hostile coordinator, or a broker that speaks for it, can announce and serve."""
    good, other = model(tmp_path / "good.onnx", 0), model(tmp_path / "other.onnx", 1)

    async def scene():
        shop = Shop(fleet)
        with DeviceProcess(fleet, shop.root, listen=False) as device:
            async with shop:
                await shop.deliver(good)
                await until(lambda: device.good(1))
                old = {name: shop.deliveries.read(name, max_bytes=1 << 24) for name in served(shop)}
                await shop.silence()
                asked = []

                def seen(name, *, max_bytes):
                    asked.append(name)
                    return shop.deliveries.read(name, max_bytes=max_bytes)

                # No pointer at all, and one that says that there is more than there is.
                shop.read = seen
                await shop.transport.announce("model", b"junk")
                await until(lambda: device.refused("malformed") >= 1)
                assert not asked
                await shop.transport.announce("model", Pointer(99, bytes(32), 7).encode())
                await until(lambda: asked)
                assert device.running == 1
                # Chunks that nobody signed.
                shop.read = lambda name, *, max_bytes: (
                    bytes(100) if name.startswith("chunks/") else shop.deliveries.read(name, max_bytes=max_bytes)
                )
                await shop.deliver(other)
                await shop.transport.announce("model", shop.repository.pointer())
                await until(lambda: device.refused("hash") >= 1)
                assert device.running == 1
                shop.read = shop.deliveries.read  # what was altered comes whole, and nobody announces anything
                await until(lambda: device.good(2))
                # A repository of somebody else, with keys of its own.
                stranger = create(tmp_path / "stranger")
                stranger.publish(other, Facts(task="digits"))
                stranger.publish(good, Facts(task="digits"))
                stranger.publish(other, Facts(task="digits"))
                shop.read = lambda name, *, max_bytes: stranger.read(name, max_bytes)
                await shop.transport.announce("model", Pointer(100, bytes(32), 9).encode())
                await until(lambda: device.refused("signature") >= 1)
                # What was signed once, and is older than what is known.
                shop.read = lambda name, *, max_bytes: old[name]
                await shop.transport.announce("model", Pointer(101, bytes(32), 9).encode())
                await until(lambda: device.refused("rollback") >= 1)
                assert device.running == 2
                # The right one is still taken.
                shop.read = shop.deliveries.read
                await shop.deliver(good, round=9)
                await shop.transport.announce("model", shop.repository.pointer())
                await until(lambda: device.good(3))
                assert "refused" in {outcome for _, _, outcome in shop.reports}

    asyncio.run(scene())


def test_what_a_former_signer_signed_is_refused(fleet, tmp_path):
    first, second, third = (model(tmp_path / f"{seed}.onnx", seed) for seed in range(3))

    async def scene():
        shop = Shop(fleet)
        keys = fleet.folder / "registry" / "keys"
        former = tmp_path / "former"
        with DeviceProcess(fleet, shop.root, listen=False) as device:
            async with shop:
                await shop.deliver(first)
                await until(lambda: device.good(1))
                await shop.silence()
                shutil.copytree(fleet.folder / "registry", former)
                new = create_key(tmp_path / "new.key")
                replace_signers(fleet.folder / "registry", [keys / "root.key"], targets=[new.public_key], online=True)
                shutil.copy(tmp_path / "new.key", keys / "targets.key")
                shop.reopen()
                await shop.deliver(second)
                await shop.transport.announce("model", shop.repository.pointer())
                await until(lambda: device.good(2))
                # The former keys sign a higher number, which is served in place of the signers' own.
                thief = Repository.open(former)
                for _ in range(4):
                    thief.publish(third, Facts(task="digits"))
                    thief.publish(first, Facts(task="digits"))
                shop.read = lambda name, *, max_bytes: thief.read(name, max_bytes)
                await shop.transport.announce("model", Pointer(99, bytes(32), 9).encode())
                await until(lambda: device.refused("signature") >= 1)
                assert device.running == 2

    asyncio.run(scene())


def served(shop: Shop) -> list[str]:
    public = shop.repository.folder / "public"
    return [str(path.relative_to(public)) for path in public.rglob("*") if path.is_file()]


def killed_at(step: str, device: DeviceProcess) -> None:
    """Runs the device with an installer that kills its process at `step` of what it does with a slot."""
    patched = """
import os, signal, sys
from fedmesh.registry.state import State
step, plain = sys.argv[1], None
def killing(self, *args, **options):
    if step == "trying" and self[args[0]].version > 0:
        State.tried = plain
        made = plain(self, *args, **options)
        from fedmesh.files import write_atomically
        from pathlib import Path
        write_atomically(Path(sys.argv[3]) / "slots.cbor", made.encode())
    os.kill(os.getpid(), signal.SIGKILL)
plain = getattr(State, "tried")
setattr(State, "filled" if step == "filled" else "tried", killing)
from fedmesh.cli import main
main(["client", "run", sys.argv[2]])
"""
    command = [sys.executable, "-c", patched, step, str(device.path), str(device.slots_folder)]
    ended = subprocess.run(command, capture_output=True, timeout=300, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()


def test_a_device_whose_coordinator_is_away_ends_at_once(fleet):
    """It is asked for models at the start, and does not answer."""
    with DeviceProcess(fleet, Shop(fleet).root, listen=False) as device:
        log = fleet.folder / "device.log"
        asyncio.run(until(lambda: "connected to the broker" in log.read_text()))
        time.sleep(0.5)
        device.process.terminate()
        assert device.process.wait(timeout=120) == 0


def waits(device, *, listen):
    """Whether it is connected, and knows that it has no model."""
    connected = "connected to the broker" in device.said()
    return connected and (not listen or "no model is loaded" in device.get("/readyz"))


@pytest.mark.parametrize("listen", [False, True])
def test_a_node_that_only_runs_models_loads_no_more_than_it_needs(fleet, tmp_path, listen):
    training, serving = {"torch", "flwr", "opacus", "onnx", "scipy", "sklearn"}, {"fastapi", "uvicorn"}

    async def scene():
        shop = Shop(fleet)
        with DeviceProcess(fleet, shop.root, listen=listen) as device:
            async with shop:
                await until(lambda: waits(device, listen=listen))
                assert not device.answers()
                loaded = await asyncio.to_thread(device.loaded)
                assert not loaded & (training | {"numpy", "onnxruntime"})
                assert loaded & serving == (serving if listen else set())

                await shop.deliver(model(tmp_path / "m.onnx", 0))
                await until(lambda: device.good(1))
                loaded = await asyncio.to_thread(device.loaded)
                assert not loaded & training
                served = {*serving, "numpy", "onnxruntime"}
                assert loaded & served == (served if listen else set())

    asyncio.run(scene())
