//! The parts of pages: the frame, tables, times, buttons, and texts from outside.
//!
//! Every text of the database is foreign. [`text`] isolates its direction, shows characters that would hide or turn
//! others, and cuts what is too long. maud escapes the rest.

use maud::{DOCTYPE, Markup, html};
use serde_json::Value;

use pg_outbox::error::{Error, Kind};

use crate::database::Rights;
use crate::session::is_format;

/// The pages of the navigation.
const PAGES: &[(&str, &str)] = &[
    ("/", "Overview"),
    ("/subscriptions", "Subscriptions"),
    ("/endpoints", "Endpoints"),
    ("/dead-letters", "Dead letters"),
    ("/messages", "Messages"),
    ("/tail", "Live"),
    ("/workers", "Workers"),
    ("/sagas", "Sagas"),
    ("/streams", "Streams"),
    ("/storage", "Storage"),
];

/// The characters of a text that a table shows.
const SHORT: usize = 300;

/// A page without its frame.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) title: String,
    /// The entry of the navigation that the page belongs to.
    pub(crate) part: &'static str,
    /// Whether the page shows the present, and is renewed while somebody looks at it.
    pub(crate) live: Live,
    pub(crate) body: Markup,
}

/// How a page is renewed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Live {
    No,
    /// Every five seconds.
    Yes,
    /// Every second, until nobody has moved or typed for five minutes.
    Fast,
}

impl Live {
    fn word(self) -> Option<&'static str> {
        match self {
            Live::No => None,
            Live::Yes => Some("yes"),
            Live::Fast => Some("fast"),
        }
    }
}

/// The person who looks at a page, and what the role may do.
#[derive(Debug, Default)]
pub(crate) struct Viewer {
    pub(crate) actor: String,
    pub(crate) form_token: String,
    pub(crate) has_session: bool,
    pub(crate) notice: Option<String>,
    pub(crate) rights: Rights,
    /// The name of the database, if there are several.
    pub(crate) place: Option<String>,
    /// Whether the navigation is shown: the page is one of a database.
    pub(crate) has_pages: bool,
}

/// Returns the whole page.
pub(crate) fn frame(viewer: &Viewer, page: &Page) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            (head(&page.title))
            body {
                a class="skip" href="#content" { "Skip to the content" }
                header {
                    p class="brand" { "outbox"
                        @if let Some(place) = &viewer.place { " · " (place) }
                        @else if !viewer.rights.database.is_empty() { " · " (foreign(&viewer.rights.database)) } }
                    @if viewer.has_pages {
                        nav aria-label="Pages" {
                            ul {
                                @if viewer.place.is_some() { li { a href="/databases" { "All databases" } } }
                                @for (path, name) in PAGES {
                                    li { a href=(path) aria-current=[(*path == page.part).then_some("page")] { (name) } }
                                }
                            }
                        }
                    }
                    div class="person" {
                        span { (foreign(&viewer.actor))
                            @if !viewer.rights.role.is_empty() { " as " (foreign(&viewer.rights.role)) } }
                        @if viewer.has_session {
                            form method="post" action="/logout" {
                                input type="hidden" name="form_token" value=(viewer.form_token);
                                button { "Log out" }
                            }
                        }
                    }
                }
                main id="content" tabindex="-1" data-live=[page.live.word()] {
                    h1 { (clean(&page.title, 120)) }
                    @if let Some(notice) = &viewer.notice { p class="notice" role="status" { (foreign(notice)) } }
                    (page.body)
                }
            }
        }
    }
}

/// The paths that all databases share.
const SHARED: [&str; 3] = ["/databases\"", "/logout\"", "/style.css\""];

/// Puts a path before the links and forms of a page, which are those of one database among several. A quotation mark that is
/// not escaped stands at the beginning of an attribute or at its end, and never in a text.
pub(crate) fn below(prefix: &str, page: Markup) -> Markup {
    if prefix.is_empty() {
        return page;
    }
    let mut out = String::with_capacity(page.0.len() + 4096);
    let mut rest = page.0.as_str();
    while let Some(at) = rest.find("=\"/") {
        let (before, path) = rest.split_at(at + 2);
        out.push_str(before);
        let moves = before.ends_with(" href=\"") || before.ends_with(" action=\"");
        if moves && !SHARED.iter().any(|shared| path.starts_with(shared)) {
            out.push_str(prefix);
        }
        rest = path;
    }
    out.push_str(rest);
    maud::PreEscaped(out)
}

fn head(title: &str) -> Markup {
    html! {
        head {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width, initial-scale=1";
            title { (clean(title, 120)) " · outbox" }
            link rel="stylesheet" href="/style.css";
            link rel="icon" href="data:,";
            script src="/script.js" defer {}
        }
    }
}

