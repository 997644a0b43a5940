//! The errors of this crate. The variants of [`Error`] say what a caller can do.
//!
//! The SQLSTATE of the server decides on the variant. Errors without a SQLSTATE (of the connection, TLS or the arguments)
//! are classified by the text of `tokio_postgres`, which keeps the kind of its errors private.

use std::fmt;

pub use outbox_core::Kind;
pub use outbox_core::error::{classify, hint};
use outbox_core::{Code, Error as CoreError};
use tokio_postgres::error::SqlState;

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// An error, by what a caller can do about it.
#[derive(Debug)]
pub enum Error {
    /// The named object does not exist.
    NotFound(Box<Details>),
    /// The object exists, but its state does not allow this call.
    Conflict(Box<Details>),
    /// The arguments are wrong. The same call will never succeed.
    Invalid(Box<Details>),
    /// The caller does not hold the lease, or holds it no longer.
    LeaseLost(Box<Details>),
    /// The topic, publisher, endpoint or subscription is switched off.
    Inactive(Box<Details>),
    /// The same call may succeed later: the connection was lost, the server restarts, or a lock was busy.
    Retry(Box<Details>),
    /// The caller can do nothing at run time: the extension or a privilege is missing, or the versions do not match.
    Fatal(Box<Details>),
}

/// The properties of an error.
#[derive(Debug)]
pub struct Details {
    /// The SQLSTATE. An error outside of the server has the SQLSTATE with the same meaning.
    pub code: String,
    /// The symbolic name of the code, which is the same in every client.
    pub name: &'static str,
    /// One line that says what is wrong.
    pub message: String,
    /// Facts that help to find the cause.
    pub detail: Option<String>,
    /// Advice on what to do.
    pub hint: Option<String>,
    /// The underlying error.
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Details {
    pub(crate) fn new(code: &str, message: impl Into<String>) -> Details {
        let (name, _) = classify(code);
        Details { code: code.to_owned(), name, message: message.into(), detail: None, hint: None, source: None }
    }
}

impl Error {
    /// Creates an error with a SQLSTATE.
    pub fn new(code: &str, message: impl Into<String>) -> Error {
        Error::from_details(classify(code).1, Details::new(code, message))
    }

    /// Creates an error for a malformed value (22023).
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::new(Code::InvalidParameter.sqlstate(), message)
    }

    /// Creates an error for a connection that was lost or could not be opened (08006).
    pub fn connection(message: impl Into<String>) -> Error {
        Error::new(SqlState::CONNECTION_FAILURE.code(), message)
    }

    pub(crate) fn from_details(kind: Kind, details: Details) -> Error {
        let details = Box::new(details);
        match kind {
            Kind::NotFound => Error::NotFound(details),
            Kind::Conflict => Error::Conflict(details),
            Kind::Invalid => Error::Invalid(details),
            Kind::LeaseLost => Error::LeaseLost(details),
            Kind::Inactive => Error::Inactive(details),
            Kind::Retry => Error::Retry(details),
            Kind::Fatal => Error::Fatal(details),
        }
    }

    /// Returns the properties of the error.
    pub fn details(&self) -> &Details {
        match self {
            Error::NotFound(d)
            | Error::Conflict(d)
            | Error::Invalid(d)
            | Error::LeaseLost(d)
            | Error::Inactive(d)
            | Error::Retry(d)
            | Error::Fatal(d) => d,
        }
    }

    fn details_mut(&mut self) -> &mut Details {
        match self {
            Error::NotFound(d)
            | Error::Conflict(d)
            | Error::Invalid(d)
            | Error::LeaseLost(d)
            | Error::Inactive(d)
            | Error::Retry(d)
            | Error::Fatal(d) => d,
        }
    }

    /// Returns the kind, which says what a caller can do.
    pub fn kind(&self) -> Kind {
        match self {
            Error::NotFound(_) => Kind::NotFound,
            Error::Conflict(_) => Kind::Conflict,
            Error::Invalid(_) => Kind::Invalid,
            Error::LeaseLost(_) => Kind::LeaseLost,
            Error::Inactive(_) => Kind::Inactive,
            Error::Retry(_) => Kind::Retry,
            Error::Fatal(_) => Kind::Fatal,
        }
    }

