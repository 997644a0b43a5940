//! A network cable between sender and receiver that can be pulled (the network is cut) and plugged in again.
//!
//! While the cable is pulled, no data passes in either direction, and neither side gets a reset or a refusal. Data that
//! was sent meanwhile arrives late, after the cable is plugged in again, as with TCP's retransmissions. The sender may
//! have given up by then. The kernel accepts new connections, which stay silent.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A cable. Dropping it ends its connections.
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
    /// Lays a cable from a free port to `target`. It is plugged in.
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
                    // If the target does not listen, the connection is closed.
                    let Ok(far) = TcpStream::connect(target).await else { return };
                    let _ = (near.set_nodelay(true), far.set_nodelay(true));
                    let (near_in, near_out) = near.into_split();
                    let (far_in, far_out) = far.into_split();
                    // The end of one side's data reaches the other side after all bytes.
                    tokio::spawn(carry(near_in, far_out, plugged.clone()));
                    carry(far_in, near_out, plugged).await;
                });
            }
        });
        Ok(Cable { address, plugged, runtime: Some(runtime) })
    }

    /// Returns the address of the near end.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts the network: no data passes any more.
    pub fn pull(&self) {
        self.plugged.send_replace(false);
    }

    /// Restores the network: data that was held back passes first.
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
