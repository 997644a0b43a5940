//! The sequencer under interleavings: real sessions in every order of their steps.
//!
//! A program is the list of steps of one session. A session may tick before, within and after its transaction, take an
//! xid, draw an id, insert, roll back to a savepoint, commit, abort and prepare. For each set of programs every
//! interleaving runs (or a seeded sample, if there are too many), with ticks of one, two and many messages, which are
//! enqueued, appended to streams, or both in turn. Afterwards
//! the feed must contain exactly the committed messages, each once and without a gap. A message that was enqueued after
//! another message had been committed must come after that message. The messages that readers saw meanwhile, with and
//! without a transaction and a cursor, must be a prefix of the feed.

use std::collections::{HashMap, HashSet};

use outbox_tests::outbox_harness::tokio_postgres::Client;
use outbox_tests::outbox_harness::tokio_postgres::error::SqlState;
use outbox_tests::{bare_server, explain, one, refused};

/// One step of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Tick,
    Begin,
    /// Assign the transaction id.
    Xid,
    /// Draw a message id.
    Draw,
    /// Insert the message whose id was drawn.
    Insert,
    /// All three steps at once, as callers do.
    Enqueue,
    Savepoint,
    RollbackTo,
    Commit,
    Abort,
    Prepare,
    CommitPrepared,
    RollbackPrepared,
    /// Read the messages after the last position that was read.
    Read,
    /// Read the messages after the position of a cursor that all sessions share.
    Look,
    /// Advance that cursor over the messages of the last `Look`, as a compare-and-set.
    Confirm,
}

use Step::*;

/// The kind of rows that the sessions write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Messages,
    Events,
    /// Events at odd moments, messages at even ones.
    Both,
}

impl Kind {
    fn is_event(self, moment: usize) -> bool {
        self == Kind::Events || self == Kind::Both && moment % 2 == 1
    }
}

/// The state of a session during a run.
struct Session {
    client: Client,
    name: String,
    drawn: Option<(i64, usize)>,
    /// The messages of the open transaction, with the moments of their insertion.
    open: Vec<(i64, usize)>,
    mark: usize,
    /// The positions and ids that it has read.
    read: Vec<(i64, i64)>,
    /// The position of the cursor at the last `Look`, and the messages after it.
    looked: Option<(i64, Vec<(i64, i64)>)>,
    /// The messages that it has confirmed in the open transaction.
    following: Vec<(i64, i64)>,
    in_transaction: bool,
    /// Whether its transaction has failed, because another session moved the cursor.
    lost: bool,
}

struct World {
    sessions: Vec<Session>,
    chunk: i32,
    kind: Kind,
    moment: usize,
    /// The moments of insertion and commit of each message id.
    committed: HashMap<i64, (usize, usize)>,
    /// The end of the feed at the beginning of the run.
    start: i64,
    /// The messages that were confirmed with the shared cursor.
    effects: Vec<(i64, i64)>,
}

impl World {
    async fn new(database: &str, sessions: usize) -> World {
        let server = bare_server().await;
        drop(server.database(database).await.unwrap());
        let mut all = Vec::new();
        for i in 0..sessions {
            all.push(Session {
                client: server.connect(database).await.unwrap(),
                name: format!("{database}_{i}"),
                drawn: None,
                open: Vec::new(),
                mark: 0,
                read: Vec::new(),
                looked: None,
                following: Vec::new(),
                in_transaction: false,
                lost: false,
            });
        }
        World {
            sessions: all,
            chunk: 1000,
            kind: Kind::Messages,
            moment: 0,
            committed: HashMap::new(),
            start: 0,
            effects: Vec::new(),
        }
    }

