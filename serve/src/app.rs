//! The state that all handlers share, and the steps of a page and of an action: the person, the database, the transaction, the
//! answer.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use pg_outbox::connect::Target;
use pg_outbox::error::{Error, Result};

use crate::actions::{self, Done};
use crate::database::Database;
use crate::http::{Fields, cookie};
use crate::options::Options;
use crate::own::Own;
use crate::page::{self, Page, Viewer};
use crate::samples::Samples;
use crate::screens::{self, databases};
use crate::session::{Person, Sessions, is_same, name, random_text};
use crate::traces::{self, Collector};

/// An answer of `/readyz` is good for so long, so that many questions are one query.
const READY_FOR: Duration = Duration::from_secs(1);

/// The databases of one dashboard.
const MAX_DATABASES: usize = 50;

/// The longest name of a database, in bytes.
const MAX_NAME: usize = 40;

/// The path below which a database has its pages, where there are several.
const BELOW: &str = "/db/";

#[derive(Debug)]
pub(crate) struct App {
    pub(crate) options: Options,
    pub(crate) sessions: Sessions,
    pub(crate) places: Vec<Arc<Place>>,
    /// Whether the databases have names, which are in the paths of their pages.
    named: bool,
    /// The receiver of spans.
    collector: Option<Collector>,
    token: Option<String>,
}

/// A database with an outbox.
#[derive(Debug)]
pub(crate) struct Place {
    /// The name by which the configuration knows the database; empty if it is the only one.
    pub(crate) name: String,
    pub(crate) database: Database,
    pub(crate) samples: Samples,
    pub(crate) own: Arc<Own>,
    /// A session of its own for the spans, because their transactions wait for another server.
    traces: Database,
    ready: Mutex<Option<(Instant, bool)>>,
}

/// The answer to a request for a page or an action.
pub(crate) enum Answer {
    /// The status and the whole page.
    Page(u16, maud::Markup),
    /// The address of the page that shows what was done.
    See(String),
}

impl Place {
    fn new(name: String, target: Target) -> Result<Place> {
        let own = Arc::new(Own::default());
        Ok(Place {
            name,
            traces: Database::new(target.clone(), own.clone())?,
            database: Database::new(target, own.clone())?,
            samples: Samples::default(),
            own,
            ready: Mutex::new(None),
        })
    }

    /// Returns the rows of `outbox.metrics()`.
    pub(crate) async fn metrics(&self) -> Result<Vec<Value>> {
        let work = self.database.read().await?;
        let rows = work.call("metrics", json!({})).await;
        work.end(rows).await
    }

    /// Returns whether the database answers and has an outbox of a version that this program supports.
    pub(crate) async fn is_ready(&self) -> bool {
        let mut known = self.ready.lock().await;
        if let Some((at, ready)) = *known
            && at.elapsed() < READY_FOR
        {
            return ready;
        }
        let ready = self.database.check().await.is_ok();
        *known = Some((Instant::now(), ready));
        ready
    }

    /// The path before those of the pages of this database.
    fn prefix(&self) -> String {
        if self.name.is_empty() { String::new() } else { format!("{BELOW}{}", self.name) }
    }
}

impl App {
    pub(crate) fn new(targets: Vec<(String, Target)>, options: Options) -> Result<App> {
        options.check()?;
        check_names(&targets)?;
        let token = match &options.token {
            None if options.user_header.is_none() => Some(random_text()?),
            given => given.clone(),
        };
        let named = targets.iter().any(|(name, _)| !name.is_empty());
        let places = targets.into_iter().map(|(name, target)| Ok(Arc::new(Place::new(name, target)?)));
        let places = places.collect::<Result<_>>()?;
        let collector = options.traces.as_ref().map(Collector::new).transpose()?;
        Ok(App { options, sessions: Sessions::new()?, places, named, collector, token })
    }

    /// Sends the spans of a database for as long as the server runs, if there is a receiver.
    pub(crate) async fn export(&self, place: &Place) {
        if let Some(collector) = &self.collector {
            traces::follow(place, &place.traces, collector).await;
        }
    }

    /// Returns the token that was made up because none was given.
    pub(crate) fn made_up_token(&self) -> Option<&str> {
        self.token.as_deref().filter(|_| self.options.token.is_none())
    }

    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    pub(crate) fn is_token(&self, given: &str) -> bool {
        self.token.as_deref().is_some_and(|token| is_same(given, token))
    }

