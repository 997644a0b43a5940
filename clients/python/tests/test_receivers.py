"""The receivers of docs/receivers.md, unchanged, get real deliveries."""

import gzip
import os
import pathlib
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pg_outbox
import psycopg
import pytest
from conftest import Server
from pg_outbox.webhooks import sign

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PAGE = (pathlib.Path(__file__).resolve().parents[3] / "docs/receivers.md").read_text()
PROGRAMS = dict(re.findall(r"^```python (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
BYTES = bytes(i * 7 % 256 for i in range(5000))
BODIES = [
    ({"amount": 1.1, "note": "é"}, None),
    ({"text": "Zoë " * 1000}, None),
    ("<a>ü</a>" * 200, "application/xml"),
    (BYTES, "application/octet-stream"),
    (b"\xff\xfe\x00", "application/octet-stream"),
    (b"a=1&b=2", "application/x-www-form-urlencoded"),
    (gzip.compress(BYTES), "application/gzip"),
]


def test_there_is_one_for_each_framework():
    assert list(PROGRAMS) == ["fastapi", "flask", "django"]


def wait_for(what, check):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if found := check():
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited in vain until {what}")


def post(url, headers, body):
    request = urllib.request.Request(url, body, {"content-type": "application/json", **headers}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def printed(out):
    """Returns the sizes that were printed. Flask prints other lines, too."""
    return [int(size) for size in re.findall(r"^msg_\w+ (\d+)$", out.read_text(), re.MULTILINE)]


def headers(body, **more):
    now = int(time.time())
    signed = {"webhook-id": "msg_x", "webhook-timestamp": str(now), "webhook-signature": sign(SECRET, "msg_x", now, body)}
    return {**signed, **{name.replace("_", "-"): value for name, value in more.items()}}


@pytest.fixture(scope="module")
def pushing():
    """A server for these tests only. The number of databases with a dispatcher is limited, and other tests create many."""
    server = Server()
    yield server
    server.end()


@pytest.mark.parametrize("name", PROGRAMS)
def test_receiver(name, pushing, tmp_path):
    dsn = pushing.database()
    (tmp_path / f"{name}_receiver.py").write_text(PROGRAMS[name])
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with (tmp_path / "out").open("w+") as out:
        process = subprocess.Popen(
            [sys.executable, tmp_path / f"{name}_receiver.py"], stdout=out, stderr=subprocess.DEVNULL,
            env={**os.environ, "SECRET": SECRET, "PORT": str(port)},
        )
        try:
            check(f"http://127.0.0.1:{port}/hooks", dsn, tmp_path / "out")
        finally:
            process.kill()
            process.wait()


def check(url, dsn, out):
    wait_for("it listens", lambda: post(url, {}, b"{}"))
    with pg_outbox.Outbox(dsn) as outbox, psycopg.connect(dsn, autocommit=True) as conn:
        seen = {}
        for endpoint, compress in (("plain", False), ("packed", True)):
            # Requests are sent one at a time, because the output of concurrent threads would be mixed.
            outbox.create_endpoint(endpoint, url, secret=SECRET, compress=compress, concurrency=1)
            outbox.subscribe(endpoint, [endpoint], endpoint=endpoint, max_attempts=1)
            before = len(printed(out))
            for payload, content_type in BODIES:
                pg_outbox.enqueue(conn, endpoint, payload, content_type=content_type)
            attempts = f"""select a.outcome, a.status, a.response_body from outbox.attempt_log a
                join outbox.message m on m.id = a.message_id where m.topic = '{endpoint}'"""
            wait_for("all were tried", lambda: len(conn.execute(attempts).fetchall()) == len(BODIES))
            assert [row for row in conn.execute(attempts) if row[0] != "completed"] == []
            wait_for("all were printed", lambda: len(printed(out)) == before + len(BODIES))
            seen[endpoint] = sorted(printed(out)[before:])
    # The receiver sees the decoded content.
    assert seen["plain"] == seen["packed"]
    assert {1800, 5000, 3, 7, len(BODIES[-1][0])} <= set(seen["plain"])
    # Requests that pg_outbox would not send.
    content = b'{"x": 1}'.ljust(2000)
    packed = gzip.compress(content)
    for body, more, status in (
        (content, {}, 204),
        (packed, {"content_encoding": "gzip"}, 204),
        (content, {"content_encoding": "gzip"}, 204),
        (content + b" ", {}, 401),
        (packed, {}, 401),
        (packed[:-1], {"content_encoding": "gzip"}, 401),
        (packed * 2, {"content_encoding": "gzip"}, 401),
        (content, {"webhook_signature": "v1,AAAA " * 500}, 401),
        (gzip.compress(bytes(200 << 20)), {"content_encoding": "gzip"}, 413),
        (content, {}, 204),
    ):
        assert post(url, headers(content, **more), body) == status, (body[:40], more)


def test_verify_gives_the_content_within_a_limit():
    content = '{"n": "ü"}'.encode() * 100
    signed = headers(content, content_encoding="GZip")
    found = pg_outbox.verify(SECRET, signed, gzip.compress(content))
    assert (found.id, found.body, found.text()) == ("msg_x", content, content.decode())
    assert pg_outbox.verify(SECRET, headers(b"[1]"), b"[1]").json() == [1]
    with pytest.raises(pg_outbox.InvalidError) as caught:
        pg_outbox.verify(SECRET, signed, gzip.compress(content), limit=len(content) - 1)
    assert (caught.value.code, caught.value.name) == ("54000", "too_large")
    for body in (b"\xff", b"{", b"[" * 200_000):
        with pytest.raises(pg_outbox.InvalidError):
            pg_outbox.verify(SECRET, headers(body), body).json()
