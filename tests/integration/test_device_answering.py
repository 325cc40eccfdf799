"""A real agent that answers elsewhere than on the loopback: by mutual TLS, members alone; others are counted."""

import asyncio
import contextlib
import http.client
import json
import ssl
import time

import pytest
from meshes import leaf, rogue
from model_delivery import DEVICE, DeviceProcess, Shop, X, model, until
from mqtt_fleet import require_mosquitto

from fedmesh.identity.certificates import new_key
from fedmesh.identity.keyfiles import write_key_and_chain
from fedmesh.inference import Engine
from fedmesh.testing.loopback_broker import free_port
from fedmesh.testing.loopback_fleet import LoopbackFleet
from fedmesh.transport.tls import dialling

require_mosquitto()
MEMBERS = ("coordinator", DEVICE, "friend", "lost")


@pytest.fixture
def fleet(tmp_path):
    with LoopbackFleet(tmp_path) as fleet:
        for name in MEMBERS:
            fleet.membership(name)
        fleet.spread()
        yield fleet


def shown(fleet, name):
    member = fleet.membership(name)
    return dialling(member.tls_path, member.root_path)


def nobody(fleet):
    """Believes the server, and shows nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(fleet.membership("friend").root_path)
    return context


def stranger(fleet):
    """Has a certificate of the same name from an authority of the same name, with another key."""
    _, issuer, issuer_key = rogue(now=time.time())
    key = new_key()
    path = fleet.folder / "stranger.pem"
    write_key_and_chain(path, key, leaf(issuer, issuer_key, key=key, begin=time.time() - 300), issuer)
    return dialling(path, fleet.membership("friend").root_path)


def connected(device, context):
    if context is None:
        return http.client.HTTPConnection("127.0.0.1", device.port, timeout=60)
    return http.client.HTTPSConnection("127.0.0.1", device.port, timeout=60, context=context)


def asked(device, context):
    """Status and content of one prediction."""
    with contextlib.closing(connected(device, context)) as connection:
        body = json.dumps({"x": X[:2].tolist()}).encode()
        connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def peers(device):
    """Refused connections by code, as the agent's metrics have them."""
    name = 'fedmesh_inference_refused_peers_total{code="'
    lines = [line for line in device.get("/metrics").splitlines() if line.startswith(name)]
    return {line.removeprefix(name).partition('"')[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_members_alone_are_answered_by_a_device_and_others_are_counted(fleet, tmp_path):
    path, port = model(tmp_path / "m.onnx", 0), free_port()
    digest = Engine(path).sha256

    async def scene():
        shop = Shop(fleet)
        device = DeviceProcess(fleet, shop.root, inference={"listen": f"0.0.0.0:{port}"})
        device.port = port
        with device:
            async with shop:
                await shop.deliver(path)
                await until(lambda: device.good(1))
                for name in ("friend", "lost"):
                    status, answer = await asyncio.to_thread(asked, device, shown(fleet, name))
                    assert (status, answer["predictions"][0]["model"]) == (200, digest)
                assert peers(device) == {}
                for number, context in enumerate((nobody(fleet), stranger(fleet), None), 1):
                    with pytest.raises((OSError, http.client.HTTPException)):
                        await asyncio.to_thread(asked, device, context)
                    await until(lambda number=number: peers(device) == {"handshake": number})
                # A member is revoked while it is connected.
                with contextlib.closing(connected(device, shown(fleet, "lost"))) as live:
                    live.request("GET", "/healthz")
                    assert live.getresponse().read()
                    await shop.revoke("lost")
                    live.sock.settimeout(120)
                    with contextlib.suppress(ConnectionError, ssl.SSLError):
                        assert await asyncio.to_thread(live.sock.recv, 1) == b""
                status, answer = await asyncio.to_thread(asked, device, shown(fleet, "lost"))
                assert (status, answer["got"]) == (403, "a certificate that is refused (revoked)")
                assert peers(device) == {"handshake": 3, "cut": 1, "revoked": 1}
                assert (await asyncio.to_thread(asked, device, shown(fleet, "friend")))[0] == 200
                assert 'fedmesh_inference_requests_total{status="200"} 3.0' in device.get("/metrics")

    asyncio.run(scene())
