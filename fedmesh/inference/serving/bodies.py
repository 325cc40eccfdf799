"""A request's body -> examples, bounded and checked before a model sees them.

| content type | body |
|---|---|
| ``application/json`` | ``{"x": [example, ...]}``, an example in nested lists of numbers |
| ``application/octet-stream`` | float32, little-endian, example after example |
| ``application/cbor`` | ``{"x": array}``, a float32 array of RFC 8746 in deterministic CBOR (`fedmesh.wire`) |
"""

import json
import math
from array import array
from typing import Any, NoReturn

import numpy as np

from fedmesh.errors import DecodeError, RequestError
from fedmesh.inference.handoff import CBOR
from fedmesh.inference.serving.answers import JSON
from fedmesh.inference.serving.limits import Limits
from fedmesh.types import Float32
from fedmesh.wire import loads

__all__ = ["RAW", "decode"]

RAW = "application/octet-stream"
Shape = tuple[int | None, ...]


def decode(content_type: str, body: bytes, shape: Shape, limits: Limits) -> Float32:
    """The examples in `body`, float32 [N, *shape], finite; at least one, at most `limits.examples`.

    Args:
        content_type: the header.
        shape: of one example; None: any size.

    Raises:
        RequestError: 400, 413, 415.
    """
    kind = content_type.partition(";")[0].strip().lower()
    match kind:
        case "application/json":
            x = _from_json(body, shape, limits)
        case "application/octet-stream":
            x = _from_raw(body, shape)
        case "application/cbor":
            x = _from_cbor(body, limits)
        case _:
            raise RequestError(
                415,
                got=f"the content type {kind[:60]!r}",
                wanted=f"{JSON}, {RAW} or {CBOR}",
                do="set Content-Type to what the body is",
            )
    return _checked(x, shape, limits)


def _from_json(body: bytes, shape: Shape, limits: Limits) -> Float32:
    if len(body) > limits.json_bytes:
        raise RequestError(
            413, got=f"{len(body)} bytes of JSON", wanted=f"at most {limits.json_bytes}", do=f"send {CBOR} or {RAW}"
        )
    try:
        content = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _bad("a body that is not JSON", 'a JSON object {"x": [example, ...]}', "send numbers in lists") from error
    if not isinstance(content, dict) or set(content) != {"x"} or not isinstance(content["x"], list):
        raise _bad("JSON without x, or with more", '{"x": [example, ...]}', 'name the list of examples "x"')
    _check_count(len(content["x"]), limits)
    sizes: list[int | None] = [None, *shape]
    values = array("f")
    try:
        _gather(content["x"], sizes, 0, values)
    except (TypeError, OverflowError) as error:
        raise _bad("a value that is not a number of float32", "numbers", "check the values of x") from error
    return np.frombuffer(values, np.float32).reshape([size or 0 for size in sizes])


def _gather(value: Any, sizes: list[int | None], level: int, values: "array[float]") -> None:
    """Appends the numbers of nested lists; the first list of a level says how long the others are."""
    if not isinstance(value, list) or sizes[level] not in (None, len(value)):
        got = f"{len(value)} items" if isinstance(value, list) else "something else"
        wanted = "a list" if sizes[level] is None else f"a list of {sizes[level]}"
        raise _bad(f"{got} on level {level + 1} of x", wanted, "send examples in the shape that the model takes")
    sizes[level] = len(value)
    if level + 1 == len(sizes):
        values.extend(value)
        return
    for item in value:
        _gather(item, sizes, level + 1, values)


def _from_raw(body: bytes, shape: Shape) -> Float32:
    sizes = [size for size in shape if size is not None]
    if len(sizes) < len(shape):
        raise _bad("raw values", f"CBOR, since examples {_text(shape)} have no fixed size", f"send {CBOR}")
    one = 4 * math.prod(sizes)
    if not body or len(body) % one:
        raise _bad(f"{len(body)} bytes", f"a multiple of {one}", f"send float32 examples {_text(shape)}, little-endian")
    return np.frombuffer(body, "<f4").astype(np.float32, copy=False).reshape(-1, *sizes)


def _from_cbor(body: bytes, limits: Limits) -> Float32:
    advice = "send the deterministic CBOR of fedmesh.wire, or JSON"
    try:
        content = loads(body, max_bytes=limits.body_bytes, max_depth=4, max_items=16)
    except DecodeError as error:
        raise _bad(f"CBOR that is not taken ({error})", '{"x": float32 array}', advice) from error
    x = content.get("x") if isinstance(content, dict) and len(content) == 1 else None
    if not isinstance(x, np.ndarray) or x.dtype != np.float32:
        raise _bad("CBOR without a float32 array x, or with more", '{"x": float32 array}', advice)
    return x


def _checked(x: Float32, shape: Shape, limits: Limits) -> Float32:
    got = x.shape[1:]
    if len(got) != len(shape) or any(wanted not in (None, size) for wanted, size in zip(shape, got, strict=True)):
        raise _bad(f"x {list(x.shape)}", f"[N, {_text(shape)[1:]}", "send examples in the shape that the model takes")
    _check_count(len(x), limits)
    if not np.isfinite(x).all():
        raise _bad("NaN, an infinity, or a number beyond float32", "finite numbers", "leave such examples out")
    return x


def _check_count(examples: int, limits: Limits) -> None:
    if not 0 < examples <= limits.examples:
        raise RequestError(
            413 if examples else 400,
            got=f"{examples} examples",
            wanted=f"1 to {limits.examples}",
            do="send them in several requests",
        )


def _text(shape: Shape) -> str:
    return f"[{', '.join('any' if size is None else str(size) for size in shape)}]"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _bad(got: str, wanted: str, do: str) -> RequestError:
    return RequestError(400, got=got, wanted=wanted, do=do)