/// Returns the page on which people log in.
pub(crate) fn login(form_token: &str, wrong: Option<&str>) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            (head("Log in"))
            body {
                main id="content" class="login" {
                    h1 { "Log in to outbox" }
                    @if let Some(wrong) = wrong { p class="failure" role="alert" { (wrong) } }
                    form method="post" action="/login" {
                        input type="hidden" name="form_token" value=(form_token);
                        label for="name" { "Your name, for the record" }
                        input id="name" name="name" maxlength="100" autocomplete="username";
                        label for="token" { "Token" }
                        input id="token" name="token" type="password" required autocomplete="current-password";
                        button class="primary" { "Log in" }
                    }
                    p class="hint" {
                        "The token is in a file or variable of the server, or in its first lines of output." }
                }
            }
        }
    }
}

/// Returns the status and the page of an error. `renews`: the page can be loaded again, so it comes back with the database.
pub(crate) fn failure(error: &Error, part: &'static str, renews: bool) -> (u16, Page) {
    let details = error.details();
    let (status, title, lost) = match error.kind() {
        Kind::NotFound => (404, "Not found", false),
        Kind::Conflict | Kind::LeaseLost | Kind::Inactive => (409, "This cannot be done now", false),
        Kind::Invalid => (400, "Wrong input", false),
        Kind::Retry => (503, "The database cannot be reached", true),
        Kind::Fatal if details.code == "42501" => (403, "The role may not do this", false),
        Kind::Fatal => (503, "The database has no usable outbox", true),
    };
    let title = if details.code == "57014" { "The database was too slow" } else { title };
    let body = html! {
        div class="failure" role="alert" {
            p { (foreign(&details.message)) " (" (details.code) ")" }
            // The detail of a failed connection names the server and the places of its settings.
            @if let (false, Some(detail)) = (lost, &details.detail) { p { (foreign(detail)) } }
            @if let Some(hint) = &details.hint { p { (foreign(hint)) } }
        }
        @if lost && renews { p { "This page comes back by itself." } }
        @if details.code == "42501" {
            p { "An administrator grants capabilities: " code { "select outbox.grant_to('role', 'monitor')" } " to see, "
                code { "'admin'" } " to act." }
        }
    };
    (status, Page { title: title.to_owned(), part, live: if lost && renews { Live::Yes } else { Live::No }, body })
}

