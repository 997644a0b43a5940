//! Hostile or broken receivers. Each one runs beside a healthy receiver, which must not be affected. Like `tls.rs`, these
//! tests run without PostgreSQL. The test of a dispatcher whose HTTP thread is stuck nevertheless is in `killed.rs`.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use outbox_core::egress::Egress;
use outbox_core::message::Message;
use outbox_core::policy::{Fault, Outcome};
use outbox_core::url::Url;
use outbox_sender::tls::{Protocol, Tls};
use outbox_sender::{Done, Endpoint, HeaderValue, Job, Mode, ResponseId, Sender, Settings, Shape, Ticket};
use outbox_tests::PATIENCE;
use outbox_tests::outbox_harness::tls::{Ca, server_config};
use outbox_tests::outbox_harness::{Receiver, wait_until};
use tokio_rustls::rustls;

/// A server that handles each connection with a given function.
struct Raw(SocketAddr);

impl Raw {
    fn start(serve: impl Fn(&mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static) -> Raw {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serve = Arc::new(serve);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let serve = Arc::clone(&serve);
                // An error means that the other side has closed the connection.
                std::thread::spawn(move || serve(&mut stream));
            }
        });
        Raw(address)
    }

    /// Reads a request and then calls the function.
    fn answering(answer: impl Fn(&mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static) -> Raw {
        Raw::start(move |stream| {
            request(stream)?;
            answer(stream)
        })
    }

    /// Answers each request with these bytes and closes the connection.
    fn saying(bytes: impl Into<Vec<u8>>) -> Raw {
        let bytes = bytes.into();
        Raw::answering(move |stream| stream.write_all(&bytes))
    }

    /// Answers with these bytes, and repeats the others until the connection is closed.
    fn without_end(begin: &[u8], repeat: &[u8]) -> Raw {
        let (begin, repeat) = (begin.to_vec(), repeat.to_vec());
        Raw::answering(move |stream| {
            stream.write_all(&begin)?;
            loop {
                stream.write_all(&repeat)?;
            }
        })
    }

    /// Answers in the same way, one byte at a time.
    fn dripping(begin: &[u8], drop: u8) -> Raw {
        let begin = begin.to_vec();
        Raw::answering(move |stream| {
            stream.write_all(&begin)?;
            loop {
                stream.write_all(&[drop])?;
                std::thread::sleep(Duration::from_millis(50));
            }
        })
    }

    fn url(&self) -> String {
        format!("http://{}/", self.0)
    }
}

/// Reads a request with its body, which ends with a brace in these tests.
fn request(stream: &mut TcpStream) -> std::io::Result<()> {
    let (mut seen, mut part) = (Vec::new(), [0; 4096]);
    while !seen.ends_with(b"}") {
        match stream.read(&mut part)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => seen.extend_from_slice(&part[..n]),
        }
    }
    Ok(())
}

/// A sender and the outcomes of its jobs.
struct Bench {
    sender: Sender,
    next: i64,
    done: HashMap<i64, Done>,
}

