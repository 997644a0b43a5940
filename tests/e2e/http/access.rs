//! Access to endpoints, as configured in SQL: authentication, certificates, proxies, consent. The tests of the sender
//! itself are in `tls.rs`.

use std::net::Ipv4Addr;

use outbox_harness::authority::Authority;
use outbox_harness::dns::Dns;
use outbox_harness::proxy::{Kind, Proxy};
use outbox_harness::receiver::Speech;
use outbox_harness::tls::{Ca, Identity, server_config};
use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Receiver, Reply, Server, wait_until};
use outbox_tests::{PATIENCE, one, outbox_harness, refused, server, settle};
use serde_json::{Value, json};

/// Creates an endpoint with these further arguments, and a subscription of the same name to all topics below `order`.
async fn subscribe(db: &Client, name: &str, url: &str, auth: Value, tls: Value, further: &str) {
    let null = |json: Value| if json.is_null() { None } else { Some(json) };
    db.execute(
        &format!("select outbox.create_endpoint($1, $2, auth => $3, tls => $4 {further})"),
        &[&name, &url, &null(auth), &null(tls)],
    )
    .await
    .unwrap_or_else(|e| panic!("{}", outbox_tests::explain(&e)));
    db.execute("select outbox.subscribe($1, '{order.#}', $1)", &[&name]).await.unwrap();
}

async fn enqueue(db: &Client) {
    db.execute("select outbox.enqueue('order.created', '{\"n\": 1}')", &[]).await.unwrap();
}

async fn count(db: &Client, what: &str) -> i64 {
    one(db, &format!("select count(*) from {what}")).await
}

