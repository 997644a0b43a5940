"""The health port of an application: one small HTTP server for a supervisor and for Prometheus.

GET /health answers 200 while every worker has a session, else 503. GET /metrics has counts in the text format of Prometheus.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ._errors import invalid

_TIMEOUT = 5.0
_LARGEST_REQUEST = 8192


class Health:
    """What the port shows: the state of each worker, and counts of outcomes."""

    def __init__(self) -> None:
        self.workers: dict[str, str] = {}
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.running: Counter[str] = Counter()
        self.is_stopping = False

    def answer(self, path: str) -> tuple[int, str, str]:
        """Returns status, content type and body for a path."""
        if path == "/metrics":
            return 200, "text/plain; version=0.0.4; charset=utf-8", self._metrics()
        if path not in ("/", "/health", "/healthz"):
            return 404, "text/plain; charset=utf-8", "there are /health and /metrics\n"
        ready = not self.is_stopping and all(state == "connected" for state in self.workers.values())
        state = "stopping" if self.is_stopping else "ok" if ready else "disconnected"
        return 200 if ready else 503, "application/json", json.dumps({"state": state, "workers": self.workers}) + "\n"

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
        return "\n".join(lines) + "\n"

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
