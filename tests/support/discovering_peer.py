"""A process that looks for members and answers by TLS: told by one line of JSON, it says on its output what happens.

{"folder": ..., "port": ..., "multicast": {...} or null, "settings": {...}, "seeds": [...], "book": path or null,
 "forgets": whether it looks for whom it has found already}
"""

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

from fedmesh.events import Event, Notice
from fedmesh.identity import Membership
from fedmesh.mesh.discovery import Book, Discovery, Here, MulticastOptions, Settings, identify, seed_in
from fedmesh.transport.tls import accepting


def say(**what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def main(told: dict[str, Any]) -> None:
    membership = Membership(Path(told["folder"]))
    met: set[str] = set()

    def found(name: str, address: Any) -> None:
        met.add(name)
        say(found=name, host=address[0], port=address[1])

    def heard(event: Event) -> None:
        if isinstance(event, Notice):
            say(notice=event.text)

    async def greeted(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = None
    if told["port"]:
        context = accepting(membership.tls_path, membership.root_path, required=True)
        server = await asyncio.start_server(greeted, None, told["port"], ssl=context)
    discovery = Discovery(
        lambda address, name: identify(address, membership, expected=name, timeout_s=1.0),
        found=found,
        here=lambda: Here(() if told.get("forgets") else met),
        seeds={name: [address] for name, address in map(seed_in, told.get("seeds", []))},
        book=Book(None if told.get("book") is None else Path(told["book"])),
        port=told["port"],
        mesh="home",
        multicast=None if told.get("multicast") is None else MulticastOptions(**told["multicast"]),
        settings=Settings(**told.get("settings", {})),
        events=heard,
    )
    discovery.start()
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    say(ready=True, zeroconf="zeroconf" in sys.modules)
    last = None
    while not over.is_set():
        if last != (state := (discovery.nearby, dict(discovery.counts))):
            last = state
            say(nearby=state[0], counts=state[1])
        try:
            async with asyncio.timeout(0.1):
                await over.wait()
        except TimeoutError:
            pass
    await discovery.aclose()
    if server is not None:
        server.close()
    say(closed=True)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.stdin.readline())))
