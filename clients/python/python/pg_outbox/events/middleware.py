"""Middleware for the command bus. Each function returns a middleware; `bus.use(retry(), idempotency())` adds two."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import inspect
import json
import logging as _logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from .. import _core
from .._enqueue import scalar
from .._errors import OutboxError, RetryError, invalid
from .._rows import dumps
from ._runs import AGAIN, Backoff, awaited, call_json, check_transaction, drive, savepoint, sleep, sqlstate
from ._runs import call as call_function
from .commands import Call, Middleware, Next, late, statement_timeout, type_of
from .context import current, event_context, new_id
from .errors import (
    CommandFailedError,
    CommandTimeoutError,
    FieldError,
    ReplayedError,
    ValidationError,
)

logger = _logging.getLogger("pg_outbox.events")


async def _rest(call_next: Next, call: Call) -> Any:
    return await awaited(call_next(call))


def _field(command: Any, name: str) -> Any:
    """Returns a field of a command; None if it has none."""
    found = command.get(name) if isinstance(command, Mapping) else getattr(command, name, None)
    return found() if inspect.ismethod(found) else found


def _found_errors(found: Any) -> list[FieldError]:
    if found is None or found is True:
        return []
    if isinstance(found, (str, FieldError)):
        found = [found]
    if isinstance(found, Mapping):
        return [FieldError(str(name), str(text)) for name, text in found.items()]
    return [one if isinstance(one, FieldError) else FieldError("", str(one)) for one in found]


def validation(validators: Mapping[type[Any], Callable[[Any], Any]] | None = None) -> Middleware:
    """Validates commands before they go on: by the method `validate()` of a command that has one, and by the validator of its
    class. Each returns None, a text, a FieldError, several of them, or a dict of texts by field, or raises ValidationError or
    ValueError. All errors are raised together, as one ValidationError."""
    checks = dict(validators or {})

    async def validate(call: Call, call_next: Next) -> Any:
        errors: list[FieldError] = []
        for check in (getattr(call.command, "validate", None), _bound(checks.get(type(call.command)), call.command)):
            # The class method validate() of a pydantic model is not one of these.
            if check is None or isinstance(getattr(check, "__self__", None), type):
                continue
            try:
                errors += _found_errors(await awaited(check()))
            except ValidationError as error:
                errors += error.errors
            except ValueError as error:
                errors.append(FieldError("", str(error)))
        if errors:
            raise ValidationError(errors)
        return await _rest(call_next, call)

    return validate


def _bound(check: Callable[[Any], Any] | None, command: Any) -> Callable[[], Any] | None:
    return None if check is None else lambda: check(command)


def recovery() -> Middleware:
    """Raises an exception of a handler that is no OutboxError as CommandFailedError, whose cause it is."""

    async def recover(call: Call, call_next: Next) -> Any:
        try:
            return await _rest(call_next, call)
        except OutboxError:
            raise
        except Exception as error:  # exceptions of handlers are of any class
            message = f'the handler of command "{call.type}" has failed: {type(error).__name__}'
            raise CommandFailedError(message, name="handler_failed") from error

    return recover


def logging(log: _logging.Logger | None = None) -> Middleware:
    """Logs each command with its duration, to `pg_outbox.events` unless another logger is given. The content of commands is
    not logged."""
    used = log or logger

    async def logged(call: Call, call_next: Next) -> Any:
        begun = time.monotonic()
        try:
            result = await _rest(call_next, call)
        except Exception as error:
            used.warning('command "%s" has failed after %.1f ms: %s', call.type, (time.monotonic() - begun) * 1e3, type(error).__name__)
            raise
        again = " before, and its result was stored" if call.replayed else ""
        used.info('command "%s" was processed%s (%.1f ms)', call.type, again, (time.monotonic() - begun) * 1e3)
        return result

    return logged


def metrics(record: Callable[[str, bool, float], None]) -> Middleware:
    """Calls record(type, succeeded, seconds) for each command."""

    async def measured(call: Call, call_next: Next) -> Any:
        begun, succeeded = time.monotonic(), False
        try:
            result = await _rest(call_next, call)
            succeeded = True
            return result
        finally:
            record(call.type, succeeded, time.monotonic() - begun)

    return measured


def timeout(seconds: float) -> Middleware:
    """Ends a command after some seconds, with CommandTimeoutError; its transaction rolls back. In asyncio the handler is
    cancelled. In blocking code the server ends a statement that takes longer, and a command that is late does not commit.
    Of several time-outs the first one that passes ends the command."""
    if not 0 < seconds <= 86_400:
        raise ValueError("a time-out has more than 0 and at most 86400 seconds")

    async def limited(call: Call, call_next: Next) -> Any:
        if call.in_asyncio:
            return await _cancelled_after(seconds, call, call_next)
        before, own = call.deadline, time.monotonic() + seconds
        call.deadline = own if before is None else min(before, own)
        try:
            async with _statements_limited(call):
                result = await _rest(call_next, call)
            # Where the transaction begins behind this middleware, the bus looks at the deadline before it commits.
            if call.conn is not None and time.monotonic() > call.deadline:
                raise late(call)
            return result
        except Exception as error:
            # The server counts whole milliseconds.
            is_late = time.monotonic() > call.deadline - 0.01
            if is_late and sqlstate(error) == "57014" and not isinstance(error, CommandTimeoutError):
                raise late(call) from error
            raise
        finally:
            call.deadline = before

    return limited


async def _cancelled_after(seconds: float, call: Call, call_next: Next) -> Any:
    async def rest() -> tuple[Any, Exception | None]:
        try:
            return await _rest(call_next, call), None
        except asyncio.TimeoutError as error:
            # The handler has a time-out of its own.
            return None, error

    try:
        result, own = await asyncio.wait_for(rest(), seconds)
    except asyncio.TimeoutError as error:
        raise late(call) from error
    if own is not None:
        raise own
    return result


@asynccontextmanager
async def _statements_limited(call: Call) -> AsyncIterator[None]:
    """Lets the server end statements at the deadline, in a transaction that has begun already."""
    if call.conn is None:
        yield
        return
    before = await awaited(scalar(call.conn, "select pg_catalog.current_setting('statement_timeout')"))
    await awaited(scalar(call.conn, statement_timeout(call)))
    try:
        yield
    finally:
        # A transaction that has failed takes no statement, and its setting ends with it.
        with suppress(Exception):
            await awaited(scalar(call.conn, f"select pg_catalog.set_config('statement_timeout', '{before}', true)"))


def _passes(error: Exception) -> bool:
    """Returns whether the same command may succeed in a new transaction."""
    state = sqlstate(error)
    return isinstance(error, RetryError) or state in AGAIN or (state is not None and _core.classify(state)[1] == "retry")


def retry(policy: Backoff | None = None, *, on: Callable[[Exception], bool] = _passes) -> Middleware:
    """Processes a command again, in a new transaction, after an error that may pass: another transaction was first, a
    serialization failure, a deadlock, a lost connection. policy: 3 attempts, 0.1 s, factor 2, at most 5 s. on: decides about
    an error. A command that joins a transaction of the caller, and one that has timed out, is not tried again."""
    used = policy or Backoff()

    async def tried(call: Call, call_next: Next) -> Any:
        for attempt in range(1, used.attempts + 1):
            try:
                return await _rest(call_next, call)
            except Exception as error:
                if call.conn is not None or attempt == used.attempts or _timed_out(call, error) or not on(error):
                    raise
            await sleep(call.in_asyncio, used.pause(attempt))
        raise AssertionError("there is at least one attempt")

    tried.begins = True  # type: ignore[attr-defined]
    return tried


def _timed_out(call: Call, error: Exception) -> bool:
    return sqlstate(error) == "57014" or (call.deadline is not None and time.monotonic() > call.deadline)


def correlation() -> Middleware:
    """Sets the correlation id of the context: that of the command (`correlation_id`), of the context, or a new one."""

    async def correlated(call: Call, call_next: Next) -> Any:
        found = _field(call.command, "correlation_id") or current().correlation_id or str(new_id())
        with event_context(correlation_id=str(found)):
            return await _rest(call_next, call)

    return correlated


def causation() -> Middleware:
    """Sets the causation id of the context, which names the command as the cause of events: its `command_id`, or a new id."""

    async def caused(call: Call, call_next: Next) -> Any:
        with event_context(causation_id=str(_field(call.command, "command_id") or new_id())):
            return await _rest(call_next, call)

    return caused


def tenant(required: bool = True) -> Middleware:
    """Sets the tenant of the context: that of the command (`tenant`), or the one of the context. required: without one the
    command is refused with a ValidationError."""

    async def of_tenant(call: Call, call_next: Next) -> Any:
        found = _field(call.command, "tenant") or current().tenant
        if not found and required:
            raise ValidationError("a tenant is required", field="tenant")
        with event_context(tenant=str(found) if found else None):
            return await _rest(call_next, call)

    return of_tenant


def idempotency(
    key: str | Callable[[Any], str | None] | None = None, *, ttl: dt.timedelta | None = dt.timedelta(hours=24),
    store_errors: bool | tuple[type[Exception], ...] = False, skip: Collection[type[Any] | str] = (),
) -> Middleware:
    """Processes a command once for each key. The key and the result are stored in the transaction of the command; the same
    command again returns the stored result, as JSON. A second one that comes meanwhile waits for the first.

    key: the name of a field, or a function of the command. Without it, or where it finds nothing: the command's
    `idempotency_key`, or the hash of its content. The stored key is TYPE:KEY, or TYPE:TENANT:KEY, so that types and tenants
    do not meet; one above 255 bytes is hashed behind the type. The tenant is that of the command or of the context. ttl: how
    long keys are remembered; None: for ever.
    store_errors: a rejection is stored too, and raised again as ReplayedError. It is a ValidationError, or an exception that
    the program has raised, and no error of a driver or of this package; a tuple names the classes. Of the message 1000
    characters are stored. Where the command joins a transaction of the caller, the error is kept if the caller commits.
    skip: commands that are processed each time.

    Raises ConflictError (OB008) if the key was used for a command with other content."""
    skipped = {name if isinstance(name, str) else type_of(name) for name in skip}

    async def once(call: Call, call_next: Next) -> Any:
        if call.type in skipped:
            return await _rest(call_next, call)
        if call.conn is None:
            raise invalid("idempotency needs a transaction", hint="CommandBus(begin), or dispatch(command, conn).")
        check_transaction(call.conn, "idempotency")
        content = canonical(call.command)
        name = _key(call, key, content)
        lifetime = None if ttl is None else f"{ttl.total_seconds()} s"
        found = await call_json(call.conn, "command_begin", [
            ("key", "text", name), ("command_type", "text", call.type), ("ttl", "interval", lifetime), ("content", "jsonb", content),
        ])
        if found is not None:
            call.replayed = True
            if found["success"]:
                return found["result"]
            raise ReplayedError(
                f'command "{call.type}" was processed before, and has failed', error=found["error"], code="OB002", name="already_done",
                detail=f"It was processed at {found['processed_at']}.",
            )
        if not store_errors:
            return await _ended(call, name, await _rest(call_next, call))
        try:
            async with savepoint(call.conn, call.in_asyncio):
                result = await _rest(call_next, call)
        except Exception as error:
            if not _rejects(error, store_errors):
                raise
            text = dumps({"type": type(error).__name__, "message": _plain_text(str(error))})
            await call_function(call.conn, "command_end", [("key", "text", name), ("error", "jsonb", text)], _VOID)
            if call.joined:
                raise
            # The transaction commits, so that the error is stored, and the bus raises it then.
            call.failure = error
            return None
        return await _ended(call, name, result)

    once.in_transaction = True  # type: ignore[attr-defined]
    return once


_VOID = "select cast({} as text)"


async def _ended(call: Call, key: str, result: Any) -> Any:
    await call_function(call.conn, "command_end", [("key", "text", key), ("result", "jsonb", dumps(result))], _VOID)
    return result


def canonical(data: Any) -> str:
    """Returns the JSON text that all clients hash: keys are sorted, and there are no spaces."""
    return json.dumps(json.loads(dumps(data)), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _key(call: Call, key: str | Callable[[Any], str | None] | None, content: str) -> str:
    found = _field(call.command, key) if isinstance(key, str) else None if key is None else key(call.command)
    found = found or _field(call.command, "idempotency_key")
    value = str(found) if found else _hash(content)
    of_tenant = _field(call.command, "tenant") or current().tenant
    rest = f"{of_tenant}:{value}" if of_tenant else value
    made = f"{call.type}:{rest}"
    return made if len(made.encode("utf-8", "surrogatepass")) <= _LONGEST_KEY else f"{call.type}:{_hash(rest)}"


_LONGEST_KEY = 255
_DRIVERS = frozenset({"psycopg", "psycopg2", "psycopg_pool", "asyncpg", "sqlalchemy", "django", "pydantic", "pydantic_core"})


def _rejects(error: Exception, wanted: bool | tuple[type[Exception], ...]) -> bool:
    """Returns whether the program has raised the error on purpose."""
    if _passes(error):
        return False
    if isinstance(wanted, tuple):
        return isinstance(error, wanted)
    if isinstance(error, OutboxError):
        return isinstance(error, ValidationError)
    return sqlstate(error) is None and type(error).__module__.split(".")[0] not in _DRIVERS


def _plain_text(text: str) -> str:
    """Returns the text as the server can store it."""
    return "".join(c for c in text[:1000] if c != "\0" and not "\ud800" <= c <= "\udfff")


def when(condition: Callable[[Any], bool], middleware: Middleware) -> Middleware:
    """Uses a middleware for commands for which condition(command) holds."""

    async def chosen(call: Call, call_next: Next) -> Any:
        return await awaited(middleware(call, call_next)) if condition(call.command) else await _rest(call_next, call)

    if getattr(middleware, "begins", False) and getattr(middleware, "in_transaction", False):
        raise ValueError("retry() and idempotency() under one condition would share a transaction: use when() for each of them")
    return _as(chosen, [middleware])


def for_types(types: Iterable[type[Any] | str], middleware: Middleware) -> Middleware:
    """Uses a middleware for these classes of commands."""
    names = {name if isinstance(name, str) else type_of(name) for name in types}
    return when(lambda command: type_of(command) in names, middleware)


def chain(*middleware: Middleware) -> Middleware:
    """Makes one middleware of several. The first one is the outermost."""

    async def chained(call: Call, call_next: Next) -> Any:
        following = call_next
        for one in reversed(middleware):
            following = _before(one, following)
        return await _rest(following, call)

    chained.parts = middleware  # type: ignore[attr-defined]
    return _as(chained, middleware)


def _before(middleware: Middleware, call_next: Next) -> Next:
    return lambda call: middleware_result(call, middleware, call_next)


def middleware_result(call: Call, middleware: Middleware, call_next: Next) -> Any:
    """Returns what a middleware returns: a value in blocking code, else something to await."""
    done = middleware(call, call_next)
    return drive(done) if inspect.iscoroutine(done) and not call.in_asyncio else done


def _as(made: Middleware, parts: Iterable[Middleware]) -> Middleware:
    """Marks a middleware as its parts are marked: in_transaction works in the transaction, begins makes several of them."""
    for mark in ("in_transaction", "begins"):
        if any(getattr(part, mark, False) for part in parts):
            setattr(made, mark, True)
    return made
