//! A schedule: what producers, operators, receivers, workers and the machine do, in a random order that depends on the seed
//! alone.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use outbox_dispatch::{Engine, Wakeup};

use crate::store::SimStore;
use crate::transport::{SimTransport, Wire};
use crate::verdict;
use crate::world::{Message, PLANS, World, plan};

/// Steps of a schedule before it settles.
const STEPS: u64 = 120;
/// Rounds within which everything must have ended.
const PATIENCE: usize = 5000;

/// A world and the incarnation of the dispatcher that lives in it.
pub(crate) struct Run {
    pub(crate) world: Rc<RefCell<World>>,
    wire: Rc<RefCell<Wire>>,
    engine: Engine<SimStore, SimTransport>,
}

/// Runs the schedule of a seed to its end, and returns the world.
pub(crate) fn run(seed: u64) -> Rc<RefCell<World>> {
    let mut run = Run::new(seed);
    for _ in 0..STEPS {
        run.step();
        if !run.world.borrow().breaches.is_empty() {
            return run.world;
        }
    }
    run.settle();
    verdict::judge(&mut run.world.borrow_mut());
    run.world
}

fn incarnation(world: &Rc<RefCell<World>>) -> (Rc<RefCell<Wire>>, Engine<SimStore, SimTransport>) {
    let wire = Rc::new(RefCell::new(Wire::default()));
    let transport = SimTransport { wire: Rc::clone(&wire), world: Rc::clone(world) };
    (wire, Engine::new(SimStore { world: Rc::clone(world) }, transport))
}

impl Run {
    fn new(seed: u64) -> Run {
        let world = Rc::new(RefCell::new(World::new(seed)));
        let (wire, engine) = incarnation(&world);
        Run { world, wire, engine }
    }

    fn step(&mut self) {
        let choice = self.world.borrow_mut().random.between(0, 999);
        self.world.borrow().trace(|| format!("step {choice}"));
        match choice {
            0..400 => drop(self.round()),
            400..650 => self.receivers(8),
            650..770 => self.produce(),
            770..800 => self.subscribe(),
            800..840 => self.cancel(),
            840..860 => self.pause(),
            860..880 => self.hold(),
            880..895 => self.open_breaker(),
            895..955 => self.work(),
            955..970 => self.resolve(),
            970..990 => self.die(),
            _ => {
                self.engine.shut_down(Duration::from_secs(1));
                self.die();
            }
        }
    }

    /// Lets the dispatcher run one round, and time pass until its next one or until something wakes it.
    fn round(&mut self) -> Duration {
        let wait = match self.engine.round() {
            Ok(Wakeup::In(wait)) => wait,
            Ok(Wakeup::Copied) => Duration::from_secs(5),
            Err(_) => Duration::from_millis(100),
        };
        if self.world.borrow().answer_lost || self.engine.must_restart() {
            self.die();
        }
        let world = &mut *self.world.borrow_mut();
        let passes = world.random.between(50, 20_000).min(wait.as_micros() as u64 + 50);
        world.now += passes as i64;
        wait
    }

    fn receivers(&mut self, most: u64) {
        let world = &mut *self.world.borrow_mut();
        for _ in 0..world.random.between(1, most) {
            self.wire.borrow_mut().go_on(world);
            world.now += world.random.between(10, 1000) as i64;
        }
    }

    fn produce(&mut self) {
        let world = &mut *self.world.borrow_mut();
        for _ in 0..world.random.between(1, 8) {
            let key = ["a", "b", "c"][world.random.index(3)];
            let later = world.random.chance(80);
            let deliver_at = later.then(|| world.now + world.random.between(1, 300_000) as i64);
            let poisoned = world.trouble > 0 && world.random.chance(30);
            let enqueued_at = world.now;
            world.enqueue(Message { key: Some(key.into()), control: None, enqueued_at, deliver_at, poisoned });
        }
    }

    /// Subscribes one more subscription.
    fn subscribe(&mut self) {
        let world = &mut *self.world.borrow_mut();
        if let Some(plan) = PLANS.iter().find(|plan| !world.tables.begun.contains_key(&plan.id)) {
            world.tables.begun.insert(plan.id, None);
            world.control(format!("{{\"subscription\":{}}}", plan.id));
        }
    }

    /// Cancels a message that has deliveries left.
    fn cancel(&mut self) {
        let world = &mut *self.world.borrow_mut();
        let known = world.tables.messages.len();
        if known == 0 {
            return;
        }
        let id = world.random.index(known) as i64 + 1;
        let position = world.tables.feed.iter().position(|of| *of == id).map(|i| i as i64 + 1);
        let is_left = position.is_none_or(|position| {
            let left = |plan: &&crate::world::Plan| !world.tables.ended.contains_key(&(plan.id, position));
            world.matching(position).any(|plan| left(&plan))
        });
        let tables = &mut world.tables;
        if is_left && tables.messages[&id].control.is_none() && tables.cancelled.insert(id) {
            tables.cancelled_lately.insert(id);
            tables.end_cancelled(&[id].into(), &[]);
            world.change();
        }
    }

