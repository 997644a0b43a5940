//! Whether a session is one's own, or a pooler's (PgBouncer and the like) that hands the server's sessions around.
//!
//! Nothing has to be configured. A server greets with the number of the process that serves the session, and a pooler with one
//! of its own making; so the process that answers is asked for its number.

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

/// Whether the process behind this session is another than the one that greeted.
pub(crate) async fn is_pooled(client: &Client) -> Result<bool> {
    Ok(backend(client).await? != greeted(client).await)
}

/// The process that answers.
async fn backend(client: &Client) -> Result<Option<i32>> {
    let rows = client.query_typed("select pg_backend_pid()", &[]).await?;
    Ok(rows.first().map(|row| row.try_get(0)).transpose()?)
}

/// The process that the greeting named. tokio-postgres tells it in requests to cancel only, so one is written to memory.
async fn greeted(client: &Client) -> Option<i32> {
    let (near, mut far) = tokio::io::duplex(64);
    // Where TLS is required it is asked for first: "S" is yes.
    far.write_all(b"S").await.ok()?;
    client.cancel_token().cancel_query_raw(near, Memory).await.ok()?;
    let mut written = Vec::new();
    far.read_to_end(&mut written).await.ok()?;
    // Length, code, process, secret.
    let [.., a, b, c, d, _, _, _, _] = written[..] else { return None };
    Some(i32::from_be_bytes([a, b, c, d]))
}

/// "TLS" of a stream that nobody else can read.
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

/// The name of a channel that nobody else uses. Another client may get what is said on it: a pooler has many on one session.
pub(crate) fn probe_channel() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("outbox_probe_{}_{now}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Whether notifications come through a pooler to this session: in its session mode they do, in others somebody else gets
/// them. `heard` is told of what comes on the channel. Where this cannot be found out within seconds they do not.
pub(crate) async fn notifies(target: &Target, client: &Client, channel: &str, heard: &Notify) -> Result<bool> {
    let found = async {
        let other = target.connect().await?;
        // Most poolers show it by themselves: the next client gets the session that was used last, or longest ago. Then nobody's
        // session is left listening. Nothing is held meanwhile, as others may look at the same time.
        for _ in 0..5 {
            let ours = backend(client).await?;
            if backend(&other).await? == ours || backend(client).await? != ours {
                return Ok(false);
            }
        }
        // Said by another session: its own is told in any case.
        client.batch_execute(&format!("listen {channel}")).await?;
        other.query_typed("select pg_notify($1, '')", &[(&channel, Type::TEXT)]).await?;
        let came = tokio::time::timeout(Duration::from_secs(1), heard.notified()).await.is_ok();
        client.batch_execute(&format!("unlisten {channel}")).await?;
        Ok(came)
    };
    // A pooler without a session to spare has the second one wait.
    tokio::time::timeout(Duration::from_secs(3), found).await.unwrap_or(Ok(false))
}
