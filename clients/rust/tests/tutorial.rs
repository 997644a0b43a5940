//! The program of TUTORIAL.md does what it shows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outbox_harness::{Server, built, wait_until};

const PATIENCE: Duration = Duration::from_secs(120);

/// Returns the code blocks of a language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    text.split(fence.as_str()).skip(1).map(|block| block.split("```").next().unwrap()).collect()
}

/// Returns a line of the log without what differs from run to run.
fn plain(line: &str) -> String {
    let is_logged = line.starts_with("20") && line.contains('Z');
    let text = if is_logged { line.split_once('Z').unwrap().1 } else { line };
    // The name of the worker is that of the machine.
    text.split(' ').filter(|word| !word.starts_with("worker=")).collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_of_the_tutorial_does_what_it_shows() {
    let tutorial = include_str!("../TUTORIAL.md");
    let program = blocks(tutorial, "rust")[0];
    assert!(include_str!("../examples/tutorial.rs").ends_with(program), "TUTORIAL.md and examples/tutorial.rs differ");
    let program = built("examples/tutorial").unwrap();

    let server = Server::start(&[("pg_outbox.poll_interval", "1s")]).await.unwrap();
    let db = server.database("shop").await.unwrap();
    db.batch_execute("create table orders (id serial primary key, amount int not null)").await.unwrap();
    let shop = || {
        let mut command = Command::new(&program);
        command.env("DATABASE_URL", server.dsn("shop")).env("NO_COLOR", "1").env_remove("RUST_LOG");
        command
    };
    let mut worker = shop().stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(worker.stdout.take().unwrap()).lines();
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let output = seen.clone();
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| output.lock().unwrap().push(line)));
    assert!(shop().arg("42").status().unwrap().success());
    assert!(shop().arg("-1").status().unwrap().success());
    let refused = shop().arg("x").output().unwrap();
    assert!(!refused.status.success());
    let has = |part: &str| seen.lock().unwrap().iter().any(|line| line.contains(part));
    wait_until("both are handled", PATIENCE, async || has("bill order 1") && has("a negative amount")).await;
    outbox_harness::postgres::signal(worker.id(), "INT").unwrap();
    assert!(worker.wait().unwrap().success());
    wait_until("the end is logged", PATIENCE, async || has("the worker has ended")).await;

    let orders: i64 = db.query_one("select count(*) from orders", &[]).await.unwrap().get(0);
    assert_eq!(orders, 2);

    let is_shown = |line: &&str| line.starts_with("20") || line.starts_with("bill");
    let shown: Vec<&str> =
        blocks(tutorial, "console").iter().flat_map(|block| block.lines()).filter(is_shown).collect();
    assert!(shown.len() >= 6, "{shown:?}");
    let seen = seen.lock().unwrap();
    for line in shown {
        assert!(seen.iter().any(|one| plain(one) == plain(line)), "{line}\nis not in\n{}", seen.join("\n"));
    }
}
