//! The page before those of several databases: which one is not ok, and why. Each is asked with its own role.

use std::sync::Arc;
use std::time::Duration;

use maud::{Markup, html};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use pg_outbox::error::{Error, Result};

use crate::app::Place;
use crate::database::Rights;
use crate::health::wrong;
use crate::page::{Live, Page, column, foreign, state, table, value};

/// The path of this page, which is also that of the root.
pub(crate) const PATH: &str = "/databases";

/// The longest wait for one database.
const PATIENCE: Duration = Duration::from_secs(4);

/// Asks every database at the same time, and returns the answers in the order of the configuration.
pub(crate) async fn of_each<T: Send + 'static, F: Future<Output = Result<T>> + Send + 'static>(
    places: &[Arc<Place>],
    ask: impl Fn(Arc<Place>) -> F + Clone + Send + 'static,
) -> Vec<(Arc<Place>, Result<T>)> {
    let mut asked = JoinSet::new();
    for (n, place) in places.iter().enumerate() {
        let (place, ask) = (place.clone(), ask.clone());
        asked.spawn(async move {
            let late = || Err(Error::connection("the database does not answer"));
            (n, tokio::time::timeout(PATIENCE, ask(place)).await.unwrap_or_else(|_| late()))
        });
    }
    let mut answers: Vec<(usize, Result<T>)> = Vec::new();
    while let Some(answer) = asked.join_next().await {
        answers.extend(answer.ok());
    }
    answers.sort_by_key(|(n, _)| *n);
    answers.into_iter().filter_map(|(n, answer)| Some((places.get(n)?.clone(), answer))).collect()
}

async fn health(place: Arc<Place>) -> Result<(Rights, Vec<Value>)> {
    let work = place.database.read().await?;
    let found = async { Ok((work.rights().await?, work.call("health", json!({})).await?)) }.await;
    work.end(found).await
}

/// The state of a database in a word.
fn state_of(health: &Result<(Rights, Vec<Value>)>) -> &'static str {
    match health {
        Err(error) if error.code() == "42501" => "not permitted",
        Err(_) => "not reachable",
        Ok((_, rows)) if rows.iter().any(|row| row["state"] == "critical") => "critical",
        Ok((_, rows)) if !wrong(rows).is_empty() => "warning",
        Ok(_) => "ok",
    }
}

pub(crate) async fn show(places: &[Arc<Place>]) -> Page {
    let found = of_each(places, health).await;
    let bad: Vec<&str> =
        found.iter().filter(|(_, health)| state_of(health) != "ok").map(|(place, _)| place.name.as_str()).collect();
    let cells: Vec<Vec<Markup>> = found.iter().map(|(place, health)| row(place, health)).collect();
    let body = html! {
        @if bad.is_empty() { p class="notice" { "Nothing is wrong in " (found.len()) " databases." } }
        @else { p class="failure" role="status" { (bad.len()) " of " (found.len()) " databases are not ok: " (bad.join(", ")) } }
        (table("Databases", &["Database", "State", "Role", "Not ok", "What to do"], &cells, "There is no database."))
    };
    Page { title: "Databases".to_owned(), part: PATH, live: Live::Yes, body }
}

fn row(place: &Place, health: &Result<(Rights, Vec<Value>)>) -> Vec<Markup> {
    let name = html! { a href={ "/db/" (place.name) "/" } { (place.name) } };
    let word = state(state_of(health));
    match health {
        Err(error) => vec![name, word, value(&Value::Null), foreign(&error.details().message), value(&Value::Null)],
        Ok((rights, rows)) => {
            let wrong = wrong(rows);
            let each = |name: &str| {
                html! { @if wrong.is_empty() { (value(&Value::Null)) }
                @for row in wrong.iter().take(5) { p { (foreign(column(row, name))) } } }
            };
            let culprits = html! {
                @if wrong.is_empty() { (value(&Value::Null)) }
                @for row in wrong.iter().take(5) { p { (foreign(column(row, "check"))) ": " (foreign(column(row, "culprit"))) } }
                @if wrong.len() > 5 { p { "and " (wrong.len() - 5) " more" } }
            };
            vec![name, word, foreign(&rights.role), culprits, each("what_to_do")]
        }
    }
}
