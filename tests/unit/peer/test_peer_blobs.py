"""Blobs on the disk and from peer to peer, over channels in memory: what is wrong is found out, and had elsewhere."""

import asyncio
import hashlib
import time

import pytest
from mesh_nodes import in_loop, until

from fedmesh.errors import ConfigError
from fedmesh.peer.blob_exchange import PIECE_BYTES, BlobExchange
from fedmesh.peer.blobs import MAX_BLOB_BYTES, BlobStore
from fedmesh.wire import dumps, loads


class Receipt:
    async def delivered(self):
        return


class MemoryChannel:
    """One party's end; `deaf` are those that hear nothing of it."""

    def __init__(self, ends, name):
        self.ends, self.name, self.inbox, self.deaf = ends, name, asyncio.Queue(), set()
        ends[name] = self

    async def post(self, to, data, *, expires_in_s=None):
        if to not in self.deaf:
            self.ends[to].inbox.put_nowait((self.name, data))
        return Receipt()

    async def receive(self):
        while True:
            yield await self.inbox.get()


class Parties:
    """Exchanges that know each other."""

    def __init__(self, folder, *names, answer_s=0.3):
        self.ends, self.exchanges, self.stores, self.tasks = {}, {}, {}, []
        for name in names:
            channel = MemoryChannel(self.ends, name)
            self.stores[name] = BlobStore(folder / name)
            others = [other for other in names if other != name]
            self.exchanges[name] = BlobExchange(
                channel, self.stores[name], others=lambda others=others: others, answer_s=answer_s
            )
            self.tasks.append(asyncio.get_running_loop().create_task(self.exchanges[name].receive()))

    def put_wrong(self, name, digest, data):
        """As a liar has it: other bytes under this name."""
        (self.stores[name]._folder / digest.hex()).write_bytes(data)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        for exchange in self.exchanges.values():
            await exchange.aclose()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


