//! The overview: what is not ok, what it is about and what mends it; the sums, and charts of the last quarter of an hour.

use maud::{Markup, html};
use serde_json::{Value, json};

use pg_outbox::error::Result;

use crate::chart;
use crate::database::Work;
use crate::health::{command_for, page_for, wrong};
use crate::page::{Live, Page, Viewer, age, column, facts, foreign, state, value};
use crate::samples::{EVERY, Sample, Samples, rates};

pub(super) async fn show(work: &Work, viewer: &Viewer, samples: &Samples) -> Result<Page> {
    let health = work.call("health", json!({})).await?;
    let stats = work.call("stats", json!({})).await?.into_iter().next().unwrap_or(Value::Null);
    let wrong = wrong(&health);
    let body = html! {
        (checks(&wrong, health.len()))
        (sums(&stats, viewer))
        (charts(&samples.all()))
        details {
            summary { (health.len() - wrong.len()) " checks are ok" }
            ul { @for row in health.iter().filter(|row| row["state"] == "ok") { li { (value(&row["check"])) } } }
        }
    };
    Ok(Page { title: "Overview".to_owned(), part: "/", live: Live::Yes, body })
}

fn checks(wrong: &[Value], all: usize) -> Markup {
    html! {
        section aria-label="Health" {
            @if wrong.is_empty() { p class="notice" { "Nothing is wrong. All " (all) " checks are ok." } }
            @for row in wrong {
                @let check = column(row, "check");
                article class={ "check " (if row["state"] == "critical" { "critical" } else { "warning" }) } {
                    h2 { (state(column(row, "state"))) " " (foreign(check)) }
                    p { (foreign(column(row, "culprit"))) }
                    p { strong { "What to do: " } (foreign(column(row, "what_to_do"))) }
                    p {
                        @if let Some((path, name)) = page_for(check) { a href=(path) { (name) } " " }
                        @if let Some(command) = command_for(check) { code { (command) } }
                    }
                }
            }
        }
    }
}

fn sums(stats: &Value, viewer: &Viewer) -> Markup {
    let number = |name: &str| stats[name].as_i64().unwrap_or(0);
    let dead = html! {
        @if viewer.rights.may_read("dead_letter_status") { a href="/dead-letters" { (number("dead_letters")) } }
        @else { (number("dead_letters")) }
    };
    html! {
        section aria-label="Sums" {
            (facts(&[
                ("Dispatcher", state(column(stats, "worker"))),
                ("Last message", value(&stats["messages"])),
                ("Numbered", value(&stats["feed_end"])),
                ("Not routed yet", html! { ((number("feed_end") - number("routed")).max(0)) }),
                ("In flight", value(&stats["in_flight"])),
                ("Queued", value(&stats["queued"])),
                ("Waiting for a retry or a worker", value(&stats["waiting"])),
                ("Open dead letters", dead),
            ]))
        }
    }
}

fn charts(samples: &[Sample]) -> Markup {
    let rates = rates(samples);
    let each = |take: fn(&crate::samples::Rates) -> f64| rates.iter().map(take).collect::<Vec<f64>>();
    let of_samples = |take: fn(&Sample) -> f64| samples.iter().map(take).collect::<Vec<f64>>();
    let seconds = EVERY.as_secs_f64() * rates.len() as f64;
    html! {
        section aria-label="Charts" {
            h2 { "The last " (age(&json!(seconds))) }
            @if rates.is_empty() { p class="hint" { "Rates are measured from two samples on, one every "
                (EVERY.as_secs()) " s." } }
            div class="charts" {
                (chart::line("Numbered", "/s", &each(|rate| rate.numbered)))
                (chart::line("Completed", "/s", &each(|rate| rate.completed)))
                (chart::line("Failed attempts", "/s", &each(|rate| rate.failed)))
                (chart::line("Not routed yet", "messages", &of_samples(|sample| sample.unrouted)))
                (chart::line("Oldest due delivery", "s", &of_samples(|sample| sample.oldest_due)))
            }
        }
    }
}
