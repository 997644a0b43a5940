//! The commands of dead letters: lists of a selection, and decisions about some of them or all of a selection.

use serde_json::{Value, json};

use crate::args::{DeadLetter, DeadLetterAction, DeadLetterFilter};
use crate::{ask, output, run};
use pg_outbox::error::{Error, Result};
use pg_outbox::outbox::Outbox;

const COLUMNS: &[&str] = &[
    "dead_letter_id",
    "dead_at",
    "subscription",
    "topic",
    "key",
    "tenant",
    "message_id",
    "attempt",
    "reason",
    "last_error",
    "resolution",
];

const SELECTED: &str = "
    select l.* from outbox.dead_letter_status l
    where ($1::text is null or l.subscription = $1) and ($2::text is null or l.endpoint = $2)
        and ($3::text is null or l.reason = $3) and ($4::text is null or l.topic = $4)
        and ($5::text is null or l.tenant = $5) and ($6::text is null or l.key = $6)
        and ($7::text is null or l.dead_at < clock_timestamp() - $7::interval)
        and ($8::text is not null or l.resolution = 'open')
    order by l.dead_letter_id limit $9::bigint";

pub(crate) async fn run(outbox: &Outbox, json: bool, command: DeadLetter) -> Result<u8> {
    match command {
        DeadLetter::List { which, all, limit } => {
            // One more than is shown tells whether there are more.
            let mut rows = selected(outbox, &which, all, limit + 1).await?;
            let more = rows.len() as i64 > limit;
            rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
            list(json, &rows);
            if more {
                eprintln!("there are more: --limit shows more of them, and --subscription, --topic and the like fewer");
            }
        }
        DeadLetter::Show { id } => {
            let rows = outbox.table("dead_letter_status", json!({"dead_letter_id": id}), 1, &[]).await?;
            run::show(json, rows, "dead letter", &id.to_string())?;
        }
        DeadLetter::Stats => {
            let rows = outbox.call("dead_letter_stats", json!({}), &[]).await?;
            rows.iter().for_each(|row| output::row(json, row));
        }
        DeadLetter::Requeue { of } => return decide(outbox, json, ("requeue", "requeued"), of).await,
        DeadLetter::Resolve { of } => return decide(outbox, json, ("resolve_dead_letter", "resolved"), of).await,
        DeadLetter::Ignore { of } => return decide(outbox, json, ("ignore_dead_letter", "ignored"), of).await,
    }
    Ok(0)
}

/// Prints dead letters. Keys, tenants and resolutions that none of them has take no column.
fn list(json: bool, rows: &[Value]) {
    let tells = |column: &str| match column {
        "key" | "tenant" => rows.iter().any(|row| !row[column].is_null()),
        "resolution" => rows.iter().any(|row| row[column] != "open"),
        _ => true,
    };
    let columns: Vec<&str> = COLUMNS.iter().copied().filter(|column| tells(column)).collect();
    output::rows(json, rows, &columns);
}

async fn selected(outbox: &Outbox, which: &DeadLetterFilter, all: bool, limit: i64) -> Result<Vec<Value>> {
    let limit = limit.to_string();
    let params = [
        which.subscription.as_deref(),
        which.endpoint.as_deref(),
        which.reason.as_deref(),
        which.topic.as_deref(),
        which.tenant.as_deref(),
        which.key.as_deref(),
        which.older_than.as_deref(),
        all.then_some("all"),
        Some(&limit),
    ];
    ask::query(outbox, SELECTED, &params).await
}

/// Requeues, resolves or ignores dead letters, one after another. With ids, the first that fails ends the command. Of a
/// selection, those that fail are named, and the others are done; the exit code is then 4.
async fn decide(outbox: &Outbox, json: bool, (function, done): (&str, &str), of: DeadLetterAction) -> Result<u8> {
    let DeadLetterFilter { subscription, endpoint, reason, topic, tenant, key, older_than } = &of.which;
    let selects = [subscription, endpoint, reason, topic, tenant, key, older_than].iter().any(|part| part.is_some());
    if of.ids.is_empty() != (selects || of.every) {
        return Err(Error::invalid("give the ids of dead letters, or a selection, and not both")
            .hint("\"--subscription NAME\" and the like select, \"--every\" is all open ones, and \"--dry-run\" only lists them."));
    }
    if of.dry_run && !of.ids.is_empty() {
        return Err(Error::invalid("--dry-run is for a selection"));
    }
    let actor = run::actor(outbox, &of.by).await?;
    let one = async |id: i64| {
        outbox.call_void(function, json!({"dead_letter_id": id, "actor": actor, "note": of.note})).await?;
        output::done(json, &json!({"dead_letter_id": id, "done": done}), &format!("dead letter {id}: {done}"));
        Ok(())
    };
    for id in &of.ids {
        one(*id).await?;
    }
    if !of.ids.is_empty() {
        return Ok(0);
    }
    let rows = selected(outbox, &of.which, false, of.limit).await?;
    if of.dry_run {
        list(json, &rows);
        eprintln!("{} dead letters would be {done}", rows.len());
        return Ok(0);
    }
    let mut failed = 0;
    for id in rows.iter().filter_map(|row| row["dead_letter_id"].as_i64()) {
        match one(id).await {
            Err(error @ (Error::Conflict(_) | Error::NotFound(_))) => {
                failed += 1;
                eprintln!("dead letter {id}: not {done}: {}", error.report().replace('\n', "; "));
            }
            other => other?,
        }
    }
    eprintln!("{} dead letters were {done}, {failed} were not", rows.len() - failed);
    Ok(if failed > 0 { 4 } else { 0 })
}
