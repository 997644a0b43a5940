//! Connections of diesel-async.

use diesel::pg::Pg;
use diesel::result::DatabaseErrorKind;
use diesel::sql_types::{Binary, Nullable, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};

use super::{Executor, Statement, sealed::Sealed};
use crate::error::{Details, Error, Result, classify};
use crate::message::Param;

#[derive(diesel::QueryableByName)]
struct Row {
    #[diesel(sql_type = Nullable<Text>)]
    r: Option<String>,
}

impl Sealed for &mut AsyncPgConnection {}

impl Executor for &mut AsyncPgConnection {
    async fn run(&mut self, statement: Statement) -> Result<Vec<Option<String>>> {
        let mut query = diesel::sql_query(statement.sql).into_boxed::<Pg>();
        for param in statement.params {
            query = match param {
                Some(Param::Bytes(bytes)) => query.bind::<Nullable<Binary>, _>(Some(bytes)),
                Some(Param::Text(text)) => query.bind::<Nullable<Text>, _>(Some(text)),
                None => query.bind::<Nullable<Text>, _>(None::<String>),
            };
        }
        let rows: Vec<Row> = query.load(*self).await?;
        Ok(rows.into_iter().map(|row| row.r).collect())
    }
}

/// Diesel does not show the SQLSTATE. Where its kind of error stands for one, the error has it. An error of another kind is
/// XX000 (kind fatal), with the server's message, detail and hint.
impl From<diesel::result::Error> for Error {
    fn from(error: diesel::result::Error) -> Error {
        let mut details = match &error {
            diesel::result::Error::DatabaseError(kind, about) => {
                let code = match kind {
                    DatabaseErrorKind::UniqueViolation => "23505",
                    DatabaseErrorKind::ForeignKeyViolation => "23503",
                    DatabaseErrorKind::RestrictViolation => "23001",
                    DatabaseErrorKind::ExclusionViolation => "23P01",
                    DatabaseErrorKind::NotNullViolation => "23502",
                    DatabaseErrorKind::CheckViolation => "23514",
                    DatabaseErrorKind::SerializationFailure => "40001",
                    DatabaseErrorKind::ReadOnlyTransaction => "25006",
                    DatabaseErrorKind::UnableToSendCommand | DatabaseErrorKind::ClosedConnection => "08006",
                    _ => "XX000",
                };
                let mut details = Details::new(code, about.message());
                details.detail = about.details().map(str::to_owned);
                details.hint = about.hint().map(str::to_owned);
                details
            }
            other => Details::new("XX000", other.to_string()),
        };
        let (_, kind) = classify(&details.code);
        details.source = Some(Box::new(error));
        Error::from_details(kind, details)
    }
}
