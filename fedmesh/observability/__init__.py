"""What an operator sees of a running node: metrics, logs, health, and the service manager's watchdog.

Readers of `fedmesh.events` and of counters that others keep; nothing here decides anything. No metric has a label that
names a device, and labels have only so many values, whatever a peer says. The library adds no log handler:
`logs.start_logging` is for the command line.
"""

from fedmesh.observability.exporter import MetricsServer
from fedmesh.observability.health import Health, Heartbeat
from fedmesh.observability.metrics import NodeMetrics, RunMetrics, new_registry
from fedmesh.observability.observer import Observer
from fedmesh.observability.refusals import Refusals

__all__ = ["Health", "Heartbeat", "MetricsServer", "NodeMetrics", "Observer", "Refusals", "RunMetrics", "new_registry"]
