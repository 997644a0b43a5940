//! Topic patterns and filters mean the same in every function, and no pattern keeps a session from being cancelled.

use outbox_harness::tokio_postgres::Client;
use outbox_tests::{PATIENCE, bare_server, one, outbox_harness, refused, rows, server, settle};

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

const TOPICS: &[&str] = &["{#}", "{a.*}", "{a.#}", "{#.b,a}", "{*.b.#}", "{b.#.a,a.#.b.#}"];
const FIELDS: &[(&str, &[&str])] = &[
    ("tenant", &[r#""acme""#, r#""Acme""#, r#"["acme","globex"]"#, r#""ac*""#]),
    ("key", &[r#""k-*""#, r#""k-?""#, r#"["x","k-1"]"#, r#""*é*""#, r#""""#]),
    ("aggregate_type", &[r#""order""#, r#"["order","user"]"#]),
    ("aggregate_id", &[r#""4*""#, r#"["42","?7"]"#]),
    ("headers", &[r#"{"severity":"high"}"#, r#"{"Severity":["h*","low"]}"#, r#"{"severity":"*","x-a":"1"}"#, "{}"]),
    (
        "payload",
        &[
            r#""$.n > 2""#,
            r#""$.items[*] ? (@.qty > 10)""#,
            r#""$.items[*].qty > 10""#,
            r#""$.flag""#,
            r#""$.name""#,
            r#""$.missing""#,
            r#""strict $.missing""#,
            r#""strict $.items.qty == 1""#,
            r#""exists($.name)""#,
            r#""$.name like_regex \"^z\" flag \"i\"""#,
            r#""$.n / 0 == 1""#,
            r#""$.n == null""#,
            r#""$""#,
            r#""$.*""#,
            r#""null""#,
        ],
    ),
];
const PAYLOADS: &[&str] = &[
    "{}",
    "null",
    "false",
    "true",
    "[]",
    "7",
    r#""text""#,
    r#"{"n": 3, "name": "Zoë", "flag": true}"#,
    r#"{"n": 1, "name": null, "flag": false}"#,
    r#"{"n": "3", "flag": "false", "items": []}"#,
    r#"{"items": [{"qty": 1}, {"qty": 11}]}"#,
    r#"{"items": [{"qty": "x"}, 5, null]}"#,
    r#"{"items": {"qty": 1}, "n": null}"#,
    r#"[{"n": 5}, {"n": 1}]"#,
];

fn filter(dice: &mut Dice) -> String {
    let mut fields = Vec::new();
    for (field, values) in FIELDS {
        if dice.roll(3) == 0 {
            fields.push(format!("\"{field}\":{}", dice.pick(values)));
        }
    }
    format!("{{{}}}", fields.join(","))
}

async fn publish(db: &Client, dice: &mut Dice, messages: usize) {
    for _ in 0..messages {
        let topic = dice.pick(&["a", "a.b", "a.b.c", "b.a", "b.c.b", "c"]);
        let quoted = |text: &str| if text.is_empty() { "null".to_owned() } else { format!("'{text}'") };
        let attributes = format!(
            "key => {}, tenant => {}, aggregate_type => {}, aggregate_id => {}, headers => {}",
            quoted(dice.pick(&["", "k-1", "k-12", "x", "K-1", "Zoé"])),
            quoted(dice.pick(&["", "acme", "Acme", "globex"])),
            quoted(dice.pick(&["", "order", "Order", "user"])),
            quoted(dice.pick(&["", "42", "4", "17"])),
            quoted(dice.pick(&["", r#"{"severity":"high"}"#, r#"{"SEVERITY":"low","X-A":"1"}"#, r#"{"x-a":"1"}"#])),
        );
        let sql = if dice.roll(8) == 0 {
            // A payload of bytes never matches a path, even if its content type is JSON.
            format!("select outbox.enqueue_bytes('{topic}', '{{\"n\": 3}}', 'application/json', {attributes})")
        } else {
            format!("select outbox.enqueue('{topic}', '{}', {attributes})", dice.pick(PAYLOADS))
        };
        db.batch_execute(&sql).await.unwrap();
    }
}

/// Claims all deliveries of a subscription and returns their messages.
async fn claimed(db: &Client, subscription: &str) -> Vec<i64> {
    let mut all = Vec::new();
    loop {
        let claim =
            format!("select coalesce(array_agg(message_id), '{{}}') from outbox.claim('{subscription}', 'w', 1000)");
        let batch: Vec<i64> = one(db, &claim).await;
        if batch.is_empty() {
            all.sort_unstable();
            return all;
        }
        all.extend(batch);
    }
}

async fn agree(db: &Client, seed: u64, dispatched: bool) {
    let mut dice = Dice(seed);
    let mut subscriptions = Vec::new();
    // The filters are each field by itself, and random combinations.
    let single = FIELDS.iter().flat_map(|(field, values)| values.iter().map(move |v| format!("{{\"{field}\":{v}}}")));
    let mut filters: Vec<String> = single.collect();
    filters.extend((0..25).map(|_| filter(&mut dice)));
    for (i, filter) in filters.iter().enumerate() {
        let topics = if i < 30 { "{#}" } else { dice.pick(TOPICS) };
        let name = format!("s{i}");
        db.execute(
            "select outbox.subscribe($1, $2::text::text[], filter => $3::text::jsonb)",
            &[&name, &topics, filter],
        )
        .await
        .unwrap();
        subscriptions.push((name, topics, filter));
    }
    publish(db, &mut dice, 150).await;
    if dispatched {
        settle(db).await;
    }
    // explain_routing() has no argument for a payload of bytes.
    let explained: Vec<(String, i64, bool)> = db
        .query(
            "select e.subscription, m.id, e.matches from outbox.message m, outbox.explain_routing(m.topic, m.payload, m.key,
                m.headers, m.tenant, m.aggregate_type, m.aggregate_id) e
            where m.topic <> 'outbox.control' and m.body is null",
            &[],
        )
        .await
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect();
    let (mut some, mut decided) = (0, 0);
    for (name, topics, filter) in subscriptions {
        let delivered = claimed(db, &name).await;
        let read = db
            .query_one(
                "select coalesce(array_agg(message_id order by message_id) filter (where message_id is not null), '{}')
                from outbox.read(0, 10000, topics => $1::text::text[], filter => $2::text::jsonb)",
                &[&topics, filter],
            )
            .await
            .unwrap();
        assert_eq!(read.get::<_, Vec<i64>>(0), delivered, "read() and subscription of {topics} {filter}");
        some += usize::from(!delivered.is_empty());
        for (_, id, matches) in explained.iter().filter(|(explained, ..)| *explained == name) {
            assert_eq!(*matches, delivered.contains(id), "explain_routing(): message {id} and {topics} {filter}");
            decided += 1;
        }
    }
    assert!(some > 30 && decided > 1000, "{some} filters let something through, {decided} explanations");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_means_the_same_to_readers_and_subscriptions() {
    agree(&server().await.database("filters_matched").await.unwrap(), 1, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_dispatcher_too() {
    agree(&bare_server().await.database("filters_inline").await.unwrap(), 2, false).await;
}

/// With naive backtracking, each additional `#` would take a hundred times as long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patterns_of_many_wildcards_are_answered_at_once() {
    let db = server().await.database("wildcards").await.unwrap();
    let topic = vec!["a"; 127].join(".");
    let pattern = format!("{}#.b", "#.a.".repeat(60));
    db.execute("select outbox.subscribe('s', array[$1], start => 'latest')", &[&pattern]).await.unwrap();
    db.execute("select count(outbox.enqueue($1, '{}')) from generate_series(1, 200)", &[&topic]).await.unwrap();
    settle(&db).await;
    let ask = async |sql: &str, arguments: &[&(dyn outbox_harness::tokio_postgres::types::ToSql + Sync)]| -> i64 {
        let answer = tokio::time::timeout(PATIENCE, db.query_one(sql, arguments)).await;
        answer.unwrap_or_else(|_| panic!("{sql} does not end")).unwrap().get(0)
    };
    let read = "select count(message_id) from outbox.read(0, topics => array[$1])";
    assert_eq!(ask(read, &[&pattern]).await, 0);
    assert_eq!(ask("select count(*) from outbox.skipped($1)", &[&pattern]).await, 0);
    let explained = "select count(*) from outbox.explain_routing($1) where not matches";
    assert_eq!(ask(explained, &[&topic]).await, 1);
    let filter = format!("{{\"key\": \"{}b\"}}", "*a".repeat(120));
    db.execute("select outbox.enqueue('x', '{}', key => repeat('a', 1000))", &[]).await.unwrap();
    settle(&db).await;
    let read = "select count(message_id) from outbox.read(0, filter => $1::text::jsonb)";
    assert_eq!(ask(read, &[&filter]).await, 0);
    db.batch_execute("select outbox.replay('s', 1)").await.unwrap();
    outbox_harness::wait_until("the replay has ended", PATIENCE, async || {
        one::<String>(&db, "select max(state) from outbox.replay_status").await == "completed"
    })
    .await;
}

/// A search with as many patterns as are allowed takes long, and ends when it is cancelled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_search_can_be_cancelled() {
    let server = bare_server().await;
    let db = server.database("long_search").await.unwrap();
    let topic = vec!["a"; 127].join(".");
    db.execute("select count(outbox.enqueue($1, '{}')) from generate_series(1, 9000)", &[&topic]).await.unwrap();
    db.batch_execute("select outbox.tick()").await.unwrap();
    let search = "select count(*) from outbox.read(0, 10000,
        topics => array(select repeat('#.a.', 56) || '#.b' || n from generate_series(1, 280) n))";
    db.batch_execute("set statement_timeout = '300ms'").await.unwrap();
    let error = tokio::time::timeout(PATIENCE, refused(&db, search)).await.expect("statement_timeout ends it");
    assert_eq!(error.code().code(), "57014");
    db.batch_execute("reset statement_timeout").await.unwrap();
    let pid: i32 = one(&db, "select pg_backend_pid()").await;
    let other = server.connect("long_search").await.unwrap();
    let (ended, ()) = tokio::join!(tokio::time::timeout(PATIENCE, db.simple_query(search)), async {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        other.execute("select pg_terminate_backend($1)", &[&pid]).await.unwrap();
    });
    assert!(ended.expect("pg_terminate_backend ends it").is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patterns_and_filters_are_bounded_where_they_come_in() {
    let db = bare_server().await.database("bounds").await.unwrap();
    let many = "array(select 'a.' || n from generate_series(1, 1001) n)";
    let long = "jsonb_build_object('payload', repeat('1', 70000))";
    let globs = "jsonb_build_object('key', (select jsonb_agg('a*'::text) from generate_series(1, 101)))";
    for call in [
        format!("select outbox.read(0, topics => {many})"),
        format!("select outbox.subscribe('s', {many})"),
        format!("select outbox.read(0, filter => {long})"),
        format!("select outbox.subscribe('s', '{{#}}', filter => {globs})"),
        format!("select outbox.alter_subscription('own', topics => {many})"),
        format!("select outbox.replay('own', filter => {globs})"),
    ] {
        db.batch_execute("select outbox.subscribe('own', '{#}') where not exists (select from outbox.subscription)")
            .await
            .unwrap();
        let error = refused(&db, &call).await;
        assert_eq!(error.code().code(), "54000", "{call}: {error}");
        assert!(error.detail().is_some_and(|detail| detail.contains("limit")), "{call}: {error}");
    }
}

/// Each list that gives a reason why no subscription got a message gives the same one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reason_of_routing_is_told_in_one_way() {
    let db = server().await.database("reasons").await.unwrap();
    db.batch_execute(
        "select outbox.subscribe('ended', '{pay.#}'); select outbox.unsubscribe('ended');
        select outbox.subscribe('acme', '{order.#}', filter => '{\"tenant\": \"acme\"}')",
    )
    .await
    .unwrap();
    settle(&db).await;
    for (topic, reason) in [("pay.b", "inactive"), ("order.b", "filtered"), ("other", "no subscription")] {
        let id: i64 = one(&db, &format!("select outbox.enqueue('{topic}', '{{}}')")).await;
        settle(&db).await;
        let told = rows(
            &db,
            &format!(
                "select detail as reason from outbox.history({id}) where what = 'routed'
                union all select 'skipped: ' || reason from outbox.skipped() where message_id = {id}
                union all select status || ': ' || skipped_reason from outbox.notification_log() where message_id = {id}"
            ),
        )
        .await;
        let told: Vec<&str> = told.iter().map(|row| row["reason"].as_deref().unwrap_or("nothing")).collect();
        let expected = format!("skipped: {reason}");
        assert_eq!(told, [expected.as_str(); 3], "{topic}");
    }
}