    async fn step(&mut self, who: usize, step: Step) {
        self.moment += 1;
        let (moment, chunk, start) = (self.moment, self.chunk, self.start);
        let event = self.kind.is_event(moment);
        let session = &mut self.sessions[who];
        if session.lost && step != Commit && step != Abort {
            return;
        }
        let name = session.name.clone();
        let run = async |sql: &str| {
            session.client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {}", explain(&e)));
        };
        match step {
            Tick => {
                let status: String =
                    one(&session.client, &format!("select status from outbox_internal.tick_inline({chunk})")).await;
                assert!(["ticked", "idle", "fresh", "busy", "refused"].contains(&status.as_str()), "{status}");
            }
            Begin => {
                run("begin").await;
                session.in_transaction = true;
            }
            Read => {
                let last = session.read.last().map_or(start, |(position, _)| *position);
                session.read.extend(read(&session.client, last).await);
            }
            Look => {
                let last: i64 =
                    one(&session.client, "select position from outbox.cursor_get('shared', if_missing => 0)").await;
                let found = read(&session.client, last.max(start)).await;
                session.looked = Some((last, found));
            }
            Confirm => {
                let Some((last, found)) = session.looked.take() else { return };
                let Some((upto, _)) = found.last() else { return };
                let advance = format!("select outbox.cursor_advance('shared', {upto}, expected_position => {last})");
                if let Err(error) = session.client.batch_execute(&format!("set lock_timeout = '20ms'; {advance}")).await
                {
                    let code = error.code().unwrap_or_else(|| panic!("{error}")).code().to_owned();
                    // Another session has moved the cursor, or is about to.
                    assert!(["OB005", "55P03"].contains(&code.as_str()), "{}", explain(&error));
                    session.lost = session.in_transaction;
                    return;
                }
                if session.in_transaction {
                    session.following.extend(found);
                } else {
                    self.effects.extend(found);
                }
            }
            Xid => run("select pg_current_xact_id()").await,
            // A message begins when its id is drawn. Transactions that commit between this and the insertion are
            // concurrent with it.
            Draw => session.drawn = Some((one(&session.client, "select nextval('outbox._message_id')").await, moment)),
            Insert => {
                let (id, drawn) = session.drawn.take().expect("an id was drawn");
                let (leaf, segment) = if event { ("event", -2) } else { ("00", 0) };
                run(&format!(
                    "insert into outbox._message_{leaf} (segment, id, xid, enqueued_at, priority, topic, payload, key, version)
                    values ({segment}, {id}, pg_current_xact_id(), clock_timestamp(), 0, 'a.b', '{{}}', 'drawn-{id}', 1)"
                ))
                .await;
                session.open.push((id, drawn));
            }
            Enqueue => {
                let statement = if event {
                    // A stream of its own: two sessions that append to one stream wait for each other.
                    format!("select (outbox.append_many('{name}', '{{a.b}}', '{{1}}'::jsonb[])).message_ids[1]")
                } else {
                    "select outbox.enqueue('a.b', '{}')".to_owned()
                };
                session.open.push((one(&session.client, &statement).await, moment));
            }
            Savepoint => {
                run("savepoint s").await;
                session.mark = session.open.len();
            }
            RollbackTo => {
                run("rollback to s").await;
                session.open.truncate(session.mark);
            }
            Commit | CommitPrepared => {
                run(&if step == Commit { "commit".to_owned() } else { format!("commit prepared '{name}'") }).await;
                if session.lost {
                    session.open.clear();
                    session.following.clear();
                }
                for (id, inserted) in session.open.drain(..) {
                    self.committed.insert(id, (inserted, moment));
                }
                self.effects.append(&mut session.following);
                (session.in_transaction, session.lost) = (false, false);
            }
            Abort => {
                run("rollback").await;
                session.open.clear();
                session.following.clear();
                (session.in_transaction, session.lost) = (false, false);
            }
            Prepare => run(&format!("prepare transaction '{name}'")).await,
            RollbackPrepared => {
                run(&format!("rollback prepared '{name}'")).await;
                session.open.clear();
            }
        }
    }

