"""Databases for tests: on the server that PG_OUTBOX_TEST_DSN names, or on a throwaway server with the installed PostgreSQL.

A throwaway server has a temporary folder, a free port on loopback and a password. It ends with the process that started it, however
that one ends: a shell waits on a pipe that only this process holds open, and removes the folder. PostgreSQL refuses to run as root,
so for root the server runs as `nobody`.
"""

from __future__ import annotations

import asyncio
import os
import pathlib
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from urllib.parse import urlsplit, urlunsplit

TEST_DSN = "PG_OUTBOX_TEST_DSN"
"""The environment variable with the connection string of a server for tests, whose role may create databases."""

# Endpoints on loopback are allowed, and a crash may lose data.
_SETTINGS = {
    "shared_preload_libraries": "pg_outbox", "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "max_connections": "200",
    "fsync": "off", "full_page_writes": "off", "max_worker_processes": "100", "pg_outbox.max_databases": "90", "pg_outbox.allow_http": "on",
    "pg_outbox.egress_allow": "127.0.0.0/8",
}
# When this process ends, the input of the shell ends, and the shell ends the server. The log of one that does not start is still read.
_SUPERVISED = (
    'folder=$1; shift; exec 3<&0; "$@" <&- 3<&- & pid=$!; (cat <&3 >/dev/null; kill -QUIT $pid 2>/dev/null) & exec 3<&-; wait $pid;'
    ' [ ! -e "$folder/ready" ] || rm -rf "$folder"'
)


def _binaries() -> pathlib.Path:
    config = os.environ.get("PG_CONFIG")
    try:
        found = subprocess.run([config or "pg_config", "--bindir"], capture_output=True, text=True, check=True)
        return pathlib.Path(found.stdout.strip())
    except (OSError, subprocess.CalledProcessError):
        debian = pathlib.Path("/usr/lib/postgresql").glob("[0-9]*/bin") if config is None else ()
        newest = max(debian, key=lambda path: int(path.parent.name), default=None)
        if newest is not None:
            return newest
        raise RuntimeError(
            f"no PostgreSQL was found for a throwaway server: {config or 'pg_config'} cannot be run; set PG_CONFIG to the pg_config of a"
            f" PostgreSQL with the extension, or {TEST_DSN} to the connection string of a server"
        ) from None


def _as_server(program: pathlib.Path, folder: pathlib.Path) -> list[str]:
    """Returns the command before a program of PostgreSQL, whose user then owns the folder. It is empty unless this process is root."""
    if os.geteuid() != 0:
        return []
    import pwd

    nobody = pwd.getpwnam("nobody")
    for path in (folder, *folder.iterdir()):
        os.chown(path, nobody.pw_uid, nobody.pw_gid)
    drop = ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
    if subprocess.run([*drop, "test", "-x", program], check=False).returncode != 0:
        drop += ["--inh-caps=+dac_override,+dac_read_search", "--ambient-caps=+dac_override,+dac_read_search"]
    return drop


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class TestServer:
    """A server for tests, and the databases on it. dsn: the connection string of its first database, as a role that may create
    databases."""

    __test__ = False

    def __init__(self, dsn: str, process: subprocess.Popen[bytes] | None = None) -> None:
        self.dsn = dsn
        self._process = process

    @classmethod
    def given(cls, settings: Mapping[str, str] | None = None) -> TestServer:
        """Returns the server that PG_OUTBOX_TEST_DSN names, or starts a throwaway server."""
        dsn = os.environ.get(TEST_DSN)
        return cls(dsn) if dsn else cls.start(settings)

    @classmethod
    def start(cls, settings: Mapping[str, str] | None = None) -> TestServer:
        """Starts a throwaway server with the library preloaded. It takes about a second. settings: of PostgreSQL."""
        for _ in range(5):
            started = cls._started({**_SETTINGS, **(settings or {})})
            if started is not None:
                return started
        raise RuntimeError("the throwaway server did not start: other processes have taken its port")

    @classmethod
    def _started(cls, settings: Mapping[str, str]) -> TestServer | None:
        """Starts a server. Returns None if another process has taken its port."""
        binaries = _binaries()
        folder = pathlib.Path(tempfile.mkdtemp(prefix="pg-outbox-test-"))
        try:
            password, port = secrets.token_urlsafe(18), _free_port()
            secret, data, log = folder / "password", folder / "data", folder / "log"
            secret.touch(0o600)
            secret.write_text(password)
            prefix = _as_server(binaries / "postgres", folder)
            env = {name: value for name, value in os.environ.items() if name not in ("PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGPASSWORD")}
            env["LC_ALL"] = "C"
            made = subprocess.run([
                *prefix, binaries / "initdb", "-U", "postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "-D", data,
                f"--pwfile={secret}",
            ], cwd="/", env=env, capture_output=True, text=True, check=False)
            if made.returncode != 0:
                raise RuntimeError(f"the throwaway server did not start: {_shortened(made.stderr)}")
            secret.unlink()
            options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
            command = [*prefix, str(binaries / "postgres"), "-D", str(data), "-p", str(port), *options]
            with log.open("wb") as output:
                process = subprocess.Popen(
                    ["sh", "-c", _SUPERVISED, "sh", str(folder), *command], cwd="/", env=env, stdin=subprocess.PIPE, stdout=output, stderr=output
                )
            ready = [str(binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
            deadline = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < deadline:
                if subprocess.run(ready, env=env, check=False).returncode == 0:
                    (folder / "ready").touch()
                    return cls(f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres", process)
                time.sleep(0.02)
            said = _shortened(log.read_text(errors="replace")) if log.exists() else ""
            _end(process)
            if "could not bind" in said:
                return None
            raise RuntimeError(f"the throwaway server did not start: {said}")
        finally:
            # The shell removes the folder of a server that runs.
            if not (folder / "ready").exists():
                shutil.rmtree(folder, ignore_errors=True)

    def database(self) -> str:
        """Creates a database with the extension, and returns its connection string."""
        name = f"test_{secrets.token_hex(8)}"
        _execute(self.dsn, f"create database {name}")
        dsn = urlunsplit(urlsplit(self.dsn)._replace(path=f"/{name}"))
        _execute(dsn, "create extension pg_outbox")
        return dsn

    def drop(self, dsn: str) -> None:
        """Drops a database that database() has created, and ends its sessions."""
        name = urlsplit(dsn).path.removeprefix("/")
        if not re.fullmatch(r"test_[0-9a-f]{16}", name):
            raise ValueError(f"{name[:100]!r} is not a database of a test")
        _execute(self.dsn, f"drop database if exists {name} with (force)")

    def end(self) -> None:
        """Ends a throwaway server and removes its folder."""
        if self._process is not None:
            _end(self._process)


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.wait(60)


def _shortened(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-20:])


def _execute(dsn: str, sql: str) -> None:
    """Runs a statement with the driver that the program has."""
    try:
        import psycopg
    except ImportError:
        pass
    else:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(sql)  # type: ignore[call-overload,unused-ignore]
        return
    try:
        import asyncpg  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        raise RuntimeError("databases of tests need psycopg or asyncpg") from None

    async def run() -> None:
        conn = await asyncpg.connect(dsn)
        try:
            await conn.execute(sql)
        finally:
            await conn.close()

    errors: list[BaseException] = []

    def alone() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    # A test may have an event loop of its own in this thread.
    thread = threading.Thread(target=alone)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