impl Bench {
    fn new() -> Bench {
        Bench::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Settings)) -> Bench {
        let mut settings = Settings {
            max_in_flight: 256,
            max_connections: 1024,
            connection_age: Duration::from_secs(180),
            max_unrecorded: 4096,
            egress: Egress::parse("127.0.0.0/8").unwrap(),
            user_agent: HeaderValue::from_static("pg_outbox/test"),
            source: "/test".into(),
            dns: Vec::new(),
        };
        change(&mut settings);
        Bench { sender: Sender::start(settings, || {}).unwrap(), next: 1, done: HashMap::new() }
    }

    /// Queues messages for an endpoint. Returns the position of the first one.
    fn submit(&mut self, endpoint: i32, n: i64) -> i64 {
        let first = self.next;
        let jobs = (first..first + n).map(|position| Job {
            ticket: Ticket {
                subscription: 1,
                endpoint,
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
        first
    }

    async fn wait(&mut self, position: i64) -> Done {
        let Bench { sender, done, .. } = self;
        wait_until("an outcome", PATIENCE, async || {
            let mut new = Vec::new();
            sender.take_done(&mut new);
            sender.recorded(new.len());
            done.extend(new.into_iter().map(|done| (done.ticket.position, done)));
            done.contains_key(&position)
        })
        .await;
        self.done[&position].clone()
    }

    /// Sends one message to one endpoint.
    async fn one(&mut self, endpoint: &Endpoint) -> Done {
        self.sender.set_endpoints(vec![endpoint.clone()]);
        let position = self.submit(endpoint.id, 1);
        self.wait(position).await
    }

    /// Returns the median duration of 20 consecutive deliveries to a healthy endpoint. On a busy machine some of them are
    /// late.
    async fn median(&mut self, endpoint: i32) -> Duration {
        let mut all = Vec::new();
        for _ in 0..20 {
            let begun = Instant::now();
            let position = self.submit(endpoint, 1);
            let done = self.wait(position).await;
            assert_eq!(done.outcome, OK, "{:?}", done.error);
            all.push(begun.elapsed());
        }
        all.sort_unstable();
        all[all.len() / 2]
    }
}

const OK: Outcome = Outcome::Status(200);
const TIMEOUT: Duration = Duration::from_secs(3);

fn endpoint(id: i32, url: &str) -> Endpoint {
    Endpoint {
        id,
        url: Url::parse(url, true).map_err(|e| e.to_string()),
        mode: Mode::Active,
        headers: http::HeaderMap::new(),
        secrets: Vec::new(),
        timeout: TIMEOUT,
        concurrency: 8,
        rate: None,
        breaker: outbox_core::breaker::Settings { in_row: 0, ..Default::default() },
        state: outbox_sender::Saved::default(),
        auth: None,
        tls: Tls::default(),
        protocol: Protocol::Http1,
        proxy: None,
        compress: false,
        response_id: None,
        keep_headers: Vec::new(),
    }
}

/// Returns an empty gzip member.
fn empty_member() -> Vec<u8> {
    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()).finish().unwrap()
}

/// Returns an HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u8, content: &[u8]) -> Vec<u8> {
    let mut frame = vec![0, (content.len() >> 8) as u8, content.len() as u8, kind, flags, 0, 0, 0, stream];
    frame.extend_from_slice(content);
    frame
}

/// Starts an HTTP/2 server that waits for a request, answers with some frames, and repeats others without end.
fn http2_without_end(begin: Vec<u8>, repeat: Vec<u8>) -> Raw {
    Raw::answering(move |stream| {
        stream.write_all(&frame(4, 0, 0, &[]))?;
        stream.write_all(&begin)?;
        let repeat = repeat.repeat(64);
        loop {
            stream.write_all(&repeat)?;
        }
    })
}

