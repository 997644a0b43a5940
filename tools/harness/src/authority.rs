//! An OAuth 2 authorisation server for tests, with the client credentials grant and tokens that can be revoked.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::receiver::{Arrival, Receiver, Reply, Speech};

/// A running authorisation server. It issues tokens at `/token`.
#[derive(Debug)]
pub struct Authority {
    /// The underlying HTTP server.
    pub server: Receiver,
    tokens: Tokens,
}

type Tokens = Arc<Mutex<HashSet<String>>>;

impl Authority {
    /// Starts a server that knows this client. Its tokens are valid for `expires_in` seconds.
    pub fn start(speech: Speech, client: &str, secret: &str, expires_in: u64) -> Result<Authority> {
        let server = Receiver::speaking(speech)?;
        let tokens = Tokens::default();
        let (kept, expected) =
            (Arc::clone(&tokens), format!("Basic {}", STANDARD.encode(format!("{client}:{secret}"))));
        let in_body = (format!("client_id={client}"), format!("client_secret={secret}"));
        server.on("/token", move |arrival, count| {
            let form = String::from_utf8_lossy(&arrival.body).into_owned();
            let fields: Vec<&str> = form.split('&').collect();
            let known = arrival.header("authorization") == expected
                || fields.contains(&in_body.0.as_str()) && fields.contains(&in_body.1.as_str());
            if !known {
                return Reply::status(401).body(r#"{"error": "invalid_client"}"#);
            }
            if !fields.contains(&"grant_type=client_credentials") {
                return Reply::status(400).body(r#"{"error": "unsupported_grant_type"}"#);
            }
            let token = format!("token-{count}-{}", arrival.at.elapsed().map_or(0, |d| d.as_nanos()));
            kept.lock().unwrap_or_else(PoisonError::into_inner).insert(token.clone());
            let json = serde_json::json!({"access_token": token, "token_type": "Bearer", "expires_in": expires_in});
            Reply::status(200).header("content-type", "application/json").body(json.to_string())
        });
        Ok(Authority { server, tokens })
    }

    /// Returns the URL that issues tokens.
    pub fn token_url(&self) -> String {
        self.server.url("/token")
    }

    /// Returns how many tokens were requested.
    pub fn asked(&self) -> usize {
        self.server.at("/token").len()
    }

    /// Revokes all tokens that were issued so far.
    pub fn revoke_all(&self) {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Returns the behaviour of a receiver that requires a token of this server. It answers 401 without a valid token.
    pub fn guard(&self) -> impl Fn(&Arrival, usize) -> Reply + Send + Sync + 'static {
        let tokens = Arc::clone(&self.tokens);
        move |arrival, _| {
            let token = arrival.header("authorization").strip_prefix("Bearer ").unwrap_or_default();
            let good = tokens.lock().unwrap_or_else(PoisonError::into_inner).contains(token);
            Reply::status(if good { 200 } else { 401 })
        }
    }
}
