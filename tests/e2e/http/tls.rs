//! Access to endpoints: names, proxies, TLS, HTTP versions, authentication. The tests use real servers with a certification
//! authority of their own, and run without PostgreSQL, which the sender does not need. The configuration in SQL is tested in
//! `access.rs`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use outbox_core::auth::Auth;
use outbox_core::egress::Egress;
use outbox_core::message::Message;
use outbox_core::policy::{Fault, Outcome};
use outbox_core::sign::Secret;
use outbox_core::url::Url;
use outbox_sender::tls::{Protocol, Tls};
use outbox_sender::{Done, Endpoint, HeaderValue, Job, Mode, Sender, Settings, Shape, SigningKey, Ticket};
use outbox_tests::outbox_harness::authority::Authority;
use outbox_tests::outbox_harness::dns::Dns;
use outbox_tests::outbox_harness::proxy::{Kind, Proxy};
use outbox_tests::outbox_harness::receiver::Speech;
use outbox_tests::outbox_harness::tls::{Ca, Identity, self_signed, server_config};
use outbox_tests::outbox_harness::{Receiver, Reply, wait_until};
use outbox_tests::{PATIENCE, outbox_harness};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The name in the certificates, which the name server of each test resolves to 127.0.0.1.
const HOST: &str = "hooks.test";

/// A sender with one endpoint.
struct Bench {
    sender: Sender,
    settings: Settings,
    dns: Dns,
    next: i64,
}

impl Bench {
    /// Starts a sender that may call the addresses of `allow` only.
    fn new(allow: &str) -> Bench {
        Bench::asking(allow, Vec::new())
    }

    /// Starts a sender that asks these name servers before the name server of the test.
    fn asking(allow: &str, mut servers: Vec<SocketAddr>) -> Bench {
        let dns = Dns::start().unwrap();
        servers.push(dns.address());
        dns.on(HOST, |_| vec![loopback(1)]);
        let settings = Settings {
            max_in_flight: 256,
            max_connections: 1024,
            connection_age: Duration::from_secs(180),
            max_unrecorded: 4096,
            egress: Egress::parse(allow).unwrap(),
            user_agent: HeaderValue::from_static("pg_outbox/test"),
            source: "/test".into(),
            dns: servers,
        };
        Bench { sender: Sender::start(settings.clone(), || {}).unwrap(), settings, dns, next: 1 }
    }

    /// Sends `n` messages to `endpoint` and waits for their outcomes.
    async fn send(&mut self, endpoint: &Endpoint, n: i64) -> Vec<Done> {
        self.submit(endpoint, n);
        self.done(n).await
    }

    fn submit(&mut self, endpoint: &Endpoint, n: i64) {
        self.sender.set_endpoints(vec![endpoint.clone()]);
        let jobs = (self.next..self.next + n).map(|position| Job {
            ticket: Ticket {
                subscription: 1,
                endpoint: endpoint.id,
                position,
                message_id: position,
                delivery_id: 0,
                attempt: 1,
                run: 0,
            },
            message: Arc::new(Message {
                id: position,
                position,
                topic: "order.created".into(),
                content: "{\"n\": 1}".into(),
                webhook_id: format!("msg_{position}").into(),
                ..Message::default()
            }),
            shape: Arc::new(Shape::default()),
        });
        self.sender.submit(jobs.collect());
        self.next += n;
    }

    async fn done(&self, n: i64) -> Vec<Done> {
        let mut done = Vec::new();
        wait_until("everything has come back", PATIENCE, async || {
            self.sender.take_done(&mut done);
            done.len() as i64 == n
        })
        .await;
        self.sender.recorded(done.len());
        done
    }

    /// Sends one message. Returns the outcome and the error text.
    async fn one(&mut self, endpoint: &Endpoint) -> (Outcome, String) {
        let done = self.send(endpoint, 1).await.remove(0);
        (done.outcome, done.error.unwrap_or_default().into())
    }
}

fn loopback(last: u8) -> IpAddr {
    [127, 0, 0, last].into()
}

