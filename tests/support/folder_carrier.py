"""A carrier between processes without a broker: each message a file, taken away when it is done with."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

from fedmesh.files import write_atomically


class FolderCarrier:
    """`fedmesh.fleet.office.Carrier` for `name`: what is posted lies in ``folder/RECEIVER/TIME-SENDER``."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._in_hand: Path | None = None
        self.on_presence = lambda _peer, _there: None
        self._inbox.mkdir(parents=True, exist_ok=True)

    @property
    def _inbox(self) -> Path:
        return self._folder / self._name

    async def post(self, to: str, data: bytes, *, expires_in_s: float | None = None) -> None:
        folder = self._folder / to
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{time.monotonic_ns():020}-{self._name}", data)

    async def receive(self) -> AsyncIterator[tuple[str, bytes]]:
        while True:
            self.done()
            found = sorted(path for path in self._inbox.iterdir() if not path.name.startswith("."))
            if not found:
                await asyncio.sleep(0.01)
                continue
            self._in_hand = found[0]
            yield found[0].name.partition("-")[2], found[0].read_bytes()

    def done(self) -> None:
        if self._in_hand is not None:
            self._in_hand.unlink()
            self._in_hand = None