LONG = bytes(range(256)) * (3 * PIECE_BYTES // 256) + b"end"


def test_a_store_keeps_by_content_and_gives_nothing_that_is_damaged(tmp_path):
    store = BlobStore(tmp_path / "blobs")
    digest = store.put(b"model")
    assert digest == hashlib.sha256(b"model").digest()
    assert store.get(digest) == b"model"
    assert digest in BlobStore(tmp_path / "blobs")
    assert store.get(bytes(32)) is None
    assert "no digest" not in store
    (tmp_path / "blobs" / digest.hex()).write_bytes(b"madel")
    assert store.get(digest) is None
    assert digest not in store
    with pytest.raises(ConfigError, match="more than"):
        store.put(bytes(MAX_BLOB_BYTES + 1))


def test_a_sweep_spares_what_is_named_and_what_is_new(tmp_path):
    store = BlobStore(tmp_path)
    named, old = store.put(b"named"), store.put(b"old")
    between = time.monotonic()
    new = store.put(b"new")
    late = hashlib.sha256(b"of another process").digest()
    (tmp_path / late.hex()).write_bytes(b"of another process")
    store.sweep({named}, between)
    assert [digest in store for digest in (named, old, new, late)] == [True, False, True, True]
    store.sweep({named}, time.monotonic())
    assert [digest in store for digest in (named, new, late)] == [True, False, False]


@in_loop
async def test_a_long_one_comes_in_pieces_from_who_has_it(tmp_path):
    async with Parties(tmp_path, "anna", "bert", "cleo") as parties:
        digest = parties.stores["cleo"].put(LONG)
        empty = parties.stores["cleo"].put(b"")
        await parties.exchanges["anna"].want(digest, ["bert"])
        await parties.exchanges["anna"].want(empty, ["bert"])
        assert parties.stores["anna"].get(digest) == LONG
        assert parties.stores["anna"].get(empty) == b""


@in_loop
async def test_wrong_bytes_are_refused_and_another_source_is_asked(tmp_path):
    async with Parties(tmp_path, "anna", "bert", "cleo") as parties:
        digest = parties.stores["cleo"].put(LONG)
        parties.put_wrong("bert", digest, LONG[:-1] + b"X")
        await parties.exchanges["anna"].want(digest, ["bert", "cleo"])
        assert parties.stores["anna"].get(digest) == LONG
        assert parties.exchanges["anna"].counts["hash"] == 1


@in_loop
async def test_what_one_began_and_another_ended_wrongly_is_had_of_one_alone(tmp_path):
    """Bert gives wrong bytes and falls silent, cleo gives the rest: nobody can tell who lied before each is asked."""
    async with Parties(tmp_path, "anna", "bert", "cleo") as parties:
        digest = parties.stores["cleo"].put(LONG)
        parties.put_wrong("bert", digest, b"X" * len(LONG))
        bert, given = parties.ends["bert"], []
        post = bert.post

        async def once(to, data, *, expires_in_s=None):
            given.append(data)
            return await post(to, data) if len(given) == 1 else Receipt()

        bert.post = once
        await parties.exchanges["anna"].want(digest, ["bert", "cleo"])
        assert parties.stores["anna"].get(digest) == LONG
        assert parties.exchanges["anna"].counts["hash"] >= 1


@in_loop
async def test_it_goes_on_with_another_where_the_first_fell_silent(tmp_path):
    async with Parties(tmp_path, "anna", "bert", "cleo", answer_s=3.0) as parties:
        digest = parties.stores["cleo"].put(LONG)
        parties.stores["bert"].put(LONG)
        asked = []
        anna, post = parties.ends["anna"], parties.ends["anna"].post

        async def counted(to, data, *, expires_in_s=None):
            asked.append((to, loads(data, max_bytes=1 << 20)[-1]))
            if to == "bert" and asked[-1][1] >= PIECE_BYTES:
                return Receipt()
            return await post(to, data)

        anna.post = counted
        await parties.exchanges["anna"].want(digest, ["bert", "cleo"])
        assert parties.stores["anna"].get(digest) == LONG
        assert next(offset for to, offset in asked if to == "cleo") == PIECE_BYTES
        assert parties.exchanges["anna"].counts["timeout"] >= 1


@in_loop
async def test_who_has_it_later_is_asked_again(tmp_path):
    async with Parties(tmp_path, "anna", "bert") as parties:
        digest = hashlib.sha256(b"later").digest()
        task = parties.exchanges["anna"].want(digest, [])
        await until(lambda: parties.exchanges["bert"].counts["unknown"] >= 1)
        parties.stores["bert"].put(b"later")
        parties.exchanges["anna"].connected()
        await task
        assert parties.stores["anna"].get(digest) == b"later"


@in_loop
async def test_what_nobody_wants_any_more_is_given_up(tmp_path):
    async with Parties(tmp_path, "anna", "bert") as parties:
        task = parties.exchanges["anna"].want(bytes(32), ["bert"])
        parties.exchanges["anna"].only({b"1" * 32})
        await until(task.done)
        assert task.cancelled()
        assert not parties.exchanges["anna"]._fetches


@in_loop
async def test_messages_that_are_none_and_answers_that_lie_are_counted(tmp_path):
    async with Parties(tmp_path, "anna", "bert") as parties:
        anna, end = parties.exchanges["anna"], parties.ends["bert"]
        for data in (b"", b"\xff", dumps([2, 0, 1, bytes(32), 0]), dumps([1, 0, 1, b"short", 0]), dumps([1, 7])):
            await end.post("anna", data)
        await end.post("anna", dumps([1, 0, 1, bytes(32), -1]))
        await end.post("anna", dumps([1, 1, 99, 3, b"abc"]))
        await end.post("anna", bytes(PIECE_BYTES + 1000))
        await until(lambda: anna.counts["malformed"] == 7 and anna.counts["late"] == 1, about=lambda: anna.counts)


@pytest.mark.parametrize(("size", "piece"), [(MAX_BLOB_BYTES + 1, PIECE_BYTES), (10, 11), (10, 3), (5, 0)])
def test_a_source_that_says_what_cannot_be_is_not_asked_again(tmp_path, size, piece):
    @in_loop
    async def story():
        async with Parties(tmp_path, "anna", "bert") as parties:
            end = parties.ends["bert"]

            async def lie(to, data, *, expires_in_s=None):
                number = loads(data, max_bytes=1 << 20)[2]
                end.ends["anna"].inbox.put_nowait(("bert", dumps([1, 1, number, size, bytes(piece)])))
                return Receipt()

            parties.ends["bert"].post = lie
            digest = parties.stores["bert"].put(b"x")
            parties.exchanges["anna"].want(digest, ["bert"])
            await until(lambda: parties.exchanges["anna"].counts["malformed"] == 1)
            await asyncio.sleep(0.6)
            assert parties.exchanges["anna"].counts["malformed"] == 1

    story()


@in_loop
async def test_who_asks_too_much_at_a_time_is_not_answered(tmp_path):
    async with Parties(tmp_path, "anna", "bert") as parties:
        digest = parties.stores["anna"].put(LONG)
        for number in range(40):
            parties.ends["anna"].inbox.put_nowait(("bert", dumps([1, 0, number, digest, 0])))
        await until(lambda: parties.exchanges["anna"].counts["busy"] > 0)
        await until(lambda: not parties.exchanges["anna"]._answering)
