"""Waits for what the native module does, in blocking code and in asyncio."""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Timeout
from typing import Any

from . import _core

Begin = Callable[[Future[Any]], _core.Task]

atexit.register(_core.shutdown)


def start(begin: Begin) -> Future[Any]:
    """Begins a call. Cancelling the future aborts it."""
    future: Future[Any] = Future()
    task = begin(future)
    future.add_done_callback(lambda done: task.abort() if done.cancelled() else None)
    return future


def result(future: Future[Any]) -> Any:
    """Waits for a future. A signal that comes just before a thread begins to wait does not wake it, so that no wait is
    long."""
    while True:
        try:
            return future.result(0.5)
        except Timeout:
            if future.done():
                return future.result()


def wait(begin: Begin) -> Any:
    """Runs a call in blocking code."""
    return waited(start(begin))


def waited(future: Future[Any]) -> Any:
    """Waits for a call that has begun, in blocking code."""
    try:
        return result(future)
    except KeyboardInterrupt:
        future.cancel()
        raise


async def wait_async(begin: Begin) -> Any:
    """Runs a call in asyncio."""
    return await asyncio.wrap_future(start(begin))
