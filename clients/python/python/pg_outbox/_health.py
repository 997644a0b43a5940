"""The health port of an application: one small HTTP server for a supervisor and for Prometheus.

GET /health answers 200 while every worker and projection has a session and no projection stands at a message whose effect
fails, else 503. GET /metrics has counts in the text format of Prometheus.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

from ._errors import invalid

_TIMEOUT = 5.0
_LARGEST_REQUEST = 8192


def _escaped(value: str) -> str:
    """Returns the value of a label of Prometheus."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class Source(Protocol):
    """What is known of a projection, or of the projections of an engine."""

    @property
    def failing(self) -> int | None:
        """The position of the first message that cannot be applied."""
        ...

    @property
    def applied(self) -> int:
        """How many messages were applied."""
        ...

    @property
    def connected(self) -> bool:
        """Whether the last read has found the server."""
        ...


def _state(source: Source | None) -> str:
    """Returns the state of a projection, which has no source before it begins."""
    if source is None:
        return "starting"
    if source.failing is not None:
        return "failing"
    return "connected" if source.connected else "disconnected"


class Health:
    """What the port shows: the state of each worker and projection, and counts of outcomes."""

    def __init__(self) -> None:
        self.workers: dict[str, str] = {}
        self.projections: dict[str, Source | None] = {}
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.running: Counter[str] = Counter()
        self.is_stopping = False

    def answer(self, path: str) -> tuple[int, str, str]:
        """Returns status, content type and body for a path."""
        if path == "/metrics":
            return 200, "text/plain; version=0.0.4; charset=utf-8", self._metrics()
        if path not in ("/", "/health", "/healthz"):
            return 404, "text/plain; charset=utf-8", "there are /health and /metrics\n"
        states = {consumer: _state(source) for consumer, source in self.projections.items()}
        shown: dict[str, Any] = {"state": self._overall([*self.workers.values(), *states.values()]), "workers": self.workers}
        if states:
            shown["projections"] = {
                consumer: {"state": states[consumer], "failing_position": source.failing if source else None}
                for consumer, source in self.projections.items()
            }
        return 200 if shown["state"] == "ok" else 503, "application/json", json.dumps(shown) + "\n"

    def _overall(self, states: list[str]) -> str:
        if self.is_stopping:
            return "stopping"
        if "failing" in states:
            return "failing"
        return "ok" if all(state == "connected" for state in states) else "disconnected"

    def _metrics(self) -> str:
        lines = [
            "# HELP outbox_worker_deliveries_total Deliveries by outcome of their handler.",
            "# TYPE outbox_worker_deliveries_total counter",
        ]
        lines += [
            f'outbox_worker_deliveries_total{{subscription="{name}",outcome="{outcome}"}} {count}'
            for (name, outcome), count in sorted(self.outcomes.items())
        ]
        lines += ["# HELP outbox_worker_running Handlers that run now.", "# TYPE outbox_worker_running gauge"]
        lines += [f'outbox_worker_running{{subscription="{name}"}} {self.running[name]}' for name in self.workers]
        lines += ["# HELP outbox_worker_connected Whether the worker has a session.", "# TYPE outbox_worker_connected gauge"]
        lines += [f'outbox_worker_connected{{subscription="{n}"}} {int(s == "connected")}' for n, s in self.workers.items()]
        if self.projections:
            lines += self._projection_metrics()
        return "\n".join(lines) + "\n"

    def _projection_metrics(self) -> list[str]:
        shown = {f'consumer="{_escaped(consumer)}"': source for consumer, source in self.projections.items()}
        return [
            "# HELP outbox_projection_messages_total Messages that the projection has applied.",
            "# TYPE outbox_projection_messages_total counter",
            *(f"outbox_projection_messages_total{{{label}}} {source.applied if source else 0}" for label, source in shown.items()),
            "# HELP outbox_projection_failing Whether the projection stands at a message whose effect fails.",
            "# TYPE outbox_projection_failing gauge",
            *(f"outbox_projection_failing{{{label}}} {int(_state(source) == 'failing')}" for label, source in shown.items()),
            "# HELP outbox_projection_connected Whether the reader of the projection has a session.",
            "# TYPE outbox_projection_connected gauge",
            *(f"outbox_projection_connected{{{label}}} {int(source is not None and source.connected)}" for label, source in shown.items()),
        ]

    @asynccontextmanager
    async def serving(self, address: str | None) -> AsyncIterator[None]:
        """Serves on an address such as `:8080` or `127.0.0.1:8080` while the block runs; without an address nothing."""
        if address is None:
            yield
            return
        host, _, port = address.rpartition(":")
        if not port.isdigit() or int(port) > 65535:
            raise invalid(f'malformed address "{address[:100]}"', hint='For example ":8080".')
        server = await asyncio.start_server(self._serve, host.strip("[]") or None, int(port), limit=_LARGEST_REQUEST)
        async with server:
            yield

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _TIMEOUT)
            words = head.split(b"\r\n", 1)[0].decode("latin-1").split()
            status, kind, body = self.answer(words[1].split("?")[0]) if len(words) == 3 else (400, "text/plain", "malformed\n")
            content = body.encode()
            reason = {200: "OK", 400: "Bad Request", 404: "Not Found"}.get(status, "Service Unavailable")
            writer.write(
                f"HTTP/1.1 {status} {reason}\r\ncontent-type: {kind}\r\ncontent-length: {len(content)}\r\n"
                "connection: close\r\n\r\n".encode() + content
            )
            await asyncio.wait_for(writer.drain(), _TIMEOUT)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.TimeoutError, OSError):
            # A client that sends no request, or takes no answer, gets none.
            pass
        finally:
            writer.close()
