"""What every test process needs before anything else is imported.

One thread: sums of floats depend on the number of threads, and tests run side by side. And a SIGINT that is not
ignored: a shell starts what it runs in the background with SIGINT ignored, children inherit that, and tests press
Ctrl-C on them. Hypothesis does not hold a test's speed against it: these machines are shared.
"""

import logging
import os
import signal
import threading
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A command that a test calls lets its process log on a stream that pytest closes behind it."""
    root, ours = logging.getLogger(), logging.getLogger("fedmesh")
    before, level = set(root.handlers), ours.level
    yield
    for handler in [added for added in root.handlers if added not in before]:
        if type(handler) is logging.StreamHandler:
            root.removeHandler(handler)
    ours.setLevel(level)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Half again as many as cores: tests wait for processes, servers and deadlines as long as they compute."""
    del config
    return max(2, 3 * (os.cpu_count() or 1) // 2)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first, so that at the end nobody is left alone with one; otherwise in the order there is."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