    /// Returns whether a token allows to read the metrics.
    pub(crate) fn is_metrics_token(&self, given: &str) -> bool {
        self.options.metrics_token.as_deref().is_some_and(|token| is_same(given, token)) || self.is_token(given)
    }

    /// Returns the name of the cookie with the session. Behind TLS its prefix keeps other hosts of the domain from
    /// setting it.
    pub(crate) fn cookie_name(&self) -> &'static str {
        if self.options.tls_proxy { "__Host-outbox_session" } else { "outbox_session" }
    }

    /// Returns the person who asks: the one that a trusted proxy names, else the one of the session.
    pub(crate) fn person(&self, headers: &HeaderMap, peer: IpAddr) -> Option<Person> {
        if let Some(header) = &self.options.user_header
            && self.options.trusted_proxies.contains(&peer.to_canonical())
        {
            let mut values = headers.get_all(header.as_str()).iter();
            if let (Some(value), None) = (values.next(), values.next())
                && let Some(actor) = std::str::from_utf8(value.as_bytes()).ok().and_then(name)
            {
                let key = format!("proxy {actor}");
                return Some(Person { actor: actor.to_owned(), key, has_session: false });
            }
        }
        let id = cookie(headers, self.cookie_name())?;
        self.sessions.find(id, Instant::now(), !headers.contains_key("x-outbox-refresh"))
    }

    /// Returns the rows of `outbox.metrics()`, of several databases with a label and a sign of life of each.
    ///
    /// # Errors
    /// That of the only database.
    pub(crate) async fn metrics(&self) -> Result<Vec<Value>> {
        let traces = self.collector.is_some();
        if let ([only], false) = (self.places.as_slice(), self.named) {
            let mut rows = only.metrics().await?;
            rows.extend(only.own.rows(traces));
            return Ok(rows);
        }
        let mut all = Vec::new();
        for (place, found) in databases::of_each(&self.places, |place| async move { place.metrics().await }).await {
            let up = json!({"name": "outbox_database_up", "labels": {}, "value": u8::from(found.is_ok())});
            for mut row in found.unwrap_or_default().into_iter().chain(place.own.rows(traces)).chain([up]) {
                row["labels"]["database"] = json!(place.name);
                all.push(row);
            }
        }
        Ok(all)
    }

    /// Returns whether every database is ready.
    pub(crate) async fn is_ready(&self) -> bool {
        let ready = databases::of_each(&self.places, |place| async move { Ok(place.is_ready().await) }).await;
        ready.iter().all(|(_, ready)| matches!(ready, Ok(true)))
    }

    /// Returns the database of a path, and the path of its page.
    fn place<'a>(&self, path: &'a str) -> Option<(&Arc<Place>, &'a str)> {
        if !self.named {
            return Some((self.places.first()?, path));
        }
        let (name, rest) = path.strip_prefix(BELOW)?.split_once('/')?;
        let place = self.places.iter().find(|place| place.name == name)?;
        // The path with its first stroke.
        Some((place, &path[path.len() - rest.len() - 1..]))
    }

    fn viewer(&self, person: &Person, place: Option<&Place>) -> Viewer {
        Viewer {
            actor: person.actor.clone(),
            form_token: self.sessions.form_token(person),
            has_session: person.has_session,
            place: place.filter(|_| self.named).map(|place| place.name.clone()),
            has_pages: place.is_some(),
            ..Viewer::default()
        }
    }

    /// Shows a page.
    pub(crate) async fn show(&self, person: &Person, path: &str, fields: &Fields) -> Answer {
        let Some((place, path)) = self.place(path) else {
            let mut viewer = self.viewer(person, None);
            viewer.notice = self.sessions.take_notice(person);
            let page = match path {
                "/" | databases::PATH => Ok(databases::show(&self.places).await),
                _ => Err(Error::new("OB001", "there is no such page")),
            };
            return answer(&viewer, page, "/", "");
        };
        let part = screens::part_of(path);
        let mut viewer = self.viewer(person, Some(place));
        let result = look(place, &mut viewer, path, fields).await;
        // A page that failed leaves the notice for the next one.
        if result.is_ok() {
            viewer.notice = self.sessions.take_notice(person);
        }
        answer(&viewer, result, part, &place.prefix())
    }

    /// Does what a form asks for, or asks back.
    pub(crate) async fn act(&self, person: &Person, path: &str, fields: &Fields) -> Answer {
        let action = self.place(path).and_then(|(place, path)| Some((place, path.strip_prefix("/do/")?)));
        let Some((place, action)) = action else {
            let error = Error::new("OB001", "there is no such action");
            return answer(&self.viewer(person, None), Err(error), "/", "");
        };
        let mut viewer = self.viewer(person, Some(place));
        let prefix = place.prefix();
        match attempt(place, &mut viewer, action, fields).await {
            Ok(Done::See { notice, to }) => {
                self.sessions.leave_notice(person, notice);
                Answer::See(prefix + &to)
            }
            Ok(Done::Page(page)) => answer(&viewer, Ok(page), "/", &prefix),
            Err(error) => {
                let part = actions::find(action).map_or("/", |known| known.part);
                let (status, page) = page::failure(&error, part, false);
                Answer::Page(status, page::below(&prefix, page::frame(&viewer, &page)))
            }
        }
    }
}

