"""Ends workers gracefully on SIGTERM, which every supervisor sends before SIGKILL.

The first signal stops every worker of the process. A second signal has its usual effect. A program or a framework that has
a handler of its own for SIGTERM keeps it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_stops: dict[object, Callable[[], None]] = {}
_remove: Callable[[], object] | None = None


def _terminate(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if not _stops:
        os.kill(os.getpid(), signal.SIGTERM)
    for stop in list(_stops.values()):
        stop()


def _install(loop: asyncio.AbstractEventLoop | None) -> None:
    global _remove
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return
    if loop is None:
        signal.signal(signal.SIGTERM, _terminate)
        _remove = lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL)
    else:
        # A handler of Python's own does not wake the loop if the signal comes just before the loop begins to wait.
        loop.add_signal_handler(signal.SIGTERM, _terminate)
        _remove = lambda: loop.is_closed() or loop.remove_signal_handler(signal.SIGTERM)


@contextmanager
def graceful(stop: Callable[[], None], loop: asyncio.AbstractEventLoop | None = None) -> Iterator[None]:
    """Calls stop at SIGTERM while the block runs. Only the main thread can install a handler; a worker in another thread
    is stopped too where one is installed."""
    global _remove
    key = object()
    _stops[key] = stop
    _install(loop)
    try:
        yield
    finally:
        del _stops[key]
        if not _stops and _remove is not None and threading.current_thread() is threading.main_thread():
            _remove()
            _remove = None
