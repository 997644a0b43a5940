//! Encryption of fields of events with AES-256-GCM; the core crate has the format.
//!
//! Each encrypted event is encrypted with a data key. The data key is encrypted ("wrapped") by a master key, which a
//! [`KeyProvider`] has and the database never sees.
//!
//! | data key | stored | to forget a person |
//! |---|---|---|
//! | per event (default) | in the metadata of the event: `wrapped_key`, `master_key` | `erase` each event |
//! | per subject | by `save_subject_key`; the metadata has its `key_id` | `revoke_subject_keys` |
//!
//! The metadata entry `encrypted_fields` lists the paths. Events of a revoked key have null in these fields, and
//! [`RecordedEvent::redacted`] is true. Whether a key was revoked is asked of the server at each load. Only what providers have
//! unwrapped is cached, 1,000 keys at most.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use outbox_core::encrypt::{Cipher, KEY_LENGTH, Place, check_paths};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::connection::Connection;
use super::event::RecordedEvent;
use super::source::{hex, random};
use crate::driver::{Executor, Statement, text};
use crate::error::{Error, Kind, Result};
use crate::message::Param;
use crate::outbox::passes;

const FIELDS: &str = "encrypted_fields";
const KEY_ID: &str = "key_id";
const WRAPPED: &str = "wrapped_key";
const MASTER: &str = "master_key";

/// The metadata entries that belong to the encryption.
const OURS: [&str; 4] = [FIELDS, WRAPPED, MASTER, KEY_ID];

/// The largest number of encrypted fields of a stored event.
const MAX_PATHS: usize = 1000;

/// The largest number of data keys that are cached.
const CACHED: usize = 1000;

/// The keys of a subject that are not revoked. The newest is the first.
const VALID_KEYS: &str =
    "select (to_jsonb(k) || jsonb_build_object('wrapped_key', encode(k.wrapped_key, 'base64')))::text as r
    from outbox.subject_keys($1) k where k.revoked_at is null order by k.created_at desc, k.key_id";

/// Encrypts and decrypts data keys with master keys: [`LocalKeys`], `VaultKeys` (feature `events-vault`), `KmsKeys` (feature
/// `events-kms`), or a service of your own.
pub trait KeyProvider: Send + Sync {
    /// Encrypts a data key of 32 bytes with a master key.
    fn wrap_key<'a>(&'a self, master_key: &'a str, data_key: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>>>;

    /// Decrypts a data key that the master key has encrypted.
    fn unwrap_key<'a>(&'a self, master_key: &'a str, wrapped: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>>>;
}

/// Master keys that this process has: of 32 bytes, with a name each. `Debug` shows the names only.
#[derive(Default)]
pub struct LocalKeys(HashMap<String, Cipher>);

impl fmt::Debug for LocalKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys().collect::<BTreeSet<_>>()).finish()
    }
}

impl LocalKeys {
    /// Creates a provider without keys.
    pub fn new() -> LocalKeys {
        LocalKeys::default()
    }

    /// Adds a master key of 32 bytes.
    ///
    /// # Errors
    /// 22023 if the key has another length, or there is a key of this name.
    pub fn key(mut self, name: &str, key: &[u8]) -> Result<LocalKeys> {
        let cipher = Cipher::new(key)?;
        if self.0.insert(name.to_owned(), cipher).is_some() {
            return Err(Error::invalid(format!("there are two master keys \"{}\"", shown(name))));
        }
        Ok(self)
    }

    /// Adds a master key that an environment variable has, as base64.
    ///
    /// # Errors
    /// 22023 if the variable is not set, or has no key of 32 bytes. The error does not show its value.
    pub fn key_from_env(self, name: &str, variable: &str) -> Result<LocalKeys> {
        let encoded = std::env::var(variable)
            .map_err(|_| Error::invalid(format!("the environment variable \"{}\" is not set", shown(variable))))?;
        let wrong = |_| Error::invalid(format!("the environment variable \"{}\" has no base64", shown(variable)));
        self.key(name, &STANDARD.decode(encoded.trim()).map_err(wrong)?)
    }

