//! The connections that take part in the caller's transaction: those of tokio-postgres and deadpool, and with the features
//! `sqlx` and `diesel-async` those of these crates.
//!
//! Every statement has parameters of type text or bytea and returns one column of text. Each driver can therefore send it
//! without looking up types, and no statement has a name, as poolers require.

#[cfg(feature = "diesel-async")]
mod diesel;
#[cfg(feature = "sqlx")]
mod sqlx;

use std::future::Future;

use deadpool_postgres::{ClientWrapper, Object, Pool};
use futures_util::future::BoxFuture;
use tokio_postgres::GenericClient;
use tokio_postgres::types::{ToSql, Type};

use crate::error::Result;
use crate::message::Param;
use crate::outbox::Outbox;

/// A statement that returns one column of text, named `r`.
#[derive(Debug)]
pub struct Statement {
    pub(crate) sql: String,
    pub(crate) params: Vec<Option<Param>>,
}

impl Statement {
    pub(crate) fn new(sql: impl Into<String>, params: impl IntoIterator<Item = Option<Param>>) -> Statement {
        Statement { sql: sql.into(), params: params.into_iter().collect() }
    }
}

/// A text parameter.
pub(crate) fn text(value: impl ToString) -> Option<Param> {
    Some(Param::Text(value.to_string()))
}

pub(crate) mod sealed {
    /// Keeps the traits of this module from being implemented elsewhere.
    pub trait Sealed {}
}

/// A connection or transaction that messages can be enqueued on: `&tokio_postgres::Transaction`, `&tokio_postgres::Client`,
/// the types of `deadpool_postgres` of these names, `&mut sqlx::PgConnection` and `&mut sqlx::PgTransaction` (feature
/// `sqlx`), `&mut diesel_async::AsyncPgConnection` (feature `diesel-async`).
///
/// A pool is not among them, because it would commit the message by itself.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a connection that messages can be enqueued on",
    note = "tokio-postgres and deadpool: `&tx`; sqlx (feature \"sqlx\"): `&mut *tx`; diesel-async (feature \"diesel-async\"): `conn`",
    note = "a pool is none, because it would commit by itself; for other drivers there is `NewMessage::sql()`"
)]
pub trait Executor: Send + sealed::Sealed {
    /// Runs a statement and returns its column. The connection can be used again.
    #[doc(hidden)]
    fn run(&mut self, statement: Statement) -> impl Future<Output = Result<Vec<Option<String>>>> + Send;

    /// Runs the only statement of a call and returns its column.
    #[doc(hidden)]
    fn column(mut self, statement: Statement) -> impl Future<Output = Result<Vec<Option<String>>>> + Send
    where
        Self: Sized,
    {
        async move { self.run(statement).await }
    }
}

async fn tokio_column(client: &(impl GenericClient + Sync), statement: Statement) -> Result<Vec<Option<String>>> {
    let typed: Vec<(&(dyn ToSql + Sync), Type)> = statement
        .params
        .iter()
        .map(|param| (param as _, if matches!(param, Some(Param::Bytes(_))) { Type::BYTEA } else { Type::TEXT }))
        .collect();
    let rows = client.query_typed(&statement.sql, &typed).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

macro_rules! tokio_executors {
    ($($kind:ty => $plain:ty;)*) => {$(
        impl sealed::Sealed for &$kind {}

        impl Executor for &$kind {
            async fn run(&mut self, statement: Statement) -> Result<Vec<Option<String>>> {
                let plain: &$plain = self;
                tokio_column(plain, statement).await
            }
        }

        impl sealed::Sealed for &mut $kind {}

        impl Executor for &mut $kind {
            async fn run(&mut self, statement: Statement) -> Result<Vec<Option<String>>> {
                (&**self).column(statement).await
            }
        }
    )*};
}

tokio_executors! {
    tokio_postgres::Client => tokio_postgres::Client;
    tokio_postgres::Transaction<'_> => tokio_postgres::Transaction<'_>;
    ClientWrapper => tokio_postgres::Client;
    Object => tokio_postgres::Client;
    deadpool_postgres::Transaction<'_> => tokio_postgres::Transaction<'_>;
}

/// A pool that begins transactions, for [`ReaderBuilder::apply`](crate::reader::ReaderBuilder::apply): an [`Outbox`],
/// a `deadpool_postgres::Pool`, a `sqlx::PgPool` (feature `sqlx`).
pub trait Transactions: Clone + Send + Sync + sealed::Sealed {
    /// A session of the pool.
    type Session: Send;

    /// A transaction. Dropping it rolls it back.
    type Transaction<'s>: Send;

    // The futures are boxed, so that a future that runs a projection can be proven to be `Send`
    // (https://github.com/rust-lang/rust/issues/100013).

    /// Returns a session.
    #[doc(hidden)]
    fn take_session(&self) -> BoxFuture<'static, Result<Self::Session>>;

    /// Begins a transaction.
    #[doc(hidden)]
    fn begin(session: &mut Self::Session) -> BoxFuture<'_, Result<Self::Transaction<'_>>>;

    /// Runs a statement in the transaction.
    #[doc(hidden)]
    fn column<'t>(
        tx: &'t mut Self::Transaction<'_>,
        statement: Statement,
    ) -> BoxFuture<'t, Result<Vec<Option<String>>>>;

    /// Commits the transaction.
    #[doc(hidden)]
    fn commit<'s>(tx: Self::Transaction<'s>) -> BoxFuture<'s, Result<()>>;
}

/// A transaction of a pool `P`, as an [`Executor`] in functions that are generic over the pool.
pub struct InTransaction<'t, 's, P: Transactions + 's>(pub &'t mut P::Transaction<'s>);

impl<P: Transactions> std::fmt::Debug for InTransaction<'_, '_, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InTransaction").finish_non_exhaustive()
    }
}

impl<P: Transactions> sealed::Sealed for InTransaction<'_, '_, P> {}

impl<P: Transactions> Executor for InTransaction<'_, '_, P> {
    async fn run(&mut self, statement: Statement) -> Result<Vec<Option<String>>> {
        P::column(self.0, statement).await
    }
}

macro_rules! deadpool_transactions {
    ($($kind:ty, $session:ident;)*) => {$(
        impl sealed::Sealed for $kind {}

        impl Transactions for $kind {
            type Session = Object;
            type Transaction<'s> = deadpool_postgres::Transaction<'s>;

            fn take_session(&self) -> BoxFuture<'static, Result<Object>> {
                let pool = self.clone();
                Box::pin(async move { pool.$session().await.map_err(Into::into) })
            }

            fn begin(session: &mut Object) -> BoxFuture<'_, Result<deadpool_postgres::Transaction<'_>>> {
                Box::pin(async { Ok(session.transaction().await?) })
            }

            fn column<'t>(
                tx: &'t mut Self::Transaction<'_>,
                statement: Statement,
            ) -> BoxFuture<'t, Result<Vec<Option<String>>>> {
                Box::pin(async move { (&*tx).column(statement).await })
            }

            fn commit<'s>(tx: Self::Transaction<'s>) -> BoxFuture<'s, Result<()>> {
                Box::pin(async { Ok(tx.commit().await?) })
            }
        }
    )*};
}

deadpool_transactions! {
    Outbox, session;
    Pool, get;
}
