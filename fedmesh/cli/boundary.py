"""Where exceptions end: one paragraph on stderr and an exit code, never a traceback.

0 done; 2 the operator's mistake (`ConfigError`, usage); 1 any other failure; 130 interrupted. The environment variable
FEDMESH_TRACEBACK=1 shows the traceback of what should not have happened.
"""

import os
import sys
from collections.abc import Sequence

from fedmesh.errors import ConfigError, FedMeshError

__all__ = ["EXIT_INTERRUPTED", "main"]

EXIT_FAILED = 1
EXIT_OPERATOR = 2
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line `arguments` (default: those of this process); returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 shows a question mark, not a traceback
    try:
        return _run(arguments)
    except BrokenPipeError:
        # The reader of our output left (`| head`): nothing more to say, also when the interpreter flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


def _run(arguments: Sequence[str] | None) -> int:
    from fedmesh.cli.app import app

    try:
        code = app(args=arguments if arguments is None else list(arguments), standalone_mode=False, prog_name="fedmesh")
    except BrokenPipeError:
        raise
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last line before the operator's terminal
        return _end(error)
    if code == EXIT_INTERRUPTED:  # typer turned the interrupt into this
        _say("Interrupted.", "")
    return code if isinstance(code, int) else 0


def _end(error: BaseException) -> int:
    """Says what happened; returns the exit code."""
    from click import Abort, ClickException, UsageError
    from click.exceptions import NoArgsIsHelpError

    text, code, prefix = str(error), EXIT_FAILED, "error: "
    match error:
        case NoArgsIsHelpError():  # the help was shown
            text, code = "", EXIT_OPERATOR
        case UsageError():
            command = error.ctx.command_path if error.ctx else "fedmesh"
            text, code = f"{error.format_message()}\nTry '{command} --help'.", EXIT_OPERATOR
        case ClickException():
            text, code = error.format_message(), EXIT_OPERATOR
        case KeyboardInterrupt() | Abort():
            text, code, prefix = text or "Interrupted.", EXIT_INTERRUPTED, ""
        case ConfigError():
            code = EXIT_OPERATOR
        case FedMeshError():
            pass
        case OSError():
            place = f"{error.filename}: " if error.filename else ""
            text = f"{place}{error.strerror or error}"
        case _:
            text = _unexpected(error)
    _say("\n".join([text, *getattr(error, "__notes__", [])]), prefix)
    return code


def _unexpected(error: BaseException) -> str:
    if os.environ.get("FEDMESH_TRACEBACK"):
        import traceback

        return "".join(traceback.format_exception(error))
    text = " ".join(str(error).split())
    return (
        f"{type(error).__name__}: {text}\n"
        "This should not happen: please report it, with what FEDMESH_TRACEBACK=1 shows."
    )


def _say(text: str, prefix: str) -> None:
    sys.stdout.flush()
    if not text:
        return
    if prefix and sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        prefix = f"\x1b[1;31m{prefix}\x1b[0m"
    sys.stderr.write(f"{prefix}{text.strip()}\n")
