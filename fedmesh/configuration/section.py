"""Tables of TOML as strict models; an error names the file and every wrong key, what was got and what was meant."""

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from fedmesh.errors import ConfigError
from fedmesh.files import read_bounded

__all__ = ["File", "Section", "parsed", "read_tables"]

MAX_FILE_BYTES = 1 << 20
Model = TypeVar("Model", bound=BaseModel)


class Section(BaseModel):
    """A table: unknown keys, other types and numbers that are not finite are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, hide_input_in_errors=True)


class File(Section):
    """A whole file of tables."""

    @classmethod
    def parse(cls, tables: dict[str, Any], *, source: str, folder: Path | None = None) -> Self:
        """A configuration from TOML tables. Raises: ConfigError: naming every key that is wrong."""
        return parsed(cls, tables, source=source, folder=folder)

    @classmethod
    def load(cls, path: Path) -> Self:
        """The configuration in a TOML file. Raises: ConfigError: unreadable, not TOML, or wrong keys, each named."""
        return cls.parse(read_tables(path), source=str(path), folder=path.parent)


def read_tables(path: Path) -> dict[str, Any]:
    """What the TOML file at `path` says. Raises: ConfigError: it cannot be read, is larger than 1 MiB or not TOML."""
    data = read_bounded(path, MAX_FILE_BYTES, called="the configuration")
    try:
        return tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is not a readable TOML file: {error}") from error


def parsed(model: type[Model], tables: Mapping[str, Any], *, source: str, folder: Path | None = None) -> Model:
    """`tables` as a `model`.

    Args:
        source: whose they are, for the message.
        folder: what relative paths are relative to; None leaves them.

    Raises:
        ConfigError: naming every key that is unknown, of a wrong type or out of range.
    """
    try:
        return model.model_validate(dict(tables), context={"folder": folder})
    except ValidationError as error:
        raise ConfigError(f"{source}: {_explain(error, model)}") from error


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Every fault with its key, in one paragraph."""
    faults = []
    for item in error.errors():
        path = tuple(str(part) for part in item["loc"])
        path = tuple(part for index, part in enumerate(path) if not _is_tag(model, path[: index + 1]))
        got = "" if item["type"] in {"missing", "value_error"} else f" (got {item['input']!r:.200})"
        place = f"{'.'.join(path)}: " if path else ""
        faults.append(f"{place}{_reason(item['type'], item['msg'], path, model)}{got}")
    return "; ".join(faults)


def _reason(kind: str, message: str, path: tuple[str, ...], model: type[BaseModel]) -> str:
    if kind == "extra_forbidden":
        return f"unknown key, {_advice(path, model)}"
    if kind == "tuple_type":
        return f"wanted a list{_of_tables(path, model)}"
    if kind in {"model_type", "dict_type", "model_attributes_type"}:
        return f"wanted a table, as [{'.'.join(path)}]"
    if kind == "missing":
        return "is missing"
    if kind == "union_tag_not_found":
        return "kind is missing: it says which table this is"
    return message.removeprefix("Value error, ").replace("Input should be", "should be", 1)


def _of_tables(path: tuple[str, ...], model: type[BaseModel]) -> str:
    fields = [owner.model_fields[path[-1]].annotation for owner in _owners(model, path[:-1])]
    return f" of tables, each as [[{'.'.join(path)}]]" if any(_models(field) for field in fields) else ""


def _advice(path: tuple[str, ...], model: type[BaseModel]) -> str:
    """The nearest key of the same table, else keys of that name elsewhere, else every key of the table."""
    last = path[-1]
    siblings = [key for owner in _owners(model, path[:-1]) for key in owner.model_fields]
    if near := difflib.get_close_matches(last, siblings, n=1):
        return f"did you mean {'.'.join((*path[:-1], near[0]))}?"
    known = [(dotted, of_many) for dotted, of_many in _dotted(model) if dotted.rpartition(".")[2] == last]
    single = [dotted for dotted, of_many in known if not of_many]  # a key that is there once, before one of a list
    if elsewhere := dict.fromkeys(single or [dotted for dotted, _ in known]):
        return f"did you mean {' or '.join(elsewhere)}?"
    return f"there are {', '.join(dict.fromkeys(siblings))}"


def _owners(model: type[BaseModel], path: tuple[str, ...]) -> list[type[BaseModel]]:
    """The models that the table at `path` may be of: several where its key ``kind`` decides."""
    owners = [model]
    for part in path:
        if not part.isdecimal():
            owners = [
                inner
                for owner in owners
                if part in owner.model_fields
                for inner in _models(owner.model_fields[part].annotation)
            ]
    return owners


def _is_tag(model: type[BaseModel], path: tuple[str, ...]) -> bool:
    """Whether the last of `path` is pydantic's name for a member of a union, and no key."""
    before, last = path[:-1], path[-1]
    owners = _owners(model, before)
    return len(owners) > 1 and any(last == getattr(owner.model_fields.get("kind"), "default", None) for owner in owners)


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models in a type, behind None, lists and unions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models(inner)]


def _dotted(model: type[BaseModel], before: str = "", *, of_many: bool = False) -> Iterator[tuple[str, bool]]:
    """Every key of a file with its tables, and whether it is in a list of tables."""
    for name, field in model.model_fields.items():
        yield f"{before}{name}", of_many
        many = of_many or getattr(field.annotation, "__origin__", None) is tuple
        for inner in _models(field.annotation):
            yield from _dotted(inner, f"{before}{name}.", of_many=many)
