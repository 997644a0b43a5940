//! An authoritative name server for tests. A test decides on the answer to each question.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

type Zone = Arc<Mutex<HashMap<String, Box<dyn Fn(usize) -> Vec<IpAddr> + Send>>>>;
type Asked = Arc<Mutex<HashMap<(String, u16), usize>>>;

const A: u16 = 1;
const AAAA: u16 = 28;
/// An answer with more addresses than this does not fit into a datagram and is asked for again over TCP.
const MOST: usize = 20;

/// A running name server. Dropping it stops it.
pub struct Dns {
    address: SocketAddr,
    zone: Zone,
    asked: Asked,
    runtime: Option<tokio::runtime::Runtime>,
}

impl std::fmt::Debug for Dns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dns").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Dns {
    /// Starts a name server on a free port, for UDP and TCP.
    pub fn start() -> Result<Dns> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (zone, asked) = (Zone::default(), Asked::default());
        let (udp, tcp) = both_sockets()?;
        let address = udp.local_addr()?;
        let (udp, tcp) = {
            let _inside = runtime.enter();
            (UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?)
        };
        let (z, a) = (Arc::clone(&zone), Arc::clone(&asked));
        runtime.spawn(async move {
            let mut packet = [0; 1500];
            while let Ok((length, from)) = udp.recv_from(&mut packet).await {
                if let Some(answer) = answer(&packet[..length], &z, &a, true) {
                    let _ = udp.send_to(&answer, from).await;
                }
            }
        });
        let (z, a) = (Arc::clone(&zone), Arc::clone(&asked));
        runtime.spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let (z, a) = (Arc::clone(&z), Arc::clone(&a));
                tokio::spawn(async move {
                    let Ok(length) = stream.read_u16().await else { return };
                    let mut packet = vec![0; length as usize];
                    if stream.read_exact(&mut packet).await.is_err() {
                        return;
                    }
                    if let Some(answer) = answer(&packet, &z, &a, false) {
                        let _ = stream.write_u16(answer.len() as u16).await;
                        let _ = stream.write_all(&answer).await;
                    }
                });
            }
        });
        Ok(Dns { address, zone, asked, runtime: Some(runtime) })
    }

    /// Returns the address on which it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers questions for a name with the addresses that `addresses` returns. Its argument counts the questions of one
    /// kind from 0. All other names do not exist.
    pub fn on(&self, name: &str, addresses: impl Fn(usize) -> Vec<IpAddr> + Send + 'static) {
        self.zone.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), Box::new(addresses));
    }

    /// Returns how often the IPv4 addresses of a name were asked for.
    pub fn asked(&self, name: &str) -> usize {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.get(&(name.to_owned(), A)).copied().unwrap_or(0)
    }
}

/// Binds a UDP and a TCP socket to the same free port.
fn both_sockets() -> Result<(std::net::UdpSocket, std::net::TcpListener)> {
    for _ in 0..50 {
        let udp = std::net::UdpSocket::bind("127.0.0.1:0")?;
        if let Ok(tcp) = std::net::TcpListener::bind(udp.local_addr()?) {
            udp.set_nonblocking(true)?;
            tcp.set_nonblocking(true)?;
            return Ok((udp, tcp));
        }
    }
    anyhow::bail!("no port is free for both UDP and TCP")
}

impl Drop for Dns {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn answer(packet: &[u8], zone: &Zone, asked: &Asked, datagram: bool) -> Option<Vec<u8>> {
    let mut at = 12;
    let mut labels = Vec::new();
    loop {
        let length = *packet.get(at)? as usize;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(packet.get(at + 1..at + 1 + length)?).to_lowercase());
        at += 1 + length;
    }
    let name = labels.join(".");
    let kind = u16::from_be_bytes([*packet.get(at + 1)?, *packet.get(at + 2)?]);
    let question = packet.get(12..at + 5)?;
    let before = {
        let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
        let count = asked.entry((name.clone(), kind)).or_default();
        *count += 1;
        *count - 1
    };
    // `addresses` may block, so the count is already updated here.
    let found = zone.lock().unwrap_or_else(PoisonError::into_inner).get(&name).map(|addresses| addresses(before));
    let code = if found.is_some() { 0 } else { 3 };
    let addresses: Vec<IpAddr> =
        found.unwrap_or_default().into_iter().filter(|ip| kind == if ip.is_ipv4() { A } else { AAAA }).collect();
    let cut = datagram && addresses.len() > MOST;
    let addresses = if cut { &[][..] } else { &addresses[..] };
    let mut reply = packet.get(..2)?.to_vec();
    // The flags of an authoritative answer to a question with recursion desired.
    reply.extend_from_slice(&[0x85 | u8::from(cut) << 1, code, 0, 1]);
    reply.extend_from_slice(&(addresses.len() as u16).to_be_bytes());
    reply.extend_from_slice(&[0, 0, 0, 0]);
    reply.extend_from_slice(question);
    for address in addresses {
        // A pointer to the name in the question; then type, class IN, and a time to live of 0.
        reply.extend_from_slice(&[0xc0, 12]);
        reply.extend_from_slice(&kind.to_be_bytes());
        reply.extend_from_slice(&[0, 1, 0, 0, 0, 0]);
        let bytes = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        reply.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
        reply.extend_from_slice(&bytes);
    }
    Some(reply)
}
