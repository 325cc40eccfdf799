"""The one who looks: what it does with answers, where it says members are, and what it does not load."""

import asyncio
import random
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from fedmesh.errors import ConfigError, IdentityError, PeerError
from fedmesh.events import Event, Notice, PeerFound
from fedmesh.mesh.discovery import Address, Book, Discovery, Here, Hint, Settings, Source, Surroundings
from fedmesh.mesh.discovery.interfaces import Own
from fedmesh.mesh.discovery.resolving import Resolver

LAN = Surroundings((Own("10.0.0.5", 24, 2, "eth0"), Own("fe80::5", 64, 2, "eth0"), Own("fe80::6", 64, 3, "wlan0")))
GATE, BERT = ("10.0.0.1", 7946), ("10.0.0.2", 7946)
QUICK = Settings(gap_s=0.02, longest_s=0.05, every_s=0.01, tries=2)


class World:
    """Who is where, and what a `Discovery` says about it."""

    def __init__(self, **there: str | Exception) -> None:
        self.there: dict[str, str | Exception] = there
        self.asked: list[tuple[Address, str]] = []
        self.found: list[tuple[str, Address]] = []
        self.events: list[Event] = []
        self.here: set[str] = set()

    async def identify(self, address: Address, name: str) -> str:
        self.asked.append((address, name))
        answer = self.there.get(address[0], PeerError("nobody answers"))
        if isinstance(answer, Exception):
            raise answer
        if name and name != answer:
            raise IdentityError("another", code="peer")
        return answer

    def met(self, name: str, address: Address) -> None:
        self.found.append((name, address))
        self.here.add(name)

    def discovery(self, **options: Any) -> Discovery:
        default: dict[str, Any] = {
            "found": self.met,
            "here": lambda: Here(self.here),
            "seeds": {},
            "book": Book(),
            "port": 7946,
            "mesh": "home",
            "settings": QUICK,
            "around": lambda: LAN,
            "rng": random.Random(1),
            "events": self.events.append,
        }
        return Discovery(self.identify, **{**default, **options})


async def run(discovery: Discovery, wanted: Callable[[], object]) -> None:
    discovery.start()
    try:
        async with asyncio.timeout(240):
            while not wanted():
                await asyncio.sleep(0.005)
    finally:
        await discovery.aclose()


