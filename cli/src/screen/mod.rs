//! The screen of `status` and `top`: failed health checks, throughput, and the subscriptions, endpoints and readers that are
//! not at rest. The failed checks come first, and nothing of them is cut.

pub(crate) mod picture;
pub(crate) mod top;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{ask, output};
use pg_outbox::error::Result;
use pg_outbox::outbox::Outbox;
use pg_outbox_serve::state_of;
pub(crate) use pg_outbox_serve::{command_for, wrong};

const SUBSCRIPTIONS: &[&str] = &["name", "to", "state", "rate", "behind", "waiting", "leased", "oldest", "dead"];
const ENDPOINTS: &[&str] = &["name", "state", "failures", "last_error"];
const READERS: &[&str] = &["consumer", "subject", "state", "position", "behind", "moved", "last_error"];

const OF_SUBSCRIPTIONS: &str = "
    select s.name, coalesce(s.endpoint, '(workers)') as to, s.pull, s.paused, t.completed, s.lag_positions as behind,
        s.waiting, s.processing, extract(epoch from s.oldest_due_age)::float8 as oldest_due_seconds,
        extract(epoch from clock_timestamp() - s.last_claim_at)::float8 as last_claim_seconds, s.dead_letters as dead
    from outbox.subscription_status s
    join outbox.subscription_stats t using (subscription_id)
    order by s.name limit 10000";

const OF_READERS: &str = "
    select c.consumer, c.subject, c.position, c.lag_positions as behind, c.lag_seconds as behind_seconds, c.last_error,
        extract(epoch from clock_timestamp() - c.error_since)::float8 as error_seconds,
        extract(epoch from clock_timestamp() - c.updated_at)::float8 as moved_seconds
    from outbox.cursor_list(max_rows => 10000) c
    where c.stream = 'outbox' or c.last_error is not null";

/// The state of an outbox at one moment.
pub(crate) struct Screen {
    at: Instant,
    database: String,
    stats: Value,
    dead_letters: Value,
    endpoints: Vec<Value>,
    subscriptions: Vec<Value>,
    readers: Vec<Value>,
    wrong: Vec<Value>,
}

/// The part of the screen that is shown, and its order.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// The columns of the terminal. Without it, lines are not wrapped.
    pub(crate) width: Option<usize>,
    /// Also what is at rest.
    pub(crate) all: bool,
    /// Only rows whose name contains this.
    pub(crate) filter: String,
    pub(crate) sort: Sort,
}

/// The order of subscriptions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sort {
    /// The subscription whose oldest delivery is due for longest comes first.
    #[default]
    Oldest,
    /// The most waiting deliveries come first.
    Waiting,
    Name,
}

impl Screen {
    /// Reads the state. Rates are computed since `before`.
    pub(crate) async fn look(outbox: &Outbox, before: Option<&Screen>) -> Result<Screen> {
        let rows = async |function: &str| outbox.call(function, json!({}), &[]).await;
        let first = |rows: Vec<Value>| rows.into_iter().next().unwrap_or(Value::Null);
        let stats = first(rows("stats").await?);
        let at = Instant::now();
        let database = first(ask::query(outbox, "select current_database() as name", &[]).await?);
        let endpoints: Vec<Value> = outbox
            .table("endpoint_status", json!({}), 10_000, &[])
            .await?
            .into_iter()
            .filter(|row| row["state"] != "dropped")
            .collect();
        let mut subscriptions = ask::query(outbox, OF_SUBSCRIPTIONS, &[]).await?;
        for row in &mut subscriptions {
            let old = before.and_then(|old| Some((old, old.subscriptions.iter().find(|r| r["name"] == row["name"])?)));
            let rate =
                old.map(|(old, was)| per_second(number(row, "completed") - number(was, "completed"), at - old.at));
            row["per_second"] = json!(rate);
            row["state"] = json!(state_of(row));
        }
        let mut readers = ask::query(outbox, OF_READERS, &[]).await?;
        for row in &mut readers {
            let failing = row["last_error"].is_string();
            row["state"] = json!(if failing {
                "failing"
            } else if number(row, "behind") > 0 {
                "behind"
            } else {
                "at rest"
            });
        }
        Ok(Screen {
            at,
            database: output::text(&database["name"]),
            stats,
            dead_letters: first(rows("dead_letter_stats").await?),
            endpoints,
            subscriptions,
            readers,
            wrong: wrong(&rows("health").await?),
        })
    }

    /// Returns whether a health check is not ok.
    pub(crate) fn is_wrong(&self) -> bool {
        !self.wrong.is_empty()
    }

