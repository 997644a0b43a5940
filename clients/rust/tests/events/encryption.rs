//! Encryption of fields, and the vectors that all clients have in common.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use pg_outbox::events::encrypt::KeyProvider as _;
use pg_outbox::events::{
    ANY, Aggregate, EventStore, Fault, FieldEncryption, LocalKeys, NewEvent, RecordedEvent, Repository, Root, Upcasters,
};
use pg_outbox::{Error, Outbox};
use serde_json::{Value, json};

use crate::shop::outbox;

fn keys() -> LocalKeys {
    LocalKeys::new().key("master-1", &[1; 32]).unwrap().key("master-2", &[2; 32]).unwrap()
}

fn encryption(keys: LocalKeys) -> FieldEncryption {
    FieldEncryption::new(keys, "master-1").fields("customer.named", &["name", "address.street"]).unwrap()
}

fn per_subject(keys: LocalKeys) -> FieldEncryption {
    encryption(keys).per_subject(|event| Some(event.stream.to_owned()))
}

fn named(name: &str) -> NewEvent {
    let data = json!({"name": name, "address": {"street": "x", "city": "Paris"}, "since": 2026});
    NewEvent::new("customer.named", &data).unwrap()
}

async fn load(outbox: &Outbox, store: &EventStore, stream: &str) -> Result<Vec<RecordedEvent>, Error> {
    let mut session = outbox.session().await?;
    let tx = session.transaction().await?;
    store.load(&tx, stream, 1).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_per_event_is_stored_in_the_event() {
    let outbox = outbox("ev_encrypt").await;
    let session = outbox.session().await.unwrap();
    let by_tenant = |tenant: Option<&str>| if tenant == Some("b") { "master-2".into() } else { "master-1".into() };
    let store = EventStore::new().encryption(encryption(keys()).master_key_by_tenant(by_tenant));
    let unnamed = NewEvent::new("customer.named", &json!({"since": 1})).unwrap();
    let other = NewEvent::new("customer.left", &json!({"name": "open"})).unwrap();
    store.append(&**session, "customer-1", [named("Ada"), unnamed, other], ANY).await.unwrap();
    let raw = store.load_raw(&**session, "customer-1", 1).await.unwrap();
    assert!(!raw[0].data.to_string().contains("Ada"));
    assert_eq!((&raw[0].data["address"]["city"], &raw[0].data["since"]), (&json!("Paris"), &json!(2026)));
    assert_eq!(raw[0].metadata["encrypted_fields"], json!(["name", "address.street"]));
    assert_eq!(raw[0].get_metadata("master_key"), Some("master-1"));
    assert!(raw[1].metadata.is_empty() && raw[2].metadata.is_empty());
    // Another process, which has no cache.
    let fresh = EventStore::new().encryption(encryption(keys()));
    let events = load(&outbox, &fresh, "customer-1").await.unwrap();
    assert_eq!((&events[0].data, events[0].redacted), (&named("Ada").data, false));
    assert_eq!(events[2].data["name"], "open");

    let event = named("Bob").metadata(pg_outbox::events::Metadata::new().tenant("b"));
    store.append(&**session, "customer-2", [event], ANY).await.unwrap();
    assert_eq!(load(&outbox, &store, "customer-2").await.unwrap()[0].get_metadata("master_key"), Some("master-2"));
    // Wrong keys, and missing ones.
    let wrong = LocalKeys::new().key("master-1", &[9; 32]).unwrap();
    let error = load(&outbox, &EventStore::new().encryption(encryption(wrong)), "customer-1").await.unwrap_err();
    assert_eq!(Fault::of(&error), Some(Fault::Encryption));
    assert!(error.details().detail.as_deref().unwrap().contains("Event 1 of \"customer-1\""));
    let none = EventStore::new().encryption(encryption(LocalKeys::new()));
    assert_eq!(Fault::of(&load(&outbox, &none, "customer-1").await.unwrap_err()), Some(Fault::KeyNotFound));
    assert_eq!(Fault::of(&store_err(&none, &session).await), Some(Fault::KeyNotFound));
    // A raw event does not enter another stream with its ciphertext.
    let copied = NewEvent { metadata: metadata_of(&raw[0]), ..NewEvent::new("customer.named", &raw[0].data).unwrap() };
    for name in ["encrypted_fields", "wrapped_key", "master_key", "key_id"] {
        let marked = named("x").metadata(pg_outbox::events::Metadata::new().set(name, "x"));
        let error = store.append(&**session, "customer-3", [marked], ANY).await.unwrap_err();
        assert_eq!(error.code(), "22023");
    }
    EventStore::new().append(&**session, "customer-3", [copied], ANY).await.unwrap();
    assert_eq!(Fault::of(&load(&outbox, &store, "customer-3").await.unwrap_err()), Some(Fault::Encryption));
}

async fn store_err(store: &EventStore, session: &pg_outbox::outbox::Session) -> Error {
    store.append(&***session, "customer-9", [named("x")], ANY).await.unwrap_err()
}

fn metadata_of(event: &RecordedEvent) -> pg_outbox::events::Metadata {
    event.metadata.iter().fold(pg_outbox::events::Metadata::new(), |all, (name, value)| all.set(name, value.clone()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_per_subject_can_be_revoked() {
    let outbox = outbox("ev_revoke").await;
    let mut session = outbox.session().await.unwrap();
    let store = EventStore::new().encryption(per_subject(keys()));
    let tx = session.transaction().await.unwrap();
    store.append(&tx, "customer-1", [named("Ada"), named("Ada L.")], ANY).await.unwrap();
    tx.rollback().await.unwrap();
    store.append(&**session, "customer-1", [named("Ada"), named("Ada L.")], ANY).await.unwrap();
    store.append(&**session, "customer-1", [named("Ada K.")], ANY).await.unwrap();
    store.append(&**session, "customer-2", [named("Bob")], ANY).await.unwrap();
    let raw = store.load_raw(&**session, "customer-1", 1).await.unwrap();
    let ids: Vec<_> = raw.iter().map(|event| event.get_metadata("key_id").unwrap()).collect();
    assert!(ids[0] == ids[1] && ids[1] == ids[2]);
    assert_eq!(load(&outbox, &store, "customer-1").await.unwrap()[2].data, named("Ada K.").data);

    let args = json!({"subject": "customer-1", "actor": "dpo", "reason": "asked for"});
    outbox.call("revoke_subject_keys", args, &[]).await.unwrap();
    // The same store, whose cache still has the key.
    let events = load(&outbox, &store, "customer-1").await.unwrap();
    assert!(events.iter().all(|event| event.redacted));
    let left = json!({"name": null, "address": {"street": null, "city": "Paris"}, "since": 2026});
    assert_eq!(events[0].data, left);
    assert_eq!(load(&outbox, &store, "customer-2").await.unwrap()[0].data, named("Bob").data);
    // New events have a new key.
    store.append(&**session, "customer-1", [named("Ada again")], ANY).await.unwrap();
    let events = load(&outbox, &store, "customer-1").await.unwrap();
    assert_eq!((&events[3].data["name"], events[3].redacted, events[0].redacted), (&json!("Ada again"), false, true));

    let seen: Arc<Mutex<Vec<Option<Fault>>>> = Arc::default();
    let kept = seen.clone();
    let deciding = per_subject(keys()).on_undecryptable(move |event, error| {
        kept.lock().unwrap().push(Fault::of(&error));
        event.data["name"] = json!("forgotten");
        if event.version == 3 { Err(error) } else { Ok(()) }
    });
    let store = EventStore::new().encryption(deciding);
    let error = load(&outbox, &store, "customer-1").await.unwrap_err();
    assert_eq!((Fault::of(&error), error.code()), (Some(Fault::KeyRevoked), "OB004"));
    assert_eq!(*seen.lock().unwrap(), vec![Some(Fault::KeyRevoked); 3]);
    // A key id that the server does not know.
    let odd = NewEvent::new("customer.named", &json!({"name": "v1.AAAA"})).unwrap();
    let odd =
        odd.metadata(pg_outbox::events::Metadata::new().set("key_id", "none").set("encrypted_fields", json!(["name"])));
    EventStore::new().append(&**session, "customer-4", [odd], ANY).await.unwrap();
    assert_eq!(Fault::of(&load(&outbox, &store, "customer-4").await.unwrap_err()), Some(Fault::KeyNotFound));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_keys_of_a_subject_are_wrapped_again() {
    let outbox = outbox("ev_rewrap").await;
    let mut session = outbox.session().await.unwrap();
    let store = EventStore::new().encryption(per_subject(keys()));
    store.append(&**session, "customer-1", [named("Ada")], ANY).await.unwrap();
    store.append(&**session, "customer-2", [named("Bob")], ANY).await.unwrap();
    let newer = || LocalKeys::new().key("master-2", &[2; 32]).unwrap();
    let of_newer = EventStore::new().encryption(per_subject(newer()));
    assert_eq!(Fault::of(&load(&outbox, &of_newer, "customer-1").await.unwrap_err()), Some(Fault::KeyNotFound));
    // In a transaction of the caller.
    let tx = session.transaction().await.unwrap();
    assert_eq!(per_subject(keys()).rewrap(&tx, "customer-1", "master-2").await.unwrap(), 1);
    tx.rollback().await.unwrap();
    assert!(load(&outbox, &of_newer, "customer-1").await.is_err());
    assert_eq!(per_subject(keys()).rewrap(&**session, "customer-1", "master-2").await.unwrap(), 1);
    // The old master key is needed no longer, and the data key is the same.
    assert_eq!(load(&outbox, &of_newer, "customer-1").await.unwrap()[0].data, named("Ada").data);
    of_newer.append(&**session, "customer-1", [named("Ada L.")], ANY).await.unwrap();
    assert_eq!(load(&outbox, &of_newer, "customer-1").await.unwrap()[1].data, named("Ada L.").data);
    assert_eq!(load(&outbox, &store, "customer-1").await.unwrap()[0].data, named("Ada").data);
    assert!(load(&outbox, &of_newer, "customer-2").await.is_err());
    let error = per_subject(newer()).rewrap(&**session, "customer-2", "master-2").await.unwrap_err();
    assert_eq!(Fault::of(&error), Some(Fault::KeyNotFound));
    assert_eq!(per_subject(keys()).rewrap(&**session, "nobody", "master-2").await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_metadata_of_the_encryption_is_an_error() {
    let outbox = outbox("ev_malformed").await;
    let session = outbox.session().await.unwrap();
    let store = EventStore::new().encryption(encryption(keys()));
    let all = [
        json!({"encrypted_fields": "name"}),
        json!({"encrypted_fields": [1]}),
        json!({"encrypted_fields": ["name"]}),
        json!({"encrypted_fields": ["name"], "wrapped_key": "%", "master_key": "master-1"}),
        json!({"encrypted_fields": ["name"], "wrapped_key": "AAAA", "master_key": "master-1"}),
        json!({"encrypted_fields": ["name"], "wrapped_key": "AAAA"}),
        json!({"encrypted_fields": ["a..b"], "wrapped_key": "AAAA", "master_key": "none"}),
    ];
    for (n, metadata) in all.into_iter().enumerate() {
        let stream = format!("customer-{n}");
        let event = NewEvent::new("customer.named", &json!({"name": "v1.AAAA"})).unwrap();
        let metadata = metadata.as_object().unwrap().iter();
        let metadata =
            metadata.fold(pg_outbox::events::Metadata::new(), |all, (name, value)| all.set(name, value.clone()));
        EventStore::new().append(&**session, &stream, [event.metadata(metadata)], ANY).await.unwrap();
        let error = load(&outbox, &store, &stream).await.unwrap_err();
        assert!(matches!(Fault::of(&error), Some(Fault::Encryption | Fault::KeyNotFound)), "{n}: {error:?}");
    }
}

fn bytes(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    (0..hex.len() / 2).map(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).unwrap()).collect()
}

fn list(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|item| item.as_str().unwrap()).collect()
}

/// An event as another client has stored it, with a key that is wrapped by a master key of zeros.
async fn stored(vector: &Value, fields: &Value) -> RecordedEvent {
    let wrapped = zero().wrap_key("zero", &bytes(&vector["key"])).await.unwrap();
    let wrapped = STANDARD.encode(wrapped);
    let metadata = json!({"encrypted_fields": fields, "master_key": "zero", "wrapped_key": wrapped});
    RecordedEvent {
        stream: vector["stream"].as_str().unwrap().to_owned(),
        version: 1,
        event_type: vector["type"].as_str().unwrap().to_owned(),
        data: vector["encrypted"].clone(),
        body: None,
        content_type: None,
        metadata: metadata.as_object().unwrap().clone(),
        event_id: None,
        position: None,
        message_id: 1,
        tenant: None,
        occurred_at: None,
        recorded_at: pg_outbox::chrono::Utc::now(),
        redacted: false,
    }
}

fn zero() -> LocalKeys {
    LocalKeys::new().key("zero", &[0; 32]).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_vectors_of_all_clients_hold() {
    let outbox = outbox("ev_vectors").await;
    let session = outbox.session().await.unwrap();
    let vectors: Value =
        serde_json::from_str(include_str!("../../../../tests/conformance/vectors/encryption.json")).unwrap();
    let all = |name: &str| vectors[name].as_array().unwrap().clone();
    let store = EventStore::new().encryption(FieldEncryption::new(zero(), "zero"));
    for vector in all("fields") {
        let mut events = [stored(&vector, &vector["encrypted_fields"]).await];
        store.decode_on(&**session, &mut events).await.unwrap();
        assert_eq!(events[0].data, vector["data"], "{}", vector["note"]);
    }
    for vector in all("undecryptable") {
        let mut events = [stored(&vector, &vector["paths"]).await];
        let error = store.decode_on(&**session, &mut events).await.unwrap_err();
        assert_eq!((Fault::of(&error), &events[0].data), (Some(Fault::Encryption), &vector["encrypted"]));
    }
    for vector in all("wrapped_keys") {
        let name = vector["master_key"].as_str().unwrap();
        let keys = LocalKeys::new().key(name, &bytes(&vector["master"])).unwrap();
        assert_eq!(keys.unwrap_key(name, &bytes(&vector["wrapped"])).await.unwrap(), bytes(&vector["data_key"]));
    }
    for paths in all("malformed_paths") {
        assert!(FieldEncryption::new(zero(), "zero").fields("a", &list(&paths)).is_err(), "{paths}");
    }
    for vector in all("upcasters") {
        let mut upcasters = Ok(Upcasters::new());
        for upcaster in vector["upcasters"].as_array().unwrap() {
            let (of, from) = (upcaster[0].as_str().unwrap(), u32::try_from(upcaster[1].as_u64().unwrap()).unwrap());
            let step = move |mut data: Value| {
                data.as_array_mut().unwrap().push(json!(from));
                Ok(data)
            };
            upcasters = upcasters.and_then(|known| known.add(of, from, step));
        }
        let upcasters = upcasters.and_then(Upcasters::checked);
        let Some(latest) = vector["latest"].as_object() else {
            assert_eq!(upcasters.unwrap_err().to_string(), vector["error"]);
            continue;
        };
        let upcasters = upcasters.unwrap();
        let latest: HashMap<&str, u64> = latest.iter().map(|(k, v)| (k.as_str(), v.as_u64().unwrap())).collect();
        for (of, version) in latest {
            assert_eq!(u64::from(upcasters.latest(of)), version);
        }
        for step in vector["steps"].as_array().unwrap() {
            let version = u32::try_from(step[1].as_u64().unwrap()).unwrap();
            let run = upcasters.upcast(step[0].as_str().unwrap(), version, json!([]));
            assert_eq!(run.unwrap().0, step[2], "{step}");
        }
        for refused in vector["refused"].as_array().into_iter().flatten() {
            let version = u32::try_from(refused[1].as_u64().unwrap()).unwrap();
            let run = upcasters.upcast(refused[0].as_str().unwrap(), version, json!([]));
            assert_eq!(run.unwrap_err().to_string(), refused[2]);
        }
    }
}

/// A provider that does not answer until it is told to.
struct Slow(LocalKeys, Arc<tokio::sync::Semaphore>);

impl pg_outbox::events::KeyProvider for Slow {
    fn wrap_key<'a>(&'a self, master_key: &'a str, data_key: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, Error>> {
        self.0.wrap_key(master_key, data_key)
    }

    fn unwrap_key<'a>(&'a self, master_key: &'a str, wrapped: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, Error>> {
        Box::pin(async move {
            let _answer = self.1.acquire().await.map_err(|_| Error::invalid("closed"))?;
            self.0.unwrap_key(master_key, wrapped).await
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_whose_future_is_dropped_loses_no_event() {
    let outbox = outbox("ev_cancelled").await;
    let session = outbox.session().await.unwrap();
    let store = EventStore::new().encryption(encryption(keys()));
    store.append(&**session, "customer-1", [named("Ada"), named("Bob")], ANY).await.unwrap();
    let answers = Arc::new(tokio::sync::Semaphore::new(0));
    let slow = Slow(keys(), answers.clone());
    let reading = FieldEncryption::new(slow, "master-1").fields("customer.named", &["name", "address.street"]).unwrap();
    let selection = pg_outbox::events::Selection::all().poll_interval(std::time::Duration::from_millis(20));
    let mut events = EventStore::new().encryption(reading).subscribe(&outbox, selection);
    for _ in 0..3 {
        assert!(tokio::time::timeout(std::time::Duration::from_millis(300), events.next()).await.is_err());
    }
    answers.add_permits(1);
    for name in ["Ada", "Bob"] {
        let event = tokio::time::timeout(crate::shop::PATIENCE, events.next()).await.unwrap().unwrap();
        assert_eq!(event.data["name"], name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_in_the_event_comes_before_one_of_the_server() {
    let outbox = outbox("ev_prefers").await;
    let session = outbox.session().await.unwrap();
    let store = EventStore::new().encryption(encryption(keys()));
    store.append(&**session, "customer-1", [named("Ada")], ANY).await.unwrap();
    let mut events = store.load_raw(&**session, "customer-1", 1).await.unwrap();
    events[0].metadata.insert("key_id".to_owned(), json!("unknown"));
    store.decode_on(&**session, &mut events).await.unwrap();
    assert_eq!(events[0].data["name"], "Ada");
    // The number of paths is bounded.
    let mut events = store.load_raw(&**session, "customer-1", 1).await.unwrap();
    let paths: Vec<String> = (0..1001).map(|n| format!("p{n}")).collect();
    events[0].metadata.insert("encrypted_fields".to_owned(), json!(paths));
    let error = store.decode_on(&**session, &mut events).await.unwrap_err();
    assert_eq!(Fault::of(&error), Some(Fault::Encryption));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_of_the_provider_that_passes_decides_nothing() {
    struct Away(LocalKeys);

    impl pg_outbox::events::KeyProvider for Away {
        fn wrap_key<'a>(&'a self, master_key: &'a str, data_key: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, Error>> {
            self.0.wrap_key(master_key, data_key)
        }

        fn unwrap_key<'a>(&'a self, _: &'a str, _: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, Error>> {
            Box::pin(async { Err(Error::connection("the service of keys does not answer")) })
        }
    }

    let outbox = outbox("ev_away").await;
    let session = outbox.session().await.unwrap();
    let store = EventStore::new().encryption(encryption(keys()));
    store.append(&**session, "customer-1", [named("Ada")], ANY).await.unwrap();
    let away = FieldEncryption::new(Away(keys()), "master-1").fields("customer.named", &["name"]).unwrap();
    let asked = Arc::new(Mutex::new(0));
    let counted = asked.clone();
    let away = away.on_undecryptable(move |_, _| {
        *counted.lock().unwrap() += 1;
        Ok(())
    });
    let mut events = store.load_raw(&**session, "customer-1", 1).await.unwrap();
    let error = EventStore::new().encryption(away).decode_on(&**session, &mut events).await.unwrap_err();
    assert_eq!((error.kind(), *asked.lock().unwrap(), events[0].redacted), (pg_outbox::Kind::Retry, 0, false));
}

#[derive(Default, serde::Serialize, serde::Deserialize)]
struct Customer {
    names: Vec<String>,
    redacted: u32,
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(tag = "type", content = "data")]
enum CustomerEvent {
    #[serde(rename = "customer.named")]
    Named { name: String },
}

impl Aggregate for Customer {
    const CATEGORY: &'static str = "customer";
    type Event = CustomerEvent;

    fn apply(&mut self, CustomerEvent::Named { name }: CustomerEvent) {
        self.names.push(name);
    }

    fn redacted(&mut self, _: &RecordedEvent) {
        self.redacted += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aggregate_survives_a_revoked_key_and_has_no_plain_snapshots() {
    let outbox = outbox("ev_survives").await;
    let store = EventStore::new().encryption(per_subject(keys()));
    let customers: Repository<Customer> = Repository::new(store.clone());
    let name = |customer: &mut Root<Customer>| customer.raise(CustomerEvent::Named { name: "Ada".into() });
    customers.execute(&outbox, "1", name).await.unwrap();
    outbox
        .call("revoke_subject_keys", json!({"subject": "customer-1", "actor": "dpo", "reason": "asked for"}), &[])
        .await
        .unwrap();
    customers.execute(&outbox, "1", name).await.unwrap();
    let session = outbox.session().await.unwrap();
    let customer = customers.load(&**session, "1").await.unwrap();
    assert_eq!((customer.redacted, &customer.names, customer.version()), (1, &vec!["Ada".to_owned()], 2));
    let refused = customers.clone().snapshot_every(1, 1);
    assert_eq!(refused.execute(&outbox, "1", name).await.unwrap_err().code(), "22023");
    let error = store.save_snapshot(&**session, "customer-1", 2, &json!({}), 1).await.unwrap_err();
    assert_eq!(error.code(), "22023");
    let allowed: Repository<Customer> = Repository::new(store.plain_snapshots()).snapshot_every(1, 1);
    allowed.execute(&outbox, "1", name).await.unwrap();
    assert_eq!(allowed.store().load_snapshot(&**session, "customer-1", 1).await.unwrap().unwrap().version, 3);
}
