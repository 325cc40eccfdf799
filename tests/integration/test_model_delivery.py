"""Models from a coordinator to a device that answers with them, over a real Mosquitto: swaps, kills and lies."""

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from model_delivery import DEVICE, DeviceProcess, Shop, X, constant, model, until
from mqtt_fleet import require_mosquitto

from fedmesh.inference import Engine
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
