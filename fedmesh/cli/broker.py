"""Looking for an MQTT broker: one CONNECT, answered or not. Nothing is published."""

import shutil
from contextlib import suppress
from threading import Event
from typing import Any

from fedmesh.cli.checks import Check

__all__ = ["look_for"]

TIMEOUT_S = 2.0


def look_for(address: str, *, timeout_s: float = TIMEOUT_S) -> Check:
    """Whether an MQTT broker answers at `address`, HOST or HOST:PORT, within `timeout_s`."""
    host, _, port = address.rpartition(":") if ":" in address else (address, "", "1883")
    installed = shutil.which("mosquitto")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        return Check("broker", "failed", f"{address!r} is not HOST:PORT", "correct --broker, as in localhost:1883")
    answer = _connect(host, int(port), timeout_s)
    if answer is None:
        advice = "start it: mosquitto" if installed else "only fleets over MQTT need one; Mosquitto is a small one"
        where = f"mosquitto is installed at {installed}" if installed else "mosquitto is not installed"
        return Check("broker", "note", f"none answers at {host}:{port}; {where}", advice)
    return Check("broker", "ok", f"an MQTT broker answers at {host}:{port} ({answer})")


def _connect(host: str, port: int, timeout_s: float) -> str | None:
    """What the broker answered to CONNECT (a refusal is an answer), or None."""
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    answered, reasons = Event(), []

    def on_connect(_client: Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        reasons.append(str(reason))
        answered.set()

    client = Client(CallbackAPIVersion.VERSION2, reconnect_on_failure=False)
    client.connect_timeout = timeout_s
    client.on_connect = on_connect
    with suppress(OSError):  # refused, unreachable, no such host: no broker there
        client.connect(host, port)
        client.loop_start()
        answered.wait(timeout_s)
        client.disconnect()
        client.loop_stop()
    return reasons[0] if reasons else None
