//! Nobody sees or does anything without a token or a trusted proxy, and no other site acts in a person's name.

use std::net::SocketAddr;

use pg_outbox_serve::Options;

use crate::browser::Browser;
use crate::{METRICS_TOKEN, TOKEN, dashboard, database, dsn, options, postgres, start};

const PATHS: [&str; 14] = [
    "/",
    "/subscriptions",
    "/endpoints",
    "/dead-letters",
    "/messages",
    "/message?id=1",
    "/tail",
    "/workers",
    "/replay?id=1",
    "/sagas",
    "/streams",
    "/storage",
    "/databases",
    "/nothing",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_shown_or_done_without_a_session() {
    let db = database("closed").await;
    db.batch_execute("select outbox.subscribe('very-private', array['a'])").await.unwrap();
    let address = dashboard("acts", "closed").await;
    let mut stranger = Browser::new(address);
    for path in PATHS {
        let answer = stranger.get(path).await;
        assert_eq!((answer.status, answer.header("location")), (303, "/login"), "{path}");
        assert!(!answer.body.contains("private"));
    }
    assert_eq!(stranger.post("/do/pause", &[("name", "very-private")]).await.status, 403);
    assert_eq!(stranger.get("/metrics").await.status, 401);
    for bad in ["", "Bearer ", "Bearer wrong", "Basic abc", &format!("bearer {TOKEN}x")] {
        stranger.headers = vec![("Authorization".to_owned(), bad.to_owned())];
        assert_eq!(stranger.get("/metrics").await.status, 401, "{bad}");
    }
    for token in [TOKEN, METRICS_TOKEN] {
        stranger.headers = vec![("Authorization".to_owned(), format!("Bearer {token}"))];
        let metrics = stranger.get("/metrics").await;
        assert!(
            metrics.status == 200 && metrics.body.contains("# TYPE outbox_worker_up gauge\noutbox_worker_up "),
            "{}",
            metrics.body
        );
        assert_eq!(stranger.get("/").await.status, 303, "a token of a scraper opens no page");
    }
    stranger.headers.clear();
    assert_eq!(
        (stranger.get("/healthz").await.body.as_str(), stranger.get("/readyz").await.body.as_str()),
        ("ok\n", "ok\n")
    );

    // Wrong tokens, forms without the cookie, and the token of the metrics open nothing.
    let form = stranger.get("/login").await.form("/login", &[]).unwrap()["form_token"].clone();
    for token in ["", "wrong", METRICS_TOKEN, &TOKEN[1..]] {
        let mut trying = stranger.clone();
        let answer = trying.post("/login", &[("form_token", &form), ("token", token)]).await;
        assert!(answer.status == 403 && !trying.cookies.contains_key("outbox_session"), "{token}");
    }
    let mut other = Browser::new(address);
    let answer = other.post("/login", &[("form_token", &form), ("token", TOKEN)]).await;
    assert!(answer.status == 403 && !other.cookies.contains_key("outbox_session"), "the form is of another browser");
    let answer = stranger.post("/login", &[("form_token", &form), ("token", TOKEN), ("name", "a\u{202e}b")]).await;
    assert_eq!(answer.status, 400);
    assert_eq!(text_of(&db).await, "false");
}

async fn text_of(db: &outbox_harness::tokio_postgres::Client) -> String {
    db.query_one("select paused::text from outbox.subscription", &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_new_at_login_and_gone_at_logout() {
    let _db = database("sessions").await;
    let address = dashboard("acts", "sessions").await;
    // Somebody else has put a session into the browser.
    let attacker = Browser::logged_in(address, TOKEN, "").await;
    let planted = attacker.cookies["outbox_session"].clone();
    let mut victim = Browser::new(address);
    victim.cookies.insert("outbox_session".to_owned(), planted.clone());
    let form = victim.get("/login").await.form("/login", &[]).unwrap()["form_token"].clone();
    let answer = victim.post("/login", &[("form_token", &form), ("token", TOKEN)]).await;
    assert_eq!(answer.status, 303);
    let set = answer
        .headers
        .iter()
        .find(|(name, value)| name == "set-cookie" && value.starts_with("outbox_session="))
        .unwrap();
    assert!(set.1.contains("HttpOnly") && set.1.contains("SameSite=Strict") && set.1.contains("Max-Age="), "{set:?}");
    assert_ne!(victim.cookies["outbox_session"], planted, "the id is new");
    let mut attacker = attacker;
    attacker.cookies.insert("outbox_session".to_owned(), planted);
    assert_eq!(attacker.get("/").await.status, 303, "the planted session has ended");
    // A made-up id opens nothing.
    attacker.cookies.insert("outbox_session".to_owned(), "0".repeat(64));
    assert_eq!(attacker.get("/").await.status, 303);

    let page = victim.get("/").await;
    let mut copy = victim.clone();
    assert_eq!(copy.post("/logout", &[]).await.status, 403, "logging out needs the form");
    let out = victim.submit(&page, "/logout", &[], &[]).await;
    assert!(out.body.contains("Log in"), "{}", out.body);
    assert_eq!(copy.get("/").await.status, 303, "the session is gone on the server");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_form_of_another_site_or_session_does_nothing() {
    let db = database("forged").await;
    db.batch_execute("select outbox.subscribe('s', array['a'])").await.unwrap();
    let address = dashboard("acts", "forged").await;
    let mut ann = Browser::logged_in(address, TOKEN, "Ann").await;
    let mut bob = Browser::logged_in(address, TOKEN, "Bob").await;
    let token = |page: crate::browser::Answer| page.form("/do/pause", &[]).unwrap()["form_token"].clone();
    let (of_ann, of_bob) = (token(ann.get("/subscriptions").await), token(bob.get("/subscriptions").await));
    assert_ne!(of_ann, of_bob);
    for forged in ["", "0", &of_bob] {
        assert_eq!(ann.post("/do/pause", &[("form_token", forged), ("name", "s")]).await.status, 403, "{forged}");
    }
    assert_eq!(ann.post("/do/pause", &[("name", "s")]).await.status, 403);
    let fields = [("form_token", of_ann.as_str()), ("name", "s")];
    for (name, value) in [
        ("Origin", "https://evil.example"),
        ("Origin", "null"),
        ("Origin", "http://127.0.0.1:1"),
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Site", "same-site"),
    ] {
        ann.headers = vec![(name.to_owned(), value.to_owned())];
        assert_eq!(ann.post("/do/pause", &fields).await.status, 403, "{name}: {value}");
    }
    ann.headers.clear();
    assert_eq!(ann.get("/do/pause?name=s").await.status, 405, "a link does nothing");
    assert_eq!(ann.post("/do/unknown", &fields).await.status, 404);
    assert_eq!(text_of(&db).await, "false");
    ann.headers = vec![
        ("Origin".to_owned(), format!("http://{address}")),
        ("Sec-Fetch-Site".to_owned(), "same-origin".to_owned()),
    ];
    assert_eq!(ann.post("/do/pause", &fields).await.status, 303);
    assert_eq!(text_of(&db).await, "true");
    // Forms and fields that are too long are refused.
    assert_eq!(ann.post("/do/resume", &[("form_token", &of_ann), ("name", &"x".repeat(3000))]).await.status, 400);
    assert_eq!(ann.post("/do/resume", &[("form_token", &of_ann), ("name", &"x".repeat(20_000))]).await.status, 413);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_strict_and_of_a_known_host() {
    let _db = database("strict").await;
    let address = dashboard("acts", "strict").await;
    let mut browser = Browser::logged_in(address, TOKEN, "").await;
    for path in
        ["/", "/login", "/metrics", "/healthz", "/readyz", "/style.css", "/script.js", "/nothing", "/message?id=x"]
    {
        let answer = browser.get(path).await;
        let policy = answer.header("content-security-policy");
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
        assert!(policy.contains("frame-ancestors 'none'") && policy.contains("form-action 'self'"));
        assert_eq!(answer.header("cache-control"), "no-store", "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        if answer.header("content-type").starts_with("text/html") {
            let tags = answer.body.split('<').filter_map(|tag| tag.split('>').next());
            let inline = |word: &str| word.contains('=') && (word.starts_with("on") || word.starts_with("style"));
            let bad: Vec<&str> = tags.filter(|tag| *tag == "style" || tag.split(' ').any(inline)).collect();
            assert_eq!(bad, Vec::<&str>::new(), "{path}");
        }
    }
    // A name that an attacker points to this machine is no name of the dashboard.
    for host in ["evil.example", "evil.example:8484", "localhost.evil.example", ""] {
        browser.host = host.to_owned();
        for path in ["/", "/login", "/metrics", "/healthz"] {
            assert_eq!(browser.get(path).await.status, 421, "{host} {path}");
        }
    }
    browser.host = format!("localhost:{}", address.port());
    assert_eq!(browser.get("/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_proxy_names_the_person() {
    let db = database("proxied").await;
    db.batch_execute("select outbox.subscribe('s', array['a'])").await.unwrap();
    let proxied = Options {
        token: None,
        metrics_token: None,
        user_header: Some("X-Forwarded-User".to_owned()),
        hosts: vec!["outbox.example.com".to_owned()],
        tls_proxy: true,
        ..options()
    };
    let target = dsn(postgres().await, "acts", "proxied");
    let address = start(&target, proxied.clone()).await;
    let mut ann = Browser::new(address);
    ann.host = "outbox.example.com".to_owned();
    assert_eq!(ann.get("/").await.status, 401, "the proxy names nobody");
    assert_eq!(ann.get("/login").await.status, 401);
    let name = |name: &str| ("x-forwarded-user".to_owned(), name.to_owned());
    ann.headers = vec![name("ann@example.com")];
    let page = ann.get("/subscriptions").await;
    assert!(
        page.status == 200 && page.body.contains("ann@example.com") && !page.body.contains("Log out"),
        "{}",
        page.body
    );
    assert!(ann.submit(&page, "/do/pause", &[("name", "s")], &[]).await.body.contains("is paused"));
    // The form of one person is no form of another, and two names are none.
    let form = page.form("/do/pause", &[]).unwrap()["form_token"].clone();
    let mut bob = ann.clone();
    bob.headers = vec![name("bob@example.com")];
    assert_eq!(bob.post("/do/resume", &[("form_token", &form), ("name", "s")]).await.status, 403);
    for bad in [vec![name("ann"), name("bob")], vec![name("")], vec![name(&"x".repeat(200))]] {
        bob.headers = bad;
        assert_eq!(bob.get("/").await.status, 401);
    }
    // The header of another address than that of the proxy means nothing.
    let elsewhere = Options { trusted_proxies: vec!["192.0.2.1".parse().unwrap()], ..proxied };
    let mut ann = Browser { server: start(&target, elsewhere).await, ..ann };
    ann.headers = vec![name("ann@example.com")];
    assert_eq!(ann.get("/").await.status, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_or_endless_request_stops_no_other() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let _db = database("slow").await;
    let address: SocketAddr = dashboard("sees", "slow").await;
    let mut open = Vec::new();
    for _ in 0..100 {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: local").await.unwrap();
        open.push(stream);
    }
    let mut browser = Browser::logged_in(address, TOKEN, "").await;
    assert_eq!(browser.get("/").await.status, 200);
    // A head without end is cut off.
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(100_000)).as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
    drop(open);
}

/// Input that comes back is text everywhere, and never a header or another address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_comes_back_as_text() {
    let db = database("typed").await;
    db.batch_execute("select outbox.subscribe('s', array['a'])").await.unwrap();
    let address = dashboard("acts", "typed").await;
    let mut ann = Browser::logged_in(address, TOKEN, "<b>Ann</b>\"'").await;
    let hostile = "\"'><script>alert(1)</script>\r\nSet-Cookie: planted=1\r\n\r\n<img src=x>";
    let names = [
        "id",
        "name",
        "key",
        "topic",
        "tenant",
        "state",
        "aggregate_type",
        "aggregate_id",
        "from",
        "to",
        "before",
        "after",
        "type",
        "status",
        "after_type",
        "category",
        "subscription",
        "subscription_id",
        "reason",
        "cause",
        "content",
    ];
    let harmless = |what: &str, answer: &crate::browser::Answer| {
        let code = answer.body.replace("<script src=\"/script.js\" defer>", "");
        assert!(!code.contains("<script") && !code.contains("<img") && !code.contains("<b>"), "{what}: {code}");
        let cookies: Vec<_> = answer.headers.iter().filter(|(_, value)| value.contains("planted")).collect();
        assert!(cookies.is_empty(), "{what}: {cookies:?}");
        let to = answer.header("location");
        assert!(to.is_empty() || (to.starts_with('/') && !to.starts_with("//")), "{what}: {to}");
    };
    for path in PATHS {
        let path = path.split('?').next().unwrap();
        for name in names {
            let answer = ann.get(&format!("{path}?{name}={}", crate::browser::encoded(hostile))).await;
            harmless(&format!("{path} {name}"), &answer);
            assert!(answer.status < 500, "{path} {name}: {}", answer.status);
        }
    }
    let form_token = ann.get("/").await.form("/logout", &[]).unwrap()["form_token"].clone();
    for action in [
        "pause",
        "disable",
        "rotate",
        "test",
        "requeue",
        "requeue-all",
        "resend",
        "cancel",
        "erase",
        "replay",
        "reset-cursor",
        hostile,
    ] {
        for confirmed in ["", "yes"] {
            let mut fields: Vec<(&str, &str)> = [
                "name",
                "dead_letter_id",
                "message_id",
                "subscription",
                "subscription_id",
                "reason",
                "cause",
                "because",
                "replay_id",
                "consumer",
                "stream",
                "subject",
                "position",
                "from_position",
                "upto",
                "after",
                "done",
                "total",
            ]
            .iter()
            .map(|name| (*name, hostile))
            .collect();
            fields.extend([("form_token", form_token.as_str()), ("confirmed", confirmed)]);
            let answer = ann.post(&format!("/do/{}", crate::browser::encoded(action)), &fields).await;
            harmless(action, &answer);
            assert!(answer.status < 500, "{action}: {} {}", answer.status, answer.body);
        }
    }
    for path in [
        "//evil.example/",
        "/%2f%2fevil.example",
        "/\\evil.example",
        "/../../etc/passwd",
        "/style.css/..",
        "/db/x/",
        "/%00",
    ] {
        let answer = ann.get(path).await;
        harmless(path, &answer);
        assert!([400, 404].contains(&answer.status), "{path}: {}", answer.status);
    }
    assert_eq!(text_of(&db).await, "false");
}

/// A request of another form than that of a browser's form does nothing, and takes no more than it may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_requests_do_nothing() {
    let db = database("odd").await;
    db.batch_execute("select outbox.subscribe('s', array['a'])").await.unwrap();
    let address = dashboard("acts", "odd").await;
    let mut ann = Browser::logged_in(address, TOKEN, "").await;
    let token = ann.get("/").await.form("/logout", &[]).unwrap()["form_token"].clone();
    let body = format!("form_token={token}&name=s");
    for method in ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAD", "FOO"] {
        let answer = ann.send(method, "/do/pause", Some(&body)).await;
        assert!(answer.status >= 400, "{method}: {}", answer.status);
    }
    // Fields of the query are no fields of the form.
    assert_eq!(ann.send("POST", &format!("/do/pause?{body}"), Some("")).await.status, 403);
    ann.headers = vec![("X-HTTP-Method-Override".to_owned(), "POST".to_owned())];
    assert_eq!(ann.get(&format!("/do/pause?{body}")).await.status, 405);
    ann.headers.clear();
    let many: String = (0..3000).map(|n| format!("f{n}=1&")).collect();
    assert_eq!(ann.send("POST", "/do/pause", Some(&format!("{many}{body}"))).await.status, 413);
    let many: String = (0..1500).map(|n| format!("f{n}=1&")).collect();
    assert!(ann.send("POST", "/do/requeue", Some(&format!("{many}form_token={token}"))).await.status >= 400);
    assert!(ann.get(&format!("/messages?key={}", "x".repeat(40_000))).await.status >= 400);
    for broken in ["name=%ff&form_token=", "%", "=", "&&&&", "form_token[]=1", "form_token=1&form_token=2"] {
        let answer = ann.send("POST", "/do/pause", Some(broken)).await;
        assert!([400, 403, 422].contains(&answer.status), "{broken}: {}", answer.status);
    }
    assert_eq!(text_of(&db).await, "false");
    // The last token counts, and it is that of the person.
    assert_eq!(ann.send("POST", "/do/pause", Some(&format!("form_token=1&{body}"))).await.status, 303);
    assert_eq!(text_of(&db).await, "true");
}

/// The test of an endpoint reaches no address that deliveries may not reach.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_test_message_obeys_the_egress_policy() {
    use outbox_harness::{Receiver, Server, wait_until};
    let mut server = Server::start(&[("pg_outbox.poll_interval", "1s")]).await.unwrap();
    let db = server.database("inside").await.unwrap();
    let receiver = Receiver::start().unwrap();
    crate::endpoint(&db, "hooks", &receiver).await;
    // The endpoint was allowed when it was created, and is not any more.
    server.set("pg_outbox.egress_allow", "192.0.2.0/24");
    server.restart(outbox_harness::Stop::Fast).await.unwrap();
    let mut ann = Browser::logged_in(start(&server.dsn("inside"), options()).await, TOKEN, "").await;
    wait_until("the page is there", crate::PATIENCE, async || ann.get("/endpoint?name=hooks").await.status == 200)
        .await;
    let page = ann.get("/endpoint?name=hooks").await;
    let asked = ann.submit(&page, "/do/test", &[], &[]).await;
    let tested = ann.submit(&asked, "/do/test", &[("confirmed", "yes")], &[]).await;
    assert!(tested.status == 200 && tested.body.contains("failed"), "{}", tested.body);
    assert!(receiver.arrivals().is_empty(), "nothing is sent to a private address");
}
