"""Three kinds of bodies give the same examples; all else is refused with what to do about it."""

import json

import numpy as np
import pytest

from fedmesh.errors import RequestError
from fedmesh.inference import Prediction
from fedmesh.inference.handoff import CBOR, read_answer
from fedmesh.inference.serving.answers import JSON, encode
from fedmesh.inference.serving.bodies import RAW, decode
from fedmesh.inference.serving.limits import Limits
from fedmesh.wire import dumps, loads

LIMITS = Limits(examples=8, body_bytes=10_000)
SHAPE = (2, 3)
X = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)


def refused(
    content_type: str, body: bytes, shape: tuple[int | None, ...] = SHAPE, limits: Limits = LIMITS
) -> RequestError:
    with pytest.raises(RequestError) as caught:
        decode(content_type, body, shape, limits)
    assert caught.value.got
    assert caught.value.wanted
    assert caught.value.do
    return caught.value


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (JSON, json.dumps({"x": X.tolist()}).encode()),
        ("Application/JSON; charset=utf-8", json.dumps({"x": X.tolist()}).encode()),
        (RAW, X.astype("<f4").tobytes()),
        (CBOR, dumps({"x": X})),
    ],
)
def test_all_kinds_give_the_same_bits(content_type: str, body: bytes) -> None:
    got = decode(content_type, body, SHAPE, LIMITS)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, X)


def test_open_sizes_are_those_of_the_first_example() -> None:
    body = json.dumps({"x": X.tolist()}).encode()
    np.testing.assert_array_equal(decode(JSON, body, (None, 3), LIMITS), X)
    np.testing.assert_array_equal(decode(CBOR, dumps({"x": X}), (None, None), LIMITS), X)
    ragged = X.tolist()
    ragged[1] = ragged[1][:1]
    assert "wanted a list of 2" in str(refused(JSON, json.dumps({"x": ragged}).encode(), (None, 3)))
    assert "no fixed size" in refused(RAW, X.tobytes(), (None, 3)).wanted


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[1]",
        b"1",
        b'{"y": []}',
        b'{"x": 1}',
        b'{"x": [], "y": 1}',
        b'{"x": [1]}',
        b'{"x": [[1, 2]]}',
        b'{"x": [[[1, 2, 3]]]}',
        b'{"x": [[[1, 2, 3], [4, 5, 6, 7]]]}',
        b'{"x": [[[1, 2, 3], [4, 5, [6]]]]}',
        b'{"x": [[[1, 2, 3], [4, 5, "6"]]]}',
        b'{"x": [[[1, 2, 3], [4, 5, null]]]}',
        b'{"x": [[[1, 2, 3], [4, 5, NaN]]]}',
        b'{"x": [[[1, 2, 3], [4, 5, -Infinity]]]}',
        b'{"x": [[[1, 2, 3], [4, 5, 1e39]]]}',
        b'{"x": [[[1, 2, 3], [4, 5, 1e999]]]}',
        b'{"x": [[[1, 2, 3], [4, 5, ' + b"9" * 400 + b"]]]}",
        b'{"x": [[[1, 2, 3], [4, 5, ' + b"9" * 5000 + b"]]]}",
        b'{"x": ' + b"[" * 4000 + b"]" * 4000 + b"}",
        b'{"x": []}',
        b'{"x": [{"a": 1}]}',
    ],
)
def test_json_that_is_refused(body: bytes) -> None:
    assert refused(JSON, body).status == 400


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"junk",
        dumps([1]),
        dumps({"x": [1.0]}),
        dumps({"x": X.astype(np.float64)}),
        dumps({"x": X, "y": 1}),
        dumps({"x": X[0]}),
        dumps({"x": X[:0]}),
        dumps({"x": np.full((1, 2, 3), np.nan, np.float32)}),
        dumps({"x": X})[:-1],
        dumps({"x": X}) + b"\0",
    ],
)
def test_cbor_that_is_refused(body: bytes) -> None:
    assert refused(CBOR, body).status == 400


@pytest.mark.parametrize("body", [b"", b"\0" * 23, b"\0" * 25, np.full((1, 2, 3), np.inf, "<f4").tobytes()])
def test_raw_that_is_refused(body: bytes) -> None:
    assert refused(RAW, body).status == 400


@pytest.mark.parametrize("content_type", ["", "text/plain", "multipart/form-data; boundary=x"])
def test_other_types(content_type: str) -> None:
    assert refused(content_type, b"x").status == 415


def test_too_many_examples() -> None:
    many = np.zeros((9, 2, 3), np.float32)
    for content_type, body in (
        (JSON, json.dumps({"x": many.tolist()}).encode()),
        (RAW, many.tobytes()),
        (CBOR, dumps({"x": many})),
    ):
        error = refused(content_type, body)
        assert error.status == 413
        assert error.wanted == "1 to 8"


def test_json_is_held_shorter() -> None:
    body = json.dumps({"x": X.tolist()}).encode()
    assert refused(JSON, body, limits=Limits(json_bytes=len(body) - 1)).status == 413
    np.testing.assert_array_equal(decode(JSON, body, SHAPE, Limits(json_bytes=len(body))), X)


def test_answers() -> None:
    found = [Prediction(3, 0.75, "ab" * 32, 0.1), Prediction(1, 0.5, "cd" * 32, 0.2, "failed")]
    kind, body = encode(found, accept="*/*")
    assert kind == JSON
    plain = json.loads(body)
    assert plain["predictions"][1] == {"label": 1, "confidence": 0.5, "model": "cd" * 32, "handoff": "failed"}
    kind, body = encode(found, accept=CBOR)
    assert kind == CBOR
    assert loads(body, max_bytes=10_000) == plain
    assert [one.label for one in read_answer(body, 2, 0.3)] == [3, 1]