/// Returns hostile servers, each with the expected status, or `None` for a fault. With HTTP/2 any outcome is accepted,
/// because the library closes the connection by itself, perhaps before the sender has seen the status.
fn villains() -> Vec<(&'static str, Raw, Protocol, Option<u16>)> {
    let ok = "HTTP/1.1 200 OK\r\n";
    let head = |rest: &str| format!("{ok}{rest}\r\n\r\n").into_bytes();
    let chunked = head("transfer-encoding: chunked");
    let http1 = [
        ("empty members of gzip", Raw::without_end(&head("content-encoding: gzip"), &empty_member()), Some(200)),
        ("interim answers", Raw::without_end(b"", b"HTTP/1.1 102 Processing\r\n\r\n"), None),
        (
            "interim answers with much in them",
            Raw::without_end(
                b"",
                &[b"HTTP/1.1 103 Early\r\nlink: ", "x".repeat(4000).as_bytes(), b"\r\n\r\n"].concat(),
            ),
            None,
        ),
        ("one interim answer that does not end", Raw::without_end(b"HTTP/1.1 103 Early\r\n", b"a: b\r\n"), None),
        ("a body", Raw::without_end(&head("x: y"), &[b'x'; 4096]), Some(200)),
        ("a body of a failure", Raw::without_end(b"HTTP/1.1 500 No\r\n\r\n", &[b'x'; 4096]), Some(500)),
        ("headers", Raw::without_end(ok.as_bytes(), b"a: b\r\n"), Some(200)),
        ("one header", Raw::without_end(format!("{ok}a: ").as_bytes(), &[b'x'; 4096]), Some(200)),
        ("a status line", Raw::without_end(b"HTTP/1.1 200 ", &[b'x'; 4096]), Some(200)),
        ("empty lines", Raw::without_end(b"", &b"\r\n".repeat(2000)), None),
        ("no HTTP", Raw::without_end(b"", &[b'x'; 4096]), None),
        ("a chunk's length", Raw::without_end(&chunked, &[b'0'; 4096]), Some(200)),
        ("a chunk's extension", Raw::without_end(&[&chunked[..], b"1;a="].concat(), &[b'x'; 4096]), Some(200)),
        ("small chunks", Raw::without_end(&chunked, &b"1\r\nx\r\n".repeat(500)), Some(200)),
        ("trailers", Raw::without_end(&[&chunked[..], b"0\r\n"].concat(), b"a: b\r\n"), Some(200)),
        ("a head a byte at a time", Raw::dripping(b"HTTP/1.1 200 OK\r\na: ", b'x'), None),
        ("a status line a byte at a time", Raw::dripping(b"HTTP/1.1 ", b'2'), None),
        ("interim bytes", Raw::dripping(b"HTTP/1.1 102 \r\na: ", b'x'), None),
        ("a body a byte at a time", Raw::dripping(&head("content-length: 1000000"), b'x'), Some(200)),
        ("a chunk's length a byte at a time", Raw::dripping(&chunked, b'0'), Some(200)),
    ];
    let headers = frame(1, 4, 1, &[0x88]);
    let http2 = [
        ("pings", http2_without_end(Vec::new(), frame(6, 0, 0, &[0; 8]))),
        ("settings", http2_without_end(Vec::new(), frame(4, 0, 0, &[]))),
        ("window updates", http2_without_end(Vec::new(), frame(8, 0, 0, &[0, 0, 0, 1]))),
        ("unknown frames", http2_without_end(Vec::new(), frame(99, 0, 0, &[0; 64]))),
        ("resets of streams that are not there", http2_without_end(Vec::new(), frame(3, 0, 2, &[0; 4]))),
        ("continuations", http2_without_end(frame(1, 0, 1, &[0x88]), frame(9, 0, 1, &[0, 1, b'a', 1, b'b']))),
        ("interim heads", http2_without_end(Vec::new(), frame(1, 4, 1, &[0x08, 3, b'1', b'0', b'3']))),
    ];
    let empty = http2_without_end(headers.clone(), frame(0, 0, 1, &[]));
    let data = http2_without_end(headers, frame(0, 0, 1, &[b'x'; 100]));
    let mut all: Vec<_> = http1.into_iter().map(|(name, raw, status)| (name, raw, Protocol::Http1, status)).collect();
    all.extend(http2.into_iter().map(|(name, raw)| (name, raw, Protocol::Http2, None)));
    all.push(("empty frames of data", empty, Protocol::Http2, None));
    all.push(("frames of data", data, Protocol::Http2, None));
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_whose_answer_has_no_end_holds_up_nobody() {
    let well = Receiver::start().unwrap();
    let mut bench = Bench::new();
    bench.sender.set_endpoints(vec![endpoint(1, &well.url("/"))]);
    let alone = bench.median(1).await;
    for (id, (name, raw, protocol, status)) in (2..).zip(villains()) {
        let hostile = Endpoint { protocol, ..endpoint(id, &raw.url()) };
        bench.sender.set_endpoints(vec![hostile]);
        let first = bench.submit(id, 8);
        let beside = bench.median(1).await;
        assert!(beside < TIMEOUT / 3 + alone * 20, "{name}: {beside:?} instead of {alone:?}");
        for position in first..first + 8 {
            let done = bench.wait(position).await;
            let took = Duration::from_micros((done.finished_at - done.started_at).unsigned_abs());
            assert!(took < TIMEOUT + Duration::from_secs(2), "{name}: {took:?}");
            match status {
                Some(status) => assert_eq!(done.outcome, Outcome::Status(status), "{name}: {:?}", done.error),
                None if protocol == Protocol::Http2 => {}
                None => assert!(matches!(done.outcome, Outcome::Fault(_)), "{name}: {done:?}"),
            }
        }
    }
    // All hostile servers run at once.
    let all: Vec<_> = villains();
    for (id, (_, raw, protocol, _)) in (100..).zip(&all) {
        bench.sender.set_endpoints(vec![Endpoint { protocol: *protocol, ..endpoint(id, &raw.url()) }]);
        bench.submit(id, 4);
    }
    let beside = bench.median(1).await;
    assert!(beside < TIMEOUT + alone * 50, "{beside:?} instead of {alone:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_that_came_decides_however_the_answer_ends() {
    let mut bench = Bench::new();
    let many = |n: usize| (0..n).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    let long = "x".repeat(10 << 20);
    let cases: Vec<(&str, Raw, u16)> = vec![
        ("a short body", Raw::saying("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort"), 200),
        ("a cut chunk", Raw::saying("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab"), 200),
        ("a bad chunk", Raw::saying("HTTP/1.1 202 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nab"), 202),
        ("no gzip", Raw::saying("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc"), 200),
        ("a short failure", Raw::saying("HTTP/1.1 410 Gone\r\ncontent-length: 100\r\n\r\nshort"), 410),
        ("99 headers", Raw::saying(format!("HTTP/1.1 200 OK\r\n{}content-length: 0\r\n\r\n", many(99))), 200),
        ("500 headers", Raw::saying(format!("HTTP/1.1 200 OK\r\n{}content-length: 0\r\n\r\n", many(500))), 200),
        ("500 headers of a failure", Raw::saying(format!("HTTP/1.1 503 No\r\n{}\r\n", many(500))), 503),
        ("10 MB of head", Raw::saying(format!("HTTP/1.1 200 OK\r\na: {long}\r\n\r\n")), 200),
        ("a folded header", Raw::saying("HTTP/1.1 200 OK\r\na: b\r\n c\r\ncontent-length: 0\r\n\r\n"), 200),
        ("a space before the colon", Raw::saying("HTTP/1.1 200 OK\r\na : b\r\ncontent-length: 0\r\n\r\n"), 200),
        ("no header at all", Raw::saying("HTTP/1.1 200 OK\r\n???\r\ncontent-length: 0\r\n\r\n"), 200),
        (
            "interim answers",
            Raw::saying("HTTP/1.1 102 P\r\n\r\n".repeat(5) + "HTTP/1.1 201 C\r\ncontent-length: 0\r\n\r\n"),
            201,
        ),
        // The operating system resets a connection that is closed with unread bytes.
        (
            "a reset in the body",
            Raw::start(|stream| {
                stream.read_exact(&mut [0; 10])?;
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nab")?;
                std::thread::sleep(Duration::from_millis(100));
                Ok(())
            }),
            200,
        ),
        (
            "a body that never comes",
            Raw::answering(|stream| {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")?;
                stream.read(&mut [0]).map(drop)
            }),
            200,
        ),
    ];
    for (id, (name, raw, status)) in (1..).zip(&cases) {
        let done = bench.one(&endpoint(id, &raw.url())).await;
        assert_eq!((done.outcome, done.status), (Outcome::Status(*status), Some(*status)), "{name}: {:?}", done.error);
    }
    // An id that is expected in the body must exist. The status is recorded nevertheless.
    let raw = Raw::saying("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"id\": 1");
    let asks = Endpoint { response_id: Some(ResponseId::parse("/id").unwrap()), ..endpoint(50, &raw.url()) };
    let done = bench.one(&asks).await;
    assert_eq!((done.outcome, done.status), (Outcome::Fault(Fault::Body), Some(200)), "{:?}", done.error);
    // Without a status the attempt fails.
    for (id, raw) in (60..).zip([
        Raw::saying(""),
        Raw::saying("HTTP/1.1 20"),
        Raw::start(|stream| stream.read_exact(&mut [0; 10])),
        Raw::start(|_| Ok(())),
        Raw::saying("HTTP/1.1 102 P\r\n\r\n"),
    ]) {
        let done = bench.one(&endpoint(id, &raw.url())).await;
        assert!(matches!(done.outcome, Outcome::Fault(_)) && done.status.is_none(), "{id}: {done:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tls_connection_that_ends_without_saying_so_has_ended() {
    let ca = Ca::new().unwrap();
    let config = server_config(&ca.issue(&["127.0.0.1"]).unwrap(), None, &["http/1.1"]).unwrap();
    let raw = Raw::start(move |stream| {
        let mut session = rustls::ServerConnection::new(Arc::clone(&config)).map_err(std::io::Error::other)?;
        let mut tls = rustls::Stream::new(&mut session, stream);
        let (mut seen, mut part) = (Vec::new(), [0; 4096]);
        while !seen.ends_with(b"}") {
            let n = tls.read(&mut part)?;
            seen.extend_from_slice(&part[..n]);
        }
        // Like http.server of Python, this server ends the body by closing the connection, without a close_notify of TLS.
        tls.write_all(b"HTTP/1.0 500 No\r\n\r\nwhat was wrong")?;
        tls.flush()
    });
    let tls = Tls { ca: Some(ca.pem()), ..Tls::default() };
    let url = format!("https://{}/", raw.0);
    let done = Bench::new().one(&Endpoint { tls, ..endpoint(1, &url) }).await;
    assert_eq!(done.outcome, Outcome::Status(500), "{:?}", done.error);
    assert_eq!(done.answer.unwrap().body.as_deref(), Some("what was wrong"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_many_endpoints_hang_one_that_is_well_goes_on() {
    let well = Receiver::start().unwrap();
    let timeout = Duration::from_secs(120);
    for hanging in [40, 400] {
        let open = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&open);
        let raw = Raw::answering(move |stream| {
            count.fetch_add(1, Ordering::Relaxed);
            stream.read(&mut [0]).map(drop)
        });
        let mut bench = Bench::new();
        bench.sender.set_endpoints(vec![endpoint(1, &well.url("/"))]);
        let alone = bench.median(1).await;
        bench
            .sender
            .set_endpoints((2..hanging + 2).map(|id| Endpoint { timeout, ..endpoint(id, &raw.url()) }).collect());
        for id in 2..hanging + 2 {
            bench.submit(id, 50);
        }
        let begun = Instant::now();
        wait_until("they hang", PATIENCE, async || open.load(Ordering::Relaxed) >= 150).await;
        // The sender needs a second to notice that all of them hang.
        let first = bench.submit(1, 1);
        bench.wait(first).await;
        let beside = bench.median(1).await;
        assert!(begun.elapsed() < timeout, "they hang");
        assert!(beside < Duration::from_secs(1) + alone * 20, "{hanging}: {beside:?} instead of {alone:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_give_way_and_become_no_older_than_they_may() {
    let well = Receiver::start().unwrap();
    let mut bench = Bench::with(|settings| settings.max_connections = 20);
    bench.sender.set_endpoints((1..=100).map(|id| endpoint(id, &well.url("/"))).collect());
    for id in 1..=100 {
        let position = bench.submit(id, 1);
        assert_eq!(bench.wait(position).await.outcome, OK);
    }
    assert_eq!(well.connections(), 100);
    // The oldest connections were closed in favour of the newest.
    for (id, opened) in [(100, 0), (95, 0), (1, 1), (1, 0)] {
        let before = well.connections();
        let position = bench.submit(id, 1);
        assert_eq!(bench.wait(position).await.outcome, OK);
        assert_eq!(well.connections() - before, opened, "{id}");
    }
    let mut bench = Bench::with(|settings| settings.connection_age = Duration::from_millis(500));
    bench.sender.set_endpoints(vec![endpoint(1, &well.url("/"))]);
    let before = well.connections();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        let position = bench.submit(1, 1);
        assert_eq!(bench.wait(position).await.outcome, OK);
    }
    assert!(well.connections() - before >= 2, "a connection in steady use is replaced");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_of_an_idle_connection_costs_no_attempt() {
    // The server answers the first request of each connection, and resets the connection at the second request, whose
    // bytes it does not read.
    let raw = Raw::answering(|stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
        stream.read_exact(&mut [0; 1])
    });
    let mut bench = Bench::new();
    for _ in 0..10 {
        let done = bench.one(&endpoint(1, &raw.url())).await;
        assert_eq!(done.outcome, OK, "{:?}", done.error);
    }
}
