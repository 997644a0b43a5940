//! [`Connection`]: any connection of any driver, as one type.

use futures_util::future::BoxFuture;

use crate::driver::{Executor, Statement, sealed::Sealed};
use crate::error::Result;
use crate::message::Param;

trait Erased: Send {
    fn run_boxed(&mut self, statement: Statement) -> BoxFuture<'_, Result<Vec<Option<String>>>>;
}

impl<E: Executor> Erased for E {
    fn run_boxed(&mut self, statement: Statement) -> BoxFuture<'_, Result<Vec<Option<String>>>> {
        Box::pin(self.run(statement))
    }
}

/// The caller's connection or transaction, whatever its driver. Inline projections and sagas get it.
pub struct Connection<'c>(&'c mut dyn Erased);

impl std::fmt::Debug for Connection<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl<'c> Connection<'c> {
    pub(super) fn new(executor: &'c mut impl Executor) -> Connection<'c> {
        Connection(executor)
    }

    /// Runs a statement and returns its first column, which must be text. The parameters are text too: write `$1::int8` for a
    /// number, and `r` as the name of the column, as in `select total::text as r from totals where id = $1::int8`. A statement
    /// without a result returns no rows.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn execute(&mut self, sql: &str, params: &[Option<&str>]) -> Result<Vec<Option<String>>> {
        let params = params.iter().map(|param| param.map(|text| Param::Text(text.to_owned())));
        self.run(Statement::new(sql, params)).await
    }
}

impl Sealed for Connection<'_> {}

impl Executor for Connection<'_> {
    async fn run(&mut self, statement: Statement) -> Result<Vec<Option<String>>> {
        self.0.run_boxed(statement).await
    }
}

impl Sealed for &mut Connection<'_> {}

impl Executor for &mut Connection<'_> {
    async fn run(&mut self, statement: Statement) -> Result<Vec<Option<String>>> {
        self.0.run_boxed(statement).await
    }
}
