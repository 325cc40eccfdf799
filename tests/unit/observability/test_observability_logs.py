"""Log lines: what is in them, and what never is."""

import io
import json
import logging
import re

import numpy as np
import pytest
from exported import EVERY_EVENT

from fedmesh.events import DeviceFailed, DeviceReplied, Notice, PacketRefused, RoundFinished, StageStarted
from fedmesh.observability.logs import LogSink, start_logging


@pytest.fixture
def lines():
    """A function that starts logging to memory, and gives what came."""
    stream, handlers = io.StringIO(), []

    def start(shape, level="debug"):
        handlers.append(start_logging(shape, level, stream))
        return lambda: stream.getvalue().splitlines()

    level = logging.getLogger("fedmesh").level
    yield start
    logging.captureWarnings(capture=False)
    logging.getLogger("fedmesh").setLevel(level)
    for handler in handlers:
        logging.getLogger().removeHandler(handler)


def test_every_event_is_a_line_of_json(lines):
    read = lines("json")
    for event in EVERY_EVENT:
        LogSink(task="digits")(event)
    told = [json.loads(line) for line in read()]
    assert len(told) == len(EVERY_EVENT)
    for line in told:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        assert line["fields"]["task"] in {"digits", "word"}
    assert [line["fields"] for line in told if "run" in line["fields"] and line["event"] == "run_finished"] == [
        {"task": "word", "run": 1, "seconds": 1.5}
    ]
    (finished,) = [line for line in told if line["event"] == "round_finished"]
    assert finished["level"] == "info"
    assert finished["fields"]["survivors"] == 9


def test_what_fails_is_a_warning_and_every_device_is_a_detail(lines):
    read = lines("json", "warning")
    for event in (StageStarted(1, "train", 9), DeviceReplied(1, "train", 3, 9), DeviceFailed(1, "train", 3, "late")):
        LogSink()(event)
    LogSink()(PacketRefused("stranger", "signature"))
    LogSink()(Notice("the roster is old"))
    LogSink()(RoundFinished(2, 10, 0, 0.9, 0.5, None, 0.0, 0.0, 1.0, failed="quorum"))
    assert [json.loads(line)["event"] for line in read()] == [
        "device_failed",
        "packet_refused",
        "notice",
        "round_finished",
    ]


def test_what_is_no_plain_fact_is_only_named(lines):
    read = lines("json")
    fields = {"key": b"secret", "array": np.ones(3), "nested": {"a": "secret"}, "nan": float("nan"), "long": "x" * 9999}
    logging.getLogger("fedmesh.x").info("fact", extra={"event": "fact", "fields": fields})
    told = json.loads(read()[0])["fields"]
    assert told | {"long": ""} == {"key": "<bytes>", "array": "<ndarray>", "nested": "<dict>", "nan": "nan", "long": ""}
    assert len(told["long"]) == 500


def test_a_line_is_a_line_whatever_a_peer_says(lines):
    for shape in ("json", "text"):
        read = lines(shape)
        before = len(read())
        LogSink()(DeviceFailed(1, "train", 3, "bad\n2026-01-01T00:00:00.000Z info    all is well\x1b[31m"))
        assert len(read()) == before + 1
        assert "\x1b" not in read()[-1]


def test_text_is_for_people(lines):
    read = lines("text")
    LogSink(task="digits")(DeviceFailed(1, "train", 3, "no answer"))
    assert read()[0].endswith('warning device failed task=digits round=1 stage=train device=3 reason="no answer"')


def test_an_error_is_told_without_its_traceback(lines):
    secret = "hunter2"
    for shape in ("json", "text"):
        read = lines(shape)
        try:
            int(f"it\nbroke {len(secret)}")
        except ValueError:
            logging.getLogger("fedmesh.x").exception("failed")
        assert "ValueError: invalid literal" in read()[-1]
        assert "hunter2" not in read()[-1]


def test_other_libraries_are_heard_when_they_warn(lines):
    read = lines("json", "debug")
    logging.getLogger("paho").info("chatter")
    logging.getLogger("paho").warning("lost %s", "it")
    assert [json.loads(line)["message"] for line in read()] == ["lost it"]


def test_started_again_it_says_nothing_twice(lines):
    lines("json")
    read = lines("json")
    LogSink()(EVERY_EVENT[0])
    assert len(read()) == 1


def test_the_library_adds_no_handler():
    LogSink()(EVERY_EVENT[0])
    assert not logging.getLogger("fedmesh").handlers
    assert not logging.getLogger("fedmesh.run").handlers
