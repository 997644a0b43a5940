//! [`KmsKeys`]: master keys of AWS KMS.
//!
//! The requests are signed here, because the SDK of AWS needs a newer Rust than this crate. Credentials come from the environment, or
//! from a function of the application, which may ask the SDK.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::Utc;
use futures_util::future::BoxFuture;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName};
use serde_json::{Value, json};

use super::http::Service;
use super::sign::{Scope, authorization};
use super::{Secret, TIMEOUT, check_timeout, data_key, header, missing, refused, unavailable};
use crate::error::Result;
use crate::events::encrypt::KeyProvider;

/// The encryption context, which KMS binds a wrapped key to. All clients have the same.
const CONTEXT: (&str, &str) = ("pg_outbox", "key.v1");

/// Errors that pass.
const PASSING: [&str; 4] =
    ["KMSInternalException", "DependencyTimeoutException", "KeyUnavailableException", "ThrottlingException"];

/// Credentials of AWS. `Debug` shows the id only.
#[derive(Clone, Debug)]
pub struct Credentials {
    access_key_id: String,
    secret_access_key: Secret,
    session_token: Option<Secret>,
}

impl Credentials {
    /// Creates credentials.
    pub fn new(access_key_id: &str, secret_access_key: &str) -> Credentials {
        let (access_key_id, secret) = (access_key_id.to_owned(), secret_access_key.to_owned());
        Credentials { access_key_id, secret_access_key: Secret(secret), session_token: None }
    }

    /// Sets the token of temporary credentials.
    #[must_use]
    pub fn session_token(mut self, token: &str) -> Credentials {
        self.session_token = Some(Secret(token.to_owned()));
        self
    }

    /// Returns the credentials of `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`.
    fn from_env() -> Result<Credentials> {
        let needed = |name| {
            variable(name).ok_or_else(|| {
                refused(format!("there are no credentials for KMS: {name} is not set"))
                    .hint("KmsKeys::credentials() takes them from elsewhere.")
            })
        };
        let found = Credentials::new(&needed("AWS_ACCESS_KEY_ID")?, &needed("AWS_SECRET_ACCESS_KEY")?);
        Ok(match variable("AWS_SESSION_TOKEN") {
            Some(token) => found.session_token(&token),
            None => found,
        })
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

type Source = Arc<dyn Fn() -> BoxFuture<'static, Result<Credentials>> + Send + Sync>;

/// Master keys of AWS KMS: the name of a master key is the id, the ARN or an alias of a key. Its role needs the rights `kms:Encrypt` and
/// `kms:Decrypt`.
///
/// ```no_run
/// use pg_outbox::events::{FieldEncryption, keys::KmsKeys};
/// // AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of the environment.
/// let encryption = FieldEncryption::new(KmsKeys::from_env()?, "alias/events");
/// # Ok::<(), pg_outbox::Error>(())
/// ```
#[derive(Clone)]
pub struct KmsKeys {
    service: Service,
    region: String,
    source: Source,
}

impl fmt::Debug for KmsKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KmsKeys").field("service", &self.service).field("region", &self.region).finish_non_exhaustive()
    }
}

