//! Public names: one word for one thing, in every function, view and table. docs/glossary.md defines the words.

use outbox_tests::{bare_server, rows};

/// Operators' commands: each is recorded in outbox.audit with its actor.
const COMMANDS: [&str; 11] = [
    "cancel",
    "delete_dead_letter",
    "erase",
    "ignore_dead_letter",
    "move_to_dead_letters",
    "requeue",
    "requeue_all",
    "reschedule",
    "resolve_dead_letter",
    "retry",
    "revoke_subject_keys",
];

async fn found(db: &tokio_postgres::Client, query: &str) -> Vec<String> {
    rows(db, query).await.iter().map(|row| row["name"].clone().unwrap_or_default()).collect()
}

#[tokio::test]
async fn a_thing_has_one_public_name() {
    let db = bare_server().await.database("names").await.unwrap();
    let none: Vec<String> = Vec::new();
    // The archive keeps the column names of the system that it comes from.
    let bare_ids = "select c.relname || '.' || a.attname as name from pg_class c
        join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
        where c.relnamespace = 'outbox'::regnamespace and c.relkind in ('v', 'c') and c.relname !~ '^_'
            and a.attname = 'id' and c.relname <> 'archive_entry'";
    assert_eq!(found(&db, bare_ids).await, none, "an id says of what it is the id");
    let old_words = "select p.proname || '(' || n || ')' as name from pg_proc p, unnest(p.proargnames) n
        where p.pronamespace = 'outbox'::regnamespace and p.proname !~ '^_'
            and n in ('id', 'by', 'max', 'age', 'limit', 'before_position', 'max_cursors', 'why')";
    assert_eq!(found(&db, old_words).await, none, "actor, max_messages, max_rows, older_than, before");
    let commands = "select p.proname as name from pg_proc p
        where p.pronamespace = 'outbox'::regnamespace and p.proname !~ '^_'
            and pg_get_function_arguments(p.oid) ~ 'actor text DEFAULT (SESSION_USER|session_user)' order by 1";
    assert_eq!(found(&db, commands).await, COMMANDS);
    let twins = "select c.relname as name from pg_class c join pg_class o on o.relname = c.relname || 's'
        where c.relnamespace = 'outbox'::regnamespace and o.relnamespace = c.relnamespace and c.relname !~ '^_'
            and o.relkind in ('r', 'p', 'v') and c.relkind in ('r', 'p', 'v')";
    assert_eq!(found(&db, twins).await, none, "relations that differ by one letter");
}