    /// Adds a master key from a file, which has the 32 bytes, or their base64.
    ///
    /// # Errors
    /// 22023 if the file cannot be read, or has no such key. The error does not show its content.
    pub fn key_from_file(self, name: &str, path: impl AsRef<Path>) -> Result<LocalKeys> {
        use std::io::Read as _;
        let path = path.as_ref();
        let wrong = |error: &dyn fmt::Display| {
            Error::invalid(format!("the key file \"{}\" cannot be read", path.display())).detail(error.to_string())
        };
        let mut content = Vec::new();
        let file = std::fs::File::open(path).map_err(|error| wrong(&error))?;
        file.take(1024).read_to_end(&mut content).map_err(|error| wrong(&error))?;
        if content.len() != KEY_LENGTH {
            content = STANDARD.decode(content.trim_ascii()).map_err(|_| wrong(&"It is no base64."))?;
        }
        self.key(name, &content)
    }

    fn find(&self, name: &str) -> Result<&Cipher> {
        let missing = || {
            Error::new("OB001", format!("there is no master key \"{}\"", shown(name)))
                .hint("LocalKeys::key() adds it.")
                .named("key_not_found")
        };
        self.0.get(name).ok_or_else(missing)
    }
}

impl KeyProvider for LocalKeys {
    fn wrap_key<'a>(&'a self, master_key: &'a str, data_key: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>>> {
        Box::pin(async move { Ok(self.find(master_key)?.wrap(data_key, master_key, random()?)?) })
    }

    fn unwrap_key<'a>(&'a self, master_key: &'a str, wrapped: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>>> {
        Box::pin(async move { self.find(master_key)?.unwrap(wrapped, master_key).map_err(undecryptable) })
    }
}

/// A new event whose subject is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Subjected<'a> {
    /// The stream.
    pub stream: &'a str,
    /// The type.
    pub event_type: &'a str,
    /// The data, not yet encrypted.
    pub data: &'a Value,
}

type SubjectOf = dyn Fn(Subjected<'_>) -> Option<String> + Send + Sync;
type MasterOf = dyn Fn(Option<&str>) -> String + Send + Sync;
type OnUndecryptable = dyn Fn(&mut RecordedEvent, Error) -> Result<()> + Send + Sync;

/// Which fields of which events are encrypted, and with which keys. Cheap to clone.
#[derive(Clone)]
pub struct FieldEncryption {
    provider: Arc<dyn KeyProvider>,
    fields: HashMap<String, Vec<String>>,
    subject: Option<Arc<SubjectOf>>,
    master: Arc<MasterOf>,
    on_undecryptable: Option<Arc<OnUndecryptable>>,
    cache: Arc<Mutex<Cache>>,
}

impl fmt::Debug for FieldEncryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FieldEncryption").field("fields", &self.fields).finish_non_exhaustive()
    }
}

impl FieldEncryption {
    /// Creates an encryption with a key per event and one master key.
    pub fn new(provider: impl KeyProvider + 'static, master_key: &str) -> FieldEncryption {
        let master_key = master_key.to_owned();
        FieldEncryption {
            provider: Arc::new(provider),
            fields: HashMap::new(),
            subject: None,
            master: Arc::new(move |_| master_key.clone()),
            on_undecryptable: None,
            cache: Arc::default(),
        }
    }

    /// Encrypts these fields of an event type. A path is names with dots between them: `address.street`.
    ///
    /// # Errors
    /// 22023 for a malformed path.
    pub fn fields(mut self, event_type: &str, paths: &[&str]) -> Result<FieldEncryption> {
        check_paths(paths)?;
        self.fields.insert(event_type.to_owned(), paths.iter().map(|path| (*path).to_owned()).collect());
        Ok(self)
    }

