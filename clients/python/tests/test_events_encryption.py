"""Encryption of fields: the formats that all clients share, and what wrong, lost and revoked keys do."""

import asyncio
import base64
import dataclasses
import json
import pathlib
import secrets

import asyncpg
import pg_outbox
import psycopg
import pydantic
import pytest
from pg_outbox import _core
from pg_outbox.events import (
    Aggregate,
    EncryptionError,
    EventRegistry,
    EventStore,
    FieldEncryption,
    KeyNotFoundError,
    KeyRevokedError,
    KeyUnavailableError,
    LocalKeys,
    MessagePack,
    NewEvent,
    Protobuf,
    Repository,
    SchemaError,
    Upcasters,
)

VECTORS = json.loads((pathlib.Path(__file__).resolve().parents[3] / "tests/conformance/vectors/encryption.json").read_text())
MASTER = bytes(range(32))
FIELDS = {"customer.named": ["name", "address.street"]}

registry = EventRegistry()


@registry.event("customer.named")
class Named(pydantic.BaseModel):
    customer: str
    name: str
    since: int = 2026
    address: dict[str, str | None] = {}


@registry.event("customer.left")
@dataclasses.dataclass
class Left:
    customer: str
    why: str


def named(i=1):
    return Named(customer=f"c{i}", name="Ada Ångström", address={"street": "Rue 1", "city": "Paris"})


def encrypted(**options):
    options = {"master_key": "m1", "cache_seconds": 0, **options}
    return EventStore(registry, encryption=FieldEncryption(LocalKeys({"m1": MASTER, "m2": MASTER[::-1]}), FIELDS, **options))


def per_subject(**options):
    return encrypted(per="subject", subject=lambda event: event.data.customer, **options)


@pytest.mark.parametrize("vector", VECTORS["fields"], ids=lambda v: v["note"])
def test_fields_are_those_of_the_vectors(vector):
    key, data = bytes.fromhex(vector["key"]), json.dumps(vector["data"])
    entropy = b"".join(map(bytes.fromhex, vector["nonces"]))
    entropy += b"\xee" * (12 * len(vector["paths"]) - len(entropy))
    done, paths = _core.encrypt_fields(key, vector["stream"], vector["type"], data, vector["paths"], entropy)
    assert json.loads(done) == vector["encrypted"] and paths == vector["encrypted_fields"]
    assert json.loads(_core.decrypt_fields(key, vector["stream"], vector["type"], done, paths)) == vector["data"]


@pytest.mark.parametrize("vector", VECTORS["undecryptable"], ids=lambda v: v["note"])
def test_what_the_vectors_refuse(vector):
    with pytest.raises(pg_outbox.InvalidError, match="cannot be decrypted"):
        _core.decrypt_fields(
            bytes.fromhex(vector["key"]), vector["stream"], vector["type"], json.dumps(vector["encrypted"]), vector["paths"]
        )


def test_wrapped_keys_are_those_of_the_vectors():
    wrapped = next(value for value in VECTORS.values() if isinstance(value, list) and value and isinstance(value[0], dict) and "wrapped" in value[0])
    for vector in wrapped:
        master, key = bytes.fromhex(vector["master"]), bytes.fromhex(vector["data_key"])
        made = _core.wrap_key(master, key, vector["master_key"], bytes.fromhex(vector["nonce"]))
        assert made.hex() == vector["wrapped"] and _core.unwrap_key(master, made, vector["master_key"]) == key


def test_malformed_paths_are_those_of_the_vectors():
    for paths in VECTORS["malformed_paths"]:
        with pytest.raises(EncryptionError):
            FieldEncryption(LocalKeys({"m": MASTER}), {"a": paths}, master_key="m")


