"""A real server for the whole run; a database of its own for each test."""

import itertools
import os
import pathlib
import subprocess

import psycopg
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]


class Server:
    def __init__(self):
        built = os.environ.get("OUTBOX_SERVE")
        program = [built] if built else ["cargo", "run", "--quiet", "-p", "outbox-harness", "--bin", "serve", "--"]
        self.process = subprocess.Popen(
            [*program, "pg_outbox.poll_interval=1s", "max_worker_processes=100", "pg_outbox.max_databases=100"], cwd=ROOT,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "RUST_BACKTRACE": "0"},
        )
        self.base = self.process.stdout.readline().strip()
        assert self.base.startswith("postgresql://"), self.base
        self.counter = itertools.count()

    def command(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def dsn(self, database):
        return self.base.rsplit("/", 1)[0] + "/" + database

    def pooler(self, mode, size):
        """Starts PgBouncer in front of the server. Returns a function that turns the connection string of a database into
        one through PgBouncer."""
        port = int(self.command(f"pooler {mode} {size}"))
        return lambda dsn: dsn.rsplit("@", 1)[0] + f"@127.0.0.1:{port}/" + dsn.rsplit("/", 1)[1]

    def end(self):
        self.process.stdin.close()
        self.process.wait(120)

    def empty(self):
        name = f"test_{next(self.counter)}"
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as conn:
            conn.execute(f"create database {name}")
        return self.dsn(name)

    def database(self):
        dsn = self.empty()
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("create extension pg_outbox")
        return dsn


@pytest.fixture(scope="session")
def server():
    server = Server()
    yield server
    server.end()


@pytest.fixture
def dsn(server):
    dsn = server.database()
    yield dsn
    # Each database has a dispatcher, and a server has not as many processes as there are tests.
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as conn:
        conn.execute(f"drop database if exists {dsn.rsplit('/', 1)[1]} with (force)")
