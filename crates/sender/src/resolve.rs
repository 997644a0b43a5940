//! Resolves host names to addresses that may be called.
//!
//! The name is resolved once, and the connection goes to an address that was checked. There is no second look-up that could
//! give another answer. If one of the addresses is forbidden, the name is refused.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use outbox_core::dns::{self, Answer};
use outbox_core::policy::Fault;
use outbox_core::url::Url;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::Settings;
use crate::connect::{Failure, io_fault};

/// The time limit of one look-up.
const DNS_TIMEOUT: Duration = Duration::from_secs(5);
/// The wait for a server's answer before the next server, or the same server, is asked.
const ASK_TIMEOUT: Duration = Duration::from_millis(1500);

/// The largest number of addresses of a name that are tried.
const MAX_ADDRESSES: usize = 16;

/// Returns the addresses of a URL's host. Fails if one of them is forbidden.
pub(crate) async fn vetted(url: &Url, settings: &Settings) -> Result<Vec<SocketAddr>, Failure> {
    let mut addresses = any(&url.host, url.port, settings).await?;
    if let Some(forbidden) = addresses.iter().find(|address| !settings.egress.allows_port(address.ip(), url.port)) {
        let what = if settings.egress.allows(forbidden.ip()) {
            format!("port {}", url.port)
        } else {
            "an address that is not public".to_owned()
        };
        return Err((
            Fault::Forbidden,
            // The error does not contain the address, because not everybody who can set a URL may learn internal addresses.
            format!(
                "\"{}\" leads to {}, which the operator does not allow (pg_outbox.egress_allow, egress_ports)",
                url.host, what
            ),
        ));
    }
    addresses.truncate(MAX_ADDRESSES);
    Ok(addresses)
}

/// Returns all addresses of a host.
pub(crate) async fn any(host: &str, port: u16, settings: &Settings) -> Result<Vec<SocketAddr>, Failure> {
    if let Ok(literal) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(literal, port)]);
    }
    let lookup = async {
        if settings.dns.is_empty() {
            return tokio::net::lookup_host((host, port)).await.map(Iterator::collect).map_err(|error| {
                let fault = if io_fault(&error) == Fault::Local { Fault::Local } else { Fault::Dns };
                (fault, error.to_string())
            });
        }
        let (v4, v6) = tokio::join!(ask(host, false, &settings.dns), ask(host, true, &settings.dns));
        match (v4, v6) {
            (Err(error), Err(_)) => Err(error),
            (v4, v6) => Ok(v4
                .unwrap_or_default()
                .into_iter()
                .chain(v6.unwrap_or_default())
                .map(|ip| SocketAddr::new(ip, port))
                .collect::<Vec<_>>()),
        }
    };
    let found: Vec<SocketAddr> = match tokio::time::timeout(DNS_TIMEOUT, lookup).await {
        Ok(Ok(found)) => found,
        Ok(Err((fault, error))) => return Err((fault, format!("resolving \"{host}\": {error}"))),
        Err(_) => return Err((Fault::Dns, format!("resolving \"{host}\" took longer than {DNS_TIMEOUT:?}"))),
    };
    if found.is_empty() {
        return Err((Fault::Dns, format!("\"{host}\" has no address")));
    }
    Ok(found)
}

/// Asks the operator's name servers one after the other, twice.
async fn ask(host: &str, v6: bool, servers: &[SocketAddr]) -> Result<Vec<IpAddr>, Failure> {
    let mut last = (Fault::Dns, String::from("no answer"));
    for server in servers.iter().chain(servers) {
        // An answer is recognised by the id, the port that the system chose, and the question. The id is random, because the
        // keys of a new hasher come from the operating system's random numbers.
        let id = RandomState::new().build_hasher().finish() as u16;
        let question = dns::question(id, host, v6).ok_or((Fault::Dns, "it is not a name".to_owned()))?;
        match tokio::time::timeout(ASK_TIMEOUT, ask_one(&question, *server)).await {
            Ok(Ok(Answer::Addresses(found))) => return Ok(found),
            Ok(Ok(Answer::Refused(code))) => {
                last = (Fault::Dns, format!("{server} answers with code {code}"));
            }
            Ok(Ok(Answer::Truncated)) => {
                last = (Fault::Dns, format!("{server} gives no complete answer"));
            }
            Ok(Err(error)) => {
                let fault = if io_fault(&error) == Fault::Local { Fault::Local } else { Fault::Dns };
                last = (fault, format!("{server}: {error}"));
            }
            Err(_) => last = (Fault::Dns, format!("{server} does not answer")),
        }
    }
    Err(last)
}

async fn ask_one(question: &[u8], server: SocketAddr) -> std::io::Result<Answer> {
    let local: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut packet = vec![0; 4096];
    loop {
        // Packets that do not answer the question are ignored until the time is up. Each costs little work.
        let length = socket.recv(&mut packet).await?;
        match dns::answer(question, &packet[..length]) {
            Some(Answer::Truncated) => break,
            Some(answer) => return Ok(answer),
            None => {}
        }
    }
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(&(question.len() as u16).to_be_bytes()).await?;
    stream.write_all(question).await?;
    let length = stream.read_u16().await? as usize;
    packet.resize(length, 0);
    stream.read_exact(&mut packet).await?;
    Ok(dns::answer(question, &packet).unwrap_or(Answer::Truncated))
}