fn tls(ca: &Ca, identity: Option<&Identity>) -> Value {
    match identity {
        None => json!({"ca": ca.pem()}),
        Some(identity) => json!({"ca": ca.pem(), "certificate": identity.certificate, "key": identity.key}),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_used_is_refused_with_its_field_named() {
    let db = server().await.database("refused").await.unwrap();
    let ca = Ca::new().unwrap();
    let (own, other) = (ca.issue(&["a"]).unwrap(), ca.issue(&["b"]).unwrap());
    let expired = ca.issue_expired(&["a"]).unwrap();
    let secret = "hunter2-hunter2";
    for (argument, json, what) in [
        ("auth", json!({"type": "digest", "password": secret}), "\"type\" is not basic"),
        ("auth", json!({"type": "bearer", "token": format!("{secret}\n")}), "\"token\" cannot be sent"),
        ("auth", json!({"type": "bearer", "token": 7}), "\"token\" is not a text"),
        ("auth", json!({"type": "basic", "username": "u:v", "password": secret}), "\"username\" has a colon"),
        ("auth", json!({"type": "header", "name": "webhook-id", "value": secret}), "\"name\" is a header that is set"),
        ("auth", json!({"type": "oauth2", "client_id": "a", "client_secret": secret}), "\"token_url\" is missing"),
        (
            "auth",
            json!({"type": "oauth2", "token_url": "ftp://a/", "client_id": "a", "client_secret": secret}),
            "\"token_url\" is invalid",
        ),
        ("tls", json!({"ca": secret}), "\"ca\" has no certificate"),
        ("tls", json!({"ca": own.key}), "\"ca\" has no certificate"),
        ("tls", json!({"certificate": own.certificate}), "\"certificate\" needs a \"key\""),
        ("tls", json!({"key": own.key}), "\"key\" needs a \"certificate\""),
        ("tls", json!({"certificate": own.certificate, "key": secret}), "\"key\" has no private key"),
        (
            "tls",
            json!({"certificate": own.certificate, "key": other.key}),
            "\"certificate\" and \"key\" cannot be used",
        ),
        (
            "tls",
            json!({"certificate": expired.certificate, "key": expired.key}),
            "\"certificate\" has expired: Fri, 01 Jan 2021",
        ),
        ("tls", json!({"ca": expired.certificate}), "\"ca\" has expired"),
        ("tls", json!({"passphrase": secret}), "\"passphrase\" is unknown"),
    ] {
        let text = json.to_string().replace('\'', "''");
        let statement = format!("select outbox.create_endpoint('x', 'https://example.com', {argument} => '{text}')");
        let error = refused(&db, &statement).await;
        assert_eq!(error.code().code(), "22023", "{error:?}");
        assert!(error.message().starts_with(&format!("invalid {argument}: {what}")), "{error:?}");
        let said = format!("{error:?}").replace(&statement, "");
        assert!(!said.contains("hunter2") && own.key.lines().nth(1).is_none_or(|line| !said.contains(line)), "{said}");
    }
    for (argument, message) in
        [("secret => 'whsk_c2hvcnQ='", "invalid signing secret"), ("signature => 'v2'", "unknown signature")]
    {
        let error =
            refused(&db, &format!("select outbox.create_endpoint('x', 'https://example.com', {argument})")).await;
        assert!(error.message().starts_with(message), "{error:?}");
    }
    for host in ["127.1", "0x7f000001", "2130706433", "[fe80::1%25eth0]"] {
        let error = refused(&db, &format!("select outbox.create_endpoint('x', 'https://{host}/')")).await;
        assert_eq!(error.message(), "invalid url", "{host}");
    }
    assert_eq!(count(&db, "outbox.endpoint").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_arrive_encrypted_authenticated_and_signed() {
    let (ca, db) = (Ca::new().unwrap(), server().await.database("encrypted").await.unwrap());
    let config = server_config(&ca.issue(&["127.0.0.1"]).unwrap(), Some(&ca), &["h2", "http/1.1"]).unwrap();
    let speech = Speech { tls: Some(config), ..Speech::default() };
    let receiver = Receiver::speaking(speech).unwrap();
    let authority = Authority::start(Speech::default(), "client", "s3cret", 3600).unwrap();
    receiver.on("/oauth2", authority.guard());
    let own = ca.issue(&["client"]).unwrap();
    let oauth2 =
        json!({"type": "oauth2", "token_url": authority.token_url(), "client_id": "client", "client_secret": "s3cret"});
    subscribe(&db, "oauth2", &receiver.url("/oauth2"), oauth2, tls(&ca, Some(&own)), "").await;
    let basic = json!({"type": "basic", "username": "u", "password": "p"});
    subscribe(
        &db,
        "basic",
        &receiver.url("/basic"),
        basic,
        tls(&ca, Some(&own)),
        ", protocol => 'http1', signature => 'v1a'",
    )
    .await;
    // The receiver refuses a client without a certificate.
    subscribe(&db, "stranger", &receiver.url("/stranger"), Value::Null, tls(&ca, None), "").await;
    enqueue(&db).await;
    wait_until("all have been tried", PATIENCE, async || count(&db, "outbox.attempt").await == 3).await;
    let outcomes: Vec<(String, Option<String>)> = db
        .query(
            "select s.name, a.error_class from outbox.attempt a join outbox.subscription s on s.id = a.subscription_id order by 1",
            &[],
        )
        .await
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    assert_eq!(
        outcomes,
        [("basic".to_owned(), None), ("oauth2".to_owned(), None), ("stranger".to_owned(), Some("tls".to_owned()))]
    );
    let basic = receiver.at("/basic").remove(0);
    assert_eq!(basic.header("authorization"), "Basic dTpw");
    assert!(basic.header("webhook-signature").starts_with("v1a,"));
    assert_eq!((receiver.at("/oauth2").len(), receiver.at("/stranger").len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_becomes_unusable_later_kills_its_own_deliveries_with_the_reason() {
    let (ca, db) = (Ca::new().unwrap(), server().await.database("unusable").await.unwrap());
    let config = server_config(&ca.issue(&["127.0.0.1"]).unwrap(), None, &["h2", "http/1.1"]).unwrap();
    let receiver = Receiver::speaking(Speech { tls: Some(config), ..Speech::default() }).unwrap();
    let own = ca.issue(&["client"]).unwrap();
    for name in ["good", "cut", "odd"] {
        subscribe(
            &db,
            name,
            &receiver.url(&format!("/{name}")),
            json!({"type": "bearer", "token": "t"}),
            tls(&ca, Some(&own)),
            "",
        )
        .await;
    }
    // A partial restore or a manual UPDATE could leave such credentials.
    db.batch_execute(
        "update outbox.endpoint_credential set key = 'hunter2-cut'
        where endpoint_id = (select id from outbox.endpoint where name = 'cut');
        update outbox.endpoint_credential set auth = '{\"type\": \"bearer\", \"token\": \"hunter2-odd\\n\"}'
        where endpoint_id = (select id from outbox.endpoint where name = 'odd');
        select outbox.alter_endpoint(name, concurrency => 4) from outbox.endpoint",
    )
    .await
    .unwrap();
    for _ in 0..3 {
        enqueue(&db).await;
    }
    wait_until("the others are dead", PATIENCE, async || count(&db, "outbox.dead_letter").await == 6).await;
    wait_until("the good one has all", PATIENCE, async || receiver.at("/good").len() == 3).await;
    let errors: Vec<String> = db
        .query("select distinct d.reason || ': ' || d.last_error from outbox.dead_letter d order by 1", &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors.iter().all(|error| error.starts_with("invalid: ") && !error.contains("hunter2")), "{errors:?}");
    assert!(
        errors.iter().any(|e| e.contains("\"key\"")) && errors.iter().any(|e| e.contains("\"token\"")),
        "{errors:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_shown_to_nobody() {
    const SECRETS: [&str; 5] = ["hunter2-basic", "hunter2-token", "hunter2-oauth", "hunter2-header", "hunter2-proxy"];
    let dns = Dns::start().unwrap();
    dns.on("hooks.test", |_| vec![Ipv4Addr::LOCALHOST.into()]);
    let name_server = dns.address().to_string();
    let server = Server::start(&[
        ("log_min_messages", "debug1"),
        ("pg_outbox.poll_interval", "1s"),
        ("pg_outbox.name_servers", &name_server),
    ])
    .await
    .unwrap();
    let db = server.database("secrets").await.unwrap();
    let (ca, other) = (Ca::new().unwrap(), Ca::new().unwrap());
    let own = other.issue(&["client"]).unwrap();
    let config = server_config(&ca.issue(&["127.0.0.1"]).unwrap(), Some(&ca), &["http/1.1"]).unwrap();
    let encrypted = Receiver::speaking(Speech { tls: Some(config), ..Speech::default() }).unwrap();
    let receiver = Receiver::start().unwrap();
    // Everything fails, so that errors mention everything.
    receiver.on("/hook", |_, _| Reply::status(401));
    receiver.on("/token", |_, _| Reply::status(400));
    let url = receiver.url_as("hooks.test", "/hook");
    subscribe(&db, "basic", &url, json!({"type": "basic", "username": "u", "password": SECRETS[0]}), Value::Null, "")
        .await;
    subscribe(&db, "bearer", &url, json!({"type": "bearer", "token": SECRETS[1]}), Value::Null, "").await;
    let oauth2 =
        json!({"type": "oauth2", "token_url": receiver.url("/token"), "client_id": "c", "client_secret": SECRETS[2]});
    subscribe(&db, "oauth2", &url, oauth2, Value::Null, "").await;
    let header = json!({"type": "header", "name": "x-key", "value": SECRETS[3]});
    subscribe(&db, "header", &url, header, Value::Null, "").await;
    subscribe(&db, "certificate", &encrypted.url("/hook"), Value::Null, tls(&ca, Some(&own)), "").await;
    let guarded = Proxy::start(Kind::Connect, Some(("user", "another")), Ipv4Addr::LOCALHOST.into()).unwrap();
    db.execute("select outbox.set_proxy('guarded', $1)", &[&guarded.url("user:hunter2-proxy@")]).await.unwrap();
    subscribe(&db, "proxied", &url, Value::Null, Value::Null, "").await;
    db.batch_execute("select outbox.set_endpoint_proxy('proxied', 'guarded')").await.unwrap();
    enqueue(&db).await;
    wait_until("all have failed", PATIENCE, async || {
        count(&db, "outbox.attempt where outcome <> 'completed'").await >= 6
    })
    .await;
    settle(&db).await;
    assert!(dns.asked("hooks.test") > 0);
    // The role gets all capabilities that allow it to read.
    db.batch_execute(
        "create role everything;
        select outbox.grant_to('everything', c) from unnest('{publish,consume,monitor,admin}'::text[]) c;
        set role everything",
    )
    .await
    .unwrap();
    let tables: Vec<String> = db
        .query(
            "select c.oid::regclass::text from pg_class c
            where c.relnamespace = 'outbox'::regnamespace and c.relkind in ('r', 'v', 'p') and has_table_privilege(c.oid, 'select')",
            &[],
        )
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert!(
        tables.iter().any(|name| name == "outbox.attempt") && !tables.iter().any(|name| name.contains("credential"))
    );
    let key_line = own.key.lines().nth(1).unwrap();
    let mut seen = server.log();
    for table in &tables {
        let text: Option<String> = one(&db, &format!("select string_agg(t::text, ' ') from {table} t")).await;
        seen.push_str(&text.unwrap_or_default());
    }
    assert!(seen.contains("no token from") && seen.contains("opens no tunnel"), "the errors themselves are shown");
    for secret in SECRETS.into_iter().chain([key_line, "whsec_", "dTpodW50ZXIyLWJhc2lj"]) {
        assert!(!seen.contains(secret), "\"{secret}\" is shown");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_are_the_operators_choice() {
    let receiver = Receiver::start().unwrap();
    let db = server().await.database("proxies").await.unwrap();
    let [first, second] = [Kind::Connect, Kind::Socks5]
        .map(|kind| Proxy::start(kind, Some(("user", "s3cret")), Ipv4Addr::LOCALHOST.into()).unwrap());
    db.execute("select outbox.set_proxy('first', $1, is_default => true)", &[&first.url("user:s3cret@")])
        .await
        .unwrap();
    db.execute("select outbox.set_proxy('second', $1)", &[&second.url("user:s3cret@")]).await.unwrap();
    db.batch_execute("select outbox.set_proxy('none', null)").await.unwrap();
    subscribe(&db, "shop", &receiver.url("/hook"), Value::Null, Value::Null, "").await;
    let place = receiver.address().to_string();
    let arrives = async |total: usize| {
        enqueue(&db).await;
        wait_until("it has arrived", PATIENCE, async || receiver.total() == total).await;
        settle(&db).await;
    };
    arrives(1).await;
    assert_eq!((first.asked(), second.asked().len()), (vec![place.clone()], 0));
    db.batch_execute("select outbox.set_endpoint_proxy('shop', 'second')").await.unwrap();
    arrives(2).await;
    assert_eq!((first.asked().len(), second.asked()), (1, vec![place]));
    db.batch_execute("select outbox.set_endpoint_proxy('shop', 'none')").await.unwrap();
    arrives(3).await;
    assert_eq!((first.asked().len(), second.asked().len()), (1, 1));

    let error = refused(&db, "select outbox.drop_proxy('none')").await;
    assert_eq!(error.code().code(), "OB004");
    let error = refused(&db, "select outbox.set_endpoint_proxy('shop', 'my own')").await;
    assert_eq!(error.code().code(), "OB001");
    for url in ["https://u:hunter2@a:1", "socks5://u:hunter2@a", "u:hunter2@a:1"] {
        let error = refused(&db, &format!("select outbox.set_proxy('x', '{url}')")).await;
        assert_eq!((error.code().code(), error.message()), ("22023", "malformed proxy"));
        assert!(!format!("{:?}{:?}", error.detail(), error.hint()).contains("hunter2"));
    }
    let shown: String = one(&db, "select string_agg(url, ' ') from outbox.proxy_list").await;
    assert!(!shown.contains("s3cret") && shown.contains("socks5://127.0.0.1"), "{shown}");
    db.batch_execute("create role shopkeeper; select outbox.grant_to('shopkeeper', 'admin'); set role shopkeeper")
        .await
        .unwrap();
    db.batch_execute("select outbox.set_endpoint_proxy('shop', null); select * from outbox.proxy_list").await.unwrap();
    for statement in [
        "select outbox.set_proxy('mine', 'http://a:1')",
        "select outbox.drop_proxy('second')",
        "select * from outbox.proxy",
    ] {
        assert_eq!(refused(&db, statement).await.code().code(), "42501", "{statement}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_sent_before_the_receiver_has_consented() {
    let receiver = Receiver::start().unwrap();
    for path in ["/yes", "/anybody", "/else"] {
        receiver.on(path, move |arrival, _| {
            let allowed = match path {
                "/yes" => "PG_outbox",
                "/anybody" => "*",
                _ => "elsewhere.example",
            };
            match arrival.method.as_str() {
                "OPTIONS" => {
                    Reply::status(200).header("webhook-allowed-origin", allowed).header("webhook-allowed-rate", "6000")
                }
                _ => Reply::status(204),
            }
        });
    }
    receiver.on("/never-heard", |arrival, _| Reply::status(if arrival.method == "OPTIONS" { 405 } else { 204 }));
    receiver.on("/down", |arrival, _| Reply::status(if arrival.method == "OPTIONS" { 503 } else { 204 }));
    let db = server().await.database("consent").await.unwrap();
    for name in ["yes", "anybody", "else", "never-heard", "down"] {
        subscribe(&db, name, &receiver.url(&format!("/{name}")), Value::Null, Value::Null, ", consent => true").await;
    }
    enqueue(&db).await;
    let state = async || -> String {
        one(&db, "select string_agg(name || ' ' || consent, ', ' order by name) from outbox.endpoint").await
    };
    let expected = "anybody granted, down pending, else refused, never-heard refused, yes granted";
    wait_until("all have been asked", PATIENCE, async || {
        state().await == expected && count(&db, "outbox.endpoint_consent where asked > 0").await == 5
    })
    .await;
    let posts = |path: &str| receiver.at(path).iter().filter(|arrival| arrival.method == "POST").count();
    wait_until("those who consented have it", PATIENCE, async || posts("/yes") + posts("/anybody") == 2).await;
    settle(&db).await;
    assert_eq!((posts("/else"), posts("/never-heard"), posts("/down")), (0, 0, 0));
    assert!(receiver.at("/yes")[0].method == "OPTIONS", "asked first");
    let asked = receiver.at("/yes").remove(0);
    assert_eq!(asked.header("webhook-request-origin"), "pg_outbox");
    let row = db
        .query_one(
            "select c.allowed_rate, c.allowed_origin, c.status from outbox.endpoint_consent c
            join outbox.endpoint e on e.id = c.endpoint_id where e.name = 'yes'",
            &[],
        )
        .await
        .unwrap();
    assert_eq!((row.get::<_, i32>(0), row.get::<_, &str>(1), row.get::<_, i16>(2)), (6000, "PG_outbox", 200));
    let details: String = one(
        &db,
        "select string_agg(c.detail, '; ' order by e.name) from outbox.endpoint_consent c
        join outbox.endpoint e on e.id = c.endpoint_id where e.consent = 'refused'",
    )
    .await;
    assert_eq!(
        details,
        "WebHook-Allowed-Origin does not name \"pg_outbox\"; status 405 without WebHook-Allowed-Origin"
    );
    // Status 503 is no refusal. The endpoint is asked again later.
    assert!(
        one::<bool>(
            &db,
            "select next_at > clock_timestamp() + interval '30 s' from outbox.endpoint_consent where status = 503"
        )
        .await
    );
    // Held messages are delivered after the consent of the receiver, or of the operator.
    receiver.on("/down", |arrival, _| match arrival.method.as_str() {
        "OPTIONS" => Reply::status(200).header("webhook-allowed-origin", "*"),
        _ => Reply::status(204),
    });
    db.batch_execute("select outbox.request_consent('down'); select outbox.grant_consent('never-heard', 60)")
        .await
        .unwrap();
    wait_until("both have it", PATIENCE, async || posts("/down") + posts("/never-heard") == 2).await;
    // After a change of the URL, the new receiver is asked.
    db.execute("select outbox.alter_endpoint('yes', url => $1)", &[&receiver.url("/else?moved")]).await.unwrap();
    wait_until("the new one has been asked", PATIENCE, async || receiver.at("/else?moved").len() == 1).await;
    settle(&db).await;
    enqueue(&db).await;
    wait_until("the others have it", PATIENCE, async || posts("/anybody") == 2 && posts("/down") == 2).await;
    settle(&db).await;
    assert_eq!(posts("/else?moved"), 0);
}
