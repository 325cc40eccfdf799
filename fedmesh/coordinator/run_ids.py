"""Ids of runs."""

import secrets

__all__ = ["new_run_id"]


def new_run_id() -> int:
    """A Flower run id drawn from [2^61, 2^62): 9 bytes as protobuf's varint, so that all runs' messages are as long."""
    return 1 << 61 | secrets.randbits(61)