    /// Runs the programs in the given order, then ticks until nothing is left, and checks the feed.
    async fn run(&mut self, programs: &[&[Step]], order: &[usize]) {
        let before: i64 =
            one(&self.sessions[0].client, "select coalesce(max(last_position), 0) from outbox.feed").await;
        self.committed.clear();
        self.start = before;
        self.effects.clear();
        for session in &mut self.sessions {
            session.read.clear();
            session.looked = None;
        }
        let mut at = vec![0; programs.len()];
        for &who in order {
            self.step(who, programs[who][at[who]]).await;
            at[who] += 1;
        }
        for _ in 0..200 {
            let more: bool = one(
                &self.sessions[0].client,
                &format!("select status = 'ticked' or more from outbox_internal.tick_inline({})", self.chunk),
            )
            .await;
            if !more {
                break;
            }
        }
        let rows = self.sessions[0]
            .client
            .query(
                "select f.first_position + u.ord - 1, u.id
                from outbox.feed f, unnest(f.message_ids) with ordinality u(id, ord)
                where f.last_position > $1 order by 1",
                &[&before],
            )
            .await
            .unwrap();
        let feed: Vec<(i64, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let (chunk, kind) = (self.chunk, self.kind);
        let context = || format!("programs {programs:?}, order {order:?}, chunk {chunk}, {kind:?}, feed {feed:?}");
        for (i, (position, _)) in feed.iter().enumerate() {
            assert_eq!(*position, before + 1 + i as i64, "a gap: {}", context());
        }
        // Readers missed no message, and no position had another message.
        for session in &self.sessions {
            assert_eq!(
                session.read[..],
                feed[..session.read.len().min(feed.len())],
                "read by {}: {}",
                session.name,
                context()
            );
        }
        assert_eq!(self.effects[..], feed[..self.effects.len().min(feed.len())], "with the cursor: {}", context());
        let ids: HashSet<i64> = feed.iter().map(|(_, id)| *id).collect();
        assert_eq!(ids.len(), feed.len(), "twice: {}", context());
        let expected: HashSet<i64> = self.committed.keys().copied().collect();
        assert_eq!(ids, expected, "skipped or invented: {}", context());
        // The events alone are in the same order, at the same positions.
        let rows = "select r.position, r.message_id from outbox.read_events($1) r where r.message_id is not null";
        let events = self.sessions[0].client.query(rows, &[&before]).await.unwrap();
        let events: Vec<(i64, i64)> = events.iter().map(|row| (row.get(0), row.get(1))).collect();
        match kind {
            Kind::Messages => assert_eq!(events, [], "{}", context()),
            Kind::Events => assert_eq!(events, feed, "{}", context()),
            Kind::Both => assert!(events.iter().all(|event| feed.contains(event)), "{}", context()),
        }
        for (i, (_, first)) in feed.iter().enumerate() {
            for (_, second) in &feed[i + 1..] {
                let (inserted, committed) = (self.committed[first].0, self.committed[second].1);
                assert!(committed > inserted, "{second} was committed before {first} was enqueued: {}", context());
            }
        }
    }
}

/// Returns the messages that can be read after a position now.
async fn read(client: &Client, after: i64) -> Vec<(i64, i64)> {
    let rows = client.query("select position, message_id from outbox.read($1, source => 'all')", &[&after]).await;
    let rows = rows.unwrap_or_else(|e| panic!("read: {}", explain(&e)));
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Returns every order in which programs of these lengths can be interleaved, or a sample of `most` orders.
fn orders(lengths: &[usize], most: usize) -> Vec<Vec<usize>> {
    fn all(left: &mut Vec<usize>, now: &mut Vec<usize>, found: &mut Vec<Vec<usize>>, limit: usize) {
        if found.len() > limit {
            return;
        }
        if left.iter().all(|n| *n == 0) {
            found.push(now.clone());
            return;
        }
        for who in 0..left.len() {
            if left[who] > 0 {
                left[who] -= 1;
                now.push(who);
                all(left, now, found, limit);
                now.pop();
                left[who] += 1;
            }
        }
    }
    let mut found = Vec::new();
    all(&mut lengths.to_vec(), &mut Vec::new(), &mut found, most);
    if found.len() <= most {
        return found;
    }
    // There are too many orders, so a sample is drawn with a fixed seed.
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |n: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % n as u64) as usize
    };
    (0..most)
        .map(|_| {
            let mut pool: Vec<usize> =
                lengths.iter().enumerate().flat_map(|(who, n)| std::iter::repeat_n(who, *n)).collect();
            for i in (1..pool.len()).rev() {
                pool.swap(i, random(i + 1));
            }
            pool
        })
        .collect()
}

/// The programs of a session: every way to end a transaction, with and without ticks of its own.
const PROGRAMS: &[&[Step]] = &[
    &[Begin, Xid, Draw, Insert, Commit],
    &[Begin, Xid, Draw, Insert, Abort],
    &[Begin, Enqueue, Prepare, CommitPrepared],
    &[Begin, Enqueue, Prepare, RollbackPrepared],
    &[Begin, Savepoint, Enqueue, RollbackTo, Enqueue, Commit],
    &[Begin, Tick, Enqueue, Commit, Tick],
    &[Begin, Enqueue, Tick, Enqueue, Commit],
    &[Tick, Begin, Enqueue, Commit, Tick],
    &[Tick, Begin, Xid, Draw, Insert, Commit],
];

