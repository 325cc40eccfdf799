"""Every field of an offered task with values of every other kind: a word of the protocol comes of it, or a task."""

import copy
import math

import heads
import pytest
from device_fleet import Site, private_task

from fedmesh.client.policy import refusal
from fedmesh.client.task import Task
from fedmesh.errors import ConfigError
from fedmesh.fleet.protocol import REASONS
from fedmesh.wire import dumps, loads

NUMBERS = [-1, 0, 2**62, 1.5, 1e-300, 1e300, math.inf, math.nan]
VALUES = [*NUMBERS, None, True, "", "a/b", "x" * 1000, b"", [], [1], ["a"], {}, {"a": 1}, {"a": [math.nan, 2]}]


def places(value, place=()):
    yield place
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places(part, (*place, key))


def put(value, place, new):
    if not place:
        return new
    value = copy.deepcopy(value)
    inner = value
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = new
    return value


@pytest.mark.parametrize(
    "task",
    [private_task(), heads.summed_task("example"), heads.summed_task("client")],
    ids=["local", "shared", "client"],
)
def test_a_device_answers_every_task_with_a_word(tmp_path, task):
    config = Site(tmp_path).device().config
    plain, taken = task.to_plain(), set()
    for place in places(plain):
        for new in VALUES:
            data = dumps(put(plain, place, new))
            try:
                read = Task.from_plain(loads(data, max_bytes=1 << 20))
            except ConfigError:
                continue
            assert refusal(config, "lite", read.as_deployed()) in REASONS
            taken.add((place, repr(new)))
    for name in ("name", "model", "training", "codec", "weighting", "classes", "learning_rate", "batch_size", "summed"):
        wrong = {"nan", "True", "''", "[]", "{'a': 1}"}
        assert not {value for place, value in taken if place == (name,)} & wrong, name
