"""Logs: facts as lines, for people or for programs. Never an array, a key or anybody's data.

`LogSink` writes events to a logger and adds no handler; `start_logging` adds one, and is for a command's own process.
"""

import dataclasses
import datetime as dt
import json
import logging
import math
import re
import sys
from typing import Any, Literal, TextIO

from fedmesh.events import DeviceReplied, DeviceSeen, Event, OfTask, RoundFinished, StageStarted
from fedmesh.observability.metrics import event_name

__all__ = ["JsonFormatter", "LogSink", "TextFormatter", "start_logging"]

LONGEST = 500
"""Characters of a field: what a peer or an exception says is not unbounded."""
_BAD = re.compile(r"refused|failed|rolled_back|notice|forked")
"""Of an event's name: what an operator should look at."""
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class LogSink:
    """An `EventSink` that logs each fact: failures as warnings, what every device does as debug, else info.

    Args:
        logger: whose handlers write it; default ``fedmesh.run``.
        task: of which the facts are, if of one.
    """

    def __init__(self, logger: logging.Logger | None = None, *, task: str | None = None) -> None:
        self._logger = logger or logging.getLogger("fedmesh.run")
        self._task: dict[str, Any] = {} if task is None else {"task": task}

    def __call__(self, event: Event) -> None:
        """Logs `event`."""
        task = self._task
        if isinstance(event, OfTask):
            task, event = {"task": event.task, "run": event.run}, event.event
        name = event_name(event)
        fields = {item.name: getattr(event, item.name) for item in dataclasses.fields(event)}
        told = {key: value for key, value in fields.items() if value is not None}
        self._logger.log(_level(event, name), name.replace("_", " "), extra={"event": name, "fields": task | told})


def _level(event: Event, name: str) -> int:
    match event:
        case RoundFinished(failed=failed) if failed is not None:
            return logging.WARNING
        case DeviceReplied() | DeviceSeen() | StageStarted():
            return logging.DEBUG
        case _:
            return logging.WARNING if _BAD.search(name) else logging.INFO


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time`` (RFC 3339, UTC), ``level``, ``logger``, ``message``, ``event``, ``fields``."""

    def format(self, record: logging.LogRecord) -> str:
        """`record` as JSON; of an exception its type and message, without the values of a traceback."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:LONGEST],
        }
        line |= _facts(record)
        return json.dumps(line, ensure_ascii=False, allow_nan=False)


class TextFormatter(logging.Formatter):
    """A line for people: time, level, message, and fields as ``key=value``."""

    def format(self, record: logging.LogRecord) -> str:
        """`record` in one line: control characters, as a peer might send, are spelled out."""
        facts = _facts(record)
        fields = facts.pop("fields", {})
        shown = {**fields, **({"error": facts["error"]} if "error" in facts else {})}
        pairs = " ".join(f"{key}={_shown(value)}" for key, value in shown.items())
        text = f"{_time(record)} {record.levelname.lower():7} {record.getMessage()[:LONGEST]} {pairs}".rstrip()
        return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def start_logging(shape: Literal["text", "json"], level: str, stream: TextIO | None = None) -> logging.Handler:
    """Lets this process log on `stream` (default: stderr), from `level` (``debug`` to ``error``) on.

    Other libraries are heard from ``warning`` on. Called again, it takes the place of what it did before. Returns the
    handler, for who wants to take it away.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if shape == "json" else TextFormatter())
    handler.set_name("fedmesh")
    root = logging.getLogger()
    for old in [old for old in root.handlers if old.get_name() == "fedmesh"]:
        root.removeHandler(old)
    root.addHandler(handler)
    logging.getLogger("fedmesh").setLevel(level.upper())
    logging.captureWarnings(capture=True)
    return handler


def _time(record: logging.LogRecord) -> str:
    moment = dt.datetime.fromtimestamp(record.created, dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    """Event, fields and error of a record; what else was put on it by ``extra`` counts as fields."""
    extra = {key: value for key, value in record.__dict__.items() if key not in _STANDARD}
    facts: dict[str, Any] = {}
    if isinstance(event := extra.pop("event", None), str):
        facts["event"] = event
    fields = extra.pop("fields", None)
    plain = {**extra, **(fields if isinstance(fields, dict) else {})}
    if plain:
        facts["fields"] = {str(key)[:64]: _plain(value) for key, value in plain.items()}
    if record.exc_info and record.exc_info[1] is not None:
        error = record.exc_info[1]
        facts["error"] = f"{type(error).__name__}: {error}"[:LONGEST]
    return facts


def _plain(value: Any) -> str | int | float | bool | None:
    """A fact that may be written; of anything else (bytes, an array, a key) only what it is."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return value[:LONGEST]
    return f"<{type(value).__name__}>"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or " " in text or '"' in text else text
