"""Facts as lines of JSON in a file, for whoever watches from outside: an object an event, no array and no secret."""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from fedmesh.errors import ConfigError
from fedmesh.events import Event, EventSink, OfTask, ignore

__all__ = ["as_json", "event_file"]


@contextmanager
def event_file(path: Path | None, *, clock: Callable[[], float] = time.time) -> Iterator[EventSink]:
    """The sink that appends to `path`, each line at once; None: nobody reads.

    Raises:
        ConfigError: the file cannot be opened or written.
    """
    if path is None:
        yield ignore
        return
    try:
        with path.open("a", encoding="utf-8") as file:

            def tell(event: Event) -> None:
                file.write(as_json(event, clock()) + "\n")
                file.flush()

            yield tell
    except OSError as error:
        raise ConfigError(f"events cannot be written to {path}: {error.strerror}; name another file") from error


def as_json(event: Event, now: float) -> str:
    """One line: ``time`` (Unix seconds), ``event`` (its name), ``task`` and ``run`` where it is of one, its fields."""
    head: dict[str, Any] = {"time": round(now, 3)}
    if isinstance(event, OfTask):
        head |= {"task": event.task, "run": event.run}
        event = event.event
    facts = {field.name: _plain(getattr(event, field.name)) for field in fields(event)}
    return json.dumps({**head, "event": type(event).__name__, **facts}, allow_nan=False)


def _plain(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
