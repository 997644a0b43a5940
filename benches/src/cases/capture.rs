//! Change capture compared with hand-written triggers.

use anyhow::Result;

use crate::measure::{median, pgbench, plain_server};
use crate::report::Report;

/// The same table three times: captured, with a trigger that fills a plain table, and with a trigger that calls enqueue.
const TABLES: &str = "
    create table captured (id bigserial primary key, customer text, total numeric, status text, note text);
    create table plain (like captured including all);
    create table calling (like captured including all);
    create sequence plain_change_id cache 1;
    create table plain_change (
        id bigint not null default nextval('plain_change_id'), xid xid8 not null default pg_current_xact_id(),
        at timestamptz not null default clock_timestamp(), topic text not null, key text, payload jsonb);
    create unique index on plain_change (id);
    create index on plain_change (xid, id);

    create function image(op text, name text, key text, new jsonb, old jsonb) returns jsonb immutable
    return jsonb_build_object('op', op, 'schema', 'public', 'table', name, 'key', key, 'new', new, 'old', old);

    create function plain_insert() returns trigger language plpgsql as $$
    begin
        insert into plain_change (topic, key, payload)
        select 'plain.insert', n.id::text, image('insert', 'plain', n.id::text, to_jsonb(n), null) from added n;
        return null;
    end $$;
    create trigger t after insert on plain referencing new table as added for each statement
        execute function plain_insert();
    create function plain_update() returns trigger language plpgsql as $$
    begin
        insert into plain_change (topic, key, payload)
        select 'plain.update', n.id::text, image('update', 'plain', n.id::text, to_jsonb(n), to_jsonb(o))
        from added n join removed o using (id);
        return null;
    end $$;
    create trigger u after update on plain referencing new table as added old table as removed for each statement
        execute function plain_update();

    create function calling_insert() returns trigger language plpgsql as $$
    begin
        perform outbox.enqueue('calling.insert', image('insert', 'calling', n.id::text, to_jsonb(n), null), n.id::text)
        from added n;
        return null;
    end $$;
    create trigger t after insert on calling referencing new table as added for each statement
        execute function calling_insert();
    create function calling_update() returns trigger language plpgsql as $$
    begin
        perform outbox.enqueue('calling.update',
            image('update', 'calling', n.id::text, to_jsonb(n), to_jsonb(o)), n.id::text)
        from added n join removed o using (id);
        return null;
    end $$;
    create trigger u after update on calling referencing new table as added old table as removed for each statement
        execute function calling_update();
";

pub async fn run(report: &mut Report) -> Result<()> {
    let server = plain_server().await?;
    let db = server.database("bench").await?;
    db.batch_execute(TABLES).await?;
    db.batch_execute("select outbox.capture('captured', include_old => true)").await?;
    for rows in [1, 100] {
        let insert = |table: &str| {
            format!(
                "insert into {table} (customer, total, status, note)
                select 'c-' || n, 129.95, 'placed', 'please ring twice' from generate_series(1, {rows}) n;"
            )
            .replace('\n', " ")
        };
        compare(&server, report, format!("insert of {rows} row(s)"), rows, insert).await?;
    }
    for table in ["captured", "plain", "calling"] {
        db.batch_execute(&format!(
            "truncate {table}; alter table {table} disable trigger user;
            insert into {table} (id, customer, total, status, note)
            select n, 'c-' || n, 1, 'placed', 'please ring twice' from generate_series(1, 20000) n;
            alter table {table} enable trigger user"
        ))
        .await?;
        db.batch_execute(&format!("vacuum analyze {table}")).await?;
    }
    for rows in [1, 100] {
        let update = |table: &str| {
            format!(
                "\\set n random(1, {})\nupdate {table} set total = total + 1 where id between :n and :n + {};",
                20_000 - rows,
                rows - 1
            )
        };
        // Updates use one client, because two clients that update the same rows wait for each other.
        compare(&server, report, format!("update of {rows} row(s)"), rows, update).await?;
    }
    Ok(())
}

async fn compare(
    server: &outbox_harness::Server,
    report: &mut Report,
    what: String,
    rows: u32,
    script: impl Fn(&str) -> String,
) -> Result<()> {
    let clients = if what.starts_with("update") { 1 } else { 4 };
    let options = "-c synchronous_commit=off";
    let (mut ours, mut plain, mut calling) = (vec![], vec![], vec![]);
    for _ in 0..3 {
        let mut rates = vec![];
        for table in ["captured", "plain", "calling"] {
            rates.push(pgbench(server, "bench", &script(table), clients, 2, options).await? * f64::from(rows));
        }
        ours.push(rates[0]);
        // The ratio is computed from measurements next to each other, because a busy moment of the machine affects all of
        // them.
        plain.push(rates[0] / rates[1]);
        calling.push(rates[0] / rates[2]);
    }
    let ours = median(ours);
    for (against, ratios) in [("a trigger into a plain table", plain), ("a trigger that calls enqueue", calling)] {
        report.row("capture", format!("{what}; {against}"), ours, Some(ours / median(ratios)), "rows/s", None);
    }
    Ok(())
}
