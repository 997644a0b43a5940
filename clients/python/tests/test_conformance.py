"""The suite that all clients run: tests/conformance."""

import json
import pathlib
import threading
import time

import pg_outbox
import psycopg
import pytest

FOLDER = pathlib.Path(__file__).resolve().parents[3] / "tests/conformance"
SCENARIOS = sorted(p for p in FOLDER.glob("*.json") if p.name != "signatures.json")


@pytest.mark.parametrize("vector", json.loads((FOLDER / "signatures.json").read_text()))
def test_signature(vector):
    def check():
        return pg_outbox.verify(
            vector["secrets"], vector["headers"], vector["body"], tolerance=vector["tolerance"], now=vector["now"]
        )

    if vector.get("valid"):
        assert check().id == vector["headers"]["webhook-id"]
    else:
        with pytest.raises(pg_outbox.InvalidError) as caught:
            check()
        assert caught.value.name == vector.get("error", "invalid_signature")


def plain(value):
    """Returns a result as scenarios expect it, with rows and messages as objects."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, pg_outbox.Message):
        return Lazy(value)
    if hasattr(value, "__dataclass_fields__"):
        return dict(vars(value))
    return value


class Lazy(dict):
    def __init__(self, message):
        super().__init__()
        self.message = message

    def __contains__(self, name):
        return hasattr(self.message, name)

    def __getitem__(self, name):
        value = getattr(self.message, name)
        return value() if callable(value) else value


def filled(value, saved):
    if isinstance(value, dict):
        return {key: filled(item, saved) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, saved) for item in value]
    if not (isinstance(value, str) and value.startswith("$")):
        return value
    name, *path = value[1:].split(".")
    value = saved[name]
    for part in path:
        value = value[int(part)] if part.isdigit() else value[part]
    return value


TYPES = {"string": str, "number": (int, float), "boolean": bool, "object": dict, "array": list}


def match(value, expected, where):
    if isinstance(expected, dict) and len(expected) == 1 and next(iter(expected)).startswith("$"):
        (kind, of), = expected.items()
        if kind == "$type":
            assert isinstance(value, TYPES[of]) and (of == "boolean") == isinstance(value, bool), f"{where}: {value!r}"
        elif kind == "$contains":
            assert of in value, f"{where}: {value!r}"
        elif kind == "$length":
            assert len(value) == of, f"{where}: {value!r}"
        else:
            raise AssertionError(f"unknown {kind}")
    elif isinstance(expected, dict):
        for key, item in expected.items():
            assert isinstance(value, dict) and key in value, f"{where}.{key}: not in {value!r}"
            match(value[key], item, f"{where}.{key}")
    elif isinstance(expected, list):
        assert isinstance(value, list) and len(value) == len(expected), f"{where}: {value!r}"
        for i, item in enumerate(expected):
            match(value[i], item, f"{where}[{i}]")
    else:
        assert value == expected and isinstance(value, bool) == isinstance(expected, bool), f"{where}: {value!r} is not {expected!r}"


SPECIAL = {"lone_surrogate": "half \ud800 pair", "large": "x" * (3 << 20), "not_json": float("nan")}


APPLIED = "create table if not exists applied (consumer text, n serial, key text, once int unique deferrable initially deferred)"


def fail_by_raise(conn):
    raise RuntimeError("the effect fails")


def fail_by_catch(conn):
    try:
        conn.execute("select 1 / 0")
    except psycopg.errors.DivisionByZero:
        pass


def fail_by_commit(conn):
    conn.execute("insert into applied (once) values (1), (1)")


FAIL = {"raise": fail_by_raise, "catch": fail_by_catch, "commit": fail_by_commit}


class Runner:
    def __init__(self, dsn):
        self.dsn = dsn
        self.outbox = pg_outbox.Outbox(dsn)

    def enqueue(self, topic, rollback=False, text=None, base64=None, payload=None, content_type=None, **options):
        if text is not None:
            payload, content_type = text, "text/plain; charset=utf-8"
        elif base64 is not None:
            payload = __import__("base64").b64decode(base64)
        with psycopg.connect(self.dsn) as conn:
            id = pg_outbox.enqueue(conn, topic, payload, content_type=content_type, **options)
            if rollback:
                conn.rollback()
        return id

    def enqueue_many(self, topic, payloads, keys=None):
        with psycopg.connect(self.dsn) as conn:
            return pg_outbox.enqueue_many(conn, topic, payloads, keys=keys)

    def call(self, function, args, wait=False):
        end = time.monotonic() + 60
        while True:
            result = getattr(self.outbox, function)(**args)
            if result or not wait or time.monotonic() > end:
                return result
            time.sleep(0.02)

    def read(self, count, topics=None, filter=None, consumer=None, advance=False):
        reader = self.outbox.reader(consumer, topics=topics, filter=filter, poll_interval=0.02)
        found = []
        for message in reader:
            found.append(message)
            if advance:
                reader.advance(message)
            if len(found) == count:
                return found

    def apply(self, consumer, topics=None, after=0, fail=None, until=None):
        assert until in (None, "error") and set(fail or ()) <= {"key", "times", "how"}, (until, fail)
        with psycopg.connect(self.dsn) as conn:
            conn.execute(APPLIED)
        left = fail["times"] if fail else 0

        def effect(conn, messages):
            nonlocal left
            for message in messages:
                if fail and message.key == fail["key"] and left > 0:
                    left -= 1
                    return FAIL[fail.get("how", "raise")](conn)
                conn.execute("insert into applied (consumer, key) values (%s, %s)", [consumer, message.key])

        reader = self.outbox.reader(consumer, topics=topics, after=after, poll_interval=0.02)
        thread = threading.Thread(target=lambda: reader.apply(lambda: psycopg.connect(self.dsn), effect))
        thread.start()
        end = time.monotonic() + 60
        while True:
            cursor = self.outbox.cursor_get(consumer, if_missing=0)
            if cursor.error_position is not None if until == "error" else cursor.lag_positions == 0:
                break
            assert time.monotonic() < end, "waited in vain for the cursor"
            time.sleep(0.02)
        reader.stop()
        thread.join(60)
        with psycopg.connect(self.dsn) as conn:
            return [row[0] for row in conn.execute("select key from applied where consumer = %s order by n", [consumer])]

    def query(self, sql):
        with psycopg.connect(self.dsn) as conn:
            return conn.execute(sql).fetchone()[0]

    def work(self, subscription, count, rules=(), concurrency=1):
        tries, lock = [], threading.Lock()

        def handle(delivery):
            with lock:
                tries.append(delivery)
                if len(tries) >= count:
                    worker.stop()
            for rule in rules:
                if rule.get("key", delivery.key) == delivery.key and rule.get("attempt", delivery.attempt) == delivery.attempt:
                    special = rule.get("special")
                    said = SPECIAL[special] if special in SPECIAL else rule.get("error", rule.get("reason"))
                    if rule["then"] == "complete":
                        return said if special else rule.get("result")
                    if rule["then"] == "fail":
                        raise pg_outbox.Retry(said, float("inf") if special == "endless_wait" else rule.get("retry_after"))
                    if rule["then"] == "dead":
                        raise pg_outbox.Dead(said)
                    assert rule["then"] == "throw", rule
                    raise RuntimeError(said)

        worker = self.outbox.worker(subscription, concurrency=concurrency, poll_interval=0.02)
        worker.run(handle)
        return sorted(tries, key=lambda d: (d.key or "", d.attempt))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda p: p.stem)
def test_scenario(path, dsn):
    runner, saved = Runner(dsn), {}
    for i, step in enumerate(json.loads(path.read_text())["steps"]):
        assert set(step) <= {"description", "do", "args", "expect", "error", "save"}, step
        assert step["do"] in ("enqueue", "enqueue_many", "call", "read", "work", "query", "apply"), step
        args = filled(step["args"], saved)
        where = f"{path.stem} step {i + 1}"
        if "error" in step:
            with pytest.raises(pg_outbox.OutboxError) as caught:
                getattr(runner, step["do"])(**args)
            error = caught.value
            match({"kind": error.kind, "code": error.code, "name": error.name}, step["error"], where)
            continue
        result = plain(getattr(runner, step["do"])(**args))
        if "save" in step:
            saved[step["save"]] = result
        if "expect" in step:
            match(result, filled(step["expect"], saved), where)
