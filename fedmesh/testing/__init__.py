"""Fakes that are products: what a test, ours or yours, uses instead of the real thing."""

from fedmesh.testing.clock import ManualClock

__all__ = ["ManualClock"]
