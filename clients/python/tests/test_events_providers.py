"""Providers of master keys over the network: a server with the interface of Vault's transit engine, and KMS."""

import base64
import http.server
import json
import secrets
import threading

import psycopg
import pytest
from pg_outbox.events import (
    EncryptionError,
    EventStore,
    FieldEncryption,
    KeyNotFoundError,
    KeyUnavailableError,
    KmsKeys,
    LocalKeys,
    NewEvent,
    VaultKeys,
)

LOCAL = LocalKeys({"m1": secrets.token_bytes(32), "a/b": secrets.token_bytes(32)})


class Vault(http.server.BaseHTTPRequestHandler):
    status, raw, seen = 200, None, []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        Vault.seen.append((self.path, self.headers["x-vault-token"], self.headers["x-vault-namespace"]))
        _, _, mount, what, name = self.path.split("/")
        name = name.replace("%2F", "/")
        status, answer = self.status, {"errors": []}
        if status == 200 and (mount != "transit" or name not in ("m1", "a/b")):
            status, answer = 400, {"errors": ["encryption key not found"]}
        elif status == 200 and what == "encrypt":
            sealed = LOCAL.wrap(base64.b64decode(body["plaintext"]), name)
            answer = {"data": {"ciphertext": "vault:v1:" + base64.b64encode(sealed).decode()}}
        elif status == 200:
            try:
                key = LOCAL.unwrap(base64.b64decode(body["ciphertext"].removeprefix("vault:v1:")), name)
                answer = {"data": {"plaintext": base64.b64encode(key).decode()}}
            except (EncryptionError, ValueError):
                status, answer = 400, {"errors": ["cipher: message authentication failed"]}
        content = json.dumps(answer).encode() if self.raw is None else self.raw
        self.send_response(status)
        if status == 307:
            self.send_header("location", "http://127.0.0.1:1/")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def vault(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Vault)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    Vault.status, Vault.raw, Vault.seen = 200, None, []
    monkeypatch.setenv("VAULT_ADDR", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("VAULT_TOKEN", "s.secret")
    yield VaultKeys(namespace="team")
    server.shutdown()
    server.server_close()
    thread.join()


def test_vault_wraps_and_unwraps(vault):
    for name in ("m1", "a/b"):
        wrapped = vault.wrap(b"\7" * 32, name)
        assert wrapped.startswith(b"vault:v1:") and vault.unwrap(wrapped, name) == b"\7" * 32
    assert Vault.seen[0] == ("/v1/transit/encrypt/m1", "s.secret", "team") and "s.secret" not in repr(vault)
    with pytest.raises(EncryptionError, match="refused to decrypt"):
        vault.unwrap(vault.wrap(b"\7" * 32, "m1"), "a/b")
    with pytest.raises(KeyNotFoundError, match='no key "none"'):
        vault.wrap(b"\7" * 32, "none")


def test_vault_answers_badly(vault):
    for status, error in ((503, KeyUnavailableError), (429, KeyUnavailableError), (403, EncryptionError), (307, EncryptionError)):
        Vault.status = status
        with pytest.raises(error) as caught:
            vault.wrap(b"\7" * 32, "m1")
        assert str(status) in str(caught.value) and "secret" not in str(caught.value)
    Vault.status = 200
    for raw in (b"", b"[]", b"{}", b'{"data": 1}', b'{"data": {"ciphertext": 5, "plaintext": "AAAA"}}', b" " * 70_000):
        Vault.raw = raw
        for call in (lambda: vault.wrap(b"\7" * 32, "m1"), lambda: vault.unwrap(b"vault:v1:AAAA", "m1")):
            with pytest.raises(EncryptionError):
                call()
    with pytest.raises(KeyUnavailableError) as caught:
        VaultKeys("http://127.0.0.1:1").wrap(b"\7" * 32, "m1")
    assert caught.value.kind == "retry"
    with pytest.raises(EncryptionError, match="no URL"):
        VaultKeys("file:///etc/passwd")


async def test_events_with_keys_of_vault(dsn, vault):
    store = EventStore(encryption=FieldEncryption(
        vault, {"p": ["name"]}, master_key="m1", per="subject", subject=lambda event: event.data["id"],
    ))
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        await store.append(conn, "p-1", [NewEvent("p", {"id": "a", "name": "Ada"})] * 1)
        await store.append(conn, "p-1", [NewEvent("p", {"id": "a", "name": "Bob"})])
        assert [event.data["name"] for event in await store.load(conn, "p-1")] == ["Ada", "Bob"]
    assert [path for path, _, _ in Vault.seen].count("/v1/transit/decrypt/m1") == 1, "the data key is in memory"
    Vault.status = 503
    store._encryption.forget()
    with psycopg.connect(dsn) as conn, pytest.raises(KeyUnavailableError):
        store.load(conn, "p-1")


def test_kms(monkeypatch, dsn):
    moto = pytest.importorskip("moto")
    boto3 = pytest.importorskip("boto3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with moto.mock_aws():
        key = boto3.client("kms").create_key()["KeyMetadata"]["KeyId"]
        keys = KmsKeys()
        wrapped = keys.wrap(b"\7" * 32, key)
        assert keys.unwrap(wrapped, key) == b"\7" * 32
        store = EventStore(encryption=FieldEncryption(keys, {"p": ["name"]}, master_key=key))
        with psycopg.connect(dsn) as conn:
            store.append(conn, "p-1", [NewEvent("p", {"name": "Ada"})])
            assert store.load(conn, "p-1")[0].data == {"name": "Ada"} and store.load_raw(conn, "p-1")[0].data["name"] != "Ada"
        with pytest.raises(KeyNotFoundError):
            keys.wrap(b"\7" * 32, "00000000-0000-0000-0000-000000000000")
        with pytest.raises(EncryptionError):
            keys.unwrap(b"damaged" * 20, key)


def test_the_token_of_vault_is_in_no_error(vault, monkeypatch):
    monkeypatch.setenv("VAULT_TOKEN", "s.secret\n")
    assert vault.unwrap(vault.wrap(b"\7" * 32, "m1"), "m1") == b"\7" * 32
    assert Vault.seen[-1][1] == "s.secret"
    for token in ("s.secret\nx", "s.sécret", "s.secret\0"):
        with pytest.raises(EncryptionError) as caught:
            VaultKeys(token=token).wrap(b"\7" * 32, "m1")
        assert "secret" not in str(caught.value) and caught.value.__cause__ is None and caught.value.__context__ is None
