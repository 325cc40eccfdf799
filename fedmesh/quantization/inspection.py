"""What an ONNX file from somebody else may hold, looked up in its bytes before ONNX Runtime gets them.

Let through: one graph of the operators that our own writer uses, with its constants inside. That leaves no way to read
another file, to loop, to draw random numbers, to keep something from one run to the next, or to fail on one example and
not on another. Everything that this module does not know is refused: functions, training information, subgraphs, sparse
and external tensors, other operator domains. Not bounded: what the operators take in time and
memory. Needs neither onnx nor torch.

The format is that of protocol buffers (https://protobuf.dev/programming-guides/encoding), with the field numbers of
onnx.proto (IR version 8). A field that comes twice is looked at twice: a parser would merge the two.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from fedmesh.errors import DecodeError

__all__ = ["OPERATORS", "inspect"]

OPERATORS: Final = frozenset(
    [
        "Add",
        "AveragePool",
        "Clip",
        "Conv",
        "DequantizeLinear",
        "Flatten",
        "Gemm",
        "GlobalAveragePool",
        "MaxPool",
        "QuantizeLinear",
        "SpaceToDepth",
        "Sum",
    ]
)
"""All total, without state, and the same for every example. Of the standard domain."""

_VARINT, _LENGTH, _FIXED = 0, 2, {1: 8, 5: 4}
_DOMAINS = (b"", b"ai.onnx")


def inspect(data: bytes) -> None:
    """Looks through a serialised ModelProto.

    Raises:
        DecodeError: it holds something else than what is let through, or is no protocol buffer.
    """
    _message(memoryview(data), _MODEL, "the model")


_Reader = Callable[[memoryview], None]
"""Looks at the content of one field."""


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Field number and content of each field in a message; a number that has no length of its own comes empty."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        length = 0
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind == _LENGTH:
            length, at = _varint(data, at)
        elif kind in _FIXED:
            at += _FIXED[kind]
        else:
            raise DecodeError(f"a backbone came with the wire type {kind} in it: it is no ONNX model")
        if at + length > len(data):
            raise DecodeError("a backbone came that ends in the middle of a field: it is no ONNX model")
        yield number, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    raise DecodeError("a backbone came with a number that does not end: it is no ONNX model")


def _message(data: memoryview, known: Mapping[int, _Reader], what: str) -> None:
    for number, content in _fields(data):
        if number not in known:
            raise DecodeError(
                f"{what} of a backbone holds the field {number}, which is not let through: a lite device runs plain "
                "graphs of the layers that fedmesh exports, with their constants inside"
            )
        known[number](content)


def _within(known: Mapping[int, _Reader], what: str) -> _Reader:
    return lambda data: _message(data, known, what)


def _plain(_: memoryview) -> None:
    """A number, a name or a remark: there is nothing to find in it."""


def _operator(data: memoryview) -> None:
    name = bytes(data[:80]).decode("utf-8", "replace")
    if name not in OPERATORS:
        raise DecodeError(f"a backbone came with the operator {name!r}; wanted only {', '.join(sorted(OPERATORS))}")


def _domain(data: memoryview) -> None:
    if bytes(data) not in _DOMAINS:
        raise DecodeError("a backbone came with operators of another domain than ONNX's own: they are not let through")


# TensorProto, without external_data (13) and data_location (14).
_TENSOR = dict.fromkeys((1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12), _plain)
# AttributeProto: name, f, i, s, floats, ints, strings, doc_string, type. No tensor, graph or reference.
_ATTRIBUTE = dict.fromkeys((1, 2, 3, 4, 7, 8, 9, 13, 20), _plain)
# NodeProto: input, output, name, op_type, attribute, doc_string, domain.
_NODE: Mapping[int, _Reader] = {
    **dict.fromkeys((1, 2, 3, 6), _plain),
    4: _operator,
    5: _within(_ATTRIBUTE, "an attribute"),
    7: _domain,
}
# GraphProto: node, name, initializer, doc_string, input, output, value_info. No sparse_initializer.
_GRAPH: Mapping[int, _Reader] = {
    **dict.fromkeys((2, 10, 11, 12, 13), _plain),
    1: _within(_NODE, "a node"),
    5: _within(_TENSOR, "a constant"),
}
# OperatorSetIdProto: domain, version.
_OPSET: Mapping[int, _Reader] = {1: _domain, 2: _plain}
# ModelProto: ir_version, producer, version, doc_string, graph, opset_import. No functions, metadata or training_info.
_MODEL: Mapping[int, _Reader] = {
    **dict.fromkeys((1, 2, 3, 4, 5, 6), _plain),
    7: _within(_GRAPH, "the graph"),
    8: _within(_OPSET, "the operator set"),
}
