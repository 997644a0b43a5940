"""Periodic messages: a message at each tick of a cron expression.

Every process of an application computes the same ticks, and enqueues with an idempotency key that names the tick, so a tick
makes one message. No process has to be the leader. The key is remembered for `pg_outbox.idempotency_window`, which has to be
longer than CATCH_UP.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from . import _core
from ._errors import ConflictError, RetryError

if TYPE_CHECKING:
    from ._client import AsyncOutbox

logger = logging.getLogger("pg_outbox.periodic")

CATCH_UP = 600.0
"""The time for which a tick that was missed is still enqueued, in seconds. It bridges a deployment or a restart."""

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)


class Periodic:
    """A periodic message. The function returns its payload, and gets the time of the tick if it takes an argument."""

    def __init__(
        self, cron: str, topic: str, make: Callable[..., Any], name: str, time_zone: str | None, options: Mapping[str, Any]
    ) -> None:
        self.cron = _core.Cron(cron, time_zone)
        self.topic = topic
        self.make = make
        self.name = name
        self.options = options
        self.takes_tick = len(inspect.signature(make).parameters) > 0

    async def run(self, outbox: AsyncOutbox) -> None:
        """Enqueues the tick that was just missed, and then each tick, until it is cancelled."""
        tick = self.cron.missed(_seconds(), CATCH_UP)
        after = _seconds() if tick is None else tick
        while True:
            if tick is None:
                tick = self.cron.next(after)
                if tick is None:
                    # No further time matches.
                    await asyncio.sleep(3600)
                    continue
            # A long sleep would miss a change of the clock.
            while (left := tick - _seconds()) > 0:
                await asyncio.sleep(min(left, 30.0))
            # After a sleep of the machine, no tick counts that is older than the window, and of which other processes may know.
            oldest = _seconds() - CATCH_UP
            if tick < oldest:
                logger.warning('ticks of periodic message "%s" are missed, from %s on', self.name, _time(tick).isoformat())
                after, tick = oldest, None
                continue
            await self._enqueue(outbox, tick)
            after, tick = tick, None

    async def _enqueue(self, outbox: AsyncOutbox, tick: float) -> None:
        at = _time(tick)
        pause = 0.2
        while True:
            try:
                payload = self.make(at) if self.takes_tick else self.make()
                if inspect.isawaitable(payload):
                    payload = await payload
                args = {
                    **self.options, "topic": self.topic, "payload": {"tick": f"{at:%Y-%m-%dT%H:%M:%SZ}"} if payload is None else payload,
                    "idempotency_key": _core.tick_key(self.name, tick),
                }
                await outbox.call("enqueue", args)
                logger.info('periodic message "%s" of %s is enqueued', self.name, at.isoformat())
                return
            except ConflictError as error:
                if error.name != "idempotency_conflict":
                    logger.exception('periodic message "%s" of %s could not be enqueued', self.name, at.isoformat())
                else:
                    logger.warning(
                        'periodic message "%s" of %s: another process has enqueued it with another payload, so its payload depends'
                        " on more than the tick", self.name, at.isoformat(),
                    )
                return
            except RetryError as error:
                if _seconds() - tick > CATCH_UP:
                    logger.error('periodic message "%s" of %s is missed: %s', self.name, at.isoformat(), error)
                    return
                await asyncio.sleep(pause)
                pause = min(pause * 2, 10.0)
            except Exception:  # the next tick may succeed
                logger.exception('periodic message "%s" of %s could not be enqueued', self.name, at.isoformat())
                return


def _time(seconds: float) -> dt.datetime:
    return _EPOCH + dt.timedelta(seconds=seconds)


def _seconds() -> float:
    return (dt.datetime.now(dt.timezone.utc) - _EPOCH).total_seconds()