impl KmsKeys {
    /// Creates a provider of a region, with the credentials of the environment, which are read at each call.
    ///
    /// # Errors
    /// 22023 if the name of the region is malformed.
    pub fn new(region: &str) -> Result<KmsKeys> {
        if region.is_empty() || !region.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            return Err(refused("malformed region of KMS").hint("For example eu-central-1."));
        }
        let end = if region.starts_with("cn-") { ".cn" } else { "" };
        let service = Service::new("KMS", &format!("https://kms.{region}.amazonaws.com{end}"), TIMEOUT)?;
        let source: Source = Arc::new(|| Box::pin(async { Credentials::from_env() }));
        Ok(KmsKeys { service, region: region.to_owned(), source })
    }

    /// Creates a provider with the settings of the environment: `AWS_REGION` or `AWS_DEFAULT_REGION`, and `AWS_ENDPOINT_URL_KMS` or
    /// `AWS_ENDPOINT_URL`.
    ///
    /// # Errors
    /// 22023 if there is no region, or the endpoint is no URL.
    pub fn from_env() -> Result<KmsKeys> {
        let region = variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION"));
        let keys = KmsKeys::new(&region.ok_or_else(|| refused("there is no region for KMS").hint("Set AWS_REGION."))?)?;
        match variable("AWS_ENDPOINT_URL_KMS").or_else(|| variable("AWS_ENDPOINT_URL")) {
            Some(endpoint) => keys.endpoint(&endpoint),
            None => Ok(keys),
        }
    }

    /// Sets the endpoint, for example that of a VPC.
    ///
    /// # Errors
    /// 22023 if it is no URL, or has a path.
    pub fn endpoint(mut self, url: &str) -> Result<KmsKeys> {
        let timeout = self.service.timeout();
        self.service = Service::new("KMS", url, timeout)?;
        match self.service.path("").is_empty() {
            true => Ok(self),
            false => Err(refused("the endpoint of KMS has a path")),
        }
    }

    /// Sets the source of the credentials, which is asked at each call and caches them. With the crates of AWS:
    ///
    /// ```text
    /// let provider = aws_config::load_from_env().await.credentials_provider().unwrap();
    /// let keys = KmsKeys::from_env()?.credentials(move || {
    ///     let provider = provider.clone();
    ///     Box::pin(async move {
    ///         let found = provider.provide_credentials().await.map_err(|e| pg_outbox::Error::connection(e.to_string()))?;
    ///         let keys = Credentials::new(found.access_key_id(), found.secret_access_key());
    ///         Ok(found.session_token().map_or_else(|| keys.clone(), |token| keys.clone().session_token(token)))
    ///     })
    /// });
    /// ```
    #[must_use]
    pub fn credentials(
        mut self,
        source: impl Fn() -> BoxFuture<'static, Result<Credentials>> + Send + Sync + 'static,
    ) -> KmsKeys {
        self.source = Arc::new(source);
        self
    }

    /// Sets the time-out of a call, and of the source of the credentials, at most 60 s. The default is 5 s.
    ///
    /// # Errors
    /// 22023 if it is 0 or longer.
    pub fn timeout(mut self, timeout: Duration) -> Result<KmsKeys> {
        self.service.set_timeout(check_timeout(timeout)?);
        Ok(self)
    }

    async fn call(&self, what: &str, mut body: Value) -> Result<Value> {
        let found = tokio::time::timeout(self.service.timeout(), (self.source)()).await;
        let found =
            found.unwrap_or_else(|_| Err(unavailable("the source of credentials for KMS has not answered in time")));
        let found = found.map_err(|error| error.named("encryption"))?;
        body["EncryptionContext"] = json!({(CONTEXT.0): CONTEXT.1});
        let key = body["KeyId"].as_str().unwrap_or_default().to_owned();
        let body = body.to_string();
        let scope = Scope { region: &self.region, service: "kms", at: Utc::now() };
        let (date, host, target) = (scope.date(), self.service.authority(), format!("TrentService.{what}"));
        let mut signed = vec![
            ("content-type", "application/x-amz-json-1.1"),
            ("host", host.as_str()),
            ("x-amz-date", date.as_str()),
            ("x-amz-target", target.as_str()),
        ];
        if let Some(Secret(token)) = &found.session_token {
            signed.insert(3, ("x-amz-security-token", token.as_str()));
        }
        let keys = (found.access_key_id.as_str(), found.secret_access_key.0.as_str());
        let authorization = authorization(&scope, keys, &signed, &body)?;
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, header("KMS", "authorization", &authorization)?);
        for &(name, value) in signed.iter().filter(|(name, _)| *name != "host") {
            headers.insert(HeaderName::from_static(name), header("KMS", name, value)?);
        }
        let (status, content) = self.service.post("/", headers, body).await?;
        let answer: Value = serde_json::from_slice(&content).unwrap_or_default();
        if status == 200 {
            return Ok(answer);
        }
        let code = answer["__type"].as_str().unwrap_or_default();
        let code = code.rsplit('#').next().unwrap_or_default();
        match code {
            "NotFoundException" => Err(missing("KMS", &key)),
            code if PASSING.contains(&code) || status == 429 || status >= 500 => {
                Err(unavailable(format!("KMS has answered {status} {code}")))
            }
            code => Err(refused(format!("KMS has refused to {} a data key: {status} {code}", what.to_lowercase()))),
        }
    }
}

impl KeyProvider for KmsKeys {
    fn wrap_key<'a>(&'a self, master_key: &'a str, data_key: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>>> {
        Box::pin(async move {
            let body = json!({"KeyId": master_key, "Plaintext": STANDARD.encode(data_key)});
            let answer = self.call("Encrypt", body).await?;
            let wrapped = answer["CiphertextBlob"].as_str().and_then(|text| STANDARD.decode(text).ok());
            wrapped.filter(|wrapped| !wrapped.is_empty()).ok_or_else(|| refused("KMS has given no ciphertext"))
        })
    }

    fn unwrap_key<'a>(&'a self, master_key: &'a str, wrapped: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>>> {
        Box::pin(async move {
            let body = json!({"KeyId": master_key, "CiphertextBlob": STANDARD.encode(wrapped)});
            data_key("KMS", self.call("Decrypt", body).await?.get("Plaintext"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked_and_secrets_are_not_shown() {
        for wrong in ["", "eu central", "a.b", "x/y"] {
            assert!(KmsKeys::new(wrong).is_err(), "{wrong}");
        }
        let keys = KmsKeys::new("cn-north-1").unwrap();
        assert_eq!(keys.service.authority(), "kms.cn-north-1.amazonaws.com.cn");
        assert!(keys.clone().endpoint("http://127.0.0.1:1/x").is_err());
        assert!(keys.clone().timeout(Duration::from_secs(61)).is_err());
        assert!(keys.timeout(Duration::ZERO).is_err());
        let credentials = Credentials::new("id", "confidential").session_token("confidential");
        assert!(!format!("{credentials:?}").contains("confidential"));
    }
}
