//! A receiver of webhooks with axum: `SECRET=whsec_... PORT=8080 cargo run --example axum`.
#![allow(clippy::print_stdout, reason = "it prints what it gets")]

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use pg_outbox::verify::Verifier;

async fn hook(State(verifier): State<Verifier>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match verifier.verify(header, &body) {
        Ok(webhook) => {
            println!("{} {}", webhook.id, webhook.body.len());
            StatusCode::NO_CONTENT
        }
        Err(error) if error.name() == "too_large" => StatusCode::PAYLOAD_TOO_LARGE,
        Err(_) => StatusCode::UNAUTHORIZED,
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let verifier = Verifier::new(&std::env::var("SECRET")?)?;
    let app = Router::new().route("/hooks", post(hook)).with_state(verifier);
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{}", std::env::var("PORT")?)).await?;
    Ok(axum::serve(listener, app).await?)
}
