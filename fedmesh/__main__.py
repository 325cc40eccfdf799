"""``python -m fedmesh``: the same as the command ``fedmesh``."""

import sys

from fedmesh.cli import main

if __name__ == "__main__":
    sys.exit(main())
