//! A healthy endpoint at a fixed rate: alone, beside a hanging endpoint, and beside a dead endpoint. All endpoints
//! subscribe to the same messages. The three ways take turns, and the results are medians of the rounds.

use std::time::Duration;

use anyhow::Result;
use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Receiver, Reply};

use super::latency::at_rate;
use crate::measure::{median, prepare, server};
use crate::report::{Goal, Report, quantile};

const RATE: u32 = 1000;
const ROUNDS: usize = 3;
/// How long the hanging endpoint takes to answer.
const HANGS: Duration = Duration::from_secs(2);

pub async fn run(report: &mut Report) -> Result<()> {
    let receiver = Receiver::start()?;
    let hanging = Receiver::start()?;
    hanging.forget();
    hanging.on("/hook", |_, _| Reply::status(200).after(HANGS));
    let server = server(&[]).await?;
    let ways = [
        ("alone", None),
        ("beside one that hangs", Some(hanging.url("/hook"))),
        ("beside a dead one", Some("http://127.0.0.1:1/".to_owned())),
    ];
    let mut databases = Vec::new();
    for (i, (_, other)) in ways.iter().enumerate() {
        let db = prepare(&server, &format!("way_{i}"), &receiver, 1, 64, "").await?;
        if let Some(url) = other {
            db.execute("select from outbox.create_endpoint('other', $1)", &[url]).await?;
            db.batch_execute("select outbox.subscribe('other', '{order.#}', 'other')").await?;
        }
        databases.push(db);
    }
    // For each way and round: the reached rate, the median delay, and the 99th percentile.
    let mut rounds: Vec<Vec<[f64; 3]>> = vec![Vec::new(); ways.len()];
    for _ in 0..ROUNDS {
        for (i, found) in rounds.iter_mut().enumerate() {
            let (delays, reached) = at_rate(&server, &format!("way_{i}"), &receiver, RATE).await?;
            found.push([reached, quantile(&delays, 0.5), quantile(&delays, 0.99)]);
        }
    }
    let middle = |way: usize, figure: usize| median(rounds[way].iter().map(|round| round[figure]).collect());
    for (i, (name, _)) in ways.iter().enumerate() {
        for (figure, (what, unit)) in [("rate", "messages/s"), ("p50", "ms"), ("p99", "ms")].into_iter().enumerate() {
            let alone = (i > 0).then(|| middle(0, figure));
            let compared = if i > 0 { "; alone" } else { "" };
            let what = format!("healthy endpoint at {RATE}/s {name}, {what}{compared}");
            let goal = (i > 0).then_some(if figure == 0 { Goal::AtLeast(0.95) } else { Goal::AtMost(1.5) });
            report.row("isolation", what, middle(i, figure), alone, unit, goal.filter(|_| figure != 2));
        }
    }
    for ((name, _), db) in ways.iter().zip(&databases).skip(1) {
        let (rows, waiting) = of_other(db).await?;
        // Rows exist only for requests in flight and for attempts before the breaker opened.
        let goal = Some(Goal::AtMost(100.0));
        report.row("isolation", format!("rows of the other, {name}"), rows, None, "rows", goal);
        report.row("isolation", format!("messages that wait for the other, {name}"), waiting, None, "messages", None);
    }
    Ok(())
}

/// Returns the rows of the other subscription in outbox.delivery, and the number of messages by which it lags.
async fn of_other(db: &Client) -> Result<(f64, f64)> {
    let rows = "select count(*)::float8 from outbox.delivery d join outbox.subscription s on s.id = d.subscription_id
        where s.name = 'other'";
    let waiting = "select lag::float8 from outbox_internal.subscription_lag() where subscription = 'other'";
    Ok((db.query_one(rows, &[]).await?.get(0), db.query_one(waiting, &[]).await?.get(0)))
}
