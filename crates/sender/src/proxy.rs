//! Opens tunnels through the operator's proxy.
//!
//! The proxy gets the checked address, not the host name, so it connects to exactly the address that was checked. If the
//! operator says that the proxy resolves names itself, the proxy gets the name and decides which addresses may be called.
//! TLS runs through the tunnel. In both cases the certificate is verified against the host name of the URL, and the proxy
//! sees no request.

use std::fmt;
use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use outbox_core::policy::Fault;
use outbox_core::proxy::{Kind, Proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::connect::Failure;
use crate::meter::Metered;

/// The target of a tunnel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target<'a> {
    Address(SocketAddr),
    Name(&'a str, u16),
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Address(address) => address.fmt(f),
            Target::Name(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// Asks the proxy at the other end of `stream` for a tunnel to `target`.
pub(crate) async fn tunnel(stream: &mut Metered, proxy: &Proxy, target: Target<'_>) -> Result<(), Failure> {
    let result = match proxy.kind {
        Kind::Http => connect(stream, proxy, target).await,
        Kind::Socks5 => socks5(stream, proxy, target).await,
    };
    result.map_err(|error| (Fault::Unreachable, format!("the proxy opens no tunnel to {target}: {error}")))
}

/// Opens a tunnel with CONNECT (RFC 9110, 9.3.6).
async fn connect(stream: &mut Metered, proxy: &Proxy, target: Target<'_>) -> std::io::Result<()> {
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some((user, password)) = &proxy.credentials {
        let credentials = STANDARD.encode(format!("{user}:{password}"));
        request.push_str(&format!("Proxy-Authorization: Basic {credentials}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await?;
    // The head is read one byte at a time, because the bytes after it belong to the tunnel.
    let mut head = Vec::with_capacity(256);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > 8192 {
            return Err(std::io::Error::other("its answer is too long"));
        }
        head.push(stream.read_u8().await?);
    }
    let status = std::str::from_utf8(&head).ok().and_then(|head| head.split(' ').nth(1)).unwrap_or_default();
    if status.starts_with('2') && head.starts_with(b"HTTP/1.") {
        return Ok(());
    }
    let shown: String = status.chars().filter(char::is_ascii_digit).take(3).collect();
    Err(std::io::Error::other(format!("status {shown}")))
}

/// Opens a tunnel with SOCKS 5 (RFC 1928, and RFC 1929 for user and password).
async fn socks5(stream: &mut Metered, proxy: &Proxy, target: Target<'_>) -> std::io::Result<()> {
    let method = if proxy.credentials.is_some() { 2 } else { 0 };
    stream.write_all(&[5, 1, method]).await?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).await?;
    if answer != [5, method] {
        return Err(std::io::Error::other("it wants another authentication"));
    }
    if let Some((user, password)) = &proxy.credentials {
        let mut request = vec![1, user.len() as u8];
        request.extend_from_slice(user.as_bytes());
        request.push(password.len() as u8);
        request.extend_from_slice(password.as_bytes());
        stream.write_all(&request).await?;
        stream.read_exact(&mut answer).await?;
        if answer[1] != 0 {
            return Err(std::io::Error::other("it refuses the credentials"));
        }
    }
    let mut request = vec![5, 1, 0];
    let port = match target {
        Target::Address(SocketAddr::V4(v4)) => {
            request.push(1);
            request.extend_from_slice(&v4.ip().octets());
            v4.port()
        }
        Target::Address(SocketAddr::V6(v6)) => {
            request.push(4);
            request.extend_from_slice(&v6.ip().octets());
            v6.port()
        }
        Target::Name(host, port) => {
            // A name has at most 253 bytes.
            request.extend_from_slice(&[3, host.len() as u8]);
            request.extend_from_slice(host.as_bytes());
            port
        }
    };
    request.extend_from_slice(&port.to_be_bytes());
    stream.write_all(&request).await?;
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    if head[1] != 0 {
        return Err(std::io::Error::other(format!("code {}", head[1])));
    }
    let rest = match head[3] {
        1 => 4,
        4 => 16,
        3 => stream.read_u8().await? as usize,
        _ => return Err(std::io::Error::other("a malformed answer")),
    };
    let mut bound = vec![0; rest + 2];
    stream.read_exact(&mut bound).await?;
    Ok(())
}
