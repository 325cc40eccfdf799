"""Durations and addresses, as they stand on a command line."""

from fedmesh.configuration.values import Address
from fedmesh.errors import ConfigError

__all__ = ["address", "seconds"]

_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def seconds(text: str, *, least_s: float, most_s: float) -> int:
    """The seconds in ``90s``, ``30m``, ``24h`` or ``7d``. Raises: ConfigError: it is none, or beyond the limits."""
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS_S or not number.isascii() or not number.isdecimal() or len(number) > 9:
        raise ConfigError(f"{text!r} is no duration: write 90s, 30m, 24h or 7d")
    duration = int(number) * _UNITS_S[unit]
    if not least_s <= duration <= most_s:
        raise ConfigError(f"{text} is out of range: {least_s:g} to {most_s:g} seconds are allowed")
    return duration


def address(text: str, *, any_port: bool = False) -> tuple[str, int]:
    """Host and port of ``HOST:PORT`` or ``[IPV6]:PORT``. Raises: ConfigError: it is none."""
    found = Address.parse(text, any_port=any_port)
    return found.host, found.port
