"""The run directory: what a simulation leaves behind, and all that it needs to go on after an interruption.

::

    DIR/run.json          the scenario, resolved, with the digest of the data it runs on
    DIR/features.cbor     the map from examples to features, of a scenario that has features
    DIR/start.cbor        the public start: weights and activation ranges
    DIR/journal.sqlite3   every committed round
    DIR/ledgers/          one privacy ledger per device
    DIR/identities/       keys of all devices and of the aggregator, and what each device has signed
    DIR/model.int8.onnx   of the newest round, which a kill may keep out of the journal
    DIR/model.float.onnx, result.json, report.html   at the end
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from fedmesh.errors import ConfigError, DecodeError
from fedmesh.federation.datasets import FederatedData
from fedmesh.federation.scenario import Scenario
from fedmesh.files import write_atomically
from fedmesh.types import Examples, Float32
from fedmesh.wire import dumps, loads

__all__ = ["ID_FILE", "START_FILE", "PublicStart", "RunDirectory", "data_digest"]

START_FILE = "start.cbor"
ID_FILE = "run-id"
"""Of a fleet's task: which run of the journal the folder is of; it is there before anything else."""
_MAX_START_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class PublicStart:
    """What every device starts from: float32 master weights [P] and frozen activation ranges, both from public data."""

    weights: Float32
    ranges: dict[str, tuple[float, int]]


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Paths and small files of one run."""

    path: Path
    scenario: Scenario
    digest: str
    """Of the data the run was started on; empty until it is known."""

    @classmethod
    def create(cls, path: Path, scenario: Scenario, digest: str, *, ledgers: bool = True) -> Self:
        """A new run in a folder that is missing, or empty but for `ID_FILE`.

        `ledgers`: whether its devices' ledgers are kept there.

        Raises:
            ConfigError: the folder has something in it, or cannot be made.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            occupied = any(entry.name != ID_FILE for entry in path.iterdir())
            if ledgers and not occupied:  # before run.json: a run that can be resumed has its ledgers, or has lost them
                (path / "ledgers").mkdir()
        except OSError as error:
            raise ConfigError(
                f"the run directory {path} cannot be made: {error.strerror}; choose another --out"
            ) from error
        if occupied:
            raise ConfigError(f"{path} is not empty: choose another --out, or go on with that run by --resume {path}")
        directory = cls(path, scenario, digest)
        content = {"format": 1, "scenario": scenario.model_dump(mode="json"), "data_sha256": digest}
        content["sha256"] = _checksum(content)
        try:
            write_atomically(directory._run_file, json.dumps(content, indent=2).encode())
        except ConfigError:
            if ledgers:
                directory.ledgers.rmdir()  # the folder is empty again: the same --out can be tried once more
            raise
        return directory

    @classmethod
    def open(cls, path: Path) -> Self:
        """The run that was interrupted in `path`.

        Raises:
            ConfigError: there is none, or what is there is damaged.
        """
        file = path / "run.json"
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            tables, digest, checksum = content["scenario"], str(content["data_sha256"]), content["sha256"]
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ConfigError(
                f"{path} holds no run (no run.json): nothing to resume; start it with --out {path}"
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{file} is damaged ({error}): this run cannot be resumed, start a new one") from error
        if checksum != _checksum(content):  # half a run of one scenario and half of another would be neither
            raise ConfigError(
                f"{file} is not what the run was started with (its SHA-256 differs): put it back, or start a "
                "new run with the other scenario"
            )
        return cls(path, Scenario.parse(tables, source=str(file)), digest)

    @property
    def journal(self) -> Path:
        """SQLite journal of committed rounds."""
        return self.path / "journal.sqlite3"

    @property
    def ledgers(self) -> Path:
        """Folder of the devices' privacy ledgers."""
        return self.path / "ledgers"

    @property
    def identities(self) -> Path:
        """Folder of identity keys: of all devices in one place, which only a simulation may do."""
        return self.path / "identities"

    @property
    def int8_model(self) -> Path:
        """The newest int8 model."""
        return self.path / "model.int8.onnx"

    @property
    def float_model(self) -> Path:
        """The final model in float32."""
        return self.path / "model.float.onnx"

    @property
    def result(self) -> Path:
        """The figures of a finished run."""
        return self.path / "result.json"

    @property
    def report(self) -> Path:
        """The page about a finished run."""
        return self.path / "report.html"

    def save_start(self, start: PublicStart) -> None:
        """Keeps the public start, durably."""
        ranges = {name: [scale, zero_point] for name, (scale, zero_point) in start.ranges.items()}
        body = dumps({"weights": start.weights, "ranges": ranges})
        write_atomically(self._start_file, hashlib.sha256(body).digest() + body)

    def load_start(self) -> PublicStart | None:
        """The public start, or None if the run was interrupted before it was known.

        Raises:
            ConfigError: the file is damaged.
        """
        try:
            data = self._start_file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(f"{self._start_file} cannot be read: {error.strerror}") from error
        checksum, body = data[:32], data[32:]
        if hashlib.sha256(body).digest() != checksum:
            raise ConfigError(f"{self._start_file} is damaged (its SHA-256 differs): this run cannot be resumed")
        try:
            content: Any = loads(body, max_bytes=_MAX_START_BYTES)
            ranges = {str(name): (float(s), int(z)) for name, (s, z) in content["ranges"].items()}
            return PublicStart(np.asarray(content["weights"], dtype=np.float32), ranges)
        except (DecodeError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{self._start_file} is not a public start: {error}") from error

    def save_result(self, result: dict[str, Any]) -> None:
        """Writes result.json."""
        write_atomically(self.result, json.dumps(result, indent=2, allow_nan=False).encode() + b"\n")

    def check_data(self, digest: str) -> None:
        """Raises: ConfigError when the data set is not the one the run was started on."""
        if digest != self.digest:
            raise ConfigError(
                f"the data set {self.scenario.data.name!r} has changed since {self.path} was started: "
                "restore it, or start a new run"
            )

    @property
    def _run_file(self) -> Path:
        return self.path / "run.json"

    @property
    def _start_file(self) -> Path:
        return self.path / START_FILE


def _checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 over all of run.json but itself, in hexadecimal."""
    covered = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(covered, sort_keys=True).encode()).hexdigest()


def data_digest(data: FederatedData) -> str:
    """SHA-256 over all examples of a federation and how they are dealt, in hexadecimal."""
    digest = hashlib.sha256()
    for part in (data.public, data.held_out, *data.devices, *data.local):
        _feed(digest, part)
    return digest.hexdigest()


def _feed(digest: Any, examples: Examples) -> None:
    digest.update(repr((examples.x.shape, examples.y.shape)).encode())
    digest.update(np.ascontiguousarray(examples.x).data)
    digest.update(np.ascontiguousarray(examples.y).data)
