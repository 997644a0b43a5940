//! A TLS proxy in front of a PostgreSQL that was built without TLS. It answers the request for TLS like a server with
//! `ssl = on` and forwards the decrypted data.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::tls::{Identity, server_config};

/// The message with which a client asks for TLS at the beginning of a connection.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// A running TLS proxy. Dropping it stops it.
pub struct TlsProxy {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl std::fmt::Debug for TlsProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsProxy").field("address", &self.address).finish_non_exhaustive()
    }
}

impl TlsProxy {
    /// Starts a proxy with this identity in front of the server on `port` of 127.0.0.1. Connections that do not ask for
    /// TLS are closed.
    pub async fn start(identity: &Identity, port: u16) -> Result<TlsProxy> {
        let acceptor = TlsAcceptor::from(server_config(identity, None, &["postgresql"])?);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let _ = pass(stream, acceptor, port).await;
                });
            }
        });
        Ok(TlsProxy { address, task })
    }

    /// Returns the port of the proxy on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for TlsProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(mut stream: TcpStream, acceptor: TlsAcceptor, port: u16) -> Result<()> {
    let mut request = [0u8; 8];
    stream.read_exact(&mut request).await?;
    if request != SSL_REQUEST {
        return Ok(());
    }
    stream.write_all(b"S").await?;
    let mut inside = acceptor.accept(stream).await?;
    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
    copy_bidirectional(&mut inside, &mut server).await?;
    Ok(())
}
