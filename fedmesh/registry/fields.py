"""A map of named fields out of signed or stored bytes: each taken once, of its type, and none left over."""

from typing import Any, Self, TypeVar

from fedmesh.errors import DecodeError, RegistryError
from fedmesh.wire import loads

__all__ = ["Fields"]

T = TypeVar("T")


class Fields:
    """What is left of a map. Every method raises `RegistryError` (``malformed``) for what it does not find."""

    def __init__(self, content: Any) -> None:
        if not isinstance(content, dict):
            raise _malformed("something that should be a map of fields is none")
        self._left = dict(content)

    @classmethod
    def read(cls, data: bytes, format_: str, *, max_bytes: int) -> Self:
        """The fields in `data`, which calls itself `format_`."""
        try:
            fields = cls(loads(data, max_bytes=max_bytes, max_depth=10))
        except DecodeError as error:
            raise _malformed(f"this is no {format_}: {error}") from error
        if (found := fields.take("format", str)) != format_:
            raise _malformed(f"this is {found[:40]!r}, not {format_}: a newer fedmesh may read it")
        return fields

    def take(self, name: str, kind: type[T]) -> T:
        """The field `name`, of exactly this type; an integer will do where a float is meant."""
        value = self._left.pop(name, None)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise _malformed(f"the field {name!r} is {type(value).__name__}, not {kind.__name__}")
        return value

    def maybe(self, name: str, kind: type[T]) -> T | None:
        """The field `name`, which has to be there but may be None."""
        if name in self._left and self._left[name] is None:
            del self._left[name]
            return None
        return self.take(name, kind)

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts."""
        items = self.take(name, list)
        if not all(isinstance(item, str) for item in items):
            raise _malformed(f"the field {name!r} holds something that is not a text")
        return tuple(items)

    def items(self, name: str) -> "list[Fields]":
        """A list of maps."""
        return [Fields(item) for item in self.take(name, list)]

    def finish(self) -> None:
        """Nothing is left: what is not understood is not ignored."""
        if self._left:
            raise _malformed(
                f"the field {str(min(map(str, self._left)))[:40]!r} is not known: a newer fedmesh may know it"
            )


def _malformed(message: str) -> RegistryError:
    return RegistryError(message, code="malformed")
