//! A cable between sender and receiver that can be pulled and plugged in again.
//!
//! While it is out, nothing passes in either direction and nobody is told: no reset, no refusal. What was sent meanwhile
//! arrives when it is in again, late, as TCP's retransmissions would; the sender may have given up by then. New connections
//! are accepted (by the kernel) and silent.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A cable. Its connections end when it is dropped.
pub struct Cable {
    address: SocketAddr,
    plugged: watch::Sender<bool>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl std::fmt::Debug for Cable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cable").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Cable {
    /// Lays one from a free port to `target`, plugged in.
    pub fn lay(target: SocketAddr) -> Result<Cable> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (plugged, watched) = watch::channel(true);
        runtime.spawn(async move {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            while let Ok((near, _)) = listener.accept().await {
                let mut plugged = watched.clone();
                tokio::spawn(async move {
                    if plugged.wait_for(|plugged| *plugged).await.is_err() {
                        return;
                    }
                    // A target that is not there refuses: the connection is closed.
                    let Ok(far) = TcpStream::connect(target).await else { return };
                    let _ = (near.set_nodelay(true), far.set_nodelay(true));
                    let (near_in, near_out) = near.into_split();
                    let (far_in, far_out) = far.into_split();
                    // What one side ends, the other sees in order, behind all bytes.
                    tokio::spawn(carry(near_in, far_out, plugged.clone()));
                    carry(far_in, near_out, plugged).await;
                });
            }
        });
        Ok(Cable { address, plugged, runtime: Some(runtime) })
    }

    /// The near end.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Nothing passes any more.
    pub fn pull(&self) {
        self.plugged.send_replace(false);
    }

    /// Everything passes again, what was held up first.
    pub fn plug(&self) {
        self.plugged.send_replace(true);
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn carry(
    mut from: impl AsyncRead + Unpin + Send,
    mut to: impl AsyncWrite + Unpin + Send,
    mut plugged: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count) = from.read(&mut buffer).await {
        if plugged.wait_for(|plugged| *plugged).await.is_err() {
            return;
        }
        if count == 0 {
            let _ = to.shutdown().await;
            return;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
