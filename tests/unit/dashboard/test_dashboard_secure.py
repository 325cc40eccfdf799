"""What the report says of secure aggregation: survivors, what came to nothing and why, and what each step cost."""

import copy
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from fedmesh.dashboard.report import render

RESULT = json.loads((Path(__file__).parents[2] / "data" / "result-digits.json").read_text(encoding="utf-8"))
TOO_FEW = "threshold: 6 of 10 devices are left at the step 'unmask'; 7 are needed to unmask"


def session(**changes: Any) -> dict[str, Any]:
    return {"group": 0, "attempt": 1, "devices": 10, "survivors": 9, "aborted": None} | changes


@pytest.fixture
def result() -> dict[str, Any]:
    """A run under secure aggregation: of 20 rounds the third was lost, and the fourth needed two attempts."""
    secured = copy.deepcopy(RESULT)
    for row in secured["rounds"]:
        row["sessions"] = [session(survivors=row["survivors"])]
        sent = {"seconds": 0.2, "bytes_up": 1_000, "bytes_down": 2_000}
        row["stages"] = [{"name": name, **sent} for name in ("train", "sign", "unmask")]
    lost, again = secured["rounds"][2:4]
    lost |= {"survivors": 0, "failed": TOO_FEW, "sessions": [session(survivors=0, aborted=TOO_FEW)]}
    again |= {"survivors": 6, "sessions": [session(survivors=0, aborted=TOO_FEW), session(attempt=2, survivors=6)]}
    step = {"devices": 200, "replies": 190, "bytes_up": 95_000, "bytes_down": 200_000, "seconds": 1.5, "times": 20}
    secured["secure_aggregation"] = {
        "enabled": True,
        "group_size": 128,
        "weight_cap": 1,
        "attempts": 3,
        "overlap": True,
        "grouped": False,
        "largest_session": 10,
        "threshold": 7,
        "colluders": 3,
        "smallest_sum": 6,
        "sessions": 21,
        "sums": 19,
        "aborts": [{"round": number, "group": 0, "attempt": 1, "devices": 10, "reason": TOO_FEW} for number in (3, 4)],
        "steps": [step | {"step": name} for name in ("advertise", "share", "train", "sign", "unmask")],
        "keys": "all in the run directory: for simulation only",
    }
    return secured


def text_of(page: str) -> str:
    """What is read: without tags, entities or line breaks."""
    plain = re.sub(r"<svg.*?</svg>|<[^>]+>", " ", page, flags=re.DOTALL).replace("&#x27;", "'").replace("\xa0", " ")
    return re.sub(r"\s+", " ", plain)


def test_the_promise_is_told_and_what_it_rests_on(result: dict[str, Any]) -> None:
    text = text_of(render(result))
    assert "only sums over 6 or more devices were unmasked" in text
    assert "No secure aggregation" not in text
    assert "The devices' keys are all in the run directory: for simulation only." in text
    assert "In a session of 10 it takes 7 to unmask, and up to 3" in text


def test_survivors_are_drawn_and_lost_rounds_crossed(result: dict[str, Any]) -> None:
    page = render(result)
    assert "6 to 10 in a round" in text_of(page)
    for name in ("survivors", "seconds-by-round"):
        (drawing,) = re.findall(rf'<svg[^>]*>(?:(?!</svg>).)*id="{name}-(?:(?!</svg>).)*</svg>', page, re.DOTALL)
        ET.fromstring(drawing)


def test_what_came_to_nothing_is_told_by_its_reason(result: dict[str, Any]) -> None:
    text = text_of(render(result))
    assert "2 of 21 sessions were given up" in text
    assert "1 of 20 rounds failed and left the model as it was" in text
    assert f"Rounds 3, 4: {TOO_FEW}" in text
    assert f"4 1 0 10 - {TOO_FEW} 4 2 0 10 6 5 1 0" in text, "the table of all sessions"


def test_bytes_and_seconds_of_each_step(result: dict[str, Any]) -> None:
    text = text_of(render(result))
    assert "advertise fresh keys, signed 200 190 (95.0%) 500 B 1.0 kB 75 ms 1.5 s share" in text
    assert "All steps but the training itself took 6.0 s of" in text


