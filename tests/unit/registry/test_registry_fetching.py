"""Chunks are asked for ahead: several at a time, never more, none after one that failed."""

import hashlib
import threading
from collections import Counter

import pytest
from registry_worlds import weights

from fedmesh.errors import FileError, RegistryError
from fedmesh.registry.chunks import ChunkStore, split
from fedmesh.registry.fetching import Fetching
from fedmesh.registry.limits import CHUNK_BYTES, Limits
from fedmesh.registry.manifest import Blob, Variant
from fedmesh.registry.source import chunk_name

DATA = weights(5, 12 * CHUNK_BYTES)
CHUNKS = dict(split(DATA))
VARIANT = Variant("int8", (), Blob(hashlib.sha256(DATA).digest(), len(DATA), tuple(CHUNKS)))
NAMES = [chunk_name(digest) for digest in CHUNKS]
WAIT_S = 60.0


class Waiting:
    """A source that answers nothing before `together` are asked of it, and what `wrong` says in place of a chunk."""

    def __init__(self, together=1, wrong=None):
        self.asked, self.most, self._at_once = [], 0, 0
        self._wrong = wrong or {}
        self._lock, self._all_there = threading.Lock(), threading.Barrier(together)

    def fetch(self, name, *, max_bytes):
        with self._lock:
            self.asked.append(name)
            self._at_once += 1
            self.most = max(self.most, self._at_once)
        try:
            self._all_there.wait(WAIT_S)
            said = self._wrong.get(name)
            if isinstance(said, Exception):
                raise said
            return said if said is not None else CHUNKS[bytes.fromhex(name.removeprefix("chunks/"))]
        finally:
            with self._lock:
                self._at_once -= 1


def fetching(source, folder, **options):
    return Fetching(source, ChunkStore(folder), Limits(), Counter(), **options)


def test_so_many_chunks_are_asked_for_at_a_time_and_no_more(tmp_path):
    source = Waiting(together=4)
    fetched = fetching(source, tmp_path, window=4).model(VARIANT, {})
    assert fetched.data == DATA
    assert fetched.bytes_over_network == len(DATA)
    assert source.most == 4
    assert sorted(source.asked) == sorted(NAMES)


def test_without_a_window_a_source_is_asked_by_the_caller_one_at_a_time(tmp_path):
    callers = set()

    class Noting(Waiting):
        def fetch(self, name, *, max_bytes):
            callers.add(threading.get_ident())
            return super().fetch(name, max_bytes=max_bytes)

    source = Noting()
    assert fetching(source, tmp_path).model(VARIANT, {}).data == DATA
    assert source.asked == NAMES
    assert callers == {threading.get_ident()}


@pytest.mark.parametrize(
    ("said", "code"),
    [(FileError("gone", code="closed"), "closed"), (bytes(CHUNK_BYTES), "hash"), (bytes(CHUNK_BYTES + 1), "oversize")],
)
def test_behind_a_chunk_that_is_none_nothing_is_asked_and_what_came_before_it_stays(tmp_path, said, code):
    source = Waiting(wrong={NAMES[5]: said})
    with pytest.raises((FileError, RegistryError)) as refused:
        fetching(source, tmp_path, window=4).model(VARIANT, {})
    assert refused.value.code == code
    assert set(source.asked) <= set(NAMES[:9])  # three were on their way
    kept = ChunkStore(tmp_path)
    assert all(kept.has(digest) for digest in list(CHUNKS)[:5])
    again = Waiting()
    assert fetching(again, tmp_path, window=4).model(VARIANT, {}).data == DATA
    assert not set(NAMES[:5]) & set(again.asked)


def test_a_chunk_that_a_file_has_twice_is_fetched_once(tmp_path):
    data = 3 * DATA[:CHUNK_BYTES]
    blob = Blob(hashlib.sha256(data).digest(), len(data), 3 * (next(iter(CHUNKS)),))
    source = Waiting()
    assert fetching(source, tmp_path, window=4).model(Variant("int8", (), blob), {}).data == data
    assert source.asked == NAMES[:1]
