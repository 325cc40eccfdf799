"""Every kind of exception ends as one paragraph and its exit code."""

import errno
import os

import click
import pytest
import typer

from fedmesh.cli import boundary
from fedmesh.errors import BudgetError, ConfigError, DataError, QuorumError

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("clients is 0: give 1"), 2, "error: clients is 0: give 1\n"),
        (DataError("no such set"), 2, "error: no such set\n"),
        (BudgetError("spent"), 1, "error: spent\n"),
        (QuorumError("3 of 5", arrived=3, wanted=5), 1, "error: 3 of 5\n"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "run/x"), 1, "error: run/x: No space left on device\n"),
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
        (click.Abort(), 130, "Interrupted.\n"),
        (typer.Abort("go on with: x"), 130, "go on with: x\n"),
        (typer.BadParameter("wrong"), 2, "error: Invalid value: wrong\nTry 'fedmesh --help'.\n"),
        (click.FileError("f", "unreadable"), 2, "error: Could not open file 'f': unreadable\n"),
    ],
)
def test_errors_end_here(error: BaseException, code: int, said: str, capsys: Capture) -> None:
    assert boundary._end(error) == code
    assert capsys.readouterr().err == said


def test_notes_of_an_error_are_said(capsys: Capture) -> None:
    error = BudgetError("spent")
    error.add_note("go on with: x")
    boundary._end(error)
    assert capsys.readouterr().err == "error: spent\ngo on with: x\n"


def test_a_bug_is_one_paragraph_too(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDMESH_TRACEBACK", raising=False)
    assert boundary._end(ZeroDivisionError("division\n\nby zero")) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ZeroDivisionError: division by zero\nThis should not happen")
    monkeypatch.setenv("FEDMESH_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError) as caught:
        divmod(1, 0)
    boundary._end(caught.value)
    assert "Traceback" in capsys.readouterr().err
