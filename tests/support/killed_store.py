"""Forks children that use one store as fast as they can, kills them with SIGKILL, and compares what they were told.

`killed_store.py PATH KILLS SEED` prints JSON: how many facts the children reported, and those that the store forgot.
A child reports a fact only after the store's method returned, so a reported fact that is not in the file was lost.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
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


def killed(path: Path, seed: int, after: int, delay_s: float) -> tuple[list[list[str]], float]:
    """What a child reported before it was killed, and the seconds that it took to report `after` facts.

    It is killed `delay_s` after that many: however slow the machine is, it has come so far.
    """
    reading, writing = os.pipe()
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            work(path, writing, seed)
        finally:
            traceback.print_exc()
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as reports:
        lines = [reports.readline() for _ in range(after)]
        seconds = time.monotonic() - begun
        time.sleep(delay_s)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        lines += reports.read().splitlines()
    if not os.WIFSIGNALED(status):
        raise RuntimeError("a child ended by itself: the store that a kill left behind was of no use to it")
    return [line.split() for line in lines if line.count(" ") == 3], seconds


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


def main(path: Path, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    reported, pace_s, lost = 0, 0.01, list[list[str]]()
    for kill in range(1, kills + 1):
        if kill % 10 == 0:  # a new file: the child dies while it makes one, too
            path = path.parent / f"store-{kill}"
        after = chance.randrange(10)
        facts, seconds = killed(path, kill, after, chance.uniform(0.0, 2 * pace_s))
        pace_s = seconds / after if after else pace_s
        reported += len(facts)
        lost += forgotten(path, facts[-9:]) if path.exists() else facts
    sys.stdout.write(json.dumps({"reported": reported, "forgotten": lost}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