@pytest.mark.parametrize("vector", VECTORS["upcasters"], ids=lambda v: v["note"])
def test_chains_of_upcasters_are_those_of_the_vectors(vector):
    chains = Upcasters()

    def build():
        for name, version in vector["upcasters"]:
            chains.add(name, version, lambda data: data)
        chains.check()

    if "error" in vector:
        with pytest.raises(SchemaError) as caught:
            build()
        assert caught.value.message == vector["error"]
        return
    build()
    assert {name: chains.latest(name) for name in vector["latest"]} == vector["latest"]
    for name, version, steps in vector["steps"]:
        assert list(chains.steps(name, version)) == steps
    for name, version, message in vector.get("refused", []):
        with pytest.raises(SchemaError) as caught:
            chains.steps(name, version)
        assert caught.value.message == message


@pytest.mark.parametrize("make", [encrypted, per_subject])
def test_fields_are_encrypted_in_the_database_and_come_back(dsn, make):
    store = make()
    with psycopg.connect(dsn) as conn:
        store.append(conn, "customer-1", [named(), Left("c1", "tired")])
        assert [event.data for event in store.load(conn, "customer-1")] == [named(), Left("c1", "tired")]
        stored = store.load_raw(conn, "customer-1")[0]
        text = conn.execute("select string_agg(m::text, '') from outbox.message m").fetchone()[0]
    assert "Ada" not in text and "Rue" not in text and "Paris" in text
    assert stored.data["name"].startswith("v1.") and stored.metadata["encrypted_fields"] == FIELDS["customer.named"]
    assert ("key_id" in stored.metadata) == (make is per_subject) and ("wrapped_key" in stored.metadata) == (make is encrypted)
    with psycopg.connect(dsn) as conn:
        assert make().load(conn, "customer-1")[0].data == named(), "another process reads it too"


async def test_async_connections(dsn):
    for store, stream in ((encrypted(), "customer-1"), (per_subject(), "customer-2")):
        conn = await asyncpg.connect(dsn)
        async with conn.transaction():
            await store.append(conn, stream, [named()])
        assert (await store.load(conn, stream))[0].data == named()
        await conn.close()
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        assert (await per_subject().load(conn, "customer-2"))[0].data == named()


def test_an_independent_implementation_reads_it(dsn):
    aesgcm = pytest.importorskip("cryptography.hazmat.primitives.ciphers.aead").AESGCM
    store = encrypted()
    with psycopg.connect(dsn) as conn:
        store.append(conn, "customer-1", [named()])
        event = store.load_raw(conn, "customer-1")[0]
    wrapped = base64.b64decode(event.metadata["wrapped_key"])
    key = aesgcm(MASTER).decrypt(wrapped[:12], wrapped[12:], b"pg_outbox.key.v1\0m1")
    text = event.data["name"][3:]
    sealed = base64.b64decode(text + "=" * (-len(text) % 4))
    plain = aesgcm(key).decrypt(sealed[:12], sealed[12:], b"pg_outbox.field.v1\0customer-1\0customer.named\0name")
    assert json.loads(plain) == "Ada Ångström"


def test_a_key_per_subject_is_made_once_and_not_lost_by_a_rollback(dsn):
    store = per_subject(cache_seconds=60)
    with psycopg.connect(dsn) as conn:
        store.append(conn, "customer-1", [named()])
        store.append(conn, "customer-1", [named()])
        conn.rollback()
        store.append(conn, "customer-1", [named()])
        store.append(conn, "customer-2", [named(), named(2)])
    with psycopg.connect(dsn) as conn:
        keys = [event.metadata["key_id"] for stream in ("customer-1", "customer-2") for event in store.load(conn, stream)]
        assert keys[0] == keys[1] != keys[2]
        assert [event.data for event in per_subject().load(conn, "customer-2")] == [named(), named(2)]


