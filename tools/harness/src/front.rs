//! TLS in front of a PostgreSQL that was built without it: answers the request for TLS as a server with `ssl = on` does, and
//! passes on what is inside.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::tls::{Identity, server_config};

/// The request code that asks for TLS before anything else is said.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// A running front. It stops when it is dropped.
pub struct Front {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl std::fmt::Debug for Front {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Front").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Front {
    /// Starts one with this identity before the server on `port` of 127.0.0.1. Who does not ask for TLS is turned away.
    pub async fn start(identity: &Identity, port: u16) -> Result<Front> {
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
        Ok(Front { address, task })
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for Front {
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
