"""Messages on disk: those to be sent until they are settled, those received until the application has taken them.

Every file is a head (a frame that describes the content) and the content, so whatever is read again is checked against
its own SHA-256. A file is there whole or not at all (fsync, rename), except what is still arriving: its chunks are
written without a sync and checked one by one after a crash. Belongs to one process at a time.

::

    lock  state.cbor              incarnation, numbers given out, incarnations that peers made ours rise to
    out/<sequence>.msg            in the order in which they were taken on
    in/<peer>/record.cbor         which messages of this peer were taken by the application
    in/<peer>/<incarnation>-<sequence>.part or .msg    arriving, or whole
"""

import fcntl
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmesh import wire
from fedmesh.errors import ConfigError, DecodeError, PeerError
from fedmesh.files import sync_folder, write_atomically
from fedmesh.identity.names import checked_id
from fedmesh.transport.content import Content
from fedmesh.transport.frames import Data, Ident, Open, Whole, decode, encode
from fedmesh.transport.incoming import Delivered
from fedmesh.transport.limits import FRAME_BYTES
from fedmesh.transport.transfers import Record
from fedmesh.types import PeerId

__all__ = ["Kept", "Spool"]

_VERSION = 1
_BLOCK = 1024
"""Numbers that are reserved at once: a crash leaves a gap, which costs nothing."""
_HEAD_BYTES = 4
_STATE_BYTES = 1 << 20
_HEAD_ROOM = 512  # of a head, without its hashes


@dataclass(frozen=True, slots=True)
class Kept:
    """A message that waits to be sent."""

    peer: PeerId
    sequence: int
    content: Content
    expires_at: float
    channel: int