def scenario(body: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await body()

    asyncio.run(main())


def test_a_seed_is_found_and_told() -> None:
    world = World(**{"10.0.0.1": "gate"})

    async def body() -> None:
        discovery = world.discovery(seeds={"gate": [GATE]})
        await run(discovery, lambda: world.found)
        assert world.asked == [(GATE, "gate")]
        assert world.events == [PeerFound("gate", "seed")]
        assert discovery.counts == {"tried_seed": 1}
        assert len(discovery.book) == 0  # its address is in the configuration

    scenario(body)


def test_who_is_nearby_is_named_by_its_certificate_and_kept_in_the_book(tmp_path: Path) -> None:
    world = World(**{"10.0.0.2": "bert"})

    async def body() -> None:
        discovery = world.discovery(book=Book(tmp_path / "book"))
        discovery._offered(Hint(Source.NEARBY, (BERT,), 0.0, "key"))
        await run(discovery, lambda: world.found)
        assert world.asked == [(BERT, "")]
        assert Book(tmp_path / "book").best() == [("bert", BERT)]

    scenario(body)


def test_after_a_restart_members_are_found_without_seeds_and_announcements() -> None:
    world = World(**{"10.0.0.2": "bert"})
    book = Book()
    book.succeeded("bert", BERT)

    async def body() -> None:
        await run(world.discovery(book=book), lambda: world.found)
        assert world.events == [PeerFound("bert", "known")]

    scenario(body)


def test_another_at_the_address_of_a_seed_is_refused_and_the_seed_tried_again() -> None:
    world = World(**{"10.0.0.1": "mallory"})

    async def body() -> None:
        discovery = world.discovery(seeds={"gate": [GATE]})
        await run(discovery, lambda: discovery.counts["refused"] >= 3)
        assert not world.found

    scenario(body)


def test_failures_of_every_kind_are_counted_and_end_nothing() -> None:
    world = World(**{"10.0.0.1": ConfigError("our certificate is damaged"), "10.0.0.3": IdentityError("revoked")})

    async def body() -> None:
        seeds = {"a": [GATE], "b": [BERT], "c": [("10.0.0.3", 1)], "d": [("no-such-host.invalid", 1)]}
        discovery = world.discovery(seeds=seeds)
        kinds = ("certificate", "unreached", "refused", "unresolved")
        await run(discovery, lambda: all(discovery.counts[kind] >= 2 for kind in kinds))
        assert Notice("our certificate is damaged") in world.events

    scenario(body)


def test_what_somebody_else_is_called_with_and_breaks_is_told() -> None:
    world = World(**{"10.0.0.1": "gate"})
    told: list[dict[str, Any]] = []

    def broken(name: str, address: Address) -> None:
        raise ZeroDivisionError

    async def body() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        await run(world.discovery(seeds={"gate": [GATE]}, found=broken), lambda: len(told) >= 2)
        assert isinstance(told[0]["exception"], ZeroDivisionError)

    scenario(body)


def test_a_book_that_cannot_be_written_is_told_and_no_reason_to_end(tmp_path: Path) -> None:
    world = World(**{"10.0.0.2": "bert"})
    book = Book(tmp_path / "missing" / "book")

    async def body() -> None:
        discovery = world.discovery(book=book)
        discovery._offered(Hint(Source.NEARBY, (BERT,), 0.0, "key"))
        await run(discovery, lambda: discovery.counts["storage"])
        assert world.found
        assert any(isinstance(event, Notice) for event in world.events)

    scenario(body)


def test_where_to_dial_what_worked_first_then_what_it_says_and_seeds_always() -> None:
    async def body() -> None:
        discovery = World().discovery(seeds={"bert": [GATE]})
        for n in range(1, 9):
            discovery.book.succeeded("bert", ("10.0.0.9", n))
        discovery.told("bert", ["[fe80::9%7]:1", "10.0.0.3:1"])
        assert discovery.addresses_of("bert") == [
            *(("10.0.0.9", n) for n in (8, 7, 6, 5)),
            ("fe80::9%eth0", 1),
            ("fe80::9%wlan0", 1),
            ("10.0.0.3", 1),
            GATE,
        ]
        assert discovery.addresses_of("nobody") == []
        discovery.forget("bert")
        assert discovery.addresses_of("bert") == [GATE]

    scenario(body)


def test_a_member_that_always_called_us_is_found_after_a_restart_by_what_it_said() -> None:
    world = World(**{"fe80::9%wlan0": "bert"})

    async def body() -> None:
        discovery = world.discovery()
        discovery.told("bert", ["[fe80::9%7]:1"])
        await run(discovery, lambda: world.found)
        assert world.found[0] == ("bert", ("fe80::9%wlan0", 1))

    scenario(body)


def test_who_never_answers_takes_no_turn_of_another_source() -> None:
    world = World(**{"10.0.0.1": "gate"})
    world.here.add("somebody")
    stuck: list[Address] = []

    async def identify(address: Address, name: str) -> str:
        if name:  # not yet there when all the others are called
            return await world.identify(address, name) if len(stuck) == 2 else await world.identify(BERT, name)
        stuck.append(address)
        await asyncio.sleep(3_600)
        return ""

    async def body() -> None:
        discovery = world.discovery(seeds={"gate": [GATE]})
        discovery._identify = identify
        for n in range(1, 20):
            discovery._offered(Hint(Source.NEARBY, ((f"10.0.0.{100 + n}", 1),), 0.0, f"key-{n}"))
        await run(discovery, lambda: world.found and len(stuck) == 2)

    scenario(body)


def test_what_a_member_says_of_itself_cannot_be_anywhere() -> None:
    async def body() -> None:
        discovery = World().discovery()
        discovery.told("bert", ["127.0.0.1:22", "224.0.0.1:1", "0.0.0.0:1", "[[[:1", "10.0.0.3:1"])
        assert discovery.addresses_of("bert") == [("10.0.0.3", 1)]
        assert discovery.counts == {"loopback": 1, "multicast": 1, "unspecified": 1, "malformed": 1}

    scenario(body)


def test_what_we_say_of_ourselves() -> None:
    async def body() -> None:
        assert World().discovery().own(at_most=2) == ["10.0.0.5:7946", "[fe80::5%eth0]:7946"]
        assert World().discovery(port=0).own() == []

    scenario(body)


def test_names_are_resolved_anew_each_time_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        resolver = Resolver(timeout_s=0.05, at_once=1)
        assert await resolver.resolve(("10.0.0.1", 7)) == [("10.0.0.1", 7)]
        assert ("127.0.0.1", 7) in await Resolver().resolve(("localhost", 7))
        with pytest.raises(PeerError, match="no host is called"):
            await Resolver().resolve(("x" * 64 + ".invalid", 7))
        released = asyncio.Event()

        async def slow(*_: Any, **__: Any) -> list[Any]:
            await released.wait()
            return []

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", slow)
        for _ in range(2):  # the second one waits for the first, which the system has not given up
            with pytest.raises(PeerError, match="within"):
                await resolver.resolve(("slow.example", 7))
        released.set()
        resolver._timeout_s = 120.0
        assert await resolver.resolve(("slow.example", 7)) == []

    scenario(body)


def test_who_does_not_announce_itself_loads_no_zeroconf() -> None:
    program = """
import asyncio, sys
from fedmesh.mesh.discovery import Book, Discovery, Here
async def main():
    discovery = Discovery(None, found=print, here=Here, seeds={}, book=Book(), port=0, mesh="home")
    discovery.start()
    await asyncio.sleep(0.05)
    await discovery.aclose()
asyncio.run(main())
assert not {"zeroconf", "ifaddr", "numpy"} & set(sys.modules), "loaded"
"""
    subprocess.run([sys.executable, "-c", program], check=True)