    /// The whole state as JSON, for programs.
    pub(crate) fn json(&self) -> Value {
        json!({
            "stats": self.stats, "dead_letters": self.dead_letters, "endpoints": self.endpoints,
            "subscriptions": self.subscriptions, "readers": self.readers, "wrong": self.wrong,
        })
    }

    /// The screen as text. Rates are computed since `before`.
    pub(crate) fn text(&self, before: Option<&Screen>, view: &View) -> String {
        let mut out = self.wrong_text(view.width);
        out += &self.totals(before, view.width);
        let mut subscriptions = self.chosen(&self.subscriptions, "name", view);
        subscriptions.sort_by(|a, b| match view.sort {
            Sort::Oldest => of(b, "oldest_due_seconds").total_cmp(&of(a, "oldest_due_seconds")),
            Sort::Waiting => number(b, "waiting").cmp(&number(a, "waiting")),
            Sort::Name => std::cmp::Ordering::Equal,
        });
        for row in &mut subscriptions {
            row["rate"] = json!(row["per_second"].as_i64().map(|rate| format!("{rate}/s")));
            row["leased"] = row["processing"].clone();
            row["oldest"] = json!(row["oldest_due_seconds"].as_f64().map(output::age));
        }
        section(&mut out, "SUBSCRIPTIONS", &subscriptions, self.subscriptions.len(), SUBSCRIPTIONS, view);
        section(
            &mut out,
            "ENDPOINTS",
            &self.chosen(&self.endpoints, "name", view),
            self.endpoints.len(),
            ENDPOINTS,
            view,
        );
        let mut readers = self.chosen(&self.readers, "consumer", view);
        for row in &mut readers {
            row["moved"] = json!(row["moved_seconds"].as_f64().map(|seconds| output::age(seconds) + " ago"));
        }
        section(&mut out, "READERS", &readers, self.readers.len(), READERS, view);
        out
    }

    /// The rows that are shown.
    fn chosen(&self, rows: &[Value], name: &str, view: &View) -> Vec<Value> {
        let named = |row: &&Value| row[name].as_str().unwrap_or_default().contains(&view.filter);
        rows.iter().filter(named).filter(|row| view.all || !at_rest(row)).cloned().collect()
    }

    fn wrong_text(&self, width: Option<usize>) -> String {
        if self.wrong.is_empty() {
            return "nothing is wrong\n\n".to_owned();
        }
        let mut out = format!("WRONG: {}\n", self.wrong.len());
        for row in &self.wrong {
            let text = |name: &str| output::text(&row[name]);
            out += &output::hang(
                &format!("{}: ", text("state")),
                &format!("{}: {}", text("check"), text("culprit")),
                width,
            );
            out += &output::hang("    -> ", &text("what_to_do"), width);
            if let Some(command) = command_for(&text("check")) {
                out += &format!("    $ {command}\n");
            }
        }
        out + "\n"
    }

    fn totals(&self, before: Option<&Screen>, width: Option<usize>) -> String {
        let count = |name: &str| number(&self.stats, name);
        let rate = |name: &str| {
            before.map_or(String::new(), |old| {
                format!(" ({}/s)", per_second(count(name) - number(&old.stats, name), self.at - old.at))
            })
        };
        let behind = (count("feed_end") - count("routed")).max(0);
        let mut lines = output::hang(
            "worker      ",
            &format!("{} in the database {}", output::text(&self.stats["worker"]), self.database),
            width,
        );
        let feed = format!("{}{}, routed {}{}", count("messages"), rate("messages"), count("routed"), rate("routed"));
        let feed = if behind > 0 { format!("{feed}, {behind} not routed yet") } else { feed };
        lines += &output::hang("enqueued    ", &feed, width);
        let delivering = format!(
            "{} in flight, {} queued, {} waiting for a retry or a worker",
            count("in_flight"),
            count("queued"),
            count("waiting")
        );
        lines += &output::hang("delivering  ", &delivering, width);
        let mut dead = format!("{} open", count("dead_letters"));
        if let Some(reason) = self.dead_letters["top_failure_reason"].as_str() {
            dead += &format!(", most often: {reason}");
        }
        lines + &output::hang("dead        ", &dead, width)
    }
}

/// Adds a section with its rows, and says how many rows are not shown.
fn section(out: &mut String, title: &str, rows: &[Value], all: usize, columns: &[&str], view: &View) {
    if all == 0 {
        return;
    }
    let hidden = all - rows.len();
    *out += &match hidden {
        0 => format!("\n{title}\n"),
        hidden if view.filter.is_empty() => format!("\n{title}  {hidden} of {all} are at rest\n"),
        hidden => format!("\n{title}  {hidden} of {all} are not shown\n"),
    };
    if !rows.is_empty() {
        // Columns in which no row has a value take no space.
        let filled: Vec<&str> = columns
            .iter()
            .copied()
            .filter(|column| rows.iter().any(|row| !matches!(&row[*column], Value::Null) && row[*column] != ""))
            .collect();
        *out += &output::table(rows, &filled, view.width);
    }
}

