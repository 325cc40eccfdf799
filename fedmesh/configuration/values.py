"""The kinds of values that the files have in common: addresses, names of parties, paths, functions, shares."""

import re
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from fedmesh.errors import ConfigError

__all__ = [
    "Address",
    "Dialled",
    "Function",
    "Listen",
    "PartyName",
    "PathValue",
    "Port",
    "Positive",
    "ScenarioValue",
    "Share",
]

_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?")
_PARTY = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?")  # as fedmesh.identity.names, which needs cryptography
_FUNCTION = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*", re.ASCII)

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Port = Annotated[int, Field(ge=1, le=65535)]


@dataclass(frozen=True, slots=True)
class Address:
    """Where something listens. `host` is a name or an address, IPv6 without its brackets."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, *, any_port: bool = False) -> Self:
        """The address ``HOST:PORT`` or ``[IPV6]:PORT``; port 0 only with `any_port`.

        Raises:
            ConfigError: it is none.
        """
        host, _, port = text.rpartition(":")
        literal = host.startswith("[") and host.endswith("]")
        host = host[1:-1] if literal else host
        number = int(port) if port.isascii() and port.isdecimal() and len(port) <= 5 else -1
        if not (_is_ipv6(host) if literal else _HOST.fullmatch(host)) or not (0 if any_port else 1) <= number <= 65535:
            raise ConfigError(f"{text!r:.80} is not HOST:PORT, as in ca.local:7443 or [::1]:7443")
        return cls(host, number)

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches it; a name other than localhost is taken for one that others reach."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _is_ipv6(host: str) -> bool:
    try:
        return ip_address(host).version == 6
    except ValueError:
        return False


def _dialled(value: Any) -> Any:
    return _address(value, any_port=False)


def _listened(value: Any) -> Any:
    return _address(value, any_port=True)


def _address(value: Any, *, any_port: bool) -> Any:
    if isinstance(value, Address):
        return value
    if not isinstance(value, str):
        raise ValueError(f"wanted HOST:PORT in quotes, got {value!r:.80}")  # noqa: TRY004 - pydantic wants a ValueError
    try:
        return Address.parse(value, any_port=any_port)
    except ConfigError as error:
        raise ValueError(str(error)) from error


def _party(value: Any) -> Any:
    if isinstance(value, str) and not _PARTY.fullmatch(value):
        raise ValueError(
            f"{value!r:.80} is no name of a party: 1 to 63 of a-z, 0-9, '.', '_' and '-', with a letter or digit at "
            "both ends"
        )
    return value


def _function(value: Any) -> Any:
    if isinstance(value, str) and not _FUNCTION.fullmatch(value):
        raise ValueError(f"{value!r:.80} does not name a function: wanted 'module:function', as in 'my_device:load'")
    return value


def _placed(value: Any, info: ValidationInfo) -> Any:
    """A path, relative to the folder of its file."""
    if not isinstance(value, str):
        return value
    if not value or "\0" in value:
        raise ValueError("wanted a path, got an empty one" if not value else "a path has no NUL in it")
    folder = (info.context or {}).get("folder")
    path = Path(value).expanduser()
    return path if folder is None else folder / path


def _scenario(value: str, info: ValidationInfo) -> str:
    folder = (info.context or {}).get("folder")
    is_file = value.endswith(".toml") or len(Path(value).parts) > 1
    return str(folder / Path(value).expanduser()) if is_file and folder is not None else value


Dialled = Annotated[Address, BeforeValidator(_dialled)]
"""HOST:PORT of somebody else."""
Listen = Annotated[Address, BeforeValidator(_listened)]
"""HOST:PORT of our own; port 0: any that is free."""
PartyName = Annotated[str, BeforeValidator(_party)]
Function = Annotated[str, BeforeValidator(_function)]
"""``module:function``, imported by the one who calls it, never here."""
PathValue = Annotated[Path, BeforeValidator(_placed)]
ScenarioValue = Annotated[str, Field(min_length=1), AfterValidator(_scenario)]
"""A scenario: the name of one that comes with fedmesh, or a path relative to the folder of its file."""
