"""``python -m fedmesh.client.hook module:function``: exit code 0 if the function says yes, 1 if no, 2 if it fails.

An operator's function runs here, apart from the agent: it may import, hang or crash as it likes.
"""

import importlib
import os
import sys

__all__ = ["main"]


def main(function: str) -> int:
    """The exit code."""
    module, _, name = function.partition(":")
    try:
        return 0 if getattr(importlib.import_module(module), name)() else 1
    except Exception as error:  # noqa: BLE001 - whatever it is, the device does not work now
        sys.stderr.write(f"the hook {function} failed: {type(error).__name__}: {error}\n")
        return 2


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stderr.flush()
    os._exit(code)  # threads that the function left behind are not waited for
