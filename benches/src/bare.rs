//! A bare hyper client, whose rate is the upper limit that pushed deliveries are compared with. It has one thread,
//! keep-alive connections, and the same method, headers and body size, but no database and no signature.

use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use tokio::net::TcpStream;

/// Sends requests over `connections` for `time`, and returns the requests per second.
pub fn run(address: SocketAddr, connections: usize, body: &'static str, time: Duration) -> Result<f64> {
    let thread = std::thread::spawn(move || -> Result<f64> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let tasks = tokio::task::LocalSet::new();
        let (sent, elapsed) = tasks.block_on(&runtime, async move {
            let started = Instant::now();
            let mut all = Vec::new();
            for _ in 0..connections {
                all.push(tokio::task::spawn_local(one(address, body, started + time)));
            }
            let mut sent = 0u64;
            for task in all {
                sent += task.await??;
            }
            anyhow::Ok((sent, started.elapsed()))
        })?;
        Ok(sent as f64 / elapsed.as_secs_f64())
    });
    thread.join().map_err(|_| anyhow::anyhow!("the bare client panicked"))?
}

async fn one(address: SocketAddr, body: &'static str, until: Instant) -> Result<u64> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::task::spawn_local(connection);
    let mut sent = 0;
    while Instant::now() < until {
        requests.ready().await?;
        let request = Request::post("/hook")
            .header("host", address.to_string())
            .header("user-agent", "bare")
            .header("content-type", "application/json")
            .header("webhook-id", "msg_2a_60a24181e4000")
            .header("webhook-timestamp", "1700000000")
            .header("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
            .header("outbox-position", "12345678")
            .header("outbox-attempt", "1")
            .header("outbox-topic", "order.0")
            .header("outbox-key", "c-123")
            .body(Full::new(Bytes::from_static(body.as_bytes())))?;
        let response = requests.send_request(request).await?;
        response.into_body().collect().await?;
        sent += 1;
    }
    Ok(sent)
}
