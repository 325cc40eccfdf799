"""Messages over MQTT: latency and throughput on loopback, through a real Mosquitto with mutual TLS 1.3.

    python -m benchmarks.mqtt_messages [--repeats N] [--megabytes N]

Three processes: the broker, a coordinator that echoes, and a device that measures. Against paho-mqtt with whole
messages, its thread and QoS 1: *plain*, as its documentation shows it, and *nodelay*, with TCP_NODELAY at both ends,
which is the fastest that can be had of it without chunks, acknowledgements end to end and all that follows from them.
"""

import argparse
import asyncio
import json
import os
import socket
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
"""Of 88 ms each."""
KINDS = ("fedmesh", "nodelay", "plain")
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
    """paho as its documentation shows it, or without Nagle's algorithm."""

    def __init__(self, options: MqttOptions, topic: str, *, nodelay: bool) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

        self.arrived = threading.Event()
        self.received = b""
        subscribed = threading.Event()
        self.client = Client(CallbackAPIVersion.VERSION2, options.name, protocol=MQTTProtocolVersion.MQTTv5)
        self.client.tls_set(str(options.ca), str(options.certificate), str(options.key))
        self.client.on_message = self._on_message
        self.client.on_subscribe = lambda *_: subscribed.set()
        if nodelay:
            self.client.on_socket_open = self._without_nagle
        self.client.connect(options.host, options.port)
        self.client.loop_start()
        self.client.subscribe(topic, 1)
        subscribed.wait(PATIENCE_S)

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        self.received = message.payload
        self.arrived.set()

    def _without_nagle(self, _client: Any, _data: Any, opened: Any) -> None:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        """Disconnects."""
        self.client.disconnect()
        self.client.loop_stop()


def echo_plainly(options: MqttOptions, *, nodelay: bool) -> None:
    """The other process."""
    plain = Plain(options, "fm/up/device/msg/coordinator", nodelay=nodelay)
    print("ready", flush=True)
    while plain.arrived.wait(PATIENCE_S):
        plain.arrived.clear()
        data = plain.received
        plain.client.publish("fm/down/device/msg/coordinator", data if len(data) == SMALL_BYTES else data[:1], 1)
    plain.close()


def measure_plainly(
    options: MqttOptions, megabytes: int, repeats: int, pids: Sequence[int], *, nodelay: bool
) -> dict[str, Any]:
    """As `measure`; a rate is that of a whole message until its one-byte answer, None if none came."""
    plain = Plain(options, "fm/down/device/msg/coordinator", nodelay=nodelay)
    requests = REQUESTS if nodelay else PLAIN_REQUESTS

    def ask(data: bytes) -> float | None:
        plain.arrived.clear()
        began = time.perf_counter()
        plain.client.publish("fm/up/device/msg/coordinator", data, 1)
        return time.perf_counter() - began if plain.arrived.wait(PATIENCE_S) else None

    used = processor_s(pids)
    took = [seconds for _ in range(requests) if (seconds := ask(bytes(SMALL_BYTES))) is not None]
    request_ms = (processor_s(pids) - used) * 1e3 / requests
    large = os.urandom(megabytes * 1_000_000)
    used = processor_s(pids)
    rates = [None if (seconds := ask(large)) is None else round(megabytes / seconds, 1) for _ in range(repeats)]
    megabyte_ms = (processor_s(pids) - used) * 1e3 / (megabytes * repeats)
    plain.close()
    return {
        "p50_ms": round(statistics.median(took) * 1e3, 3),
        "p99_ms": round(statistics.quantiles(took, n=100)[98] * 1e3, 3) if nodelay else None,
        "mb_per_s": rates,
        "processor_ms_per_request": round(request_ms, 2),
        "processor_ms_per_mb": round(megabyte_ms, 2),
    }


def compare(megabytes: int, repeats: int) -> dict[str, Any]:
    """All figures, and the ratios of ours to *nodelay*'s: below 1 is better, of a rate above."""
    figures: dict[str, Any] = {"load": os.getloadavg()[0], "cores": os.cpu_count(), "megabytes": megabytes}
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            ca = SmallCa(Path(folder, "ca"))
            # Whole messages need a broker that lets them through; ours are at most as long as a chunk.
            extra = "" if kind == "fedmesh" else "\nmax_packet_size 268435455\n"
            extra += "set_tcp_nodelay false\n" if kind == "plain" else ""
            broker = LoopbackBroker(Path(folder, "broker"), ca, extra=extra)
            other = _start_other(broker.options("coordinator"), kind=kind)
            pids = [os.getpid(), other.pid, *([broker.pid] if broker.pid else [])]
            try:
                options = broker.options("device")
                if kind == "fedmesh":
                    figures[kind] = asyncio.run(measure(options, megabytes, repeats, pids))
                else:
                    figures[kind] = measure_plainly(options, megabytes, repeats, pids, nodelay=kind == "nodelay")
            finally:
                other.kill()
                other.wait()
                broker.kill()
    figures["ratio"] = ratios(figures["fedmesh"], figures["nodelay"])
    return figures


def ratios(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float | None]:
    """Ours to theirs; None where theirs has no figure."""
    names = ("p50_ms", "processor_ms_per_request", "processor_ms_per_mb")
    rates = [[rate for rate in row["mb_per_s"] if rate is not None] for row in (ours, theirs)]
    whole = statistics.median(rates[0]) / statistics.median(rates[1]) if all(rates) else None
    found: dict[str, float | None] = {name: ours[name] / theirs[name] if theirs[name] else None for name in names}
    return {name: None if ratio is None else round(ratio, 2) for name, ratio in {**found, "mb_per_s": whole}.items()}


def _start_other(options: MqttOptions, *, kind: str) -> "subprocess.Popen[str]":
    told = {
        "ca": str(options.ca),
        "certificate": str(options.certificate),
        "key": str(options.key),
        "port": options.port,
    }
    command = [sys.executable, "-m", "benchmarks.mqtt_messages", "--echo", json.dumps({**told, "kind": kind})]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    if other.stdout is None or other.stdout.readline() != "ready\n":
        raise SystemExit("the echoing process did not start")
    return other


def _echo(told: dict[str, Any]) -> None:
    kind = told.pop("kind")
    ca, certificate, key = (Path(told.pop(name)) for name in ("ca", "certificate", "key"))
    options = MqttOptions("coordinator", "localhost", ca, certificate, key, **told, coordinator=True)
    if kind == "fedmesh":
        asyncio.run(echo(options))
    else:
        echo_plainly(options, nodelay=kind == "nodelay")


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
