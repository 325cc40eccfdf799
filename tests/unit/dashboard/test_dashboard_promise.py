"""Whom a run promised what, in the words of report and terminal."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from fedmesh.dashboard import promise
from fedmesh.dashboard.report import render

RESULT = json.loads((Path(__file__).parents[2] / "data" / "result-digits.json").read_text(encoding="utf-8"))


def private(mode: str, **more: Any) -> dict[str, Any]:
    result = copy.deepcopy(RESULT)
    level = "client" if mode in {"client", "central"} else "example"
    result["privacy"] |= {"mode": mode, "level": level, **more}
    result["final"] |= {"epsilon": 7.996, "delta": 1e-5}
    return result


@pytest.mark.parametrize(
    ("mode", "whom", "rests_on"),
    [
        ("local", "example", "the promise holds against everyone"),
        (
            "shared",
            "example",
            "the promise rests on the secure sum, and on 8 honest devices in it; sums of fewer than 9",
        ),
        (
            "client",
            "device",
            "the promise rests on the secure sum, and on 8 honest devices in it; sums of fewer than 9",
        ),
        ("central", "device", "the server adds the noise after it has seen the exact sum"),
    ],
)
def test_each_mode_says_to_whom_it_promises_and_on_what_that_rests(mode: str, whom: str, rests_on: str) -> None:
    result = private(mode, honest=8, smallest_sum=9)
    assert promise.whom(result["privacy"]) == whom
    assert rests_on in promise.foundation(result["privacy"])
    page = re.sub(r"<[^>]+>", "", render(result))
    assert f"Differential privacy of each {whom}." in page
    assert rests_on in page


def test_the_figure_is_the_ledgers_and_beside_it_that_of_the_devices_that_were_there() -> None:
    assert promise.spent(private("local")) == "epsilon 8.00 at delta 1e-5"
    assert promise.spent(private("shared", epsilon_released=7.454)) == (
        "epsilon 8.00 at delta 1e-5 (7.45 with the devices that were really in the sums)"
    )


def test_a_trusted_server_is_warned_of() -> None:
    for mode, kind in (("local", "good"), ("shared", "good"), ("central", "warn")):
        page = render(private(mode, honest=8, smallest_sum=9))
        assert f'<li class="{kind}"><strong>Differential privacy of each' in page
