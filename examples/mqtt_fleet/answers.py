"""Real digits, sent to the device that only answers."""

import json
import urllib.request
from typing import Any

from fedmesh.federation import datasets

DIGITS, AT_ONCE = 500, 100


def right_over_http(serving: int) -> int:
    """How many real digits the device that only answers gets right."""
    digits = datasets.load("digits")
    labels: list[int] = []
    for begin in range(0, DIGITS, AT_ONCE):
        labels += _predict(serving, digits.x[begin : begin + AT_ONCE].tolist())
    return sum(map(int.__eq__, labels, digits.y[:DIGITS].tolist()))


def _predict(serving: int, x: list[Any]) -> list[int]:
    body = json.dumps({"x": x}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{serving}/predict", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as reply:
        return [one["label"] for one in json.load(reply)["predictions"]]