class Spool:
    """The folder of one party.

    Args:
        folder: made if it is not there.
        incarnation: of a new spool, Unix milliseconds; an old one keeps its own.
        max_bytes: messages to be sent that it holds at most; what arrives is bounded by `Limits`.

    Attributes:
        damaged: files that were not what their heads say, and were removed when the spool was read.

    Raises:
        ConfigError: another process uses it, or it is not a spool of this version.
    """

    def __init__(self, folder: Path, *, incarnation: int, max_bytes: int = 1 << 30) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._lock = threading.Lock()
        self.damaged = 0
        self.incarnation = incarnation
        self._next = self._reserved = 0
        self._raised: dict[PeerId, int] = {}
        try:
            for name in ("out", "in"):
                (folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
            self._held = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"cannot use {folder} as a spool: {error.strerror}") from error
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._held)
            raise ConfigError(f"another process uses the spool {folder}: a spool belongs to one") from error
        for path in [p for p in folder.rglob(".*") if p.is_file()]:
            path.unlink()  # left of a write that was cut off
        try:
            self._read_state()
        except ConfigError:
            self.close()
            raise
        self._out_bytes = sum(path.stat().st_size for path in self._out_files())

    def close(self) -> None:
        """Lets another process have it; idempotent."""
        if self._held >= 0:
            os.close(self._held)
            self._held = -1

    # What is to be sent.

    def next_sequence(self) -> int:
        """A number that was not given out before."""
        with self._lock:
            self._next += 1
            if self._next >= self._reserved:
                self._reserved = self._next + _BLOCK
                self._write_state()
            return self._next

    def incarnation_for(self, peer: PeerId) -> int:
        """The incarnation under which messages go to `peer`."""
        return self._raised.get(peer, self.incarnation)

    def renew(self, peer: PeerId, incarnation: int) -> None:
        """Remembers that `peer` takes only this incarnation; durable."""
        with self._lock:
            self._raised[peer] = incarnation
            self._write_state()

    def has_room(self, size: int) -> bool:
        """Whether `size` bytes of a message and its hashes fit now. Raises: PeerError: it never will."""
        if size + _HEAD_ROOM > self._max_bytes:
            raise PeerError(f"a message of {size} bytes, the spool holds {self._max_bytes}: raise its max_bytes")
        with self._lock:
            return self._out_bytes + size + _HEAD_ROOM <= self._max_bytes

    def put(
        self, peer: PeerId, sequence: int, content: Content, expires_at: float, data: bytes, *, channel: int = 0
    ) -> None:
        """Keeps a message until it is dropped; durable.

        Raises:
            PeerError: it does not fit any more.
            ConfigError: the disk is full, or the folder is gone.
        """
        head = _head(content, Ident(self.incarnation, sequence), int(expires_at * 1000), peer, channel)
        size = len(head) + len(data)
        with self._lock:
            if self._out_bytes + size > self._max_bytes:
                raise PeerError(
                    f"the spool holds {self._out_bytes} bytes of {self._max_bytes}: {size} more do not fit; wait until "
                    "something is sent or expires, or raise its max_bytes"
                )
            self._out_bytes += size
        try:
            write_atomically(self._out(sequence), head + data, mode=0o600)
        except ConfigError:
            with self._lock:
                self._out_bytes -= size
            raise

    def load(self, sequence: int) -> bytes:
        """The bytes of a message. Raises: ConfigError: its file is gone."""
        try:
            return _parts(self._out(sequence).read_bytes())[2]
        except (OSError, DecodeError) as error:
            raise ConfigError(f"the spool has lost message {sequence}: {error}") from error

    def drop(self, sequence: int) -> None:
        """A message is settled."""
        path = self._out(sequence)
        if path.exists():
            with self._lock:
                self._out_bytes -= path.stat().st_size
            path.unlink()  # not synced: if a crash brings it back it is sent again, and its receiver knows it

    def outgoing(self) -> Iterator[Kept]:
        """What waits to be sent, oldest first."""
        for path in self._out_files():
            try:
                peer, frame, data = _parts(path.read_bytes())
                content = _checked(frame, data)
            except DecodeError:
                self._remove_damaged(path)
                continue
            yield Kept(peer, int(path.stem), content, frame.expires_ms / 1000, frame.channel)

    # What arrives.

    def records(self) -> Iterator[tuple[PeerId, Record]]:
        """What is remembered of each peer."""
        for path in sorted((self._folder / "in").glob("*/record.cbor")):
            plain = _load(path)
            try:
                yield path.parent.name, Record(plain["incarnation"], plain["floor"], set(plain["done"]))
            except (KeyError, TypeError) as error:
                raise ConfigError(f"{path} is not a peer's record: remove the spool, {error}") from error

    def begun(self) -> Iterator[tuple[PeerId, Open, dict[int, bytes]]]:
        """Messages of which a part has arrived, with every chunk that may be there."""
        for path in sorted((self._folder / "in").glob("*/*.part")):
            try:
                _, frame, data = _parts(path.read_bytes())
            except DecodeError:
                self._remove_damaged(path)
                continue
            if not isinstance(frame, Open):
                self._remove_damaged(path)
                continue
            size = frame.chunk_bytes
            yield path.parent.name, frame, {i: data[i * size : (i + 1) * size] for i in range(-(-len(data) // size))}

    def complete_messages(self) -> Iterator[Delivered]:
        """Messages that are whole and were not taken; oldest first for each peer."""
        for path in sorted((self._folder / "in").glob("*/*.msg"), key=lambda path: (path.parent, _ident_of(path))):
            try:
                _, frame, data = _parts(path.read_bytes())
                _checked(frame, data)
            except DecodeError:
                self._remove_damaged(path)
                continue
            record = path.parent / "record.cbor"
            ident = _ident_of(path)
            if record.exists() and _was_taken(_load(record), ident):
                path.unlink()  # the crash came between the record and this
                continue
            yield Delivered(path.parent.name, ident, data, frame.channel)

    def begin(self, peer: PeerId, announced: Open) -> None:
        """As `fedmesh.transport.incoming.Keeper`."""
        folder = self._in(peer)
        head = _framed(encode(announced), "")
        write_atomically(folder / f"{_stem(announced.ident)}.part", head, mode=0o600)

    def chunk(self, peer: PeerId, ident: Ident, start: int, data: Data) -> None:
        """As `fedmesh.transport.incoming.Keeper`."""
        try:
            with (self._in(peer) / f"{_stem(ident)}.part").open("r+b") as file:
                head = int.from_bytes(file.read(_HEAD_BYTES), "big")
                file.seek(_HEAD_BYTES + head + start)
                file.write(data)
        except OSError as error:
            raise ConfigError(f"cannot keep a chunk of a message of {peer}: {error.strerror}") from error

    def complete(self, peer: PeerId, ident: Ident, data: bytes | None, channel: int = 0) -> None:
        """As `fedmesh.transport.incoming.Keeper`."""
        folder = self._in(peer)
        whole = folder / f"{_stem(ident)}.msg"
        if data is not None:
            content = Content.of(data, max(1, len(data)))
            write_atomically(whole, _head(content, ident, 0, "", channel) + data, mode=0o600)
            return
        part = folder / f"{_stem(ident)}.part"
        try:
            with part.open("r+b") as file:
                os.fsync(file.fileno())
            part.replace(whole)
            sync_folder(folder)
        except OSError as error:
            raise ConfigError(f"cannot keep a message of {peer}: {error.strerror}") from error

    def forget(self, peer: PeerId, ident: Ident) -> None:
        """As `fedmesh.transport.incoming.Keeper`."""
        (self._in(peer) / f"{_stem(ident)}.part").unlink(missing_ok=True)

    def taken(self, peer: PeerId, ident: Ident, record: Record) -> None:
        """As `fedmesh.transport.incoming.Keeper`: the record first, so that no crash brings the message back."""
        folder = self._in(peer)
        waiting = [_ident_of(path) for path in folder.glob("*.msg")]
        plain = {
            "incarnation": record.incarnation,
            "floor": record.floor,
            "done": sorted(record.done),
            "waiting": [other.sequence for other in waiting if other != ident],
        }
        write_atomically(folder / "record.cbor", wire.dumps(plain), mode=0o600)
        (folder / f"{_stem(ident)}.msg").unlink(missing_ok=True)

    def _in(self, peer: PeerId) -> Path:
        folder = self._folder / "in" / checked_id(peer)
        if not folder.is_dir():
            folder.mkdir(mode=0o700)
            sync_folder(folder.parent)
        return folder

    def _out(self, sequence: int) -> Path:
        return self._folder / "out" / f"{sequence:020d}.msg"

    def _out_files(self) -> list[Path]:
        return sorted((self._folder / "out").glob("*.msg"))

    def _read_state(self) -> None:
        path = self._folder / "state.cbor"
        if path.exists():
            plain = _load(path)
            try:
                if plain["version"] != _VERSION:
                    raise ConfigError(f"{path} is of version {plain['version']}, this fedmesh reads {_VERSION}")
                self.incarnation, self._next = int(plain["incarnation"]), int(plain["reserved"])
                self._raised = dict(plain["raised"])
            except (KeyError, TypeError, ValueError) as error:
                raise ConfigError(f"{path} is not a spool's state: {error}; remove the spool to begin anew") from error
        self._reserved = self._next + _BLOCK
        self._write_state()

    def _write_state(self) -> None:
        plain = {
            "version": _VERSION,
            "incarnation": self.incarnation,
            "reserved": self._reserved,
            "raised": self._raised,
        }
        write_atomically(self._folder / "state.cbor", wire.dumps(plain), mode=0o600)

    def _remove_damaged(self, path: Path) -> None:
        self.damaged += 1
        path.unlink()


def _head(content: Content, ident: Ident, expires_ms: int, peer: PeerId, channel: int) -> bytes:
    if content.chunks == 1:
        return _framed(encode(Whole(ident, 0, expires_ms, content.digest, b"", channel)), peer)
    announced = Open(ident, 0, expires_ms, 0, content.size, content.chunk_bytes, content.hashes, channel)
    return _framed(encode(announced), peer)


def _framed(frame: bytes, peer: PeerId) -> bytes:
    head = wire.dumps([peer, frame])
    return len(head).to_bytes(_HEAD_BYTES, "big") + head


def _parts(data: bytes) -> tuple[PeerId, Open | Whole, bytes]:
    """Peer, describing frame and content of a file. Raises: DecodeError."""
    size = int.from_bytes(data[:_HEAD_BYTES], "big")
    plain = wire.loads(data[_HEAD_BYTES : _HEAD_BYTES + size], max_bytes=2 * FRAME_BYTES, max_depth=1, max_items=3)
    if not isinstance(plain, list) or list(map(type, plain)) != [str, bytes]:
        raise DecodeError("the file has no head")
    frame = decode(plain[1])
    if not isinstance(frame, Open | Whole):
        raise DecodeError(f"the head is a {type(frame).__name__}")
    return plain[0], frame, data[_HEAD_BYTES + size :]


def _checked(frame: Open | Whole, data: bytes) -> Content:
    """The description of `data`. Raises: DecodeError: it is not what the head says."""
    content = Content.of(data, frame.chunk_bytes if isinstance(frame, Open) else max(1, len(data)))
    said = Content.described(frame.size, frame.chunk_bytes, frame.hashes) if isinstance(frame, Open) else frame
    if content.digest != said.digest:
        raise DecodeError("the content is not what the head says")
    return content


def _stem(ident: Ident) -> str:
    return f"{ident.incarnation}-{ident.sequence}"


def _ident_of(path: Path) -> Ident:
    incarnation, _, sequence = path.stem.partition("-")
    return Ident(int(incarnation), int(sequence))


def _was_taken(record: Any, ident: Ident) -> bool:
    had = ident.sequence < record["floor"] or ident.sequence in record["done"]
    return bool(record["incarnation"] == ident.incarnation and had and ident.sequence not in record["waiting"])


def _load(path: Path) -> Any:
    try:
        return wire.loads(path.read_bytes(), max_bytes=_STATE_BYTES)
    except (OSError, DecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; remove the spool to begin anew") from error
