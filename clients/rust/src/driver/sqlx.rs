//! Connections, transactions and pools of sqlx.

use futures_util::future::BoxFuture;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgDatabaseError;
use sqlx::{Acquire as _, PgConnection, PgPool, Postgres, Row as _, Transaction};

use super::{Executor, Statement, Transactions, sealed::Sealed};
use crate::error::{Details, Error, Result, classify, hint};
use crate::message::Param;

impl Sealed for &mut PgConnection {}

impl Executor for &mut PgConnection {
    async fn run(&mut self, statement: Statement) -> Result<Vec<Option<String>>> {
        // Without a name, so that the statement works behind a pooler.
        let mut query = sqlx::query(&statement.sql).persistent(false);
        for param in statement.params {
            query = match param {
                Some(Param::Bytes(bytes)) => query.bind(bytes),
                Some(Param::Text(text)) => query.bind(text),
                None => query.bind(None::<String>),
            };
        }
        let rows = query.fetch_all(&mut **self).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }
}

impl Sealed for &mut Transaction<'_, Postgres> {}

impl Executor for &mut Transaction<'_, Postgres> {
    async fn run(&mut self, statement: Statement) -> Result<Vec<Option<String>>> {
        (&mut ***self).run(statement).await
    }
}

impl Sealed for &mut PoolConnection<Postgres> {}

impl Executor for &mut PoolConnection<Postgres> {
    async fn run(&mut self, statement: Statement) -> Result<Vec<Option<String>>> {
        (&mut ***self).run(statement).await
    }
}

impl Sealed for PgPool {}

impl Transactions for PgPool {
    type Session = PoolConnection<Postgres>;
    type Transaction<'s> = Transaction<'s, Postgres>;

    fn take_session(&self) -> BoxFuture<'static, Result<PoolConnection<Postgres>>> {
        let session = self.acquire();
        Box::pin(async { Ok(session.await?) })
    }

    fn begin(session: &mut PoolConnection<Postgres>) -> BoxFuture<'_, Result<Transaction<'_, Postgres>>> {
        Box::pin(async { Ok(session.begin().await?) })
    }

    fn column<'t>(
        tx: &'t mut Self::Transaction<'_>,
        statement: Statement,
    ) -> BoxFuture<'t, Result<Vec<Option<String>>>> {
        Box::pin(tx.column(statement))
    }

    fn commit<'s>(tx: Self::Transaction<'s>) -> BoxFuture<'s, Result<()>> {
        Box::pin(async { Ok(tx.commit().await?) })
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Error {
        let mut details = match &error {
            sqlx::Error::Database(db) => match db.try_downcast_ref::<PgDatabaseError>() {
                Some(db) => {
                    let (name, _) = classify(db.code());
                    Details {
                        code: db.code().to_owned(),
                        name,
                        message: db.message().to_owned(),
                        detail: db.detail().map(str::to_owned),
                        hint: db.hint().or_else(|| hint(name)).map(str::to_owned),
                        source: None,
                    }
                }
                None => Details::new("XX000", db.message()),
            },
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
                Details::new("08006", error.to_string())
            }
            sqlx::Error::Tls(_) => Details { name: "tls_refused", ..Details::new("28000", error.to_string()) },
            sqlx::Error::Configuration(_) | sqlx::Error::Encode(_) | sqlx::Error::Decode(_) => {
                Details::new("22023", error.to_string())
            }
            other => Details::new("XX000", other.to_string()),
        };
        let (_, kind) = classify(&details.code);
        details.source = Some(Box::new(error));
        Error::from_details(kind, details)
    }
}
