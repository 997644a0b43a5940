//! Deliveries against a model. Random sequences of actions of producers, workers and operators, and of expiring leases,
//! run over several connections. After each step the database must agree with the model.
//!
//! Nothing else touches the rows: the library is not preloaded, so claims tick and route, one step at a time. The test
//! does not wait for leases to expire, but moves their ends into the past.

use std::collections::{BTreeMap, HashMap};

use outbox_harness::tokio_postgres::{Client, Row};
use outbox_tests::{bare_server, explain, one, outbox_harness};

const MAX_ATTEMPTS: i32 = 3;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Pending or failed, and due now.
    Due,
    /// Failed, with a retry in an hour.
    Later,
    Leased(i64),
    Dead,
    Completed,
}

/// A delivery in the model.
#[derive(Clone, Debug)]
struct Delivery {
    state: State,
    attempt: i32,
    key: Option<u8>,
    /// All attempts, also those before a retry that resets `attempt`.
    tries: i32,
}

#[derive(Default)]
struct Model {
    /// Deliveries by message id. In this test, ids have the order of positions.
    deliveries: BTreeMap<i64, Delivery>,
    /// Message ids by delivery id.
    ids: HashMap<i64, i64>,
    leases: Vec<i64>,
}

impl Model {
    /// Returns whether a claim may return the message in an ordered subscription: all earlier messages of its key have
    /// ended, and none of its key is leased.
    fn is_head(&self, message: i64) -> bool {
        let Some(key) = self.deliveries[&message].key else { return true };
        let ended = |d: &Delivery| matches!(d.state, State::Dead | State::Completed);
        let of_key = |(id, d): (&i64, &Delivery)| (d.key == Some(key)).then(|| (*id, d.clone()));
        self.deliveries
            .iter()
            .filter_map(of_key)
            .all(|(id, d)| !matches!(d.state, State::Leased(_)) && (id >= message || ended(&d)))
    }

    fn of_lease(&self, lease: i64) -> Vec<i64> {
        self.deliveries.iter().filter(|(_, d)| d.state == State::Leased(lease)).map(|(id, _)| *id).collect()
    }

    fn fail(&mut self, message: i64, due: State) {
        let delivery = self.deliveries.get_mut(&message).unwrap();
        delivery.state = if delivery.attempt >= MAX_ATTEMPTS { State::Dead } else { due };
    }
}

/// A xorshift generator. Each run prints its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.below(from.len())])
    }
}

/// Executes a call that returns the ids of the deliveries that it changed. Returns their message ids.
async fn changed(db: &Client, model: &Model, call: &str) -> Vec<i64> {
    let ids: Vec<i64> = one(db, &format!("select outbox.{call}")).await;
    let mut messages: Vec<i64> = ids.iter().map(|id| model.ids[id]).collect();
    messages.sort_unstable();
    messages
}

/// Returns the messages that a claim may return now. First it routes enqueued and freed messages, so that the claim has
/// nothing to route.
async fn claimable(db: &Client, model: &Model) -> Vec<i64> {
    db.query("select outbox_internal.is_ready('jobs')", &[]).await.unwrap();
    // On a slow machine a session stores a claim hint. Without shared memory, other sessions cannot invalidate the hint.
    db.query("select outbox_internal.lower_claim_hint(id, 0, '-infinity') from outbox.subscription", &[])
        .await
        .unwrap();
    let is_due = |(id, d): &(&i64, &Delivery)| d.state == State::Due && model.is_head(**id);
    model.deliveries.iter().filter(is_due).map(|(id, _)| *id).collect()
}

/// Enters the rows of a claim for up to `max` deliveries into the model. They must be among `can`.
fn claimed(model: &mut Model, rows: &[Row], can: &[i64], max: i32) {
    assert_eq!(rows.len(), can.len().min(max as usize), "claim of {max} among {can:?}");
    for row in rows {
        let (lease, id, message): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
        assert!(can.contains(&message), "{message} is not to be had");
        assert!(model.ids.insert(id, message).is_none_or(|before| before == message), "one delivery per message");
        let delivery = model.deliveries.get_mut(&message).unwrap();
        delivery.attempt += 1;
        delivery.tries += 1;
        assert_eq!(row.get::<_, i32>(3), delivery.attempt);
        delivery.state = State::Leased(lease);
        if !model.leases.contains(&lease) {
            model.leases.push(lease);
        }
    }
}

