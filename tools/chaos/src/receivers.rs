//! Receivers: four whose behaviour (mood) changes, one whose process goes away, and one whose network is cut.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use outbox_harness::{Cable, Receiver, Reply};

use crate::ledger::Ledger;
use crate::random::Random;
use crate::schedule::{ENDPOINTS, Mood};

/// The paths whose mood changes.
pub const MOODY: [&str; ENDPOINTS] = ["/main", "/half", "/mortal", "/keyed"];
/// The path of the receiver whose process goes away.
pub const FAR: &str = "/far";
/// The path whose subscription is created, changed and ended.
pub const GUEST: &str = "/guest";
/// The path whose network is cut.
pub const REMOTE: &str = "/remote";
/// The path with moods whose subscription requires the order of keys.
pub const KEYED: &str = MOODY[3];

/// All receivers of a run.
pub struct Receivers {
    near: Receiver,
    cable: Cable,
    far: Mutex<Option<Receiver>>,
    far_address: SocketAddr,
    ledger: Arc<Ledger>,
    moods: Arc<[Mutex<Mood>; ENDPOINTS]>,
    seed: u64,
}

impl std::fmt::Debug for Receivers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receivers").field("near", &self.near).finish_non_exhaustive()
    }
}

impl Receivers {
    /// Starts all receivers.
    pub fn start(ledger: &Arc<Ledger>, seed: u64) -> Result<Receivers> {
        let near = Receiver::start()?;
        let cable = Cable::lay(near.address())?;
        let far = Receiver::start()?;
        let far_address = far.address();
        let moods = Arc::new(std::array::from_fn(|_| Mutex::new(Mood::Well)));
        let ledger = Arc::clone(ledger);
        let receivers = Receivers { near, cable, far: Mutex::new(None), far_address, ledger, moods, seed };
        for i in 0..ENDPOINTS {
            receivers.moody(i);
        }
        receivers.near.forget();
        for path in [GUEST, REMOTE] {
            let ledger = Arc::clone(&receivers.ledger);
            receivers.near.on(path, move |arrival, _| {
                ledger.arrived(path, number(&arrival.body), arrival.webhook_id(), true);
                Reply::status(200)
            });
        }
        receivers.install_far(far);
        Ok(receivers)
    }

    fn moody(&self, i: usize) {
        let (ledger, moods, path, seed) = (Arc::clone(&self.ledger), Arc::clone(&self.moods), MOODY[i], self.seed);
        let draws = AtomicU64::new(0);
        self.near.on(path, move |arrival, _| {
            let mood = *moods[i].lock().unwrap_or_else(PoisonError::into_inner);
            let dice = Random::new(seed, 1000 + draws.fetch_add(1, Ordering::Relaxed)).next() % 10;
            let (reply, accepted) = match mood {
                Mood::Well => (Reply::status(200), true),
                Mood::Broken => (Reply::status(503).body("out of order \0 \u{1F4A5}"), false),
                Mood::Limited => (Reply::status(429).header("retry-after", "1"), false),
                Mood::Flaky if dice < 3 => (Reply::status(500), false),
                Mood::Flaky => (Reply::status(200), true),
                Mood::Slow => (Reply::status(200).after(Duration::from_millis(250)), true),
                Mood::Hanging => (Reply::status(200).after(Duration::from_secs(5)), false),
                Mood::Resetting => {
                    let mut reply = Reply::status(200);
                    reply.hang_up = true;
                    (reply, false)
                }
            };
            ledger.arrived(path, number(&arrival.body), arrival.webhook_id(), accepted);
            reply
        });
    }

    fn install_far(&self, receiver: Receiver) {
        let ledger = Arc::clone(&self.ledger);
        receiver.forget();
        receiver.on(FAR, move |arrival, _| {
            ledger.arrived(FAR, number(&arrival.body), arrival.webhook_id(), true);
            Reply::status(200)
        });
        *self.far.lock().unwrap_or_else(PoisonError::into_inner) = Some(receiver);
    }

    /// Returns the URL of a path.
    pub fn url(&self, path: &str) -> String {
        match path {
            FAR => format!("http://{}{path}", self.far_address),
            REMOTE => format!("http://{}{path}", self.cable.address()),
            _ => self.near.url(path),
        }
    }

    /// Cuts the network to the remote receiver, or restores it.
    pub fn plug(&self, plugged: bool) {
        if plugged { self.cable.plug() } else { self.cable.pull() }
    }

    /// Changes the mood of an endpoint.
    pub fn set_mood(&self, endpoint: usize, mood: Mood) {
        *self.moods[endpoint].lock().unwrap_or_else(PoisonError::into_inner) = mood;
    }

    /// Ends the far receiver with its connections.
    pub fn far_down(&self) {
        self.far.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Starts the far receiver again at the same address.
    pub async fn far_up(&self) -> Result<()> {
        for _ in 0..200 {
            match Receiver::start_on(self.far_address) {
                Ok(receiver) => {
                    self.install_far(receiver);
                    return Ok(());
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        anyhow::bail!("the port of the far receiver was taken by somebody else")
    }
}

/// Returns the number in a payload such as `{"n": 5}`. No batches are sent to these receivers.
fn number(body: &[u8]) -> i64 {
    serde_json::from_slice::<serde_json::Value>(body).ok().and_then(|v| v["n"].as_i64()).unwrap_or(-1)
}
