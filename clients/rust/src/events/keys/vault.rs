//! [`VaultKeys`]: master keys of the transit engine of HashiCorp Vault, or of a server with the same interface, such as OpenBao.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::http::{Service, escaped};
use super::{Secret, TIMEOUT, check_timeout, data_key, header, missing, refused, unavailable};
use crate::error::Result;
use crate::events::encrypt::KeyProvider;

/// Master keys of a transit engine, by their names there. Tokens need the right `update` on `transit/encrypt/NAME` and
/// `transit/decrypt/NAME`. With the right `create` as well, Vault makes a key for a name that it does not know.
///
/// ```no_run
/// use pg_outbox::events::{FieldEncryption, keys::VaultKeys};
/// // VAULT_ADDR, VAULT_TOKEN, VAULT_NAMESPACE and VAULT_CACERT of the environment.
/// let encryption = FieldEncryption::new(VaultKeys::from_env()?, "events");
/// # Ok::<(), pg_outbox::Error>(())
/// ```
///
/// After `rotate` of a key, new data keys have its newest version, and [`FieldEncryption::rewrap`](crate::events::FieldEncryption::rewrap)
/// brings stored ones to it.
#[derive(Clone)]
pub struct VaultKeys {
    service: Service,
    token: Option<Secret>,
    namespace: Option<String>,
    mount: String,
}

impl fmt::Debug for VaultKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultKeys").field("service", &self.service).field("mount", &self.mount).finish_non_exhaustive()
    }
}

impl VaultKeys {
    /// Creates a provider of the server at an address, with the token of the variable `VAULT_TOKEN`, which is read at each call.
    ///
    /// # Errors
    /// 22023 if the address is no URL.
    pub fn new(address: &str) -> Result<VaultKeys> {
        let service = Service::new("Vault", address, TIMEOUT)?;
        Ok(VaultKeys { service, token: None, namespace: None, mount: "transit".to_owned() })
    }

    /// Creates a provider with the settings of the environment: `VAULT_ADDR`, `VAULT_TOKEN`, `VAULT_NAMESPACE`, and `VAULT_CACERT`, a
    /// file of certificates that are trusted instead of those of the system.
    ///
    /// # Errors
    /// 22023 if `VAULT_ADDR` is no URL, or the file cannot be read.
    pub fn from_env() -> Result<VaultKeys> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let address = variable("VAULT_ADDR").ok_or_else(|| {
            refused("there is no address of Vault").hint("Set VAULT_ADDR, for example https://vault.example:8200.")
        })?;
        let keys = VaultKeys { namespace: variable("VAULT_NAMESPACE"), ..VaultKeys::new(&address)? };
        match variable("VAULT_CACERT") {
            Some(path) => keys.ca_file(path),
            None => Ok(keys),
        }
    }

    /// Trusts the certificates of a file in PEM instead of those of the system.
    ///
    /// # Errors
    /// 22023 if the file cannot be read.
    pub fn ca_file(mut self, path: impl AsRef<std::path::Path>) -> Result<VaultKeys> {
        self.service.trust(&path.as_ref().to_string_lossy())?;
        Ok(self)
    }

    /// Sets the token, instead of that of `VAULT_TOKEN`.
    #[must_use]
    pub fn token(mut self, token: &str) -> VaultKeys {
        self.token = Some(Secret(token.to_owned()));
        self
    }

    /// Sets the namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> VaultKeys {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// Sets the path of the engine. The default is `transit`.
    #[must_use]
    pub fn mount(mut self, mount: &str) -> VaultKeys {
        self.mount = mount.trim_matches('/').to_owned();
        self
    }

    /// Sets the time-out of a call, at most 60 s. The default is 5 s.
    ///
    /// # Errors
    /// 22023 if it is 0 or longer.
    pub fn timeout(mut self, timeout: Duration) -> Result<VaultKeys> {
        self.service.set_timeout(check_timeout(timeout)?);
        Ok(self)
    }

    async fn call(&self, what: &str, master_key: &str, body: Value) -> Result<Value> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // Vault's own protection against requests that a browser was made to send.
        headers.insert(HeaderName::from_static("x-vault-request"), HeaderValue::from_static("true"));
        let token = match &self.token {
            Some(Secret(token)) => token.clone(),
            None => std::env::var("VAULT_TOKEN").unwrap_or_default(),
        };
        // A token of a file ends with a line break.
        headers.insert(HeaderName::from_static("x-vault-token"), header("Vault", "x-vault-token", token.trim())?);
        if let Some(namespace) = &self.namespace {
            let value = header("Vault", "x-vault-namespace", namespace)?;
            headers.insert(HeaderName::from_static("x-vault-namespace"), value);
        }
        let path = format!("/v1/{}/{what}/{}", escaped(&self.mount, true), escaped(master_key, false));
        let (status, content) = self.service.post(&self.service.path(&path), headers, body.to_string()).await?;
        let answer: Value = serde_json::from_slice(&content).unwrap_or_default();
        match status {
            200 => match &answer["data"] {
                Value::Object(_) => Ok(answer["data"].clone()),
                _ => Err(refused("malformed answer of Vault")),
            },
            // `errors` quotes names of keys and not their content.
            _ if status == 404 || answer["errors"].to_string().contains("key not found") => {
                Err(missing("Vault", master_key))
            }
            429 | 500.. => Err(unavailable(format!("Vault has answered {status}"))),
            _ => Err(refused(format!("Vault has refused to {what} a data key: {status}"))),
        }
    }
}

impl KeyProvider for VaultKeys {
    fn wrap_key<'a>(&'a self, master_key: &'a str, data_key: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>>> {
        Box::pin(async move {
            let found = self.call("encrypt", master_key, json!({"plaintext": STANDARD.encode(data_key)})).await?;
            let wrapped = found["ciphertext"].as_str().filter(|text| !text.is_empty());
            Ok(wrapped.ok_or_else(|| refused("Vault has given no ciphertext"))?.as_bytes().to_vec())
        })
    }

    fn unwrap_key<'a>(&'a self, master_key: &'a str, wrapped: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>>> {
        Box::pin(async move {
            let body = json!({"ciphertext": String::from_utf8_lossy(wrapped)});
            data_key("Vault", self.call("decrypt", master_key, body).await?.get("plaintext"))
        })
    }
}