/// Checks that several databases can be told apart in paths.
fn check_names(targets: &[(String, Target)]) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    if targets.is_empty() || targets.len() > MAX_DATABASES {
        return Err(Error::invalid(format!("a dashboard is of 1 to {MAX_DATABASES} databases")));
    }
    for (n, (name, _)) in targets.iter().enumerate() {
        if name.is_empty() && targets.len() == 1 {
            continue;
        }
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(plain) {
            return Err(Error::invalid(format!("the name \"{name}\" of a database is malformed"))
                .hint(format!("It has 1 to {MAX_NAME} small letters, digits, hyphens and underscores.")));
        }
        if targets.iter().skip(n + 1).any(|(other, _)| other == name) {
            return Err(Error::invalid(format!("two databases have the name \"{name}\"")));
        }
    }
    Ok(())
}

async fn look(place: &Place, viewer: &mut Viewer, path: &str, fields: &Fields) -> Result<Page> {
    let fields = fields.as_ref().map_err(|text| Error::invalid(text.clone()))?;
    let work = place.database.read().await?;
    let page = async {
        viewer.rights = work.rights().await?;
        screens::show(path, &work, viewer, fields, &place.samples).await
    }
    .await;
    work.end(page).await
}

async fn attempt(place: &Place, viewer: &mut Viewer, action: &str, fields: &Fields) -> Result<Done> {
    let fields = fields.as_ref().map_err(|text| Error::invalid(text.clone()))?;
    let action = actions::find(action).ok_or_else(|| Error::new("OB001", "there is no such action"))?;
    let work = place.database.read().await?;
    let rights = work.rights().await;
    viewer.rights = work.end(rights).await?;
    actions::run(&place.database, viewer, action, fields).await
}

fn answer(viewer: &Viewer, result: Result<Page>, part: &'static str, prefix: &str) -> Answer {
    let (status, page) = match result {
        Ok(page) => (200, page),
        Err(error) => page::failure(&error, part, true),
    };
    Answer::Page(status, page::below(prefix, page::frame(viewer, &page)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(names: &[&str]) -> Result<App> {
        let target = |name: &&str| ((*name).to_owned(), Target::parse("host=localhost").unwrap());
        App::new(names.iter().map(target).collect(), Options::default())
    }

    #[test]
    fn a_path_is_of_the_database_that_it_names() {
        let several = app(&["shop", "billing"]).unwrap();
        let found = |path: &str| several.place(path).map(|(place, rest)| format!("{} {rest}", place.name));
        assert_eq!(found("/db/shop/"), Some("shop /".to_owned()));
        assert_eq!(found("/db/billing/do/pause"), Some("billing /do/pause".to_owned()));
        for none in ["/", "/db/shop", "/db/other/", "/subscriptions", "/db//", "/db/SHOP/", "/do/pause"] {
            assert_eq!(found(none), None, "{none}");
        }
        let one = app(&[""]).unwrap();
        assert_eq!(one.place("/do/pause").unwrap().1, "/do/pause");
    }

    #[test]
    fn names_of_databases_are_plain_and_differ() {
        for bad in [&["a", "a"][..], &["a", ""], &["A"], &["a/b"], &["a b"], &["<b>"], &[".."], &[]] {
            assert!(app(bad).is_err(), "{bad:?}");
        }
        assert!(app(&["a"]).is_ok() && app(&["a-1", "b_2"]).is_ok());
    }
}