async fn step(connections: &[Client], random: &mut Random, model: &mut Model, ordered: bool) -> String {
    let db = &connections[random.below(connections.len())];
    // Any lease is picked, live or ended. Calls with an ended lease must change nothing.
    let lease = random.pick(&model.leases.clone()).unwrap_or(999_999);
    match random.below(14) {
        0 | 1 => {
            let key = ordered.then(|| random.below(3) as u8);
            let text = key.map_or("null".to_owned(), |k| format!("'k{k}'"));
            let id: i64 = one(db, &format!("select outbox.enqueue('job.do', '{{}}', {text})")).await;
            model.deliveries.insert(id, Delivery { state: State::Due, attempt: 0, key, tries: 0 });
            format!("enqueue {id} {key:?}")
        }
        2..=4 => {
            let max = 1 + random.below(4) as i32;
            let can = claimable(db, model).await;
            let rows = db
                .query("select lease, delivery_id, message_id, attempt from outbox.claim('jobs', 'w', $1)", &[&max])
                .await
                .unwrap();
            claimed(model, &rows, &can, max);
            format!("claim {}", rows.len())
        }
        5 | 6 => {
            let expected = model.of_lease(lease);
            assert_eq!(changed(db, model, &format!("complete({lease})")).await, expected);
            for message in &expected {
                model.deliveries.get_mut(message).unwrap().state = State::Completed;
            }
            format!("complete {lease} {expected:?}")
        }
        7 => {
            let expected = model.of_lease(lease);
            let (wait, due) = if random.below(2) == 0 { ("0", State::Due) } else { ("1 hour", State::Later) };
            assert_eq!(changed(db, model, &format!("fail({lease}, null, 'x', '{wait}')")).await, expected);
            for message in &expected {
                model.fail(*message, due);
            }
            format!("fail {lease} {expected:?} {wait}")
        }
        8 => {
            // One delivery of the lease is dead-lettered.
            let expected: Vec<i64> = model.of_lease(lease).into_iter().take(1).collect();
            let ids: Vec<i64> =
                model.ids.iter().filter(|(_, message)| expected.contains(message)).map(|(id, _)| *id).collect();
            assert_eq!(changed(db, model, &format!("dead({lease}, array{ids:?}::bigint[], 'x')")).await, expected);
            for message in &expected {
                model.deliveries.get_mut(message).unwrap().state = State::Dead;
            }
            format!("dead {expected:?}")
        }
        9 => {
            let expected = model.of_lease(lease);
            assert_eq!(changed(db, model, &format!("release({lease})")).await, expected);
            for message in &expected {
                let delivery = model.deliveries.get_mut(message).unwrap();
                delivery.attempt -= 1;
                delivery.state = State::Due;
            }
            format!("release {lease} {expected:?}")
        }
        10 => {
            let held = model.of_lease(lease);
            let extended = db.query("select outbox.extend($1, '1 min')", &[&lease]).await;
            assert_eq!(extended.is_ok(), !held.is_empty(), "a lease lives as long as it has deliveries");
            if random.below(2) == 0 {
                // The lease expires.
                db.execute(
                    "update outbox.lease set expires_at = now() - interval '1 s' where id = outbox_internal.lease_id($1)",
                    &[&lease],
                )
                .await
                .unwrap();
                // Every look for work takes expired leases back.
                db.query("select outbox_internal.is_ready('jobs')", &[]).await.unwrap();
                for message in &held {
                    model.fail(*message, State::Due);
                }
                return format!("expire {lease} {held:?}");
            }
            format!("extend {lease}")
        }
        11 | 12 => {
            let max = 1 + random.below(4) as i32;
            // Deliveries of keys that the lease blocks are freed later, by the router.
            let can = claimable(db, model).await;
            let expected = model.of_lease(lease);
            let sql = "select lease, delivery_id, message_id, attempt
                from outbox.complete_and_claim($1, 'jobs', 'w', $2)";
            match db.query(sql, &[&lease, &max]).await {
                Ok(rows) => {
                    assert!(!expected.is_empty(), "{lease} is lost");
                    for message in &expected {
                        model.deliveries.get_mut(message).unwrap().state = State::Completed;
                    }
                    claimed(model, &rows, &can, max);
                    format!("complete {lease} {expected:?} and claim {}", rows.len())
                }
                Err(error) => {
                    assert_eq!(error.code().map(|code| code.code()), Some("OB003"), "{}", explain(&error));
                    assert!(expected.is_empty(), "{lease} has {expected:?}");
                    format!("complete {lease} and claim: lost")
                }
            }
        }
        _ => {
            let all = |state: State| -> Vec<i64> {
                model.deliveries.iter().filter(|(_, d)| d.state == state).map(|(id, _)| *id).collect()
            };
            let waiting: Vec<i64> = all(State::Later).into_iter().chain(all(State::Dead)).collect();
            let Some(message) = random.pick(&waiting) else { return "nothing".to_owned() };
            db.execute("select outbox.retry($1, 'jobs', 'me')", &[&message]).await.unwrap();
            let delivery = model.deliveries.get_mut(&message).unwrap();
            delivery.state = State::Due;
            delivery.attempt = 0;
            format!("retry {message}")
        }
    }
}

