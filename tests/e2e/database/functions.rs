//! PL/pgSQL binds names at the first call, so a misspelt column in a rare branch waits for a user. `plpgsql_check` looks at
//! every branch, where it is installed (Debian: postgresql-15-plpgsql-check; it is not in the PostgreSQL that scripts/setup
//! downloads). Without it, every function is at least compiled.

use outbox_tests::{bare_server, one, rows};

#[tokio::test]
async fn every_statement_of_every_function_can_be_analysed() {
    let server = bare_server().await;
    let db = server.database("functions").await.unwrap();
    let available = "select count(*) from pg_available_extensions where name = 'plpgsql_check'";
    if one::<i64>(&db, available).await == 0 {
        // The validator parses the body again: a misspelt variable is found, a misspelt column is not.
        let compile = "select count(*) from pg_proc p join pg_language l on l.oid = p.prolang,
                lateral plpgsql_validator(p.oid)
            where p.pronamespace in ('outbox'::regnamespace, 'outbox_internal'::regnamespace, 'outbox_private'::regnamespace) and l.lanname = 'plpgsql'";
        assert!(one::<i64>(&db, compile).await > 150);
        return;
    }
    db.batch_execute("create extension plpgsql_check").await.unwrap();
    let functions = "from pg_proc p join pg_language l on l.oid = p.prolang
        where p.pronamespace in ('outbox'::regnamespace, 'outbox_internal'::regnamespace, 'outbox_private'::regnamespace) and l.lanname = 'plpgsql'
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