fn at_rest(row: &Value) -> bool {
    matches!(row["state"].as_str(), Some("at rest" | "active")) && number(row, "dead") == 0
}

fn number(row: &Value, name: &str) -> i64 {
    row[name].as_i64().unwrap_or(0)
}

fn of(row: &Value, name: &str) -> f64 {
    row[name].as_f64().unwrap_or(0.0)
}

fn per_second(count: i64, over: Duration) -> i64 {
    (count as f64 / over.as_secs_f64().max(0.001)).round() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription(name: &str, more: Value) -> Value {
        let mut row = json!({
            "name": name, "to": "(workers)", "pull": true, "paused": false, "completed": 5, "behind": 0, "waiting": 0,
            "processing": 0, "oldest_due_seconds": null, "last_claim_seconds": 1.0, "dead": 0, "per_second": 0,
        });
        for (name, value) in more.as_object().unwrap() {
            row[name] = value.clone();
        }
        row["state"] = json!(state_of(&row));
        row
    }

    /// Fourteen subscriptions, two of them not at rest, and three failed checks with long texts.
    pub(super) fn busy() -> Screen {
        let mut subscriptions: Vec<Value> = (0..12).map(|n| subscription(&format!("calm-{n}"), json!({}))).collect();
        subscriptions.push(subscription("busy", json!({"waiting": 900, "oldest_due_seconds": 3.0})));
        let late = json!({"waiting": 7, "oldest_due_seconds": 5040.0, "last_claim_seconds": null});
        subscriptions.push(subscription("slow", late));
        let check = |check: &str, state: &str, culprit: &str| json!({"check": check, "state": state, "culprit": culprit, "what_to_do": "its workers are gone, or cannot reach the database: start one"});
        let why = "a delivery of subscription \"slow\" has been due for 01:24:00, and no worker has ever claimed one";
        let health = [
            check("deliveries", "warning", why),
            check("numbering", "critical", "a message has been waiting for its position for 00:05:00"),
            check(
                "cursors",
                "warning",
                "consumer \"totals\" stands at 41 since 2026-11-29 03:02:00+00: division by zero",
            ),
            json!({"check": "space", "state": "ok"}),
        ];
        Screen {
            at: Instant::now(),
            database: "shop".to_owned(),
            stats: json!({"worker": "running", "messages": 10, "feed_end": 10, "routed": 10}),
            dead_letters: json!({}),
            endpoints: vec![
                json!({"name": "hooks", "state": "breaker open", "failures": 9, "last_error": "connection refused"}),
            ],
            subscriptions,
            readers: vec![
                json!({"consumer": "totals", "subject": "", "state": "failing", "position": 41, "behind": 3}),
            ],
            wrong: wrong(&health),
        }
    }

    #[test]
    fn what_is_wrong_comes_first_and_is_whole_on_80_columns() {
        let view = View { width: Some(80), ..View::default() };
        let text = busy().text(None, &view);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let top: Vec<&str> = text.lines().take(24).collect();
        assert_eq!(top[0], "WRONG: 3");
        assert!(top[1].starts_with("critical: numbering: "), "{text}");
        let words = top.join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains("and no worker has ever claimed one"), "{text}");
        assert!(words.contains("since 2026-11-29 03:02:00+00: division by zero"), "{text}");
        assert!(words.contains("$ outbox subscription list"), "{text}");
    }

    #[test]
    fn what_is_at_rest_is_counted_and_the_longest_wait_comes_first() {
        let text = busy().text(None, &View::default());
        let lines: Vec<&str> = text.lines().collect();
        let title = lines.iter().position(|line| *line == "SUBSCRIPTIONS  12 of 14 are at rest").unwrap();
        assert!(lines[title + 2].starts_with("slow ") && lines[title + 2].contains("no worker"), "{text}");
        assert!(lines[title + 3].starts_with("busy ") && lines[title + 3].contains("waiting"), "{text}");
        assert!(!text.contains("calm-1"));
        let by_waiting = busy().text(None, &View { sort: Sort::Waiting, all: true, ..View::default() });
        assert!(by_waiting.find("busy ") < by_waiting.find("slow ").map(|at| at + by_waiting.len()), "{by_waiting}");
        assert!(by_waiting.contains("calm-11"));
        let one = busy().text(None, &View { filter: "tot".to_owned(), ..View::default() });
        assert!(one.contains("totals") && one.contains("SUBSCRIPTIONS  14 of 14 are not shown"), "{one}");
    }
}