def test_sessions_that_make_a_key_at_the_same_time(dsn):
    import threading

    barrier = threading.Barrier(4)

    def write(i):
        with psycopg.connect(dsn) as conn:
            barrier.wait(60)
            per_subject().append(conn, f"customer-{i}", [named()])

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with psycopg.connect(dsn) as conn:
        assert [per_subject().load(conn, f"customer-{i}")[0].data for i in range(4)] == [named()] * 4
        conn.execute("select outbox.revoke_subject_keys('c1', reason => 'asked for')")
        assert all(per_subject().load(conn, f"customer-{i}")[0].redacted for i in range(4))


def test_a_revoked_key_redacts_its_events(dsn):
    store = per_subject()
    with psycopg.connect(dsn, autocommit=True) as conn:
        store.append(conn, "customer-1", [named(), named(2), Left("c1", "x")])
        conn.execute("select outbox.revoke_subject_keys('c1', reason => 'asked for')")
        first, second, third = store.load(conn, "customer-1")
        assert first.redacted and first.data.name is None and first.data.address == {"street": None, "city": "Paris"}
        assert first.data.customer == "c1" and isinstance(first.data, Named)
        assert not second.redacted and second.data == named(2) and not third.redacted
        seen = []

        def decide(event, error):
            seen.append((event.version, type(error)))
            return {"forgotten": event.data["customer"]}

        event = per_subject(on_undecryptable=decide).load(conn, "customer-1")[0]
        assert event.data == {"forgotten": "c1"} and event.redacted and seen == [(1, KeyRevokedError)]
        store.append(conn, "customer-1", [named()])
        assert store.load(conn, "customer-1", 4)[0].data == named(), "new events get a new key"
        kept = per_subject(cache_seconds=60)
        assert kept.load(conn, "customer-1", 2)[0].data == named(2)
        conn.execute("select outbox.revoke_subject_keys('c2', reason => 'asked for')")
        assert kept.load(conn, "customer-1", 2)[0].redacted, "the server is asked, also where the key is in memory"


def test_wrong_lost_and_hostile_keys(dsn):
    with psycopg.connect(dsn, autocommit=True) as conn:
        encrypted().append(conn, "customer-1", [named()])
        other = EventStore(registry, encryption=FieldEncryption(LocalKeys({"m1": b"\1" * 32}), FIELDS, master_key="m1"))
        with pytest.raises(EncryptionError, match="cannot be decrypted"):
            other.load(conn, "customer-1")
        none = EventStore(registry, encryption=FieldEncryption(LocalKeys({}), FIELDS, master_key="m1"))
        with pytest.raises(KeyNotFoundError, match='no master key "m1"') as caught:
            none.load(conn, "customer-1")
        assert isinstance(caught.value, pg_outbox.NotFoundError) and isinstance(caught.value, pg_outbox.OutboxError)
        with pytest.raises(KeyNotFoundError):
            none.append(conn, "customer-1", [named()])
        # The ciphertext of one stream does not open in another one.
        conn.execute("""select outbox.append('customer-2', e.type, e.data, metadata => e.metadata) from outbox.load('customer-1') e""")
        with pytest.raises(EncryptionError, match="cannot be decrypted"):
            encrypted().load(conn, "customer-2")
        for i, metadata in enumerate((
            {"encrypted_fields": "name"}, {"encrypted_fields": ["name"]}, {"encrypted_fields": [1]}, {"encrypted_fields": ["x"] * 1001},
            {"encrypted_fields": ["name"], "key_id": "none"}, {"encrypted_fields": ["name"], "wrapped_key": "??", "master_key": "m1"},
            {"encrypted_fields": ["name"], "wrapped_key": "AAAA", "master_key": "m1"},
            {"encrypted_fields": ["name"], "wrapped_key": 1, "master_key": {}}, {"encrypted_fields": ["a..b"], "key_id": 1},
        )):
            EventStore().append(conn, f"bad-{i}", [NewEvent("customer.named", {"name": "v1.AAAA", "customer": "x"}, metadata=metadata)])
            with pytest.raises(EncryptionError):
                encrypted().load(conn, f"bad-{i}")
        with pytest.raises(EncryptionError, match="no subject"):
            encrypted(per="subject", subject=lambda event: "").append(conn, "customer-1", [named()])


