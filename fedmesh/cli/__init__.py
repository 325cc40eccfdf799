"""The command line: reads what the operator says, calls the library, and turns its facts into text."""

from fedmesh.cli.boundary import main

__all__ = ["main"]
