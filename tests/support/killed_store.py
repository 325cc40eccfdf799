"""Forks children that use one store as fast as they can, kills them with SIGKILL, and compares what they were told.

`killed_store.py PATH FACTS SEED` prints JSON: kills, facts that a child reported (at least FACTS), and those that the
store forgot.
A child reports a fact only after the store's method returned, so a reported fact that is not in the file was lost.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from fedmesh.errors import SecAggError
from fedmesh.secagg.store import Store


def never() -> bytes:
    raise AssertionError("a second signature")


def work(path: Path, report: int, seed: int) -> None:
    """One session after the other, from the first round that can begin; each fact is reported once it is durable."""
    number = 0
    with Store(path) as store:
        while True:
            try:
                store.begin("task", number, seed, bytes(32))
            except SecAggError:
                number += 1
                continue
            digest = os.urandom(32)
            os.write(report, f"begin {number} {seed} -\n".encode())
            store.mask_once("task", number, seed)
            os.write(report, f"mask {number} {seed} -\n".encode())
            signature = store.sign_once("task", number, seed, digest, lambda: os.urandom(64))
            os.write(report, f"sign {number} {seed} {digest.hex()}{signature.hex()}\n".encode())
            store.release_once("task", number, seed)
            os.write(report, f"release {number} {seed} -\n".encode())


def killed(path: Path, seed: int, delay_s: float) -> list[list[str]]:
    """What a child reported before it was killed, `delay_s` after it began."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            work(path, writing, seed)
        finally:
            os._exit(1)
    os.close(writing)
    time.sleep(delay_s)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reading) as reports:
        return [line.split() for line in reports.read().splitlines() if line.count(" ") == 3]


def forgotten(path: Path, facts: list[list[str]]) -> list[list[str]]:
    """The facts that the store would act against."""
    with Store(path) as store:
        return [fact for fact in facts if not holds(store, *fact)]


def holds(store: Store, kind: str, number_text: str, attempt_text: str, value: str) -> bool:
    number, attempt = int(number_text), int(attempt_text)
    try:
        if kind == "begin":
            store.begin("task", number, attempt, bytes(32))
        elif kind == "mask":
            store.mask_once("task", number, attempt)
        elif kind == "release":
            store.release_once("task", number, attempt)
        else:
            signed = bytes.fromhex(value)
            try:
                return store.sign_once("task", number, attempt, signed[:32], never) == signed[32:]
            except SecAggError as error:
                if error.code != "replay":
                    return False
            store.sign_once("task", number, attempt, os.urandom(32), never)
    except SecAggError as error:
        return error.code in {"replay", "consistency"}
    return False


def main(path: Path, wanted: int, seed: int) -> None:
    chance = random.Random(seed)
    kills, reported, longest_s, lost = 0, 0, 0.02, list[list[str]]()
    while reported < wanted or kills < 100:
        kills += 1
        longest_s = min(1.01 * longest_s, 0.5)  # on a busy machine a child needs longer to get anywhere
        if kills % 10 == 0:  # a new file: the child dies while it makes one, too
            path = path.parent / f"store-{kills}"
        facts = killed(path, kills, chance.uniform(0.0, longest_s))
        reported += len(facts)
        lost += forgotten(path, facts[-9:]) if path.exists() else facts
    sys.stdout.write(json.dumps({"kills": kills, "reported": reported, "forgotten": lost}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
