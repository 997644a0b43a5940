//! Misbehaving receivers. The dispatcher records an outcome for each and goes on.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use outbox_harness::{Receiver, wait_until};
use outbox_tests::{PATIENCE, one, outbox_harness, server};

/// Starts a server that reads a request of each connection and then calls `behave`.
fn misbehaving(behave: impl Fn(&mut TcpStream) -> std::io::Result<()> + Send + Sync + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let behave = behave.clone();
            std::thread::spawn(move || {
                let mut buffer = [0; 65_536];
                let _ = stream.read(&mut buffer);
                let _ = behave(&mut stream);
            });
        }
    });
    address
}

fn forever(stream: &mut TcpStream, bytes: &[u8], pause: Duration) -> std::io::Result<()> {
    let end = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end {
        stream.write_all(bytes)?;
        std::thread::sleep(pause);
    }
    Ok(())
}

/// The expected error class of a success. A success status decides, whatever follows it.
const DELIVERED: &str = "";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_worker_survives_what_receivers_do() {
    let bomb = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&vec![b'x'; 50 << 20]).unwrap();
        encoder.finish().unwrap()
    };
    let head = |length: usize| format!("HTTP/1.1 500 Oh\r\ncontent-encoding: gzip\r\ncontent-length: {length}\r\n\r\n");
    let bomb_head = head(bomb.len());
    let short = head(100);
    let tick = Duration::from_millis(20);
    // Each case has a name, a server, and the expected error class.
    let cases: Vec<(&str, SocketAddr, &str)> = vec![
        ("garbage", misbehaving(|s| s.write_all(b"\x00\x01\x02 not http \r\n\r\n")), "protocol"),
        (
            "silence",
            misbehaving(|_| {
                std::thread::sleep(Duration::from_secs(60));
                Ok(())
            }),
            "timeout",
        ),
        ("closes", misbehaving(|s| s.shutdown(std::net::Shutdown::Both)), "reset"),
        ("half a head", misbehaving(|s| s.write_all(b"HTTP/1.1 200 OK\r\nx-a")), "reset"),
        (
            "endless head",
            misbehaving(move |s| {
                s.write_all(b"HTTP/1.1 200 OK\r\n")?;
                forever(s, &[b'x'; 4096], Duration::ZERO)
            }),
            DELIVERED,
        ),
        (
            "many headers",
            misbehaving(|s| {
                s.write_all(b"HTTP/1.1 200 OK\r\n")?;
                for n in 0..500 {
                    write!(s, "x-{n}: 1\r\n")?;
                }
                s.write_all(b"\r\n")
            }),
            DELIVERED,
        ),
        (
            "endless body",
            misbehaving(|s| {
                s.write_all(b"HTTP/1.1 500 Oh\r\ncontent-length: 99999999999\r\n\r\n")?;
                forever(s, &[b'x'; 65_536], Duration::ZERO)
            }),
            "status",
        ),
        (
            "slow body",
            misbehaving(move |s| {
                s.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")?;
                forever(s, b"x", tick)
            }),
            DELIVERED,
        ),
        (
            "short body",
            misbehaving(|s| {
                s.write_all(b"HTTP/1.1 500 Oh\r\ncontent-length: 1000\r\n\r\nabc")?;
                s.shutdown(std::net::Shutdown::Both)
            }),
            "status",
        ),
        (
            "gzip bomb",
            misbehaving(move |s| {
                s.write_all(bomb_head.as_bytes())?;
                s.write_all(&bomb)
            }),
            "status",
        ),
        (
            "not gzip",
            misbehaving(move |s| {
                s.write_all(short.as_bytes())?;
                s.write_all(&[b'x'; 100])
            }),
            "status",
        ),
        (
            "bad chunk",
            misbehaving(|s| s.write_all(b"HTTP/1.1 500 Oh\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n")),
            "status",
        ),
        (
            "not text",
            misbehaving(|s| {
                s.write_all(b"HTTP/1.1 500 Oh\r\nx-request-id: \xff\xfe\r\ncontent-length: 4\r\n\r\n\xff\x00\xfe\x00")
            }),
            "status",
        ),
        ("status 999", misbehaving(|s| s.write_all(b"HTTP/1.1 999 What\r\ncontent-length: 0\r\n\r\n")), "status"),
        (
            "to the inside",
            misbehaving(|s| {
                s.write_all(b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n")
            }),
            "redirect",
        ),
    ];
    let healthy = Receiver::start().unwrap();
    let db = server().await.database("misbehaving").await.unwrap();
    for (name, address, _) in &cases {
        db.batch_execute(&format!(
            "select outbox.create_endpoint('{name}', 'http://{address}/', timeout => '1500 ms');
            select outbox.subscribe('{name}', '{{order.#}}', '{name}', max_attempts => 1)"
        ))
        .await
        .unwrap();
    }
    db.batch_execute(&format!(
        "select outbox.create_endpoint('healthy', '{}'); select outbox.subscribe('healthy', '{{order.#}}', 'healthy')",
        healthy.url("/")
    ))
    .await
    .unwrap();
    let pid: i32 = one(&db, "select pid from outbox_internal.worker_slot()").await;
    db.batch_execute("select outbox.enqueue('order.created', '{}')").await.unwrap();
    wait_until("each has its outcome", PATIENCE, async || {
        one::<i64>(&db, "select count(*) from outbox.attempt").await == cases.len() as i64 + 1
    })
    .await;
    for (name, _, class) in &cases {
        let row = db
            .query_one(
                "select a.error_class, a.error, octet_length(a.response_body) from outbox.attempt a
                join outbox.subscription s on s.id = a.subscription_id where s.name = $1",
                &[name],
            )
            .await
            .unwrap();
        let (found, error, kept): (Option<String>, Option<String>, Option<i32>) = (row.get(0), row.get(1), row.get(2));
        assert_eq!(found.as_deref().unwrap_or(DELIVERED), *class, "{name}: {error:?}");
        // The conversion of invalid bytes to text may triple their length.
        assert!(kept.unwrap_or(0) <= 3 * 4096, "{name} kept {kept:?} bytes");
    }
    assert_eq!(healthy.total(), 1);
    assert_eq!(one::<i32>(&db, "select pid from outbox_internal.worker_slot()").await, pid, "the same process");
}
