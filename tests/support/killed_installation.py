"""A device that brings itself up to date, and is killed with SIGKILL right before its n-th change of a file.

`killed_at(n, step)` forks; in the child an audit hook counts what opens a file for writing, renames, removes or makes
something, and kills at the n-th. True if it was killed: below some n every step is hit, and above it none is left.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def killed_at(number: int, step: Callable[[], object]) -> bool:
    """Whether `step`, in a child, came as far as its change `number`, and was killed there."""
    child = os.fork()
    if child == 0:
        try:
            sys.addaudithook(_Killer(number))
            step()
        except BaseException:  # noqa: BLE001 - the child ends here, and says why
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the step failed by itself"
    return False


class _Killer:
    def __init__(self, number: int) -> None:
        self._left = number

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING
        if opened or event in _CHANGES:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