/// Checks that the database agrees with the model.
async fn check(db: &Client, model: &Model) {
    let mut found: BTreeMap<i64, (State, i32)> = BTreeMap::new();
    // The table does not store the lease itself, but a number that is derived from it.
    let stored =
        db.query("select outbox_internal.lease_id(l), l from unnest($1::bigint[]) l", &[&model.leases]).await.unwrap();
    let leases: HashMap<i64, i64> = stored.iter().map(|row| (row.get(0), row.get(1))).collect();
    for row in db
        .query("select message_id, state, lease, due_at <= clock_timestamp(), attempt from outbox.delivery", &[])
        .await
        .unwrap()
    {
        let state = match row.get::<_, Option<i64>>(2) {
            Some(id) => State::Leased(leases.get(&id).copied().unwrap_or(id)),
            None if row.get(3) => State::Due,
            None => State::Later,
        };
        assert_eq!(row.get::<_, &str>(1) == "processing", matches!(state, State::Leased(_)));
        assert!(found.insert(row.get(0), (state, row.get(4))).is_none(), "one row per message");
    }
    let open = "select message_id from outbox.dead_letter where resolution = 'open'";
    for row in db.query(open, &[]).await.unwrap() {
        assert!(found.insert(row.get(0), (State::Dead, 0)).is_none(), "dead, and only dead");
    }
    for (message, delivery) in &model.deliveries {
        match (delivery.state, found.get(message)) {
            // A message without a row has not been routed yet, or is completed.
            (State::Due, None) => assert_eq!(delivery.tries, 0, "{message} is lost"),
            (State::Completed, None) | (State::Dead, Some((State::Dead, _))) => {}
            (expected, Some((state, attempt))) => {
                assert_eq!((expected, delivery.attempt), (*state, *attempt), "message {message}");
            }
            (expected, None) => panic!("message {message} is nowhere; it should be {expected:?}"),
        }
    }
    let stray: i64 = one(
        db,
        "select count(*) from outbox.lease l where not exists (select from outbox.delivery d where d.lease = l.id)",
    )
    .await;
    assert_eq!(stray, 0, "a lease ends with its last delivery");
    let twice: i64 = one(
        db,
        "select count(*) from (select message_id from outbox.attempt where outcome = 'completed'
            group by 1 having count(*) > 1) t",
    )
    .await;
    assert_eq!(twice, 0, "completed once");
}

async fn run(name: &str, ordered: bool, seed: u64, steps: usize) {
    let server = bare_server().await;
    let first = server.database(name).await.unwrap();
    let options = if ordered { ", ordering => 'key'" } else { "" };
    first
        .batch_execute(&format!(
            "select outbox.subscribe('jobs', '{{job.#}}', max_attempts => {MAX_ATTEMPTS}{options})"
        ))
        .await
        .unwrap();
    let mut connections = vec![first];
    for _ in 0..2 {
        connections.push(server.connect(name).await.unwrap());
    }
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut model = Model::default();
    println!("{name}, seed {seed}");
    for n in 0..steps {
        let what = step(&connections, &mut random, &mut model, ordered).await;
        println!("{n}: {what}");
        check(&connections[0], &model).await;
    }
    // The attempt log has as many completed attempts as the model.
    let completed = model.deliveries.values().filter(|d| d.state == State::Completed).count() as i64;
    let logged: i64 = one(&connections[0], "select count(*) from outbox.attempt where outcome = 'completed'").await;
    assert_eq!(logged, completed);
    assert!(completed > 0, "a run that completes nothing says nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_do_what_the_model_says() {
    for seed in 1..=3 {
        run(&format!("model_{seed}"), false, seed, 150).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_with_an_order_do_what_the_model_says() {
    for seed in 11..=13 {
        run(&format!("model_{seed}"), true, seed, 150).await;
    }
}
