"""Imports all that `fedmesh.privacy.DpSgd` needs sooner or later: for a process that forks its workers."""

from fedmesh.privacy import dpsgd, per_sample

__all__ = ["dpsgd"]

per_sample.hooks_class()
