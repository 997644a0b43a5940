//! Live routing, recovery after a crash, replays, routing without a dispatcher, and explain_routing() give the same
//! answer for every position, whatever changes meanwhile.

use std::collections::BTreeSet;

use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Receiver, Server, Stop, wait_until};
use outbox_tests::{PATIENCE, bare_server, explain, one, outbox_harness, settle};

const NAMES: [&str; 6] = ["s0", "s1", "s2", "s3", "s4", "s5"];
/// Subscriptions that are never ended, so that all of their matches can be replayed or claimed.
const LASTING: [&str; 3] = ["s0", "s1", "s2"];

/// Pairs of subscription and position.
type Matches = BTreeSet<(String, i64)>;

/// A generator of pseudo-random numbers with a fixed seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % sides
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.roll(of.len())]
    }
}

fn routes(dice: &mut Dice) -> String {
    let topics = dice.pick(&["{order.#}", "{order.*,invoice.sent}", "{#}", "{*.paid}", "{order.created}", "{#.added}"]);
    let filter = dice.pick(&[
        "null",
        r#"'{"tenant": "t1"}'"#,
        r#"'{"key": ["k1", "k2?"]}'"#,
        r#"'{"headers": {"severity": ["high"]}}'"#,
        r#"'{"payload": "$.n > 50"}'"#,
        r#"'{"payload": "$.items[*] ? (@ == 2)", "tenant": ["t0", "t1"]}'"#,
        r#"'{"aggregate_type": "order", "aggregate_id": "4*"}'"#,
    ]);
    format!("'{topics}', filter => {filter}")
}

/// Returns transactions that enqueue messages and change subscriptions. They differ in the target only, which is an endpoint
/// argument for push subscriptions, and empty for pull subscriptions.
fn script(target: &str) -> Vec<String> {
    let mut dice = Dice(20261121);
    let mut active = [true; 6];
    let mut transactions: Vec<String> = vec![];
    for name in NAMES {
        transactions.push(format!("select outbox.subscribe('{name}', {}{target})", routes(&mut dice)));
    }
    for _ in 0..80 {
        let mut steps = vec![];
        for _ in 0..=dice.roll(5) {
            if dice.roll(4) > 0 {
                let (topic, key) = (
                    dice.pick(&["order.created", "order.paid", "invoice.sent", "invoice.paid", "order.item.added"]),
                    dice.pick(&["'k1'", "'k2'", "'k27'", "null"]),
                );
                let (tenant, severity) = (dice.pick(&["'t0'", "'t1'", "null"]), dice.pick(&["high", "low"]));
                let (kind, id) = (dice.pick(&["'order'", "'invoice'", "null"]), dice.pick(&["'41'", "'7'"]));
                steps.push(format!(
                    r#"select outbox.enqueue('{topic}', '{{"n": {}, "items": [1, {}]}}', {key}, '{{"severity": "{severity}"}}',
                        tenant => {tenant}, aggregate_type => {kind}, aggregate_id => {id})"#,
                    dice.roll(100),
                    dice.roll(4)
                ));
                continue;
            }
            let i = dice.roll(NAMES.len());
            let name = NAMES[i];
            let step = match (active[i], dice.roll(2)) {
                (true, 0) if !LASTING.contains(&name) => {
                    active[i] = false;
                    format!("select outbox.unsubscribe('{name}')")
                }
                (true, _) => {
                    let (first, reset) = (routes(&mut dice), "'{filter}'");
                    // A null filter without the reset would leave the old filter.
                    if first.ends_with("null") {
                        format!("select outbox.alter_subscription('{name}', {first}, reset => {reset})")
                    } else {
                        format!("select outbox.alter_subscription('{name}', {first})")
                    }
                }
                (false, _) => {
                    active[i] = true;
                    format!("select outbox.subscribe('{name}', {}{target})", routes(&mut dice))
                }
            };
            steps.push(step);
        }
        transactions.push(steps.join(";"));
    }
    transactions
}

async fn run(db: &Client, sql: &str) {
    db.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {}", explain(&e)));
}

