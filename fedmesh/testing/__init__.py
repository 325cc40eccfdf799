"""Fakes that are products: what a test, ours or yours, uses instead of the real thing."""

from fedmesh.testing.clock import ManualClock
from fedmesh.testing.network import MemoryNetwork

__all__ = ["ManualClock", "MemoryNetwork"]
