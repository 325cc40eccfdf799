"""Whether a device works now."""

import asyncio
from datetime import UTC, datetime

from fedmesh.client.eligibility import Facts
from fedmesh.configuration.device import EligibilitySection
from fedmesh.fleet.readiness import FAILURES, REST_S, Readiness

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


def why(readiness: Readiness) -> str:
    return asyncio.run(readiness.why_not())


def test_a_device_rests_after_failures_in_a_row():
    now = [1000.0]
    readiness = Readiness(EligibilitySection(), monotonic=lambda: now[0])
    for _ in range(FAILURES - 1):
        readiness.ended(well=False)
    readiness.ended(well=True)
    for _ in range(FAILURES - 1):
        readiness.ended(well=False)
    assert why(readiness) == ""
    readiness.ended(well=False)
    assert why(readiness) == "limits"
    now[0] += REST_S - 1
    assert why(readiness) == "limits"
    now[0] += 1
    assert why(readiness) == ""


def test_the_hook_is_asked_each_time_and_only_where_there_is_one():
    asked: list[str] = []
    said = {"value": False}

    async def hook(function: str) -> bool:
        asked.append(function)
        return said["value"]

    def facts(local: datetime, told: bool | None) -> Facts:
        return Facts(local, hook=told)

    readiness = Readiness(EligibilitySection(hook="mine:asked"), hook=hook, facts=facts, local=lambda: NOON)
    assert why(readiness) == "hook"
    said["value"] = True
    assert why(readiness) == ""
    assert asked == ["mine:asked"] * 2
    assert why(Readiness(EligibilitySection(), hook=hook, facts=facts, local=lambda: NOON)) == ""
    assert len(asked) == 2
