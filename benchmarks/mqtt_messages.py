"""Messages over MQTT: latency and throughput on loopback, through a real Mosquitto with mutual TLS 1.3.

    python -m benchmarks.mqtt_messages [--repeats N] [--megabytes N]

Three processes: the broker, a coordinator that echoes, and a device that measures. Against *plain*: paho-mqtt with
whole messages as its documentation shows it (its thread, QoS 1, no TCP_NODELAY).
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.fleet_site import processor_s
from fedmesh.testing.loopback_broker import LoopbackBroker, SmallCa
from fedmesh.transport.mqtt import MqttOptions, MqttTransport

SMALL_BYTES = 1024
REQUESTS = 1000
PLAIN_REQUESTS = 50
PATIENCE_S = 60.0


async def echo(options: MqttOptions) -> None:
    """The other process: short messages come back as they are, long ones as one byte."""
    transport = await MqttTransport.open(options, wait_s=PATIENCE_S)
    print("ready", flush=True)
    async for peer, data in transport.receive():
        await transport.post(peer, data if len(data) == SMALL_BYTES else data[:1])


async def measure(options: MqttOptions, megabytes: int, repeats: int, pids: Sequence[int]) -> dict[str, Any]:
    """Latencies of request and response in ms, and MB/s of long messages until they are acknowledged whole.

    Processor time is that of all three processes, which depends less on what else runs.
    """
    transport = await MqttTransport.open(options, wait_s=PATIENCE_S)
    replies = transport.receive()
    took = []
    used = processor_s(pids)
    for _ in range(REQUESTS):
        began = time.perf_counter()
        await transport.post("coordinator", bytes(SMALL_BYTES))
        await anext(replies)
        took.append((time.perf_counter() - began) * 1e3)
    request_ms = (processor_s(pids) - used) * 1e3 / REQUESTS
    large = os.urandom(megabytes * 1_000_000)
    rates = []
    used = processor_s(pids)
    for _ in range(repeats):
        began = time.perf_counter()
        await transport.send("coordinator", large)
        rates.append(megabytes / (time.perf_counter() - began))
        await anext(replies)
    megabyte_ms = (processor_s(pids) - used) * 1e3 / (megabytes * repeats)
    await transport.aclose()
    return {
        "p50_ms": round(statistics.median(took), 3),
        "p99_ms": round(statistics.quantiles(took, n=100)[98], 3),
        "mb_per_s": [round(rate, 1) for rate in rates],
        "processor_ms_per_request": round(request_ms, 2),
        "processor_ms_per_mb": round(megabyte_ms, 2),
    }


class Plain:
    """paho as its documentation shows it."""

    def __init__(self, options: MqttOptions, topic: str) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

        self.arrived = threading.Event()
        self.received = b""
        subscribed = threading.Event()
        self.client = Client(CallbackAPIVersion.VERSION2, options.name, protocol=MQTTProtocolVersion.MQTTv5)
        self.client.tls_set(str(options.ca), str(options.certificate), str(options.key))
        self.client.on_message = self._on_message
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.client.connect(options.host, options.port)
        self.client.loop_start()
        self.client.subscribe(topic, 1)
        subscribed.wait(PATIENCE_S)

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        self.received = message.payload
        self.arrived.set()

    def close(self) -> None:
        """Disconnects."""
        self.client.disconnect()
        self.client.loop_stop()


def echo_plainly(options: MqttOptions) -> None:
    """The other process."""
    plain = Plain(options, "fm/up/device/msg/coordinator")
    print("ready", flush=True)
    while plain.arrived.wait(PATIENCE_S):
        plain.arrived.clear()
        data = plain.received
        plain.client.publish("fm/down/device/msg/coordinator", data if len(data) == SMALL_BYTES else data[:1], 1)
    plain.close()


def measure_plainly(options: MqttOptions, megabytes: int, repeats: int, pids: Sequence[int]) -> dict[str, Any]:
    """As `measure`; a rate is that of a whole message until its one-byte answer, None if none came."""
    plain = Plain(options, "fm/down/device/msg/coordinator")

    def ask(data: bytes) -> float | None:
        plain.arrived.clear()
        began = time.perf_counter()
        plain.client.publish("fm/up/device/msg/coordinator", data, 1)
        return time.perf_counter() - began if plain.arrived.wait(PATIENCE_S) else None

    used = processor_s(pids)
    took = [seconds for _ in range(PLAIN_REQUESTS) if (seconds := ask(bytes(SMALL_BYTES))) is not None]
    request_ms = (processor_s(pids) - used) * 1e3 / PLAIN_REQUESTS
    large = os.urandom(megabytes * 1_000_000)
    used = processor_s(pids)
    rates = [None if (seconds := ask(large)) is None else round(megabytes / seconds, 1) for _ in range(repeats)]
    megabyte_ms = (processor_s(pids) - used) * 1e3 / (megabytes * repeats)
    plain.close()
    return {
        "p50_ms": round(statistics.median(took) * 1e3, 3),
        "p99_ms": None,
        "mb_per_s": rates,
        "processor_ms_per_request": round(request_ms, 2),
        "processor_ms_per_mb": round(megabyte_ms, 2),
    }


def compare(megabytes: int, repeats: int) -> dict[str, Any]:
    """All figures."""
    figures: dict[str, Any] = {"load": os.getloadavg()[0], "cores": os.cpu_count(), "megabytes": megabytes}
    for label, plain in (("fedmesh", False), ("plain", True)):
        with tempfile.TemporaryDirectory() as folder:
            ca = SmallCa(Path(folder, "ca"))
            # Whole messages need a broker that lets them through; ours are at most as long as a chunk.
            extra = "\nmax_packet_size 268435455\nset_tcp_nodelay false\n" if plain else ""
            broker = LoopbackBroker(Path(folder, "broker"), ca, extra=extra)
            other = _start_other(broker.options("coordinator"), plain=plain)
            pids = [os.getpid(), other.pid, *([broker.pid] if broker.pid else [])]
            try:
                options = broker.options("device")
                if plain:
                    figures[label] = measure_plainly(options, megabytes, repeats, pids)
                else:
                    figures[label] = asyncio.run(measure(options, megabytes, repeats, pids))
            finally:
                other.kill()
                other.wait()
                broker.kill()
    return figures


def _start_other(options: MqttOptions, *, plain: bool) -> "subprocess.Popen[str]":
    told = {
        "ca": str(options.ca),
        "certificate": str(options.certificate),
        "key": str(options.key),
        "port": options.port,
    }
    command = [sys.executable, "-m", "benchmarks.mqtt_messages", "--echo", json.dumps({**told, "plain": plain})]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    if other.stdout is None or other.stdout.readline() != "ready\n":
        raise SystemExit("the echoing process did not start")
    return other


def _echo(told: dict[str, Any]) -> None:
    plain = told.pop("plain")
    ca, certificate, key = (Path(told.pop(name)) for name in ("ca", "certificate", "key"))
    options = MqttOptions("coordinator", "localhost", ca, certificate, key, **told, coordinator=True)
    if plain:
        echo_plainly(options)
    else:
        asyncio.run(echo(options))


def main() -> None:
    """Prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=50)
    parser.add_argument("--echo", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.echo:
        _echo(json.loads(arguments.echo))
        return
    print(json.dumps(compare(arguments.megabytes, arguments.repeats), indent=2))


if __name__ == "__main__":
    main()
