//! `append` beside the append functions of other event stores on the same server, each called as its own library calls it.

use anyhow::{Result, bail};
use outbox_harness::postgres::root;
use tokio::process::Command;
use tokio::time::{Duration, sleep};

use crate::PAYLOAD;
use crate::measure::{ended_children_cpu, median, pgbench, plain_server};
use crate::report::{Goal, Report};

const ROUNDS: usize = 3;

pub async fn run(report: &mut Report) -> Result<()> {
    let server = plain_server().await?;
    server.database("bench").await?;
    let status = Command::new(root().join("benches/peers/stores"))
        .env("PGHOST", "127.0.0.1")
        .env("PGPORT", server.port.to_string())
        .env("PGUSER", "postgres")
        .env("PGPASSWORD", server.password())
        .status()
        .await?;
    if !status.success() {
        bail!("benches/peers/stores ended with {status}");
    }
    let ours = format!(
        "\\set s random(1, 1000000)\nselect outbox.append('order-' || :s::int, 'order.created', '{PAYLOAD}'::jsonb);\n"
    );
    let message_db = format!(
        "\\set s random(1, 1000000)\nselect message_store.write_message(gen_random_uuid()::varchar, 'order-' || :s::int, 'order.created', '{PAYLOAD}'::jsonb);\n"
    );
    let emmett = format!(
        "\\set s random(1, 1000000)\nselect * from emt_append_to_stream(array[gen_random_uuid()::text], array['{PAYLOAD}'::jsonb], array['{{}}'::jsonb], \
         array['1'], array['order.created'], array['E'], 'order-' || :s::int, 'order', null, 'emt' || chr(58) || 'default');\n"
    );
    let postmaster = server.pid()?;
    for sync in ["on", "off"] {
        for clients in [1, 4, 16] {
            let options = format!("-c synchronous_commit={sync}");
            let sides = [
                ("bench", &ours, ""),
                ("message_db", &message_db, "-c search_path=message_store,public"),
                ("emmett", &emmett, ""),
            ];
            let mut rates: [Vec<f64>; 3] = Default::default();
            let mut costs: [Vec<f64>; 3] = Default::default();
            for _ in 0..ROUNDS {
                for (i, (database, script, more)) in sides.iter().enumerate() {
                    let before = ended_children_cpu(postmaster);
                    let rate = pgbench(&server, database, script, clients, 2, &format!("{options} {more}")).await?;
                    rates[i].push(rate);
                    // The time of a session is the postmaster's when the session has ended.
                    sleep(Duration::from_millis(300)).await;
                    costs[i].push((ended_children_cpu(postmaster) - before) / (rate * 2.0));
                }
            }
            let [ours, message_db, emmett] = rates.map(median);
            let [our_cost, message_db_cost, emmett_cost] = costs.map(median);
            for (peer, rate, cost) in [("message-db", message_db, message_db_cost), ("emmett", emmett, emmett_cost)] {
                let what = format!("sync {sync}, {clients:>2} clients, against {peer}");
                report.row("stores", what, ours, Some(rate), "events/s", Some(Goal::AtLeast(1.0)));
                let what = format!("sync {sync}, {clients:>2} clients, CPU of the sessions, {peer}");
                report.row("stores", what, our_cost, Some(cost), "us/event", Some(Goal::AtMost(1.0 / 3.0)));
            }
        }
    }
    Ok(())
}
