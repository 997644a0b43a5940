//! PL/pgSQL binds names at the first call, so a misspelt column in a rare branch waits for a user. `plpgsql_check` looks at
//! every branch. Debian has it for PostgreSQL 15, and `.ci/run` installs it there.

use outbox_tests::{bare_server, one, rows};

#[tokio::test]
async fn every_statement_of_every_function_can_be_analysed() {
    let server = bare_server().await;
    let db = server.database("functions").await.unwrap();
    let available = "select count(*) from pg_available_extensions where name = 'plpgsql_check'";
    if one::<i64>(&db, available).await == 0 {
        let needed = std::env::var_os("CI").is_some() && server.install.major == 15;
        assert!(!needed, "apt-get install postgresql-15-plpgsql-check");
        return;
    }
    db.batch_execute("create extension plpgsql_check").await.unwrap();
    let functions = "from pg_proc p join pg_language l on l.oid = p.prolang
        where p.pronamespace in ('outbox'::regnamespace, 'outbox_private'::regnamespace) and l.lanname = 'plpgsql'
            and p.prorettype <> 'trigger'::regtype";
    assert!(one::<i64>(&db, &format!("select count(*) {functions}")).await > 150);
    let found = rows(
        &db,
        &format!(
            "select p.name, c.lineno, c.message, c.query
            from (select p.oid, p.oid::regprocedure as name {functions}) p
            cross join lateral plpgsql_check_function_tb(p.oid, fatal_errors => false) c
            where c.level = 'error' order by 1, 2"
        ),
    )
    .await;
    assert!(found.is_empty(), "{found:#?}");
}