    /// Returns the SQLSTATE.
    pub fn code(&self) -> &str {
        &self.details().code
    }

    /// Returns the symbolic name of the code.
    pub fn name(&self) -> &'static str {
        self.details().name
    }

    /// Adds the detail.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Error {
        self.details_mut().detail = Some(detail.into());
        self
    }

    /// Adds the hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.details_mut().hint = Some(hint.into());
        self
    }

    pub(crate) fn named(mut self, name: &'static str) -> Error {
        self.details_mut().name = name;
        self
    }

    /// Adds which server was meant and where the settings came from. The server's own message is kept.
    pub(crate) fn connecting_to(mut self, server: &str, sources: &str) -> Error {
        let is_connection = self.name() == "connection_lost";
        let details = self.details_mut();
        let mut facts = Vec::new();
        if is_connection {
            let cause = details.message.strip_prefix("error connecting to server: ").unwrap_or(&details.message);
            details.message = format!("cannot connect to {server}: {cause}");
        } else {
            facts.push(format!("The server is {server}."));
        }
        facts.extend(details.detail.take());
        facts.push(sources.to_owned());
        details.detail = Some(facts.join(" "));
        self
    }

    /// Returns message, detail and hint, each on a line of its own.
    pub fn report(&self) -> String {
        let details = self.details();
        let mut text = format!("{} ({} {})", details.message, details.code, details.name);
        for (label, part) in [("detail", &details.detail), ("hint", &details.hint)] {
            if let Some(part) = part {
                text.push_str(&format!("\n{label}: {part}"));
            }
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.details().message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.details().source.as_deref().map(|e| e as _)
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Error {
        use std::error::Error as _;
        if let Some(db) = error.as_db_error() {
            let state = db.code().code();
            let (name, kind) = classify(state);
            let hint = db.hint().or_else(|| hint(name)).map(str::to_owned);
            let details = Details {
                code: state.to_owned(),
                name,
                message: db.message().to_owned(),
                detail: db.detail().map(str::to_owned),
                hint,
                source: None,
            };
            return Error::from_details(kind, Details { source: Some(Box::new(error)), ..details });
        }
        let message = match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        let mut mapped = without_sqlstate(message);
        mapped.details_mut().source = Some(Box::new(error));
        mapped
    }
}

/// Classifies an error of `tokio_postgres` that has no SQLSTATE, by its text.
fn without_sqlstate(message: String) -> Error {
    let starts = |starts: &[&str]| starts.iter().any(|start| message.starts_with(start));
    let contains = |parts: &[&str]| parts.iter().any(|part| message.contains(part));
    // Retrying does not help against an invalid certificate.
    if starts(&["error performing TLS handshake: "])
        && contains(&[
            "invalid peer certificate",
            "server does not support TLS",
            "no hostname provided",
            "weak sslmode",
        ])
    {
        return Error::new("28000", message).named("tls_refused").hint(
            "sslrootcert names the authority that the server's certificate is of; verify-full wants the host's name in it.",
        );
    }
    // Nor does it help against settings that are wrong or missing.
    if starts(&["invalid configuration: password missing"]) {
        return Error::new("28P01", "the server asks for a password, and there is none").hint(
            "The password is in the connection string, PGPASSWORD, or a line of ~/.pgpass (PGPASSFILE) for this host, port, \
             database and user.",
        );
    }
    if starts(&["authentication error: "]) {
        let error = Error::new("28000", message.replacen("authentication error: ", "authentication failed: ", 1));
        return match message.contains("channel binding") {
            true => error
                .hint("channel_binding=require works with TLS and a password of SCRAM only; prefer is the default."),
            false => error,
        };
    }
    let arguments = [
        "error serializing",
        "error deserializing",
        "invalid column",
        "query returned",
        "invalid configuration",
        "invalid connection string",
    ];
    // An error that comes neither from the server nor from the arguments comes from the connection.
    if starts(&arguments) { Error::invalid(message) } else { Error::connection(message) }
}

impl From<CoreError> for Error {
    fn from(error: CoreError) -> Error {
        let mut mapped = Error::new(error.code.sqlstate(), error.message);
        mapped.details_mut().detail = error.detail;
        mapped.details_mut().hint = error.hint.map(Into::into);
        mapped
    }
}

/// Says what is wrong and where, without the value, which the text of serde_json quotes.
pub(crate) fn place_in_json(error: &serde_json::Error) -> String {
    use serde_json::error::Category;
    let category = match error.classify() {
        Category::Io => "input or output failed",
        Category::Syntax => "a syntax error",
        Category::Data => "another form than expected",
        Category::Eof => "an early end",
    };
    match error.line() {
        0 => format!("It has {category}."),
        line => format!("It has {category} at line {line} column {}.", error.column()),
    }
}

/// Returns the text of an error for cursors and logs: the texts of the application and of this crate, and of errors that may quote
/// values only their category and place.
pub(crate) fn described(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next
        && text.len() < 2000
    {
        let (part, is_end) = part_of(error);
        if !text.contains(&part) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&part);
        }
        next = if is_end { None } else { error.source() };
    }
    text
}

