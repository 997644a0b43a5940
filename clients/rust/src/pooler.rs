//! Detects poolers (PgBouncer and the like) that share the server's sessions between clients.
//!
//! No configuration is needed. A server greets a client with the process id of the session's backend. A pooler greets with a
//! number that it makes up. The client therefore asks the backend that answers for its process id and compares the two.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf};
use tokio::sync::Notify;
use tokio_postgres::Client;
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_postgres::types::Type;

use crate::connect::Target;
use crate::error::Result;

/// Returns whether the backend of this session is another one than the greeting named.
pub(crate) async fn is_pooled(client: &Client) -> Result<bool> {
    Ok(backend(client).await? != greeted(client).await)
}

/// Returns the process id of the backend that answers.
async fn backend(client: &Client) -> Result<Option<i32>> {
    let rows = client.query_typed("select pg_backend_pid()", &[]).await?;
    Ok(rows.first().map(|row| row.try_get(0)).transpose()?)
}

/// Returns the process id that the greeting named. tokio-postgres shows it only in cancel requests, so such a request is
/// written to memory and read from there.
async fn greeted(client: &Client) -> Option<i32> {
    let (near, mut far) = tokio::io::duplex(64);
    // If TLS is required, the client asks for it first. "S" is the answer yes.
    far.write_all(b"S").await.ok()?;
    client.cancel_token().cancel_query_raw(near, Memory).await.ok()?;
    let mut written = Vec::new();
    far.read_to_end(&mut written).await.ok()?;
    // The request consists of length, code, process id and secret.
    let [.., a, b, c, d, _, _, _, _] = written[..] else { return None };
    Some(i32::from_be_bytes([a, b, c, d]))
}

/// Stands in for TLS on a stream in memory, which needs no encryption.
struct Memory;

struct Stream(DuplexStream);

impl TlsConnect<DuplexStream> for Memory {
    type Stream = Stream;
    type Error = Infallible;
    type Future = Ready<std::result::Result<Stream, Infallible>>;

    fn connect(self, stream: DuplexStream) -> Self::Future {
        ready(Ok(Stream(stream)))
    }
}

impl TlsStream for Stream {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Returns the name of a channel that no other client uses. Another client may still get its notifications, because a pooler
/// lets many clients use one session.
pub(crate) fn probe_channel() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("outbox_probe_{}_{now}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Returns whether notifications reach this session through a pooler. In a pooler's session mode they do; in other modes
/// another client may get them. `heard` is notified of notifications on `channel`. If the answer cannot be found within
/// three seconds, it is no.
pub(crate) async fn notifies(target: &Target, client: &Client, channel: &str, heard: &Notify) -> Result<bool> {
    let found = async {
        let other = target.connect().await?;
        // Most poolers can be recognised without LISTEN, because the next client gets the session that was used last, or
        // longest ago. Then no session of another client is left listening. No session is held during the check, because
        // other clients may make the same check at the same time.
        for _ in 0..5 {
            let ours = backend(client).await?;
            if backend(&other).await? == ours || backend(client).await? != ours {
                return Ok(false);
            }
        }
        // Another session sends the notification, because the sending session gets it in any case.
        client.batch_execute(&format!("listen {channel}")).await?;
        other.query_typed("select pg_notify($1, '')", &[(&channel, Type::TEXT)]).await?;
        let came = tokio::time::timeout(Duration::from_secs(1), heard.notified()).await.is_ok();
        client.batch_execute(&format!("unlisten {channel}")).await?;
        Ok(came)
    };
    // If the pooler has no free session, the second connection waits.
    tokio::time::timeout(Duration::from_secs(3), found).await.unwrap_or(Ok(false))
}
