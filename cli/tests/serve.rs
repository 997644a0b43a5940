//! `outbox serve` as a program: its first lines, its options, and its end. The pages are tested with the crate.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use outbox_harness::Server;

fn outbox(dsn: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outbox"));
    command
        .args(args)
        .env("DATABASE_URL", dsn)
        .env_remove("OUTBOX_SERVE_TOKEN")
        .env_remove("OUTBOX_SERVE_METRICS_TOKEN");
    command
}

/// Sends a request, and returns the status line and the rest of the answer.
fn ask(address: &str, path: &str, more: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{more}\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dashboard_says_where_it_is_and_ends_when_told() {
    let server = Server::start(&[("pg_outbox.poll_interval", "1s")]).await.unwrap();
    server.database("served").await.unwrap();
    let folder = outbox_harness::postgres::fresh_folder("serve").unwrap();
    let file = folder.join("token");
    std::fs::write(&file, "a-token-of-a-file\n").unwrap();
    let file = file.to_str().unwrap();
    for (made_up, options) in [(true, &[][..]), (false, &["--token-file", file][..])] {
        let args = [&["serve", "--listen", "127.0.0.1:0"][..], options].concat();
        let mut child =
            outbox(&server.dsn("served"), &args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        let address = first.split("http://").nth(1).unwrap().trim_end_matches('/').to_owned();
        let token = match made_up {
            true => lines.next().unwrap().unwrap().rsplit(' ').next().unwrap().to_owned(),
            false => "a-token-of-a-file".to_owned(),
        };
        assert!(token.len() >= 16, "{token}");
        assert!(ask(&address, "/healthz", "").starts_with("HTTP/1.1 200"));
        assert!(ask(&address, "/readyz", "").starts_with("HTTP/1.1 200"));
        assert!(ask(&address, "/", "").starts_with("HTTP/1.1 303"));
        let metrics = ask(&address, "/metrics", &format!("Authorization: Bearer {token}\r\n"));
        assert!(
            metrics.starts_with("HTTP/1.1 200") && metrics.contains("# TYPE outbox_feed_position gauge"),
            "{metrics}"
        );
        outbox_harness::postgres::signal(child.id(), "TERM").unwrap();
        assert!(child.wait().unwrap().success(), "it ends by itself");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_dashboard_is_not_opened_to_others_by_mistake() {
    for (args, why) in [
        (&["--listen", "0.0.0.0:0"][..], "--tls-proxy"),
        (&["--listen", "0.0.0.0:0", "--tls-proxy"][..], "needs a token"),
        (&["--listen", "0.0.0.0:0", "--tls-proxy", "--user-header", "X-User"][..], "--host"),
        (&["--token-file", "/nowhere/token"][..], "cannot read the token"),
        (&["--user-header", "X User"][..], "malformed"),
    ] {
        let output = outbox("postgresql://u@127.0.0.1:1/d", &[&["serve"][..], args].concat()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains(why), "{args:?}: {said}");
    }
    let short =
        outbox("postgresql://u@127.0.0.1:1/d", &["serve"]).env("OUTBOX_SERVE_TOKEN", "geheim").output().unwrap();
    let said = String::from_utf8_lossy(&short.stderr).into_owned();
    assert!(
        short.status.code() == Some(2) && said.contains("the token is malformed") && !said.contains("geheim"),
        "{said}"
    );
}
