"""Providers of master keys over the network: OpenBao, which has the interface of Vault, a double that answers badly, and KMS."""

import base64
import http.server
import json
import secrets
import threading
import time

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
from vault import Vault as OpenBao

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


@pytest.mark.parametrize(("head", "drop"), [(None, b""), (200, b""), (503, b""), (200, b" "), (503, b" ")])
def test_vault_never_ends_its_answer(vault, monkeypatch, head, drop):
    ended = threading.Event()

    def drip(handler):
        if head is not None:
            handler.send_response(head)
            handler.end_headers()
        while not ended.wait(0.1):
            handler.wfile.write(drop)

    monkeypatch.setattr(Vault, "do_POST", drip)
    started = time.monotonic()
    try:
        with pytest.raises(KeyUnavailableError, match="does not answer"):
            VaultKeys(timeout=0.5).wrap(b"\7" * 32, "m1")
        assert time.monotonic() - started < 10
    finally:
        ended.set()


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


@pytest.fixture(scope="module")
def openbao():
    server = OpenBao()
    yield server
    server.end()


@pytest.fixture
def transit(openbao, monkeypatch):
    monkeypatch.setenv("VAULT_ADDR", openbao.address)
    monkeypatch.setenv("VAULT_TOKEN", "root")
    return openbao


def test_keys_of_vault_are_rotated_and_retired(dsn, transit):
    keys = VaultKeys()
    old = keys.wrap(b"\7" * 32, "m1")
    transit.ask("transit/keys/m1/rotate")
    new = keys.wrap(b"\7" * 32, "m1")
    assert old.startswith(b"vault:v1:") and new.startswith(b"vault:v2:") and keys.unwrap(old, "m1") == keys.unwrap(new, "m1") == b"\7" * 32
    store = EventStore(encryption=FieldEncryption(keys, {"p": ["name"]}, master_key="m1"))
    with psycopg.connect(dsn) as conn:
        store.append(conn, "p-1", [NewEvent("p", {"name": "Ada"})])
        assert store.load(conn, "p-1")[0].data == {"name": "Ada"}
    transit.ask("transit/keys/m1/config", {"min_decryption_version": 2})
    assert keys.unwrap(new, "m1") == b"\7" * 32
    with pytest.raises(EncryptionError, match="refused to decrypt"):
        keys.unwrap(old, "m1")
    for damaged in (b"vault:v9:AAAA", b"vault:v1", b"AAAA", new[:-8] + b"AAAAAAA=", b"vault:v2:%"):
        with pytest.raises(EncryptionError):
            keys.unwrap(damaged, "m1")


def test_vault_refuses(transit):
    with pytest.raises(KeyNotFoundError):
        VaultKeys().unwrap(b"vault:v1:AAAA", "none")
    transit.ask("transit/keys/m2")
    user = VaultKeys(token="user")
    assert user.unwrap(user.wrap(b"\7" * 32, "m2"), "m2") == b"\7" * 32
    for keys, name in ((user, "none"), (VaultKeys(token="wrong"), "m2")):
        with pytest.raises(EncryptionError, match="403"):
            keys.wrap(b"\7" * 32, name)
    with pytest.raises(KeyNotFoundError):
        VaultKeys(mount="elsewhere").wrap(b"\7" * 32, "m2")
    team = VaultKeys(namespace="team", mount="team-transit")
    assert team.unwrap(team.wrap(b"\7" * 32, "m2"), "m2") == b"\7" * 32
    with pytest.raises(EncryptionError):
        team.unwrap(user.wrap(b"\7" * 32, "m2"), "m2")
    transit.ask("sys/seal")
    with pytest.raises(KeyUnavailableError) as caught:
        user.wrap(b"\7" * 32, "m2")
    assert caught.value.kind == "retry"
    transit.unseal()
    user.wrap(b"\7" * 32, "m2")


def test_kms_over_http(monkeypatch):
    """A server of moto, over HTTP, with what Node has wrapped."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        import boto3

        client = boto3.client(
            "kms", endpoint_url=f"http://{host}:{port}", region_name="eu-central-1", aws_access_key_id="test", aws_secret_access_key="test"
        )
        key = client.create_key()["KeyMetadata"]["KeyId"]
        client.create_alias(AliasName="alias/events", TargetKeyId=key)
        keys = KmsKeys(client)
        for name in (key, "alias/events"):
            assert keys.unwrap(keys.wrap(b"\7" * 32, name), name) == b"\7" * 32
        # Every client binds a data key to this.
        other = client.encrypt(KeyId=key, Plaintext=b"\7" * 32, EncryptionContext={"pg_outbox": "key.v1"})["CiphertextBlob"]
        assert keys.unwrap(other, key) == b"\7" * 32
        unbound = client.encrypt(KeyId=key, Plaintext=b"\7" * 32)["CiphertextBlob"]
        with pytest.raises(EncryptionError, match="refused to decrypt"):
            keys.unwrap(unbound, key)
        with pytest.raises(KeyNotFoundError):
            keys.wrap(b"\7" * 32, "alias/none")
    finally:
        server.stop()
    with pytest.raises(KeyUnavailableError) as caught:
        keys.wrap(b"\7" * 32, key)
    assert caught.value.kind == "retry"
