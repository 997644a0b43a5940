//! Forward proxies for tests: HTTP CONNECT and SOCKS 5, with or without credentials.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

/// The protocol of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// HTTP CONNECT.
    Connect,
    /// SOCKS 5.
    Socks5,
}

/// A running proxy. Dropping it stops it.
pub struct Proxy {
    kind: Kind,
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Proxy {
    /// Starts a proxy on a free port. It accepts all clients, or only this user with this password. Every host name
    /// resolves to `names`.
    pub fn start(kind: Kind, credentials: Option<(&str, &str)>, names: std::net::IpAddr) -> Result<Proxy> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let asked = Arc::new(Mutex::new(Vec::new()));
        let theirs = Arc::clone(&asked);
        let credentials = credentials.map(|(user, password)| (user.to_owned(), password.to_owned()));
        runtime.spawn(async move {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            while let Ok((mut stream, _)) = listener.accept().await {
                let (asked, credentials) = (Arc::clone(&theirs), credentials.clone());
                tokio::spawn(async move {
                    let target = match kind {
                        Kind::Connect => connect(&mut stream, credentials.as_ref()).await,
                        Kind::Socks5 => socks5(&mut stream, credentials.as_ref()).await,
                    };
                    let Ok(target) = target else { return };
                    asked.lock().unwrap_or_else(PoisonError::into_inner).push(target.clone());
                    let place = target.parse::<SocketAddr>().ok().or_else(|| {
                        let (_, port) = target.rsplit_once(':')?;
                        Some(SocketAddr::new(names, port.parse().ok()?))
                    });
                    let Some(place) = place else { return };
                    let open = TcpStream::connect(place).await;
                    let answer: &[u8] = match (kind, &open) {
                        (Kind::Connect, Ok(_)) => b"HTTP/1.1 200 Connection established\r\n\r\n",
                        (Kind::Connect, Err(_)) => b"HTTP/1.1 502 Bad Gateway\r\n\r\n",
                        (Kind::Socks5, Ok(_)) => &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0],
                        (Kind::Socks5, Err(_)) => &[5, 5, 0, 1, 0, 0, 0, 0, 0, 0],
                    };
                    if stream.write_all(answer).await.is_ok()
                        && let Ok(mut open) = open
                    {
                        let _ = copy_bidirectional(&mut stream, &mut open).await;
                    }
                });
            }
        });
        Ok(Proxy { kind, address, asked, runtime: Some(runtime) })
    }

    /// Returns the URL of the proxy, with `user:password@` if given.
    pub fn url(&self, credentials: &str) -> String {
        let scheme = if self.kind == Kind::Connect { "http" } else { "socks5" };
        format!("{scheme}://{credentials}{}", self.address)
    }

    /// Returns the targets that clients asked for.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn connect(stream: &mut TcpStream, credentials: Option<&(String, String)>) -> Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head)?;
    if let Some((user, password)) = credentials {
        let expected = format!("proxy-authorization: Basic {}", STANDARD.encode(format!("{user}:{password}")));
        if !head.lines().any(|line| line.eq_ignore_ascii_case(&expected)) {
            stream.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await?;
            bail!("wrong credentials");
        }
    }
    match head.split_whitespace().collect::<Vec<_>>()[..] {
        ["CONNECT", target, "HTTP/1.1", ..] => Ok(target.to_owned()),
        _ => bail!("not CONNECT"),
    }
}

async fn socks5(stream: &mut TcpStream, credentials: Option<&(String, String)>) -> Result<String> {
    let (version, count) = (stream.read_u8().await?, stream.read_u8().await?);
    let mut methods = vec![0; count as usize];
    stream.read_exact(&mut methods).await?;
    let wanted = if credentials.is_some() { 2 } else { 0 };
    if version != 5 || !methods.contains(&wanted) {
        stream.write_all(&[5, 0xff]).await?;
        bail!("no common method");
    }
    stream.write_all(&[5, wanted]).await?;
    if let Some((user, password)) = credentials {
        let _version = stream.read_u8().await?;
        let mut given = Vec::new();
        for _ in 0..2 {
            let mut text = vec![0; stream.read_u8().await? as usize];
            stream.read_exact(&mut text).await?;
            given.push(String::from_utf8(text)?);
        }
        let good = given == [user.clone(), password.clone()];
        stream.write_all(&[1, u8::from(!good)]).await?;
        if !good {
            bail!("wrong credentials");
        }
    }
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    let host = match head {
        [5, 1, 0, 1] => Ipv4Addr::from(stream.read_u32().await?).to_string(),
        [5, 1, 0, 4] => format!("[{}]", Ipv6Addr::from(stream.read_u128().await?)),
        [5, 1, 0, 3] => {
            let mut name = vec![0; stream.read_u8().await? as usize];
            stream.read_exact(&mut name).await?;
            String::from_utf8(name)?
        }
        _ => bail!("not CONNECT"),
    };
    Ok(format!("{host}:{}", stream.read_u16().await?))
}