/// Returns the text of one error of a chain, and whether it says what its sources say.
fn part_of(error: &(dyn std::error::Error + 'static)) -> (String, bool) {
    if let Some(ours) = error.downcast_ref::<Error>() {
        return match quotes_values(ours.code()) {
            true => (without_values(ours.code(), ours.details().source.as_deref().map(|source| source as _)), true),
            // The detail of a violated constraint quotes the row.
            false if ours.code().starts_with("23") => (format!("{} ({})", ours.details().message, ours.code()), true),
            false => (ours.report().replace('\n', "; "), true),
        };
    }
    if let Some(json) = error.downcast_ref::<serde_json::Error>() {
        return (format!("malformed JSON: {}", place_in_json(json)), true);
    }
    if let Some(db) = error.downcast_ref::<tokio_postgres::Error>().and_then(tokio_postgres::Error::as_db_error) {
        return match quotes_values(db.code().code()) {
            true => (without_values(db.code().code(), Some(error)), true),
            false => (format!("{} ({})", db.message(), db.code().code()), true),
        };
    }
    #[cfg(feature = "sqlx")]
    if let Some(sqlx::Error::Database(db)) = error.downcast_ref::<sqlx::Error>() {
        let code = db.code().unwrap_or_default();
        return match quotes_values(&code) {
            true => {
                (format!("{} ({code} {})", db.constraint().unwrap_or("a value is refused"), classify(&code).0), true)
            }
            false => (format!("{} ({code})", db.message()), true),
        };
    }
    (error.to_string(), false)
}

/// Errors of the server whose messages quote values: data exceptions. Of a violated constraint only the detail does. 22023 has
/// texts of this crate too.
fn quotes_values(code: &str) -> bool {
    code.starts_with("22") && code != "22023" && code != "22004"
}

fn without_values(code: &str, source: Option<&(dyn std::error::Error + 'static)>) -> String {
    let db = source
        .and_then(|source| source.downcast_ref::<tokio_postgres::Error>())
        .and_then(tokio_postgres::Error::as_db_error);
    let place = |kind: &str, name: Option<&str>| name.map(|name| format!(", {kind} \"{name}\""));
    let places = db.map(|db| {
        let constraint = place("constraint", db.constraint());
        [place("table", db.table()), place("column", db.column()), constraint].into_iter().flatten().collect::<String>()
    });
    format!("a value is malformed ({code}{})", places.unwrap_or_default())
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Error {
        Error::invalid("malformed JSON").detail(place_in_json(&error))
    }
}

impl From<deadpool_postgres::PoolError> for Error {
    fn from(error: deadpool_postgres::PoolError) -> Error {
        match error {
            deadpool_postgres::PoolError::Backend(error) => error.into(),
            other => Error::connection(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_the_extension_has_its_kind() {
        for code in Code::ALL {
            let error = Error::new(code.sqlstate(), "x");
            assert_eq!((error.kind(), error.name(), error.code()), (code.kind(), code.name(), code.sqlstate()));
        }
    }
}