async fn matches(db: &Client, query: &str) -> Matches {
    let rows = db.query(query, &[]).await.unwrap_or_else(|e| panic!("{query}: {}", explain(&e)));
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Returns a query of the matches in the log: those that were sent, and those that were skipped because their
/// subscription ended.
fn logged(run: &str) -> String {
    format!(
        "select s.name, a.position from outbox.attempt a join outbox.subscription s on s.id = a.subscription_id
        where a.run {run} and (a.outcome = 'completed' or a.outcome = 'skipped' and a.error = 'unsubscribed')"
    )
}

const EXPLAINED: &str = "
    select e.subscription, m.position
    from outbox.read(0, 10000, array['order.#', 'invoice.#']) m
    cross join lateral outbox.explain_routing(m.topic, m.payload, m.key, m.headers, m.tenant, m.aggregate_type,
        m.aggregate_id, at_position => m.position) e
    where m.message_id is not null and e.matches";

fn assert_same(what: &str, got: &Matches, expected: &Matches) {
    let missing: Vec<_> = expected.difference(got).collect();
    let surplus: Vec<_> = got.difference(expected).collect();
    assert!(missing.is_empty() && surplus.is_empty(), "{what}: missing {missing:?}, surplus {surplus:?}");
}

fn lasting(matches: &Matches) -> Matches {
    matches.iter().filter(|(name, _)| LASTING.contains(&&**name)).cloned().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_recovery_replay_inline_and_explanation_give_one_answer() {
    let receiver = Receiver::start().unwrap();
    let mut server = Server::start(&[("pg_outbox.poll_interval", "1s")]).await.unwrap();
    let pushed = script(", endpoint => 'e'");
    for name in ["live", "crashed"] {
        let db = server.database(name).await.unwrap();
        db.execute("select outbox.create_endpoint('e', $1)", &[&receiver.url(&format!("/{name}"))]).await.unwrap();
    }

    // Live routing: the dispatcher keeps up most of the time.
    let db = server.connect("live").await.unwrap();
    for (i, transaction) in pushed.iter().enumerate() {
        run(&db, &format!("begin; {transaction}; commit")).await;
        if i % 10 == 0 {
            settle(&db).await;
        }
    }
    settle(&db).await;
    let live = matches(&db, &logged("= 0")).await;
    assert!(live.len() > 100, "{}", live.len());
    assert!(NAMES.iter().all(|name| live.iter().any(|(of, _)| of == name)));

    let explained = matches(&db, EXPLAINED).await;
    assert_same("explain_routing against live", &explained, &live);

    // Everything that is stored is replayed.
    for name in LASTING {
        run(&db, &format!("select outbox.replay('{name}', rate => 10000)")).await;
    }
    wait_until("the replays have ended", PATIENCE, async || {
        one::<i64>(&db, "select count(*) from outbox.replay where state = 'completed'").await == LASTING.len() as i64
    })
    .await;
    settle(&db).await;
    assert_same("replay against live", &matches(&db, &logged("> 0")).await, &lasting(&live));

    // Nothing is sent while all changes are made, so every subscription lags. The server crashes in the middle and at the
    // end. The next incarnation of the dispatcher knows all versions from the start.
    let db = server.connect("crashed").await.unwrap();
    run(&db, "alter system set pg_outbox.push = off").await;
    run(&db, "select pg_reload_conf()").await;
    wait_until("it is off", PATIENCE, async || one::<String>(&db, "show pg_outbox.push").await == "off").await;
    for transaction in &pushed[..pushed.len() / 2] {
        run(&db, &format!("begin; {transaction}; commit")).await;
    }
    server.restart(Stop::Immediate).await.unwrap();
    let db = server.connect("crashed").await.unwrap();
    for transaction in &pushed[pushed.len() / 2..] {
        run(&db, &format!("begin; {transaction}; commit")).await;
    }
    run(&db, "alter system reset pg_outbox.push").await;
    server.restart(Stop::Immediate).await.unwrap();
    let db = server.connect("crashed").await.unwrap();
    settle(&db).await;
    assert_same("after crashes against live", &matches(&db, &logged("= 0")).await, &live);

    // Without a dispatcher, claims route.
    let db = bare_server().await.database("inline_agreement").await.unwrap();
    // This endpoint is not used. It takes a position, as in the other databases.
    db.execute("select outbox.create_endpoint('e', $1)", &[&receiver.url("/none")]).await.unwrap();
    for (i, transaction) in script("").iter().enumerate() {
        run(&db, &format!("begin; {transaction}; commit")).await;
        if i % 25 == 0 {
            run(&db, "select from outbox.claim('s0', 'w', 1000)").await;
        }
    }
    wait_until("everything is routed", PATIENCE, async || {
        run(&db, "select from outbox.claim('s0', 'w', 1000)").await;
        one::<bool>(
            &db,
            "select t.position = c.position and c.lag_subscriptions <@ array(
                select s.id from outbox.subscription s where s.name = any ('{s3,s4,s5}'))
            from (select max(last_position) as position from outbox.feed) t,
                (select * from outbox.checkpoint order by id desc limit 1) c",
        )
        .await
    })
    .await;
    let rows = matches(
        &db,
        "select s.name, d.position from outbox.delivery d join outbox.subscription s on s.id = d.subscription_id",
    )
    .await;
    assert_same("without a worker against live", &lasting(&rows), &lasting(&live));
}
