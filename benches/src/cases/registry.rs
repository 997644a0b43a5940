//! The cost for `enqueue` of accepting only registered topics and publishers.

use anyhow::Result;

use crate::PAYLOAD;
use crate::measure::{median, pgbench, plain_server};
use crate::report::{Goal, Report};

pub async fn run(report: &mut Report) -> Result<()> {
    let server = plain_server().await?;
    let db = server.database("bench").await?;
    db.batch_execute(
        "select count(outbox.create_topic('order.t' || n)) from generate_series(1, 1000) n;
        select count(outbox.create_publisher('p' || n)) from generate_series(1, 100) n",
    )
    .await?;
    let script =
        format!("select outbox.enqueue('order.t77', '{PAYLOAD}'::jsonb, 'c-778899', publisher => 'p7@1.2.3');\n");
    for per in [1, 10] {
        let script = if per == 1 { script.clone() } else { format!("begin;\n{}commit;\n", script.repeat(per)) };
        let (mut rates, mut ratios) = (vec![], vec![]);
        for _ in 0..5 {
            let mut pair = vec![];
            for required in ["on", "off"] {
                let options = format!(
                    "-c synchronous_commit=off -c pg_outbox.require_topic={required} \
                     -c pg_outbox.require_publisher={required}"
                );
                pair.push(pgbench(&server, "bench", &script, 4, 2, &options).await? * per as f64);
            }
            rates.push(pair[0]);
            ratios.push(pair[0] / pair[1]);
        }
        let (rate, ratio) = (median(rates), median(ratios));
        let goal = Some(Goal::AtLeast(0.95));
        let what = format!("4 clients, {per} per transaction, required; not required");
        report.row("registry", what, rate, Some(rate / ratio), "messages/s", goal);
    }
    // The first call of a session reads the registries.
    let mut first = vec![];
    for _ in 0..20 {
        let session = server.connect("bench").await?;
        session.batch_execute("select outbox.version()").await?;
        let mut times = vec![];
        for _ in 0..2 {
            let at = std::time::Instant::now();
            session.batch_execute("select outbox.enqueue('order.t77', '{}', publisher => 'p7@1.2.3')").await?;
            times.push(at.elapsed().as_secs_f64() * 1e3);
        }
        first.push(times);
    }
    let at = |i: usize| median(first.iter().map(|times| times[i]).collect());
    report.row("registry", "first call of a session, 1,100 entries; the second", at(0), Some(at(1)), "ms", None);
    Ok(())
}