async fn interleave(database: &str, sets: &[Vec<&'static [Step]>], most: usize, open_writer: bool) {
    let size = sets[0].len();
    let mut world = World::new(database, size).await;
    // An unrelated transaction with an old snapshot and an xid must not delay any message.
    let writer = bare_server().await.connect(database).await.unwrap();
    if open_writer {
        for sql in [
            "create table unrelated (n int)",
            "begin isolation level repeatable read",
            "insert into unrelated values (1)",
        ] {
            writer.batch_execute(sql).await.unwrap();
        }
    }
    for (set, programs) in sets.iter().enumerate() {
        let lengths: Vec<usize> = programs.iter().map(|p| p.len()).collect();
        for (i, order) in orders(&lengths, most).iter().enumerate() {
            // Ticks of one message use the code for large differences from the first message on.
            world.chunk = [1, 2, 1000][(i + set) % 3];
            world.kind = [Kind::Messages, Kind::Events, Kind::Both][(i + set) / 3 % 3];
            world.run(programs, order).await;
        }
    }
    // The versions of each stream have no gap and ascend in the feed, however the transactions ended.
    let db = &world.sessions[0].client;
    let broken: i64 = one(
        db,
        "select count(*) from (
            select e.version, row_number() over (partition by e.stream order by e.position) as n
            from outbox.feed f cross join lateral unnest(f.message_ids) with ordinality u(id, o)
            join lateral (
                select m.key as stream, m.version, f.first_position + u.o as position
                from outbox._message_event m where m.id = u.id
            ) e on true
        ) v where v.version <> v.n",
    )
    .await;
    assert_eq!(broken, 0);
    assert!(one::<i64>(db, "select count(*) from outbox._message_event").await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sessions_in_every_order() {
    let mut sets = Vec::new();
    for (i, a) in PROGRAMS.iter().enumerate() {
        for b in &PROGRAMS[i..] {
            sets.push(vec![*a, *b]);
        }
    }
    interleave("two_sessions", &sets, 60, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_sessions_under_an_open_writer() {
    let sets = vec![
        vec![PROGRAMS[0], PROGRAMS[5], &[Tick, Tick, Tick][..]],
        vec![PROGRAMS[0], PROGRAMS[2], &[Tick, Tick, Tick][..]],
        vec![PROGRAMS[4], PROGRAMS[6], PROGRAMS[7]],
        vec![PROGRAMS[0], PROGRAMS[0], PROGRAMS[8]],
        vec![PROGRAMS[1], PROGRAMS[3], PROGRAMS[7]],
    ];
    interleave("three_sessions", &sets, 250, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_in_every_order_with_writers_and_ticks() {
    let mut sets = Vec::new();
    for writer in [PROGRAMS[0], PROGRAMS[1], PROGRAMS[2], PROGRAMS[4], PROGRAMS[6]] {
        for reader in [
            &[Read, Tick, Read, Read][..],
            &[Tick, Look, Confirm, Tick, Read][..],
            &[Begin, Read, Look, Confirm, Commit][..],
            &[Begin, Enqueue, Read, Look, Confirm, Abort, Read][..],
        ] {
            sets.push(vec![writer, reader, &[Tick, Look, Read, Confirm, Tick][..]]);
        }
    }
    interleave("readers", &sets, 25, false).await;
    // Several sessions follow one cursor in overlapping transactions.
    let follower: &[Step] = &[Tick, Begin, Look, Confirm, Commit];
    interleave("followers", &[vec![PROGRAMS[7], follower, follower]], 200, true).await;
}

#[tokio::test]
async fn every_order_of_two_plain_writers_and_ticks() {
    // Each writer enqueues in one step, so that all 560 orders can run.
    let sets = vec![vec![&[Begin, Enqueue, Commit][..], &[Begin, Enqueue, Commit][..], &[Tick, Tick][..]]];
    interleave("plain_writers", &sets, 560, false).await;
}

/// Interleavings run whole statements as steps. Commits between a tick's snapshot and its reading of the table need many
/// sessions at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commits_in_the_middle_of_ticks_are_numbered_once() {
    const MESSAGES: i64 = 3000;
    let server = bare_server().await;
    let db = server.database("tick_storm").await.unwrap();
    db.batch_execute("alter database tick_storm set synchronous_commit = off").await.unwrap();
    let mut writers = Vec::new();
    for _ in 0..4 {
        let db = server.connect("tick_storm").await.unwrap();
        writers.push(tokio::spawn(async move {
            for _ in 0..MESSAGES {
                db.batch_execute("select outbox.enqueue('a.b', '{}')").await.unwrap();
            }
        }));
    }
    let ticker = server.connect("tick_storm").await.unwrap();
    while writers.iter().any(|writer| !writer.is_finished()) {
        ticker.batch_execute("select outbox_internal.tick_inline(1000)").await.unwrap();
    }
    for writer in writers {
        writer.await.unwrap();
    }
    while one::<bool>(&ticker, "select more from outbox_internal.tick_inline(1000)").await {}
    ticker.batch_execute("select outbox_internal.tick_inline(1000)").await.unwrap();
    let numbered = "select string_agg(format('%s of %s', n, d), '') from (
        select count(*) as n, count(distinct id) as d from outbox.feed f, unnest(f.message_ids) id) x";
    assert_eq!(one::<String>(&ticker, numbered).await, format!("{0} of {0}", 4 * MESSAGES));
}

#[tokio::test]
async fn the_lock_is_not_waited_for() {
    let server = bare_server().await;
    let holder = server.database("tick_lock").await.unwrap();
    let other = server.connect("tick_lock").await.unwrap();
    holder.batch_execute("begin; select outbox_internal.tick_inline(10)").await.unwrap();
    assert_eq!(one::<String>(&other, "select status from outbox_internal.tick_inline(10)").await, "busy");
    holder.batch_execute("commit").await.unwrap();
    assert_eq!(one::<String>(&other, "select status from outbox_internal.tick_inline(10)").await, "fresh");
}

#[tokio::test]
async fn a_transaction_that_ticked_cannot_be_prepared() {
    let db = bare_server().await.database("tick_prepare").await.unwrap();
    db.batch_execute("begin; select outbox_internal.tick_inline(10); select outbox.enqueue('a.b', '{}')")
        .await
        .unwrap();
    let error = refused(&db, "prepare transaction 'no'").await;
    assert_eq!(*error.code(), SqlState::FEATURE_NOT_SUPPORTED);
}

/// A tick reads only new messages, regardless of how many messages are retained.
#[tokio::test]
async fn buffers_per_tick_do_not_grow_with_the_table() {
    let db = bare_server().await.database("tick_buffers").await.unwrap();
    db.batch_execute("set synchronous_commit = off").await.unwrap();
    let buffers = async || {
        db.batch_execute("select outbox.enqueue('a.b', '{}') from generate_series(1, 10)").await.unwrap();
        let plan: serde_json::Value =
            one(&db, "explain (analyze, buffers, format json) select * from outbox_internal.tick_inline(1000)").await;
        let node = &plan[0]["Plan"];
        node["Shared Hit Blocks"].as_i64().unwrap() + node["Shared Read Blocks"].as_i64().unwrap()
    };
    // Plans and catalog caches are warm after a few ticks, but a vacuum may make a tick load them again. So the least
    // value counts.
    let least = async || {
        let mut least = i64::MAX;
        for _ in 0..8 {
            least = least.min(buffers().await);
        }
        least
    };
    let small = least().await;
    for _ in 0..3 {
        db.batch_execute("select count(outbox.enqueue('a.b', '{}')) from generate_series(1, 100000)").await.unwrap();
        loop {
            let more: bool = one(&db, "select more from outbox_internal.tick_inline(20000)").await;
            if !more {
                break;
            }
        }
    }
    db.batch_execute("analyze").await.unwrap();
    let large = least().await;
    assert!(large <= small + 60, "{small} buffers on a small table, {large} on a large one");
    // The same holds in the middle of a huge commit.
    db.batch_execute("select count(outbox.enqueue('a.b', '{}')) from generate_series(1, 50000)").await.unwrap();
    assert!(one::<bool>(&db, "select more from outbox_internal.tick_inline(100)").await);
    let chunk = buffers().await;
    // The chunk costs visits of index and heap for its own messages, and nothing for the other 49,000 or so.
    assert!(chunk <= small + 1500, "{small} buffers on a small table, {chunk} for a chunk of a huge commit");
    // The same holds with the statistics of a leaf of ten million rows that was vacuumed and not analyzed. Another index
    // would look better to the planner then, and every chunk would sort all remaining messages.
    db.batch_execute(
        "set effective_cache_size = '8kB'; set random_page_cost = 8;
        delete from pg_statistic where starelid = 'outbox._message_00'::regclass;
        update pg_class set reltuples = reltuples * 40 where relname = '_message_00'",
    )
    .await
    .unwrap();
    let unknown = least().await;
    assert!(unknown <= chunk + 100, "{chunk} buffers for a chunk of a huge commit, {unknown} without statistics");
}

/// Returns the number of buffers that ticks touch until a large commit is numbered, in chunks of 500.
async fn cost_of_numbering(db: &Client) -> i64 {
    let mut sum = 0;
    for _ in 0..1000 {
        let plan: serde_json::Value =
            one(db, "explain (analyze, buffers, format json) select * from outbox_internal.tick_inline(500)").await;
        let node = &plan[0]["Plan"];
        sum += node["Shared Hit Blocks"].as_i64().unwrap() + node["Shared Read Blocks"].as_i64().unwrap();
        let left = "select done_id is not null from outbox.tick order by id desc limit 1";
        if !one::<bool>(db, left).await {
            return sum;
        }
    }
    panic!("it does not end");
}

/// Returns the number of buffers for numbering a large commit of `messages` messages, in each of several situations.
async fn costs_of_a_large_commit(db: &Client, writers: &[Client], messages: i32) -> Vec<(&'static str, i64)> {
    let enqueue = async |client: &Client, count: i32| {
        let sql = format!("select count(outbox.enqueue('a.b', '{{}}')) from generate_series(1, {count})");
        client.batch_execute(&sql).await.unwrap();
    };
    let run = async |client: &Client, sql: &str| client.batch_execute(sql).await.unwrap();
    let seen = async || {
        enqueue(db, 1).await;
        run(db, "select outbox_internal.tick_inline(500)").await;
    };
    let (writer, other) = (&writers[0], &writers[1]);
    let mut costs = Vec::new();

    enqueue(db, messages).await;
    costs.push(("a statement that no tick has seen", cost_of_numbering(db).await));

    run(writer, "begin").await;
    enqueue(writer, 400).await;
    seen().await;
    enqueue(writer, messages - 400).await;
    run(writer, "commit").await;
    costs.push(("seen by a tick", cost_of_numbering(db).await));

    run(writer, "begin").await;
    enqueue(writer, 1).await;
    seen().await;
    enqueue(db, 1).await;
    enqueue(writer, messages).await;
    enqueue(db, 1).await;
    run(writer, "commit").await;
    costs.push(("with small ones at both ends", cost_of_numbering(db).await));

    for (what, pieces) in [("many side by side", 10), ("many one after the other", 1)] {
        for writer in writers {
            run(writer, "begin").await;
            enqueue(writer, 1).await;
        }
        seen().await;
        for _ in 0..pieces {
            for writer in writers {
                enqueue(writer, messages / writers.len() as i32 / pieces).await;
            }
        }
        for writer in writers {
            run(writer, "commit").await;
        }
        costs.push((what, cost_of_numbering(db).await));
    }

    run(writer, "begin").await;
    run(other, "begin").await;
    enqueue(writer, 1).await;
    enqueue(other, 1).await;
    seen().await;
    for _ in 0..10 {
        enqueue(writer, messages / 10).await;
        enqueue(other, messages / 10).await;
    }
    run(writer, "commit").await;
    costs.push(("beside one as large that goes on", cost_of_numbering(db).await));
    run(other, "commit").await;
    costs.push(("which ends later", cost_of_numbering(db).await));

    // A transaction with a savepoint for each message takes as many transaction ids.
    let pieces = format!(
        "do $$ begin
            for i in 1 .. {} loop
                begin
                    insert into note values (i);
                    perform outbox.enqueue('a.b', '{{}}');
                exception when unique_violation then null;
                end;
            end loop;
        end $$",
        messages / 2
    );
    // The tick knows none of them, because no transaction has ended since they were taken.
    enqueue(db, 1).await;
    run(writer, "begin").await;
    run(writer, &pieces).await;
    run(db, "select outbox_internal.tick_inline(500)").await;
    run(writer, &pieces).await;
    run(writer, "commit").await;
    costs.push(("with savepoints", cost_of_numbering(db).await));

    // The commit's first messages are sparse, among messages of other transactions that have their positions already.
    run(writer, "begin").await;
    for _ in 0..10 {
        enqueue(writer, 10).await;
        enqueue(db, messages / 10).await;
        cost_of_numbering(db).await;
    }
    enqueue(writer, messages).await;
    run(writer, "commit").await;
    costs.push(("thin at first", cost_of_numbering(db).await));
    costs
}

/// The cost of a large commit is proportional to its messages, regardless of what a tick has already seen of it and of
/// concurrent transactions.
#[tokio::test]
async fn numbering_a_large_commit_is_linear() {
    const MESSAGES: i32 = 4000;
    // A server of its own, because transactions of other tests would be checked one by one as well.
    let server = outbox_harness::Server::start_plain(&[]).await.unwrap();
    let db = server.database("tick_linear").await.unwrap();
    db.batch_execute("set synchronous_commit = off").await.unwrap();
    let mut writers = Vec::new();
    for _ in 0..8 {
        writers.push(server.connect("tick_linear").await.unwrap());
    }
    db.batch_execute("create table note (n int)").await.unwrap();
    // The first run warms up plans and catalogs. Statistics say that a transaction has many of all messages.
    costs_of_a_large_commit(&db, &writers, MESSAGES).await;
    db.batch_execute("analyze").await.unwrap();
    let small = costs_of_a_large_commit(&db, &writers, MESSAGES).await;
    let large = costs_of_a_large_commit(&db, &writers, 4 * MESSAGES).await;
    for ((what, small), (_, large)) in small.iter().zip(&large) {
        println!("{what}: {small} buffers for {MESSAGES} messages, {large} for four times as many");
        assert!(
            large <= &(5 * small),
            "{what}: {small} buffers for {MESSAGES} messages, {large} for four times as many"
        );
    }
    assert!(
        large[1].1 <= 2 * large[0].1,
        "{} buffers when no tick has seen it, {} when one has",
        large[0].1,
        large[1].1
    );
    let stored: i64 = one(&db, "select count(*) from outbox.message").await;
    let numbered = "select count(*) || ' ' || count(distinct id) from outbox.feed f, unnest(f.message_ids) id";
    assert_eq!(one::<String>(&db, numbered).await, format!("{stored} {stored}"));
}

/// Statistics say then that each transaction has all messages.
#[tokio::test]
async fn a_tick_does_not_read_a_leaf_that_one_transaction_has_filled() {
    let server = outbox_harness::Server::start_plain(&[]).await.unwrap();
    let db = server.database("tick_filled").await.unwrap();
    let writer = server.connect("tick_filled").await.unwrap();
    db.batch_execute("select count(outbox.enqueue('a.b', '{}')) from generate_series(1, 200000)").await.unwrap();
    cost_of_numbering(&db).await;
    db.batch_execute("analyze").await.unwrap();
    let mut least = i64::MAX;
    // The first calls load catalogs.
    for _ in 0..4 {
        writer.batch_execute("begin; select outbox.enqueue('a.b', '{}')").await.unwrap();
        db.batch_execute("select outbox.enqueue('a.b', '{}')").await.unwrap();
        // This tick sees that the writer goes on.
        db.batch_execute("select outbox_internal.tick_inline(500)").await.unwrap();
        writer.batch_execute("commit").await.unwrap();
        least = least.min(cost_of_numbering(&db).await);
    }
    assert!(least < 500, "{least} buffers for a message beside 200000");
}

/// Rows that were rolled back are not read again by every tick.
#[tokio::test]
async fn an_aborted_transaction_is_left_behind() {
    let db = bare_server().await.database("tick_aborted").await.unwrap();
    // Before the first message there is no state that could move on.
    db.batch_execute("select outbox.enqueue('a.b', '{}')").await.unwrap();
    db.batch_execute("select outbox_internal.tick_inline(10)").await.unwrap();
    db.batch_execute(
        "begin; select count(outbox.enqueue('a.b', '{}')) from generate_series(1, 20000); rollback; select pg_sleep(1.1)",
    )
    .await
    .unwrap();
    db.batch_execute("select outbox_internal.tick_inline(1000)").await.unwrap();
    let aborted: bool = one(
        &db,
        "select pg_visible_in_snapshot(min(m.x), (select snapshot_to from outbox.tick order by id desc limit 1))
        from (select (pg_snapshot_xmax(snapshot_from)::text::bigint)::text::xid8 as x
            from outbox.tick order by id desc limit 1) m",
    )
    .await;
    assert!(aborted, "the snapshot was not moved over the aborted transaction");
}
