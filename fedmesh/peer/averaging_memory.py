"""What a member keeps of a run of gossip averaging: the step that it began last, its model when the last one ended.

Each in a file of its own, whole or not there. A step is written down as begun *before* it is paid for, so that none is
begun twice, whatever happens; the model is that of the end of a step, so that a member that was killed in one goes back
to before it, and to before all trainings that are in no sum (`fedmesh.mesh.gossip` says why).
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedmesh.errors import ConfigError, DecodeError
from fedmesh.files import read_bounded, write_atomically
from fedmesh.mesh.gossip import Codes, Ended
from fedmesh.wire import dumps, loads

__all__ = ["Memory", "Saved"]

_BEGUN, _MODEL = "begun", "model"
_FORMATS = {_BEGUN: "fedmesh-gossip-begun/1", _MODEL: "fedmesh-gossip-model/1"}
_MAX_BYTES = 1 << 28


@dataclass(frozen=True, slots=True, eq=False)
class Saved:
    """What is on the disk.

    Attributes:
        begun: the last step that was begun; 0 for none.
        ended: the step whose model `codes` is; 0: there is none yet.
        codes: the model, int64 [P], on the run's grid. settled: it without trainings that are in no sum.
        mixed, left_out, unsettled: so many steps ended like that.
        survivors: who is in the sum that the last one ended with; empty: there was none.
    """

    begun: int = 0
    ended: int = 0
    codes: Codes | None = None
    settled: Codes | None = None
    mixed: int = 0
    left_out: int = 0
    unsettled: int = 0
    survivors: tuple[str, ...] = ()

    @property
    def model(self) -> Codes | None:
        """What to go on with: a member that was killed in a step does not know whether its input was in a sum."""
        return self.codes if self.begun == self.ended else self.settled

    def after(self, ended: Ended) -> "Saved":
        """When a step has ended."""
        counts = {"mixed": self.mixed, "left_out": self.left_out, "unsettled": self.unsettled}
        counts[ended.outcome.replace("-", "_")] += 1
        survivors = ended.survivors if ended.outcome == "mixed" else ()
        begun = max(self.begun, ended.step)
        return Saved(begun, ended.step, ended.codes, ended.settled, **counts, survivors=survivors)


def _read(codes: bytes) -> Codes:
    return np.frombuffer(codes, "<i2").astype(np.int64)


class Memory:
    """In `folder`, which is there and private to the device."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self) -> Saved:
        """What was kept. Raises: ConfigError: it is damaged."""
        begun, model = self._read(_BEGUN), self._read(_MODEL)
        saved = Saved()
        match model:
            case None:
                pass
            case [int(ended), list(counts), list(names), bytes(codes), bytes(settled)] if (
                len(counts) == 3 and len(codes) % 2 == 0 and len(settled) in {0, len(codes)}
            ):
                mixed, left_out, unsettled = map(int, counts)
                models, survivors = (_read(codes), _read(settled or codes)), tuple(map(str, names))
                saved = Saved(ended, ended, *models, mixed, left_out, unsettled, survivors)
            case _:
                raise self._damaged(_MODEL)
        match begun:
            case None:
                return saved
            case [int(step)]:
                return replace(saved, begun=max(step, saved.ended))
            case _:
                raise self._damaged(_BEGUN)

    def begin(self, step: int) -> None:
        """This step is begun, and will not be again. Raises: ConfigError: it cannot be written: nothing may be paid."""
        self._write(_BEGUN, [step])

    def keep(self, saved: Saved) -> None:
        """The model at the end of a step. Raises: ConfigError: it cannot be written."""
        assert saved.codes is not None
        assert saved.settled is not None
        codes, settled = (values.astype("<i2").tobytes() for values in (saved.codes, saved.settled))
        counts, names = [saved.mixed, saved.left_out, saved.unsettled], list(saved.survivors)
        self._write(_MODEL, [saved.ended, counts, names, codes, b"" if settled == codes else settled])

    def _read(self, name: str) -> list[object] | None:
        path = self._folder / name
        if not path.exists():
            return None
        try:
            plain = loads(read_bounded(path, _MAX_BYTES, called="a member's part in a run"), max_bytes=_MAX_BYTES)
        except DecodeError as error:
            raise self._damaged(name) from error
        if not isinstance(plain, list) or plain[:1] != [_FORMATS[name]]:
            raise self._damaged(name)
        return plain[1:]

    def _write(self, name: str, values: list[object]) -> None:
        write_atomically(self._folder / name, dumps([_FORMATS[name], *values]), mode=0o600)

    def _damaged(self, name: str) -> ConfigError:
        return ConfigError(
            f"{self._folder / name} is damaged: remove the folder of this run; the member takes no part in it any more"
        )