def test_keys_are_read_from_the_environment_and_files(monkeypatch, tmp_path):
    key = secrets.token_bytes(32)
    monkeypatch.setenv("KEY", base64.b64encode(key).decode())
    (tmp_path / "raw").write_bytes(key)
    (tmp_path / "hex").write_text(key.hex() + "\n")
    for keys in (LocalKeys.from_env({"m": "KEY"}), LocalKeys.from_files({"m": tmp_path / "raw"}), LocalKeys.from_files({"m": tmp_path / "hex"})):
        assert LocalKeys({"m": key}).unwrap(keys.wrap(b"\7" * 32, "m"), "m") == b"\7" * 32
        assert key.hex() not in repr(keys)
    for value in ("", "short", "x" * 32, "ß" * 40, "zz" * 32):
        monkeypatch.setenv("KEY", value)
        with pytest.raises(EncryptionError, match="malformed master key"):
            LocalKeys.from_env({"m": "KEY"})
    with pytest.raises(EncryptionError):
        LocalKeys({"m": b"short"})


def test_tenants_have_master_keys_and_keys_are_wrapped_again(dsn):
    from pg_outbox.events import event_context

    store = per_subject(master_key=lambda tenant: "m2" if tenant == "two" else "m1")
    with psycopg.connect(dsn) as conn:
        with event_context(tenant="two"):
            store.append(conn, "customer-1", [named()])
        store.append(conn, "customer-2", [named(2)])
        assert conn.execute("select subject, master_key from outbox.subject_keys('c1')").fetchall() == [("c1", "m2")]
        assert store._encryption is not None
        assert store._encryption.rewrap(conn, "c1", "m1") == 1
        assert conn.execute("select master_key from outbox.subject_keys('c1')").fetchone() == ("m1",)
        assert store.load(conn, "customer-1")[0].data == named()


def test_other_serializers(dsn):
    pytest.importorskip("msgpack")
    keys = FieldEncryption(LocalKeys({"m1": MASTER}), FIELDS, master_key="m1")
    packed = EventStore(registry, serializer=MessagePack(), encryption=keys)
    with psycopg.connect(dsn) as conn:
        packed.append(conn, "customer-1", [named()])
        assert packed.load(conn, "customer-1")[0].data == named()
        assert b"Ada" not in conn.execute("select body from outbox.load('customer-1')").fetchone()[0]
        with pytest.raises(SchemaError, match="cannot be encrypted"):
            EventStore(registry, serializer=Protobuf(), encryption=keys).append(conn, "customer-1", [named()])


def test_settings_are_checked():
    with pytest.raises(ValueError, match="snapshots"):
        Repository(encrypted(), Aggregate, snapshot_every=1)
    Repository(encrypted(), Aggregate, snapshot_every=1, plain_snapshots=True)
    for options in ({"per": "other"}, {"per": "subject"}, {"subject": lambda event: "x"}, {"cache_size": 0}, {"cache_seconds": -1}):
        with pytest.raises(ValueError):
            encrypted(**options)


async def test_a_provider_that_waits_does_not_block_the_loop(dsn):
    import time

    class Slow(LocalKeys):
        waits = True

        def wrap(self, data_key, master_key):
            time.sleep(0.3)
            return super().wrap(data_key, master_key)

    store = EventStore(registry, encryption=FieldEncryption(Slow({"m1": MASTER}), FIELDS, master_key="m1"))
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        await store.append(conn, "customer-1", [named()])
        assert (await store.load(conn, "customer-1"))[0].data == named()
    ticking.cancel()
    assert ticks >= 5