def test_the_bytes_of_the_run_are_those_of_its_stages(result: dict[str, Any]) -> None:
    assert "The whole run: 60.0 kB up, 120 kB down." in text_of(render(result))


def test_one_round_is_one_round(result: dict[str, Any]) -> None:
    result["rounds"] = result["rounds"][-1:]
    result["secure_aggregation"] |= {"sums": 1, "sessions": 1, "aborts": []}
    page = render(result)
    (drawing,) = re.findall(r'<svg[^>]*>(?:(?!</svg>).)*id="survivors-(?:(?!</svg>).)*</svg>', page, re.DOTALL)
    ticks = re.findall(r"<text[^>]*>([^<]*)</text>", drawing)
    assert ticks[: ticks.index("round")] == [str(result["rounds"][0]["round"])]
    text = text_of(page)
    assert "after 1 round on 10 devices" in text
    assert "after each of 1 round," in text
    assert "cancel in the sum: 1 sum unmasked" in text


def test_a_run_in_which_nothing_went_wrong(result: dict[str, Any]) -> None:
    result["rounds"] = result["rounds"][4:]
    result["secure_aggregation"] |= {"aborts": [], "sessions": 16, "sums": 16, "smallest_sum": 7}
    for row in result["rounds"]:
        row["survivors"] = 9
    text = text_of(render(result))
    assert "Nothing: every session came to its sum." in text
    assert "9 in every round" in text


def test_a_sum_takes_what_the_noise_in_it_needs(result: dict[str, Any]) -> None:
    def lines() -> list[str]:
        page = render(result)
        (drawing,) = re.findall(r'<svg[^>]*>(?:(?!</svg>).)*id="survivors-(?:(?!</svg>).)*</svg>', page, re.DOTALL)
        return re.findall(r"<text[^>]*>([^<]*)</text>", drawing)

    assert "7" in lines()
    result["privacy"] |= {"smallest_sum": 9}
    assert "7" not in lines()
    assert "9" in lines()


def test_a_run_in_groups_has_no_single_threshold(result: dict[str, Any]) -> None:
    result["secure_aggregation"] |= {"grouped": True, "group_size": 16}
    text = text_of(render(result))
    assert "16 at most in a group" in text
    result["secure_aggregation"] |= {"group_size": 4, "largest_session": 5}
    assert "5 at most in a group" in text_of(render(result))
    assert "dashed line is how many" not in text


def test_many_reasons_are_not_all_told(result: dict[str, Any]) -> None:
    one = result["secure_aggregation"]["aborts"][0]
    result["secure_aggregation"]["aborts"] = [one | {"round": n, "reason": f"reason {n % 11}"} for n in range(1, 200)]
    text = text_of(render(result))
    assert "and 3 more reasons, in the table of all sessions" in text
    assert "1, 12, 23, 34, 45, 56, 67, 78 …: reason 1" in text


def test_a_run_without_a_single_sum(result: dict[str, Any]) -> None:
    for row in result["rounds"]:
        row |= {"survivors": 0, "failed": TOO_FEW, "sessions": []}
    nothing = {"largest_session": 0, "threshold": 1, "colluders": 0, "sums": 0, "sessions": 0, "smallest_sum": None}
    result["secure_aggregation"] |= {**nothing, "aborts": [], "steps": []}
    text = text_of(render(result))
    assert "No sum was ever unmasked." in text
    assert "Every round came to nothing." in text


def test_hostile_text_stays_text(result: dict[str, Any]) -> None:
    attack = "<script>alert(1)</script>"
    result["secure_aggregation"]["aborts"][0]["reason"] = result["secure_aggregation"]["keys"] = attack
    result["secure_aggregation"]["steps"][0]["step"] = result["rounds"][2]["sessions"][0]["aborted"] = attack
    assert "<script" not in render(result)


def test_the_same_result_gives_the_same_bytes(result: dict[str, Any]) -> None:
    assert render(result) == render(copy.deepcopy(result))