fn endpoint(url: &str) -> Endpoint {
    Endpoint {
        id: 1,
        url: Url::parse(url, true).map_err(|e| e.to_string()),
        mode: Mode::Active,
        headers: http::HeaderMap::new(),
        secrets: Vec::new(),
        timeout: Duration::from_secs(10),
        concurrency: 16,
        rate: None,
        // The breaker is off, because many deliveries of these tests fail.
        breaker: outbox_core::breaker::Settings { in_row: 0, ..Default::default() },
        state: outbox_sender::Saved::default(),
        auth: None,
        tls: Tls::default(),
        protocol: Protocol::Auto,
        proxy: None,
        compress: false,
        response_id: None,
        keep_headers: Vec::new(),
    }
}

/// Returns an endpoint that trusts this authority instead of those of the system.
fn trusting(url: &str, ca: &Ca) -> Endpoint {
    Endpoint { tls: Tls { ca: Some(ca.pem()), ..Tls::default() }, ..endpoint(url) }
}

fn auth(json: serde_json::Value) -> Option<Auth> {
    Some(Auth::parse(&json, true).unwrap())
}

fn encrypted(identity: &Identity, clients_of: Option<&Ca>, alpn: &[&str]) -> Receiver {
    let tls = Some(server_config(identity, clients_of, alpn).unwrap());
    Receiver::speaking(Speech { tls, ..Speech::default() }).unwrap()
}

const OK: Outcome = Outcome::Status(200);

