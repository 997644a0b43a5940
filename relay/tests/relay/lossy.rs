//! A connection to a broker that loses answers: what the relay sends arrives, the answer does not, and the connection ends.

use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// Numbers that look random, from a seed.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// `RELAY_SEED` repeats a run.
    pub(crate) fn new() -> Random {
        let seed = std::env::var("RELAY_SEED").ok().and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) * 7919 + 1);
        eprintln!("RELAY_SEED={seed}");
        Random(seed)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// The protocol, which says what an acknowledgement looks like.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Protocol {
    /// The broker names its own address, so the proxy replaces it with its own.
    Kafka,
    Nats,
}

/// A proxy that loses one acknowledgement in 20, at least one of the first 20, up to a number of them.
#[derive(Debug)]
pub(crate) struct Lossy {
    pub(crate) port: u16,
    lost: Arc<AtomicUsize>,
    whole: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Lossy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The Kafka requests whose answers are acknowledgements.
type Awaited = Mutex<HashSet<[u8; 4]>>;

struct Way {
    protocol: Protocol,
    most: usize,
    random: Mutex<Random>,
    /// The ports of the broker and of the proxy.
    ports: (u16, u16),
    /// How many acknowledgements came from the broker.
    acknowledgements: AtomicUsize,
    lost: Arc<AtomicUsize>,
    whole: Arc<AtomicBool>,
}

impl Lossy {
    pub(crate) async fn start(protocol: Protocol, broker: u16, most: usize, random: &Random) -> Lossy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (lost, whole) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let random = Mutex::new(random.clone());
        let ports = (broker, port);
        let acknowledgements = AtomicUsize::new(0);
        let way =
            Arc::new(Way { protocol, most, random, ports, acknowledgements, lost: lost.clone(), whole: whole.clone() });
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let way = way.clone();
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(("127.0.0.1", way.ports.0)).await else { return };
                    let _ = (near.set_nodelay(true), far.set_nodelay(true));
                    let (near_in, near_out) = near.into_split();
                    let (far_in, far_out) = far.into_split();
                    let awaited = Awaited::default();
                    // When one direction ends, both connections are closed.
                    tokio::select! {
                        _ = way.forth(near_in, far_out, &awaited) => {}
                        _ = way.back(far_in, near_out, &awaited) => {}
                    }
                });
            }
        });
        Lossy { port, lost, whole, task }
    }

    /// Loses nothing any more, and returns how many answers were lost.
    pub(crate) fn mend(&self) -> usize {
        self.whole.store(true, Ordering::Release);
        self.lost.load(Ordering::Acquire)
    }
}

impl Way {
    async fn forth(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, awaited: &Awaited) -> io::Result<()> {
        loop {
            let data = self.part(&mut from).await?;
            // A frame of Kafka: length, key of the request (0: produce), its version, number of the request.
            if let (Protocol::Kafka, Some([0, 0]), Some(number)) = (self.protocol, data.get(4..6), data.get(8..12)) {
                let number = number.try_into().unwrap_or_default();
                awaited.lock().unwrap_or_else(PoisonError::into_inner).insert(number);
            }
            to.write_all(&data).await?;
        }
    }

    async fn back(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, awaited: &Awaited) -> io::Result<()> {
        loop {
            let mut data = self.part(&mut from).await?;
            let is_acknowledgement = match self.protocol {
                Protocol::Kafka => data
                    .get(4..8)
                    .is_some_and(|number| awaited.lock().unwrap_or_else(PoisonError::into_inner).remove(number)),
                Protocol::Nats => data.windows(6).any(|window| window == b"\"seq\":"),
            };
            if is_acknowledgement && self.is_unlucky() {
                self.lost.fetch_add(1, Ordering::AcqRel);
                return Ok(());
            }
            if let Protocol::Kafka = self.protocol {
                let (broker, own) = (u32::from(self.ports.0).to_be_bytes(), u32::from(self.ports.1).to_be_bytes());
                for start in 8..data.len().saturating_sub(3) {
                    if data[start..start + 4] == broker {
                        data[start..start + 4].copy_from_slice(&own);
                    }
                }
            }
            to.write_all(&data).await?;
        }
    }

    /// Whether an acknowledgement is lost.
    fn is_unlucky(&self) -> bool {
        let number = self.acknowledgements.fetch_add(1, Ordering::AcqRel) + 1;
        let lost = self.lost.load(Ordering::Acquire);
        let is_due = number == 20 && lost == 0;
        let is_unlucky = is_due || self.random.lock().unwrap_or_else(PoisonError::into_inner).below(20) == 0;
        is_unlucky && lost < self.most && !self.whole.load(Ordering::Acquire)
    }

    /// Reads a whole frame of Kafka, or some bytes of NATS.
    async fn part(&self, from: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
        let mut data = vec![0; 4];
        if let Protocol::Kafka = self.protocol {
            from.read_exact(&mut data).await?;
            let length = u32::from_be_bytes(data[..4].try_into().unwrap_or_default()) as usize;
            data.resize(4 + length, 0);
            from.read_exact(&mut data[4..]).await?;
        } else {
            data.resize(64 << 10, 0);
            let length = from.read(&mut data).await?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            data.truncate(length);
        }
        Ok(data)
    }
}