    /// Encrypts with a key per subject, for example a customer. `subject` returns the id of an event's subject; events without
    /// one have a key of their own. The key of a new subject is stored in the transaction that appends.
    #[must_use]
    pub fn per_subject(
        mut self,
        subject: impl Fn(Subjected<'_>) -> Option<String> + Send + Sync + 'static,
    ) -> FieldEncryption {
        self.subject = Some(Arc::new(subject));
        self
    }

    /// Chooses the master key of new data keys by the tenant of the event.
    #[must_use]
    pub fn master_key_by_tenant(
        mut self,
        master_key: impl Fn(Option<&str>) -> String + Send + Sync + 'static,
    ) -> FieldEncryption {
        self.master = Arc::new(master_key);
        self
    }

    /// Decides about events that cannot be decrypted. The error has the fault
    /// [`KeyRevoked`](super::Fault::KeyRevoked), [`KeyNotFound`](super::Fault::KeyNotFound) (no master key) or
    /// [`Encryption`](super::Fault::Encryption). The handler may change the event, and returns an error if it must not be
    /// loaded. Without a handler, the fields of a revoked key are null, and other faults are errors. A key that the server does
    /// not know is always an error, because the server has ended the transaction by then. A failure of the provider that passes
    /// (kind retry) is an error too, and the event is decrypted when it is loaded again.
    #[must_use]
    pub fn on_undecryptable(
        mut self,
        handler: impl Fn(&mut RecordedEvent, Error) -> Result<()> + Send + Sync + 'static,
    ) -> FieldEncryption {
        self.on_undecryptable = Some(Arc::new(handler));
        self
    }

    pub(super) async fn encrypt(
        &self,
        on: &mut Connection<'_>,
        stream: &str,
        event_type: &str,
        tenant: Option<&str>,
        data: &mut Value,
        metadata: &mut Map<String, Value>,
    ) -> Result<()> {
        let Some(paths) = self.fields.get(event_type) else { return Ok(()) };
        if let Some(name) = OURS.into_iter().find(|name| metadata.contains_key(*name)) {
            return Err(Error::invalid(format!("the metadata entry \"{name}\" belongs to the encryption")));
        }
        let paths: Vec<&str> = paths.iter().map(String::as_str).filter(|path| find(data, path).is_some()).collect();
        if paths.is_empty() {
            return Ok(());
        }
        let subject = self.subject.as_ref().and_then(|of| of(Subjected { stream, event_type, data }));
        let cipher = match subject {
            Some(subject) => {
                let (key_id, cipher) = self.key_of(on, &subject, tenant).await?;
                metadata.insert(KEY_ID.to_owned(), key_id.into());
                cipher
            }
            None => {
                let master = (self.master)(tenant);
                let (wrapped, cipher) = self.new_key(&master).await?;
                metadata.insert(WRAPPED.to_owned(), STANDARD.encode(wrapped).into());
                metadata.insert(MASTER.to_owned(), master.into());
                cipher
            }
        };
        // As many nonces as fields, drawn before, because drawing may fail.
        let mut nonces = paths.iter().map(|_| random()).collect::<Result<VecDeque<_>>>()?;
        let next = || nonces.pop_front().unwrap_or_default();
        let done = cipher.encrypt_fields(data, Place { stream, event_type }, &paths, next)?;
        metadata.insert(FIELDS.to_owned(), json!(done));
        Ok(())
    }

    /// Returns the newest key of a subject, and makes one if there is none.
    async fn key_of(
        &self,
        on: &mut Connection<'_>,
        subject: &str,
        tenant: Option<&str>,
    ) -> Result<(String, Arc<Cipher>)> {
        let rows = on.run(Statement::new(format!("{VALID_KEYS} limit 1"), [text(subject)])).await?;
        if let Some(row) = rows.into_iter().flatten().next() {
            let key: SubjectKey = serde_json::from_str(&row)?;
            let cipher = self.unwrap(&key.master_key, &key.wrapped()?.unwrap_or_default()).await?;
            return Ok((key.key_id, cipher));
        }
        let (master, key_id) = ((self.master)(tenant), hex(&random::<16>()?));
        let (wrapped, cipher) = self.new_key(&master).await?;
        let sql = "select 'saved' as r from outbox.save_subject_key($1, $2, $3, $4)";
        let params = [text(subject), text(&key_id), Some(Param::Bytes(wrapped)), text(master)];
        on.run(Statement::new(sql, params)).await?;
        Ok((key_id, cipher))
    }

    /// Wraps the data keys of a subject with a master key: another one, or the newest version of the same one where the provider
    /// has versions. Returns how many. Keys that were revoked stay as they are. The role needs the capability `admin`.
    ///
    /// Keys per event are in the metadata of events, which never change. Their master keys have to be kept.
    ///
    /// # Errors
    /// Those of the provider. OB004 if a key is revoked meanwhile.
    pub async fn rewrap(&self, mut on: impl Executor, subject: &str, master_key: &str) -> Result<u64> {
        let mut on = Connection::new(&mut on);
        let mut count = 0;
        for row in on.run(Statement::new(VALID_KEYS, [text(subject)])).await?.into_iter().flatten() {
            let key: SubjectKey = serde_json::from_str(&row)?;
            let data_key = self.provider.unwrap_key(&key.master_key, &key.wrapped()?.unwrap_or_default()).await?;
            let wrapped = self.provider.wrap_key(master_key, &data_key).await?;
            let sql = "select 'stored' as r from outbox.rewrap_subject_key($1, $2, $3)";
            on.run(Statement::new(sql, [text(&key.key_id), Some(Param::Bytes(wrapped)), text(master_key)])).await?;
            count += 1;
        }
        Ok(count)
    }

    async fn new_key(&self, master: &str) -> Result<(Vec<u8>, Arc<Cipher>)> {
        let key = random::<KEY_LENGTH>()?;
        let wrapped = self.provider.wrap_key(master, &key).await?;
        let cipher = Arc::new(Cipher::new(&key)?);
        self.cached().insert((master.to_owned(), wrapped.clone()), cipher.clone());
        Ok((wrapped, cipher))
    }

    async fn unwrap(&self, master: &str, wrapped: &[u8]) -> Result<Arc<Cipher>> {
        let name = (master.to_owned(), wrapped.to_vec());
        if let Some(cipher) = self.cached().known.get(&name) {
            return Ok(cipher.clone());
        }
        let cipher = Arc::new(Cipher::new(&self.provider.unwrap_key(master, wrapped).await?)?);
        self.cached().insert(name, cipher.clone());
        Ok(cipher)
    }

    fn cached(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the server has the key of the event. A key in the event itself comes first.
    pub(super) fn has_subject_key(event: &RecordedEvent) -> bool {
        let has = |name| event.metadata.contains_key(name);
        has(FIELDS) && has(KEY_ID) && !has(WRAPPED)
    }

    pub(super) async fn decrypt(&self, on: &mut Connection<'_>, events: &mut [RecordedEvent]) -> Result<()> {
        let encrypted = events.iter().filter(|event| FieldEncryption::has_subject_key(event));
        let ids: BTreeSet<&str> = encrypted.filter_map(|event| event.get_metadata(KEY_ID)).collect();
        let keys = if ids.is_empty() { HashMap::new() } else { self.subject_keys(on, &ids).await? };
        for event in events {
            let Some(fields) = event.metadata.get(FIELDS) else { continue };
            let paths = fields.as_array().filter(|all| all.len() <= MAX_PATHS);
            let paths: Option<Vec<String>> =
                paths.and_then(|all| all.iter().map(|path| path.as_str().map(str::to_owned)).collect());
            let decrypted = match paths {
                Some(paths) => self.decrypt_one(&keys, event, &paths).await,
                None => Err(undecryptable(Error::invalid("the list of encrypted fields is malformed"))),
            };
            match (decrypted, &self.on_undecryptable) {
                (Ok(()), _) => {}
                // The provider may answer later, so nothing is decided about the event.
                (Err(error), _) if passes(&error) => return Err(error),
                (Err(error), Some(handler)) => handler(event, error)?,
                (Err(error), None) if error.name() == "key_revoked" => {}
                (Err(error), None) => {
                    let place = format!("Event {} of \"{}\".", event.version, shown(&event.stream));
                    let detail = error.details().detail.clone();
                    return Err(error.detail([detail.unwrap_or_default(), place].join(" ").trim().to_owned()));
                }
            }
        }
        Ok(())
    }

    async fn decrypt_one(
        &self,
        keys: &HashMap<String, SubjectKey>,
        event: &mut RecordedEvent,
        paths: &[String],
    ) -> Result<()> {
        let missing = || Error::new("OB001", "the event does not name its key").named("key_not_found");
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let (master, wrapped) = match event.get_metadata(KEY_ID) {
            Some(id) if FieldEncryption::has_subject_key(event) => {
                let key = keys.get(id).ok_or_else(missing)?;
                let Some(wrapped) = key.wrapped()? else {
                    let reason = key.reason.clone().unwrap_or_default();
                    let revoked = Error::new("OB004", format!("the key \"{}\" was revoked", shown(id)));
                    for path in paths {
                        if let Some(field) = find_mut(&mut event.data, path) {
                            *field = Value::Null;
                        }
                    }
                    event.redacted = true;
                    return Err(revoked.detail(reason).named("key_revoked"));
                };
                (key.master_key.clone(), wrapped)
            }
            _ => {
                let wrapped = event.get_metadata(WRAPPED).ok_or_else(missing)?;
                let wrapped = STANDARD.decode(wrapped);
                let wrapped =
                    wrapped.map_err(|_| undecryptable(Error::invalid("the wrapped key of an event is no base64")))?;
                (event.get_metadata(MASTER).ok_or_else(missing)?.to_owned(), wrapped)
            }
        };
        let cipher = self.unwrap(&master, &wrapped).await?;
        // A failure leaves the event as it was.
        let mut data = event.data.clone();
        let place = Place { stream: &event.stream, event_type: &event.event_type };
        cipher.decrypt_fields(&mut data, place, &paths).map_err(undecryptable)?;
        event.data = data;
        Ok(())
    }

    async fn subject_keys(&self, on: &mut Connection<'_>, ids: &BTreeSet<&str>) -> Result<HashMap<String, SubjectKey>> {
        let sql =
            "select (to_jsonb(k) || jsonb_build_object('wrapped_key', encode(k.wrapped_key, 'base64')))::text as r
            from jsonb_array_elements_text($1::jsonb) i, outbox.get_subject_key(i) k";
        let rows = on.run(Statement::new(sql, [text(json!(ids))])).await.map_err(|error| match error.kind() {
            Kind::NotFound => error.named("key_not_found"),
            _ => error,
        })?;
        let keys = rows.iter().flatten().map(|row| {
            let key: SubjectKey = serde_json::from_str(row)?;
            Ok((key.key_id.clone(), key))
        });
        keys.collect()
    }
}

#[derive(Deserialize)]
struct SubjectKey {
    key_id: String,
    wrapped_key: Option<String>,
    master_key: String,
    reason: Option<String>,
}

impl SubjectKey {
    /// Returns the wrapped key, or `None` if it was revoked.
    fn wrapped(&self) -> Result<Option<Vec<u8>>> {
        let decode = |text: &String| STANDARD.decode(text.replace('\n', ""));
        self.wrapped_key.as_ref().map(decode).transpose().map_err(|_| Error::invalid("a wrapped key is no base64"))
    }
}

/// Data keys that were unwrapped, by the name of the master key and the wrapped key. The oldest is forgotten first.
#[derive(Default)]
struct Cache {
    known: HashMap<(String, Vec<u8>), Arc<Cipher>>,
    order: VecDeque<(String, Vec<u8>)>,
}

impl Cache {
    fn insert(&mut self, name: (String, Vec<u8>), cipher: Arc<Cipher>) {
        if self.known.insert(name.clone(), cipher).is_none() {
            self.order.push_back(name);
        }
        while self.order.len() > CACHED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

fn undecryptable(error: impl Into<Error>) -> Error {
    error.into().named("encryption")
}

fn shown(text: &str) -> String {
    text.chars().take(255).flat_map(char::escape_debug).collect()
}

fn find<'v>(data: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(data, |value, name| value.as_object()?.get(name))
}

fn find_mut<'v>(data: &'v mut Value, path: &str) -> Option<&'v mut Value> {
    path.split('.').try_fold(data, |value, name| value.as_object_mut()?.get_mut(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_bounded() {
        let mut cache = Cache::default();
        let cipher = Arc::new(Cipher::new(&[1; 32]).unwrap());
        for n in 0..CACHED + 10 {
            cache.insert((n.to_string(), vec![]), cipher.clone());
            cache.insert((n.to_string(), vec![]), cipher.clone());
        }
        assert_eq!((cache.known.len(), cache.order.len()), (CACHED, CACHED));
        assert!(!cache.known.contains_key(&("9".to_owned(), vec![])));
    }

    #[test]
    fn local_keys_are_checked_and_not_shown() {
        let keys = LocalKeys::new().key("b", &[7; 32]).unwrap().key("a", &[8; 32]).unwrap();
        assert_eq!(format!("{keys:?}"), r#"{"a", "b"}"#);
        assert!(LocalKeys::new().key("a", &[7; 31]).is_err());
        assert!(LocalKeys::new().key("a", &[7; 32]).unwrap().key("a", &[7; 32]).is_err());
        assert!(LocalKeys::new().key_from_env("a", "NO_SUCH_VARIABLE_OF_PG_OUTBOX").is_err());
        assert!(LocalKeys::new().key_from_file("a", "/nowhere").is_err());
    }
}
