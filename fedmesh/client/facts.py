"""Facts about this device, read from where Linux keeps them. Nothing is cached, nothing is written.

A network counts as metered where the default route goes over a modem (``wwan``, ``ppp``, ``rmnet`` and USB tethering),
and as not metered where there is no default route or another one. Whether a Wi-Fi is somebody's phone is not seen: the
operator's hook can ask NetworkManager.
"""

import asyncio
import os
import sys
from datetime import datetime
from pathlib import Path

from fedmesh.client.eligibility import Facts
from fedmesh.machine import cores

__all__ = ["ask", "read_facts"]

_MODEMS = ("wwan", "wwp", "ppp", "rmnet", "usb")
_MAX_BYTES = 1 << 16
HOOK_S = 30.0


def read_facts(local: datetime, *, hook: bool | None = None, root: Path = Path("/")) -> Facts:
    """What is known now.

    Args:
        local: wall clock time; hook: what the operator's hook said.
        root: where ``proc`` and ``sys`` are.
    """
    discharging, charge = _power(root / "sys/class/power_supply")
    return Facts(
        local,
        discharging=discharging,
        charge=charge,
        metered=_metered(root / "proc/net"),
        load=_load(root / "proc/loadavg"),
        hook=hook,
    )


async def ask(function: str, *, timeout_s: float = HOOK_S) -> bool | None:
    """What the operator's ``module:function`` says, in a process of its own; None: it failed, or took too long."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "fedmesh.client.hook", function, stdin=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(timeout_s):
            code = await process.wait()
    except TimeoutError:
        return None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return {0: True, 1: False}.get(code)


def _power(folder: Path) -> tuple[bool, float | None]:
    """Whether a battery of the device itself is discharging, and the least that one holds."""
    discharging, charges = False, []
    for supply in sorted(folder.iterdir()) if folder.is_dir() else []:
        if _text(supply / "type") != "Battery" or _text(supply / "scope") == "Device":  # a mouse's
            continue
        discharging |= _text(supply / "status") == "Discharging"
        capacity = _text(supply / "capacity")
        if capacity.isascii() and capacity.isdecimal():
            charges.append(min(100, int(capacity)) / 100)
    return discharging, min(charges, default=None)


def _metered(folder: Path) -> bool | None:
    """Of the default routes of IPv4 and IPv6."""
    tables = [_text(folder / "route"), _text(folder / "ipv6_route")]
    if not any(tables):
        return None
    rows = [line.split() for table in tables for line in table.splitlines()]
    ways = {row[0] for row in rows if len(row) >= 8 and row[1] == "00000000"}
    ways |= {row[-1] for row in rows if len(row) >= 10 and row[0] == "0" * 32 and row[1] == "00" and row[-1] != "lo"}
    return any(way.startswith(_MODEMS) for way in ways)


def _load(path: Path) -> float | None:
    words = _text(path).split()
    try:
        return float(words[0]) / cores()
    except (IndexError, ValueError):
        return None


def _text(path: Path) -> str:
    """What a small file says, without the spaces around it; empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            return os.fsdecode(file.read(_MAX_BYTES)).strip()
    except OSError:
        return ""
