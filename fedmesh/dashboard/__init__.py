"""What a run looked like, for people: a page that stands alone."""

from fedmesh.dashboard.report import write_report

__all__ = ["write_report"]
