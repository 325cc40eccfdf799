"""Flower's console messages, for as long as somebody wants fewer or more of them."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from flwr.common.logger import FLOWER_LOGGER

__all__ = ["flower_log_level", "quiet_flower"]


@contextmanager
def flower_log_level(level: int) -> Iterator[None]:
    """Within the block Flower logs nothing below `level`; afterwards what it logged before."""
    logger_level = FLOWER_LOGGER.level
    handler_levels = [(handler, handler.level) for handler in FLOWER_LOGGER.handlers]
    FLOWER_LOGGER.setLevel(level)
    for handler, before in handler_levels:
        handler.setLevel(min(before, level))
    try:
        yield
    finally:
        FLOWER_LOGGER.setLevel(logger_level)
        for handler, before in handler_levels:
            handler.setLevel(before)


def quiet_flower() -> AbstractContextManager[None]:
    """Within the block Flower logs errors only: the caller has a progress display of its own."""
    return flower_log_level(logging.ERROR)
