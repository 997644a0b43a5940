//! The state that all handlers share, and the steps of a page and of an action: the person, the transaction, the answer.

use std::net::IpAddr;
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
use crate::page::{self, Page, Viewer};
use crate::samples::Samples;
use crate::screens;
use crate::session::{Person, Sessions, is_same, name, random_text};

/// An answer of `/readyz` is good for so long, so that many questions are one query.
const READY_FOR: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct App {
    pub(crate) options: Options,
    pub(crate) sessions: Sessions,
    pub(crate) samples: Samples,
    database: Database,
    token: Option<String>,
    ready: Mutex<Option<(Instant, bool)>>,
}

/// The answer to a request for a page or an action.
pub(crate) enum Answer {
    /// The status and the whole page.
    Page(u16, maud::Markup),
    /// The address of the page that shows what was done.
    See(String),
}

impl App {
    pub(crate) fn new(target: Target, options: Options) -> Result<App> {
        options.check()?;
        let token = match &options.token {
            None if options.user_header.is_none() => Some(random_text()?),
            given => given.clone(),
        };
        Ok(App {
            options,
            sessions: Sessions::new()?,
            samples: Samples::default(),
            database: Database::new(target)?,
            token,
            ready: Mutex::new(None),
        })
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

    fn viewer(&self, person: &Person) -> Viewer {
        Viewer {
            actor: person.actor.clone(),
            form_token: self.sessions.form_token(person),
            has_session: person.has_session,
            ..Viewer::default()
        }
    }

    /// Shows a page.
    pub(crate) async fn show(&self, person: &Person, path: &str, fields: &Fields) -> Answer {
        let part = screens::part_of(path);
        let mut viewer = self.viewer(person);
        let result = self.look(&mut viewer, path, fields).await;
        // A page that failed leaves the notice for the next one.
        if result.is_ok() {
            viewer.notice = self.sessions.take_notice(person);
        }
        answer(&viewer, result, part)
    }

    async fn look(&self, viewer: &mut Viewer, path: &str, fields: &Fields) -> Result<Page> {
        let fields = fields.as_ref().map_err(|text| Error::invalid(text.clone()))?;
        let work = self.database.read().await?;
        let page = async {
            viewer.rights = work.rights().await?;
            screens::show(path, &work, viewer, fields, &self.samples).await
        }
        .await;
        work.end(page).await
    }

    /// Does what a form asks for, or asks back.
    pub(crate) async fn act(&self, person: &Person, action: &str, fields: &Fields) -> Answer {
        let mut viewer = self.viewer(person);
        let result = self.attempt(&mut viewer, action, fields).await;
        match result {
            Ok(Done::See { notice, to }) => {
                self.sessions.leave_notice(person, notice);
                Answer::See(to)
            }
            Ok(Done::Page(page)) => answer(&viewer, Ok(page), "/"),
            Err(error) => {
                let part = actions::find(action).map_or("/", |known| known.part);
                let (status, page) = page::failure(&error, part, false);
                Answer::Page(status, page::frame(&viewer, &page))
            }
        }
    }

    async fn attempt(&self, viewer: &mut Viewer, action: &str, fields: &Fields) -> Result<Done> {
        let fields = fields.as_ref().map_err(|text| Error::invalid(text.clone()))?;
        let action = actions::find(action).ok_or_else(|| Error::new("OB001", "there is no such action"))?;
        let work = self.database.read().await?;
        let rights = work.rights().await;
        viewer.rights = work.end(rights).await?;
        actions::run(&self.database, viewer, action, fields).await
    }
}

fn answer(viewer: &Viewer, result: Result<Page>, part: &'static str) -> Answer {
    let (status, page) = match result {
        Ok(page) => (200, page),
        Err(error) => page::failure(&error, part, true),
    };
    Answer::Page(status, page::frame(viewer, &page))
}