/// Returns a text without characters that hide or turn others, cut after `most` characters.
pub(crate) fn clean(text: &str, most: usize) -> String {
    let mut out = String::new();
    for (n, c) in text.chars().enumerate() {
        if n == most {
            out.push('…');
            break;
        }
        match c {
            '\n' | '\t' => out.push(c),
            c if c.is_control() || is_format(c) => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

/// Returns a text from outside for a line or a cell.
pub(crate) fn foreign(text: &str) -> Markup {
    html! { bdi { (clean(text, SHORT)) } }
}

/// Returns a text from outside in full, in lines as they are.
pub(crate) fn block(text: &str, label: &str) -> Markup {
    html! { pre tabindex="0" role="region" aria-label=(label) { bdi { (clean(text, 100_000)) } } }
}

/// Returns a value as people read it. Null is a dash.
pub(crate) fn value(value: &Value) -> Markup {
    match value {
        Value::Null => html! { span class="none" { "–" } },
        Value::String(text) if text.is_empty() => html! { span class="none" { "–" } },
        Value::String(text) => foreign(text),
        Value::Bool(yes) => html! { (if *yes { "yes" } else { "no" }) },
        Value::Number(number) => html! { (number) },
        Value::Array(items) => foreign(&items.iter().map(plain).collect::<Vec<_>>().join(", ")),
        Value::Object(_) => foreign(&value.to_string()),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}

/// Returns the text of a column; empty for null.
pub(crate) fn column<'a>(row: &'a Value, name: &str) -> &'a str {
    row[name].as_str().unwrap_or_default()
}

/// Returns a time of the database to the second, in UTC.
pub(crate) fn time(value: &Value) -> Markup {
    let Some(text) = value.as_str() else { return self::value(value) };
    let shown: String = text.replacen('T', " ", 1).chars().take(19).collect();
    html! { time datetime=(clean(text, 40)) { (clean(&shown, 19)) } }
}

/// Returns a number of seconds as an age.
pub(crate) fn age(value: &Value) -> Markup {
    match value.as_f64() {
        Some(seconds) => html! { (short_age(seconds)) },
        None => self::value(&Value::Null),
    }
}

/// Formats a duration in its largest unit of which there are at least two.
pub fn short_age(seconds: f64) -> String {
    match seconds.max(0.0) {
        short if short < 120.0 => format!("{short:.0} s"),
        some if some < 7_200.0 => format!("{:.0} min", some / 60.0),
        hours if hours < 172_800.0 => format!("{:.0} h", hours / 3600.0),
        days => format!("{:.0} d", days / 86_400.0),
    }
}

/// Returns a word that tells a state, with a class for its colour. The word itself says it too.
pub(crate) fn state(word: &str) -> Markup {
    let class = match word {
        "ok" | "active" | "running" | "working" | "at rest" | "completed" | "enqueued" | "numbered" | "routed"
        | "compensated" => "good",
        "critical"
        | "disabled"
        | "breaker open"
        | "dead"
        | "dead letter"
        | "faulted"
        | "no worker"
        | "stopped"
        | "none"
        | "compensation_failed"
        | "not reachable" => "bad",
        _ => "fair",
    };
    html! { span class={ "state " (class) } { (clean(word, 40)) } }
}

/// Returns a table that scrolls by itself on a narrow screen.
pub(crate) fn table(label: &str, heads: &[&str], rows: &[Vec<Markup>], empty: &str) -> Markup {
    if rows.is_empty() {
        return html! { p class="none" { (empty) } };
    }
    html! {
        div class="scroll" role="region" tabindex="0" aria-label=(label) {
            table {
                thead { tr { @for head in heads { th scope="col" { (head) } } } }
                tbody { @for row in rows { tr { @for cell in row { td { (cell) } } } } }
            }
        }
    }
}

/// Returns names and values of one object.
pub(crate) fn facts(rows: &[(&str, Markup)]) -> Markup {
    html! { dl { @for (name, value) in rows { div { dt { (name) } dd { (value) } } } } }
}

/// Returns a button that begins an action, if the role may call the action's function.
pub(crate) fn button(viewer: &Viewer, action: &str, fields: &[(&str, &str)], of: &str) -> Markup {
    let Some(known) = crate::actions::find(action) else { return html! {} };
    if !viewer.rights.may_call(known.function) {
        return html! {};
    }
    html! {
        form method="post" action={ "/do/" (action) } class="inline" {
            input type="hidden" name="form_token" value=(viewer.form_token);
            @for (name, value) in fields { input type="hidden" name=(name) value=(value); }
            button aria-label={ (known.label) " " (clean(of, 100)) } { (known.label) }
        }
    }
}

/// Returns the address of a page with fields, encoded.
pub(crate) fn link(path: &str, fields: &[(&str, &str)]) -> String {
    let mut out = path.to_owned();
    for (n, (name, value)) in fields.iter().filter(|(_, value)| !value.is_empty()).enumerate() {
        out.push(if n == 0 { '?' } else { '&' });
        out.push_str(name);
        out.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte.into()),
                _ => out.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    out
}

/// Returns a link to the page of an object by its name.
pub(crate) fn named(path: &str, name: &str) -> Markup {
    if name.is_empty() {
        self::value(&Value::Null)
    } else {
        html! { a href=(link(path, &[("name", name)])) { (foreign(name)) } }
    }
}

/// Returns a link to a message.
pub(crate) fn message(id: &Value) -> Markup {
    match id.as_i64() {
        Some(id) => html! { a href={ "/message?id=" (id) } { (id) } },
        None => self::value(&Value::Null),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_texts_are_harmless() {
        let shown = foreign("<script>alert(1)</script>\u{202e}gpj.exe\u{0}").into_string();
        assert_eq!(shown, "<bdi>&lt;script&gt;alert(1)&lt;/script&gt;\\u{202e}gpj.exe\\u{0}</bdi>");
        assert!(foreign(&"x".repeat(100_000)).into_string().len() < 400);
        assert_eq!(link("/e", &[("name", "a&b=\"<é"), ("none", "")]), "/e?name=a%26b%3D%22%3C%C3%A9");
    }

    #[test]
    fn links_and_forms_lead_to_the_database_and_texts_stay() {
        let page = html! {
            link href="/style.css"; script src="/script.js" {}
            a href="/" { " href=\"/a" } a href="/databases" {} form action="/logout" {} form action="/do/pause" { input value="/x"; }
            a href=(link("/e", &[("name", "=\"/")])) {}
        };
        assert_eq!(
            below("/db/shop", page).into_string(),
            "<link href=\"/style.css\"><script src=\"/script.js\"></script><a href=\"/db/shop/\"> href=&quot;/a</a>\
            <a href=\"/databases\"></a><form action=\"/logout\"></form><form action=\"/db/shop/do/pause\"><input value=\"/x\">\
            </form><a href=\"/db/shop/e?name=%3D%22%2F\"></a>"
        );
    }

    #[test]
    fn ages_have_one_unit() {
        let shown = |seconds: f64| short_age(seconds);
        assert_eq!((shown(-1.0), shown(119.4), shown(120.0)), ("0 s".into(), "119 s".into(), "2 min".into()));
        assert_eq!((shown(7200.0), shown(1e6)), ("2 h".into(), "12 d".into()));
    }
}