def test_a_failure_that_passes_redacts_nothing(dsn):
    class Away(LocalKeys):
        error = TimeoutError("of a socket")

        def unwrap(self, wrapped, master_key):
            if self.error is not None:
                raise self.error
            return super().unwrap(wrapped, master_key)

    keys, asked = Away({"m1": MASTER}), []
    made = EventStore(registry, encryption=FieldEncryption(
        keys, FIELDS, master_key="m1", cache_seconds=0, on_undecryptable=lambda event, error: asked.append(error) or {}))
    with psycopg.connect(dsn) as conn:
        made.append(conn, "customer-1", [named()])
        ((event, content),) = asyncio.run(_pages(made, conn))
        with pytest.raises(KeyUnavailableError) as caught:
            asyncio.run(made.decoded(False, made.lookup(conn), event, content))
        assert isinstance(caught.value, pg_outbox.RetryError) and caught.value.kind == "retry" and not event.redacted
        keys.error = None
        assert asyncio.run(made.decoded(False, made.lookup(conn), event, content)).data == named() and not event.redacted
        EventStore().append(conn, "lost-1", [NewEvent("customer.named", {"name": "v1.AAAA"}, metadata={"encrypted_fields": ["name"], "key_id": "none"})])
        conn.commit()
        with pytest.raises(KeyNotFoundError):
            made.load(conn, "lost-1")
        conn.rollback()
        assert asked == [], "neither is a decision of the program"

    def refuse(event, error):
        raise LookupError("not now")

    wrong = EventStore(registry, encryption=FieldEncryption(LocalKeys({"m1": b"1" * 32}), FIELDS, master_key="m1", on_undecryptable=refuse))
    with psycopg.connect(dsn) as conn:
        with pytest.raises(LookupError):
            asyncio.run(wrong.decoded(False, wrong.lookup(conn), event, content))
        assert not event.redacted and event.data is None


async def _pages(made, conn):
    return await made._pages(conn, "customer-1", 1)


def test_metadata_of_an_encrypted_event_is_not_copied(dsn):
    chain = Upcasters()
    chain.add("customer.named", 1, lambda data: data)
    made = EventStore(registry, upcasters=chain, encryption=FieldEncryption(LocalKeys({"m1": MASTER}), FIELDS, master_key="m1"))
    with psycopg.connect(dsn) as conn:
        for name in ("encrypted_fields", "wrapped_key", "master_key", "key_id"):
            with pytest.raises(EncryptionError, match=name) as caught:
                made.append(conn, "customer-1", [named()], metadata={name: "x"})
            assert caught.value.code == "22023"
        made.append(conn, "customer-1", [named()], metadata={"schema_version": 1})
        assert made.load(conn, "customer-1")[0].metadata["schema_version"] == 2


def test_a_wrapped_key_of_the_event_wins_over_a_key_of_the_server(dsn):
    with psycopg.connect(dsn) as conn:
        encrypted().append(conn, "customer-1", [named()])
        conn.execute("""select outbox.append('customer-1', e.type, e.data, metadata => e.metadata || '{"key_id": "none"}') from outbox.load('customer-1') e""")
        assert encrypted().load(conn, "customer-1")[1].data == named()


def test_keys_leave_the_memory():
    from pg_outbox.events.encryption import _Cache

    cache = _Cache(10, 0.05)
    cache.put("a", 1)
    assert cache.get("a") == 1
    import time

    time.sleep(0.06)
    assert cache.get("b") is None and not cache._kept


def test_an_upcaster_that_fails_says_where_and_not_what(dsn):
    chain = Upcasters()
    chain.add("p", 1, lambda data: int(data["secret"]))
    with psycopg.connect(dsn) as conn:
        EventStore().append(conn, "p-1", [NewEvent("p", {"secret": "4711 0815"})])
        with pytest.raises(SchemaError) as caught:
            EventStore(upcasters=chain).load(conn, "p-1")
    assert "4711" not in str(caught.value) and "ValueError" in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_sets_have_one_order():
    from pg_outbox._rows import dumps

    assert dumps({"b", "a", "c"}) == '["a","b","c"]' and dumps({3, 1}) == "[1,3]"