    /// Pauses or resumes a subscription.
    fn pause(&mut self) {
        let world = &mut *self.world.borrow_mut();
        let id = PLANS[world.random.index(PLANS.len())].id;
        if !world.tables.paused.remove(&id) {
            world.tables.paused.insert(id);
        }
        world.control(format!("{{\"subscription\":{id}}}"));
    }

    /// Disables or enables an endpoint.
    fn hold(&mut self) {
        let world = &mut *self.world.borrow_mut();
        let id = PLANS[world.random.index(PLANS.len())].id;
        if !world.tables.held.remove(&id) {
            world.tables.held.insert(id);
        }
        world.control(format!("{{\"endpoint\":{id}}}"));
    }

    fn open_breaker(&mut self) {
        let world = &mut *self.world.borrow_mut();
        let endpoint = PLANS[world.random.index(PLANS.len())].id;
        let until = world.unix() + world.random.between(1000, 200_000) as i64;
        self.wire.borrow_mut().open_breaker(endpoint, until);
    }

    /// Lets a worker claim and handle rows of pull subscriptions.
    fn work(&mut self) {
        let world = &mut *self.world.borrow_mut();
        let now = world.now;
        let rows = world.tables.deliveries.iter().filter(|(_, d)| d.pull && !d.blocked && d.due <= now);
        let claimed: Vec<i64> = rows.map(|(id, _)| *id).take(5).collect();
        for id in claimed {
            let fails = world.random.chance(world.refusals);
            if fails && let Some(row) = world.tables.deliveries.get_mut(&id) {
                (row.attempt, row.due) = (row.attempt + 1, now + 10_000);
            } else if let Some(gone) = world.tables.remove(id) {
                let own =
                    World::content(&crate::world::Plan { transform: false, ..*plan(gone.subscription) }, gone.message);
                if gone.payload.clone().map_or(own, |payload| Ok(Some(payload)))
                    != World::content(plan(gone.subscription), gone.message)
                {
                    world.breach(format!("message {} was claimed as {:?}", gone.message, gone.payload));
                }
                world.tables.end(gone.subscription, gone.position, "completed");
            }
        }
    }

    /// Resolves the open dead letters, which frees their keys.
    fn resolve(&mut self) {
        let world = &mut *self.world.borrow_mut();
        let mut changed = false;
        for letter in world.tables.dead_letters.iter_mut().filter(|letter| letter.open) {
            (letter.open, changed) = (false, true);
            if let Some(key) = letter.key.clone() {
                world.tables.freed_keys.insert((letter.subscription, key));
            }
        }
        if changed {
            world.change();
        }
    }

    /// Ends the process. Jobs are lost, and so are outcomes that are not recorded.
    fn die(&mut self) {
        {
            let world = &mut *self.world.borrow_mut();
            world.deaths += 1;
            world.answer_lost = false;
        }
        (self.wire, self.engine) = incarnation(&self.world);
    }

    /// Ends all trouble, and goes on until nothing is left to do.
    fn settle(&mut self) {
        {
            let world = &mut *self.world.borrow_mut();
            (world.trouble, world.refusals) = (0, 0);
            for plan in &PLANS {
                world.tables.begun.entry(plan.id).or_insert(None);
                world.tables.paused.remove(&plan.id);
                world.tables.held.remove(&plan.id);
                world.control(format!("{{\"subscription\":{}}}", plan.id));
            }
            world.control("{\"endpoint\":0}".to_owned());
        }
        for _ in 0..PATIENCE {
            self.receivers(30);
            let wait = self.round();
            self.work();
            self.resolve();
            if self.is_over() {
                return;
            }
            let world = &mut *self.world.borrow_mut();
            // The long waits are those for a retry.
            if self.wire.borrow().is_idle() {
                world.now += wait.as_micros().min(1_000_000) as i64;
            }
        }
        let left = self.left();
        self.world.borrow_mut().breach(format!("it does not end: {left}"));
    }

    fn is_over(&self) -> bool {
        let world = self.world.borrow();
        let tables = &world.tables;
        let recorded = tables.checkpoint.as_ref().is_some_and(|last| {
            // A subscription that has caught up without a match need not be written again.
            last.checkpoint.routed == tables.feed.len() as i64
                && last.checkpoint.subscriptions.iter().all(|(_, saved)| saved.open.is_empty())
        });
        let status = self.engine.status();
        recorded
            && !status.busy
            && status.generation == world.generation
            && tables.unnumbered.is_empty()
            && tables.deliveries.is_empty()
            && tables.freed_keys.is_empty()
            && tables.dead_letters.iter().all(|letter| !letter.open)
            && self.wire.borrow().is_idle()
    }

    fn left(&self) -> String {
        let world = self.world.borrow();
        format!(
            "{:?}, checkpoint {:?}, feed {}, rows {:?}, keys {:?}, wire {:?}",
            self.engine.status(),
            world.tables.checkpoint,
            world.tables.feed.len(),
            world.tables.deliveries,
            world.tables.freed_keys,
            self.wire.borrow(),
        )
    }
}