fn fault(fault: Fault) -> Outcome {
    Outcome::Fault(fault)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_must_be_good_for_the_name_and_now_and_of_a_trusted_authority() {
    let (ca, other) = (Ca::new().unwrap(), Ca::new().unwrap());
    let mut bench = Bench::new("127.0.0.0/8");
    let good = encrypted(&ca.issue(&[HOST, "127.0.0.1"]).unwrap(), None, &["http/1.1"]);
    let by_name = good.url_as(HOST, "/hook");
    assert_eq!(bench.one(&trusting(&by_name, &ca)).await, (OK, String::new()));
    // A host name may end with a dot. A name in a certificate does not.
    assert_eq!(bench.one(&trusting(&good.url_as("hooks.test.", "/hook"), &ca)).await.0, OK);
    assert_eq!(bench.one(&trusting(&good.url("/hook"), &ca)).await.0, OK);
    assert_eq!(good.total(), 3);
    for (endpoint, what) in [
        (trusting(&by_name, &other), "UnknownIssuer"),
        // The system does not trust the authority of this test.
        (endpoint(&by_name), "certificate"),
    ] {
        let (outcome, error) = bench.one(&endpoint).await;
        assert_eq!(outcome, fault(Fault::Tls), "{error}");
        assert!(error.contains(what), "{error}");
    }
    let expired = encrypted(&ca.issue_expired(&[HOST]).unwrap(), None, &[]);
    let (outcome, error) = bench.one(&trusting(&expired.url_as(HOST, "/hook"), &ca)).await;
    assert!(outcome == fault(Fault::Tls) && error.contains("expired"), "{error}");
    let elsewhere = encrypted(&ca.issue(&["other.test"]).unwrap(), None, &[]);
    let (outcome, error) = bench.one(&trusting(&elsewhere.url_as(HOST, "/hook"), &ca)).await;
    assert!(outcome == fault(Fault::Tls) && error.contains("not valid for"), "{error}");
    let plain = Receiver::start().unwrap();
    let url = plain.url_as(HOST, "/hook").replace("http:", "https:");
    assert_eq!(bench.one(&trusting(&url, &ca)).await.0, fault(Fault::Tls));
    assert_eq!((good.total(), expired.total(), elsewhere.total(), plain.total()), (3, 0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_has_signed_itself_is_trusted_where_it_is_given() {
    let mut bench = Bench::new("127.0.0.0/8");
    let own = |identity: &Identity, url: &str| Endpoint {
        tls: Tls { ca: Some(identity.certificate.clone()), ..Tls::default() },
        ..endpoint(url)
    };
    let identity = self_signed(&[HOST], false).unwrap();
    let server = encrypted(&identity, None, &[]);
    assert_eq!(bench.one(&own(&identity, &server.url_as(HOST, "/hook"))).await, (OK, String::new()));
    // A leaf certificate can be pinned as well. Another leaf certificate of the same authority is then refused.
    let ca = Ca::new().unwrap();
    let (leaf, sister) = (ca.issue(&[HOST]).unwrap(), ca.issue(&[HOST]).unwrap());
    let pinned = encrypted(&leaf, None, &[]);
    assert_eq!(bench.one(&own(&leaf, &pinned.url_as(HOST, "/hook"))).await, (OK, String::new()));
    let expired = self_signed(&[HOST], true).unwrap();
    let late = encrypted(&expired, None, &[]);
    bench.dns.on("other.test", |_| vec![loopback(1)]);
    for (endpoint, what) in [
        (own(&self_signed(&[HOST], false).unwrap(), &server.url_as(HOST, "/hook")), "\"ca\" of the endpoint"),
        (own(&sister, &pinned.url_as(HOST, "/hook")), "\"ca\" of the endpoint"),
        (own(&identity, &server.url_as("other.test", "/hook")), "not valid for"),
        (own(&expired, &late.url_as(HOST, "/hook")), "expired"),
    ] {
        let (outcome, error) = bench.one(&endpoint).await;
        assert!(outcome == fault(Fault::Tls) && error.contains(what), "{error}");
    }
    // The error for a PEM text without line breaks says so and does not repeat the text.
    let text = (identity.key + &identity.certificate).replace('\n', "\\n");
    for tls in [
        Tls { ca: Some(text.clone()), ..Tls::default() },
        Tls { certificate: Some(text.clone()), key: Some(text.clone()), ..Tls::default() },
    ] {
        let error = outbox_sender::tls::client_config(&tls, Protocol::Auto).unwrap_err();
        assert!(error.contains("line breaks") && error.len() < 200, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_wants_http1_gets_it() {
    let ca = Ca::new().unwrap();
    let config = server_config(&ca.issue(&[HOST]).unwrap(), None, &["h2", "http/1.1"]).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{HOST}:{}/hook", listener.local_addr().unwrap().port());
    let refused = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refused);
    tokio::spawn(async move {
        let acceptor = tokio_rustls::TlsAcceptor::from(config);
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, count) = (acceptor.clone(), Arc::clone(&count));
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.unwrap();
                if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    while let Some(Ok((_, mut respond))) = connection.accept().await {
                        count.fetch_add(1, Ordering::Relaxed);
                        respond.send_reset(h2::Reason::HTTP_1_1_REQUIRED);
                    }
                    return;
                }
                let mut request = [0; 4096];
                while stream.read(&mut request).await.is_ok_and(|n| n > 0) {
                    if request.contains(&b'}') {
                        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                        request.fill(0);
                    }
                }
            });
        }
    });
    let mut bench = Bench::new("127.0.0.0/8");
    for _ in 0..3 {
        assert_eq!(bench.one(&trusting(&url, &ca)).await, (OK, String::new()));
    }
    assert_eq!(refused.load(Ordering::Relaxed), 1, "it is remembered");
    let insists = Endpoint { protocol: Protocol::Http2, ..trusting(&url, &ca) };
    assert!(matches!(bench.one(&insists).await.0, Outcome::Fault(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_takes_effect_although_a_connection_is_being_opened() {
    let (ca, other) = (Ca::new().unwrap(), Ca::new().unwrap());
    let mut bench = Bench::new("127.0.0.0/8");
    bench.dns.on("slow.test", |n| {
        if n == 0 {
            std::thread::sleep(Duration::from_millis(300));
        }
        vec![loopback(1)]
    });
    let receiver = encrypted(&ca.issue(&["slow.test"]).unwrap(), None, &["h2", "http/1.1"]);
    let url = receiver.url_as("slow.test", "/hook");
    bench.submit(&trusting(&url, &other), 1);
    wait_until("the name is being looked up", PATIENCE, async || bench.dns.asked("slow.test") == 1).await;
    bench.sender.set_endpoints(vec![trusting(&url, &ca)]);
    assert_eq!(bench.done(1).await[0].outcome, fault(Fault::Tls));
    assert_eq!(bench.one(&trusting(&url, &ca)).await, (OK, String::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_shows_the_certificate_that_a_server_demands() {
    let (ca, other) = (Ca::new().unwrap(), Ca::new().unwrap());
    let mut bench = Bench::new("127.0.0.0/8");
    let receiver = encrypted(&ca.issue(&[HOST]).unwrap(), Some(&ca), &["h2", "http/1.1"]);
    let with = |identity: Option<Identity>, protocol| {
        let mut endpoint = trusting(&receiver.url_as(HOST, "/hook"), &ca);
        endpoint.tls.certificate = identity.as_ref().map(|identity| identity.certificate.clone());
        endpoint.tls.key = identity.map(|identity| identity.key);
        Endpoint { protocol, ..endpoint }
    };
    let own = ca.issue(&["client"]).unwrap();
    for protocol in [Protocol::Http1, Protocol::Auto] {
        assert_eq!(bench.one(&with(Some(own.clone()), protocol)).await, (OK, String::new()));
        for identity in [None, Some(other.issue(&["client"]).unwrap())] {
            // With TLS 1.3 the refusal arrives after the handshake, or the connection just ends.
            let what =
                if identity.is_none() { "and the endpoint has none" } else { "and does not take the endpoint's" };
            let (outcome, error) = bench.one(&with(identity, protocol)).await;
            assert!(outcome == fault(Fault::Tls) && error.contains(what), "{outcome:?} {error}");
        }
    }
    // With a key that does not belong to the certificate, the delivery is dead-lettered. The reason shows nothing of the
    // key.
    let mixed = Identity { key: ca.issue(&["client"]).unwrap().key, ..own };
    let (outcome, error) = bench.one(&with(Some(mixed.clone()), Protocol::Auto)).await;
    assert!(outcome == fault(Fault::Invalid) && error.contains("\"certificate\" and \"key\""), "{error}");
    assert!(mixed.key.lines().all(|line| !error.contains(line)));
    assert_eq!(receiver.total(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_runs_all_requests_over_one_connection() {
    let ca = Ca::new().unwrap();
    let identity = ca.issue(&[HOST]).unwrap();
    let mut bench = Bench::new("127.0.0.0/8");
    let both = encrypted(&identity, None, &["h2", "http/1.1"]);
    both.on("/hook", |_, _| Reply::status(200).after(Duration::from_millis(5)));
    let done = bench.send(&trusting(&both.url_as(HOST, "/hook?a=b"), &ca), 200).await;
    assert!(done.iter().all(|done| done.outcome == OK));
    let first = both.arrivals().remove(0);
    assert_eq!((first.version, first.path.as_str()), (http::Version::HTTP_2, "/hook?a=b"));
    assert_eq!((both.total(), both.connections()), (200, 1));
    // The requested protocol is used.
    let one = Endpoint { protocol: Protocol::Http1, ..trusting(&both.url_as(HOST, "/hook"), &ca) };
    assert!(bench.send(&one, 20).await.iter().all(|done| done.outcome == OK));
    assert_eq!(both.arrivals().pop().unwrap().version, http::Version::HTTP_11);
    let old = encrypted(&identity, None, &["http/1.1"]);
    assert_eq!(bench.one(&trusting(&old.url_as(HOST, "/hook"), &ca)).await.0, OK);
    assert_eq!(old.arrivals()[0].version, http::Version::HTTP_11);
    let (outcome, error) =
        bench.one(&Endpoint { protocol: Protocol::Http2, ..trusting(&old.url_as(HOST, "/hook"), &ca) }).await;
    assert!(outcome == fault(Fault::Tls) && error.contains("NoApplicationProtocol"), "{error}");
    // Without TLS nothing is negotiated, so HTTP/2 has to be requested.
    let only = Receiver::speaking(Speech { http2_only: true, ..Speech::default() }).unwrap();
    let plain = Endpoint { protocol: Protocol::Http2, ..endpoint(&only.url_as(HOST, "/hook")) };
    assert!(bench.send(&plain, 50).await.iter().all(|done| done.outcome == OK));
    assert_eq!((only.total(), only.connections()), (50, 1));
    assert!(matches!(bench.one(&endpoint(&only.url_as(HOST, "/hook"))).await.0, Outcome::Fault(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_says_goodbye_costs_no_attempt() {
    let ca = Ca::new().unwrap();
    let tls = Some(server_config(&ca.issue(&[HOST]).unwrap(), None, &["h2"]).unwrap());
    let go_away_after = Some(Duration::from_millis(30));
    let receiver = Receiver::speaking(Speech { tls, go_away_after, ..Speech::default() }).unwrap();
    receiver.on("/hook", |_, _| Reply::status(200).after(Duration::from_millis(1)));
    let mut bench = Bench::new("127.0.0.0/8");
    let endpoint = trusting(&receiver.url_as(HOST, "/hook"), &ca);
    let mut sent = 0;
    while receiver.connections() < 8 {
        let done = bench.send(&endpoint, 200).await;
        sent += done.len();
        for done in done {
            assert_eq!(done.outcome, OK, "{:?}", done.error);
        }
    }
    assert_eq!(receiver.total(), sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_was_not_looked_at_is_sent_again_at_once() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    // Every other stream is refused.
                    if count.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
                        respond.send_reset(h2::Reason::REFUSED_STREAM);
                    } else {
                        respond.send_response(http::Response::new(()), true).unwrap();
                    }
                }
            });
        }
    });
    let mut bench = Bench::new("127.0.0.0/8");
    let endpoint = Endpoint { protocol: Protocol::Http2, ..endpoint(&format!("http://{address}/hook")) };
    for _ in 0..5 {
        assert_eq!(bench.one(&endpoint).await, (OK, String::new()));
    }
    assert_eq!(seen.load(Ordering::Relaxed), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_arrive_as_headers() {
    let receiver = Receiver::start().unwrap();
    let mut bench = Bench::new("127.0.0.0/8");
    for (json, name, value) in [
        (json!({"type": "basic", "username": "u", "password": "p:w"}), "authorization", "Basic dTpwOnc="),
        (json!({"type": "bearer", "token": "t0k3n"}), "authorization", "Bearer t0k3n"),
        (json!({"type": "header", "name": "X-Api-Key", "value": "k3y"}), "x-api-key", "k3y"),
    ] {
        let endpoint = Endpoint { auth: auth(json), ..endpoint(&receiver.url_as(HOST, "/hook")) };
        assert!(!format!("{endpoint:?}").contains(value));
        assert_eq!(bench.one(&endpoint).await.0, OK);
        assert_eq!(receiver.arrivals().pop().unwrap().header(name), value);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_fetched_once_and_exchanged_when_it_is_refused() {
    let ca = Ca::new().unwrap();
    let tls = Some(server_config(&ca.issue(&[HOST]).unwrap(), None, &["h2", "http/1.1"]).unwrap());
    let speech = Speech { tls, ..Speech::default() };
    let authority = Authority::start(speech.clone(), "client", "s3cret", 3600).unwrap();
    let receiver = Receiver::speaking(speech).unwrap();
    receiver.on("/hook", authority.guard());
    let mut bench = Bench::new("127.0.0.0/8");
    let to = |secret: &str, credentials: &str| Endpoint {
        auth: auth(
            json!({"type": "oauth2", "token_url": authority.server.url_as(HOST, "/token"), "client_id": "client",
            "client_secret": secret, "credentials": credentials, "scope": "hooks:write x", "audience": "https://api.test/"}),
        ),
        ..trusting(&receiver.url_as(HOST, "/hook"), &ca)
    };
    let endpoint = to("s3cret", "header");
    assert!(bench.send(&endpoint, 50).await.iter().all(|done| done.outcome == OK));
    assert_eq!((receiver.total(), authority.asked()), (50, 1));
    // After a revocation, an attempt whose token is refused gets a new token and succeeds. Many such attempts ask for one
    // token.
    authority.revoke_all();
    let done = bench.send(&endpoint, 50).await;
    assert!(done.iter().all(|done| done.outcome == OK));
    assert_eq!(authority.asked(), 2);
    let refused = receiver.total() - 100;
    assert!((1..=16).contains(&refused), "{refused} refused");
    // If the request is refused with a new token as well, this is the outcome.
    receiver.on("/hook", |_, _| Reply::status(401));
    assert_eq!(bench.one(&endpoint).await.0, Outcome::Status(401));
    assert_eq!(authority.asked(), 3);
    receiver.on("/hook", authority.guard());
    // There are two ways to send the client credentials (RFC 6749, 2.3.1), of which one is used. Both send scope and
    // audience.
    let wanted = "grant_type=client_credentials&scope=hooks%3Awrite%20x&audience=https%3A%2F%2Fapi.test%2F";
    let asked = authority.server.at("/token").pop().unwrap();
    assert_eq!(asked.body, wanted);
    assert!(asked.header("authorization").starts_with("Basic "));
    assert_eq!(bench.one(&to("s3cret", "body")).await.0, OK);
    let asked = authority.server.at("/token").pop().unwrap();
    assert_eq!(asked.body, format!("{wanted}&client_id=client&client_secret=s3cret"));
    assert_eq!(
        (asked.header("authorization"), asked.header("content-type")),
        ("", "application/x-www-form-urlencoded")
    );
    let before = authority.asked();
    for done in bench.send(&to("wr0ng", "header"), 16).await {
        assert_eq!(done.outcome, fault(Fault::Auth));
        assert_eq!(done.error.as_deref(), Some("no token from \"hooks.test\": status 401"));
    }
    assert!(authority.asked() <= before + 2, "each asked for itself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_comes_only_from_where_the_operator_allows() {
    let receiver = Receiver::start().unwrap();
    let mut bench = Bench::new("127.0.0.1/32");
    bench.dns.on("inside.test", |_| vec!["10.0.0.1".parse().unwrap()]);
    let to = |token_url: &str| Endpoint {
        auth: auth(json!({"type": "oauth2", "token_url": token_url, "client_id": "c", "client_secret": "s"})),
        ..endpoint(&receiver.url_as(HOST, "/hook"))
    };
    assert_eq!(bench.one(&to("http://inside.test/token")).await.0, fault(Fault::Forbidden));
    let target = receiver.url("/elsewhere");
    receiver.on("/token", move |_, _| Reply::status(307).header("location", &target));
    let (outcome, error) = bench.one(&to(&receiver.url_as(HOST, "/token"))).await;
    assert!(outcome == fault(Fault::Auth) && error.ends_with("status 307"), "{error}");
    assert_eq!((receiver.at("/elsewhere").len(), receiver.at("/hook").len()), (0, 0));
}

/// Returns the endpoint with a proxy.
fn through(proxy: &str, resolves: bool, endpoint: Endpoint) -> Endpoint {
    let proxy = outbox_core::proxy::Proxy::parse(proxy).unwrap().unwrap();
    Endpoint { proxy: Some(outbox_core::proxy::Proxy { resolves, ..proxy }), ..endpoint }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_is_told_the_vetted_address() {
    let ca = Ca::new().unwrap();
    let receiver = encrypted(&ca.issue(&[HOST]).unwrap(), None, &["h2", "http/1.1"]);
    let port = receiver.address().port();
    let mut bench = Bench::new("127.0.0.1/32");
    bench.dns.on("inside.test", |_| vec![loopback(7)]);
    for kind in [Kind::Connect, Kind::Socks5] {
        let open = Proxy::start(kind, None, loopback(1)).unwrap();
        let target = trusting(&receiver.url_as(HOST, "/hook"), &ca);
        assert_eq!(bench.one(&through(&open.url(""), false, target.clone())).await, (OK, String::new()));
        assert_eq!(open.asked(), [format!("127.0.0.1:{port}")]);
        // A forbidden address is forbidden through a proxy as well.
        let inside = trusting(&receiver.url_as("inside.test", "/hook"), &ca);
        assert_eq!(bench.one(&through(&open.url(""), false, inside)).await.0, fault(Fault::Forbidden));
        assert_eq!(open.asked().len(), 1);
        // A proxy that resolves names gets the name. An address in the URL is still checked.
        let unknown_here = trusting(&receiver.url_as(HOST, "/hook").replace("//hooks", "//Hooks"), &ca);
        let before = bench.dns.asked(HOST);
        assert_eq!(bench.one(&through(&open.url(""), true, unknown_here)).await, (OK, String::new()));
        assert_eq!((open.asked().pop().unwrap(), bench.dns.asked(HOST)), (format!("{HOST}:{port}"), before));
        let literal = trusting(&format!("https://127.0.0.7:{port}/hook"), &ca);
        assert_eq!(bench.one(&through(&open.url(""), true, literal)).await.0, fault(Fault::Forbidden));
        assert_eq!(open.asked().len(), 2);

        let guarded = Proxy::start(kind, Some(("user", "s3cret")), loopback(1)).unwrap();
        assert_eq!(bench.one(&through(&guarded.url("user:s3cret@"), false, target.clone())).await.0, OK);
        for credentials in ["user:wr0ng@", ""] {
            let (outcome, error) = bench.one(&through(&guarded.url(credentials), false, target.clone())).await;
            assert!(outcome == fault(Fault::Unreachable) && error.starts_with("the proxy opens no tunnel"), "{error}");
            assert!(!error.contains("wr0ng"));
        }
        assert_eq!(guarded.asked().len(), 1);
    }
    assert_eq!(receiver.total(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_changes_its_address_leads_nowhere_else() {
    let allowed = Receiver::start().unwrap();
    let port = allowed.address().port();
    // The target of an attacker is a service on another address and the same port.
    let inside = Receiver::start_on(SocketAddr::new(loopback(2), port)).unwrap();
    let mut bench = Bench::new("127.0.0.1/32");
    bench.dns.on("rebind.test", |n| vec![loopback(if n == 0 { 1 } else { 2 })]);
    let to = |host: &str| endpoint(&allowed.url_as(host, "/hook"));
    assert_eq!(bench.one(&to("rebind.test")).await, (OK, String::new()));
    assert_eq!(bench.dns.asked("rebind.test"), 1, "vetted once and connected to, not resolved again");
    // An open connection keeps its address. The address of a new connection is checked again.
    assert_eq!(bench.one(&to("rebind.test")).await.0, OK);
    let slow = |_: &outbox_harness::Arrival, _| Reply::status(200).after(Duration::from_millis(200));
    allowed.on("/hook", slow);
    let done = bench.send(&to("rebind.test"), 2).await;
    assert!(done.iter().any(|done| done.outcome == fault(Fault::Forbidden)), "{done:?}");
    // One forbidden address among the answers is enough.
    bench.dns.on("mixed.test", |_| vec![loopback(1), loopback(2)]);
    let (outcome, error) = bench.one(&to("mixed.test")).await;
    assert!(outcome == fault(Fault::Forbidden) && error.contains("mixed.test"), "{error}");
    // The error does not reveal internal addresses to everybody who can set a URL.
    assert!(!error.contains("127.0.0"), "{error}");
    bench.dns.on("v6.test", |_| vec!["::ffff:127.0.0.2".parse().unwrap()]);
    assert_eq!(bench.one(&to("v6.test")).await.0, fault(Fault::Forbidden));
    for literal in [
        "127.0.0.2",
        "127.0.0.2.",
        "[::ffff:127.0.0.2]",
        "[::ffff:7f00:2]",
        "[64:ff9b::7f00:2]",
        "[::127.0.0.2]",
        "[::1]",
    ] {
        assert_eq!(bench.one(&to(literal)).await.0, fault(Fault::Forbidden), "{literal}");
    }
    for notation in ["127.2", "0x7f000002", "2130706434", "0177.0.0.2", "127.0.0.0x2"] {
        assert_eq!(bench.one(&to(notation)).await.0, fault(Fault::Invalid), "{notation}");
    }
    assert_eq!(inside.total(), 0);
    // After the operator has removed an address, connections to it that are still open are not used.
    allowed.on("/hook", |_, _| Reply::status(200));
    bench.dns.on("fixed.test", |_| vec![loopback(1)]);
    assert_eq!(bench.one(&to("fixed.test")).await.0, OK);
    bench.sender.set_settings(Settings { egress: Egress::default(), ..bench.settings.clone() });
    assert_eq!(bench.one(&to("fixed.test")).await.0, fault(Fault::Forbidden));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn name_servers_are_asked_until_one_answers() {
    let receiver = Receiver::start().unwrap();
    let mut bench = Bench::new("127.0.0.0/8");
    // This answer is too long for a datagram, so the sender asks again over TCP.
    bench.dns.on("many.test", |_| (1..=30).map(loopback).collect());
    assert_eq!(bench.one(&endpoint(&receiver.url_as("many.test", "/hook"))).await, (OK, String::new()));
    assert_eq!(bench.dns.asked("many.test"), 2);
    let (outcome, error) = bench.one(&endpoint(&receiver.url_as("nobody.test", "/hook"))).await;
    assert_eq!((outcome, error.as_str()), (fault(Fault::Dns), "\"nobody.test\" has no address"));
    // One name server does not exist, and one never answers.
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let gone = SocketAddr::new(loopback(1), 1);
    let mut bench = Bench::asking("127.0.0.0/8", vec![gone, silent.local_addr().unwrap()]);
    assert_eq!(bench.one(&endpoint(&receiver.url_as(HOST, "/hook"))).await, (OK, String::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_v1a_signature_convinces_another_implementation() {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let receiver = Receiver::start().unwrap();
    let mut bench = Bench::new("127.0.0.0/8");
    let private = Secret::parse(&Secret::generate(&[42; 32], true)).unwrap();
    let public = private.public_key().unwrap();
    let symmetric = Secret::from_key(&[1; 32]);
    let secrets = [private, symmetric].map(|secret| SigningKey { secret, expires_at: None });
    bench.one(&Endpoint { secrets: secrets.to_vec(), ..endpoint(&receiver.url_as(HOST, "/hook")) }).await;
    let arrival = receiver.arrivals().remove(0);
    let signed = [arrival.webhook_id().as_bytes(), arrival.header("webhook-timestamp").as_bytes(), &arrival.body[..]]
        .join(&b'.');
    let (first, second) = arrival.header("webhook-signature").split_once(' ').unwrap();
    let key = STANDARD.decode(public.strip_prefix("whpk_").unwrap()).unwrap();
    let signature = STANDARD.decode(first.strip_prefix("v1a,").unwrap()).unwrap();
    let judge = ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, key);
    judge.verify(&signed, &signature).unwrap();
    judge.verify(&[&signed[..], b"x"].concat(), &signature).unwrap_err();
    assert!(second.starts_with("v1,"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consent_is_asked_for_with_options() {
    let receiver = Receiver::start().unwrap();
    receiver.on("/hook", |_, _| {
        Reply::status(200).header("webhook-allowed-origin", "shop.example").header("webhook-allowed-rate", "120")
    });
    let bench = Bench::new("127.0.0.0/8");
    // The endpoint gets no deliveries before its consent.
    let endpoint = Endpoint { mode: Mode::Hold, ..endpoint(&receiver.url_as(HOST, "/hook")) };
    bench.sender.set_endpoints(vec![endpoint]);
    bench.sender.ask_consent(1, "shop.example");
    let mut answers = Vec::new();
    wait_until("there is an answer", PATIENCE, async || {
        bench.sender.take_consents(&mut answers);
        !answers.is_empty()
    })
    .await;
    let arrival = receiver.arrivals().remove(0);
    assert_eq!((arrival.method.as_str(), arrival.header("webhook-request-origin")), ("OPTIONS", "shop.example"));
    assert!(arrival.body.is_empty() && arrival.header("webhook-id").is_empty());
    let answer = answers.remove(0);
    assert_eq!((answer.allowed_origin.as_deref(), answer.allowed_rate.as_deref()), (Some("shop.example"), Some("120")));
}
