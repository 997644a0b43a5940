"""Ends workers gracefully on SIGTERM, which every supervisor sends before SIGKILL.

The first signal stops every worker of the process. A second signal has its usual effect. A program or a framework that has
a handler of its own for SIGTERM keeps it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_stops: dict[object, Callable[[], None]] = {}


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if not _stops:
        os.kill(os.getpid(), signal.SIGTERM)
    for stop in list(_stops.values()):
        stop()


@contextmanager
def graceful(stop: Callable[[], None]) -> Iterator[None]:
    """Calls stop at SIGTERM while the block runs. Only the main thread can install a handler; a worker in another thread
    is stopped too where one is installed."""
    key = object()
    _stops[key] = stop
    main = threading.current_thread() is threading.main_thread()
    if main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        del _stops[key]
        if main and not _stops and signal.getsignal(signal.SIGTERM) is _terminate:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
