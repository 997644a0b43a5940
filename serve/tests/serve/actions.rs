//! Every action, by a role that may act and by one that may only see.

use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Receiver, wait_until};

use crate::browser::Browser;
use crate::{PATIENCE, TOKEN, dashboard, database, dead_letters, endpoint};

async fn text(db: &Client, query: &str) -> String {
    db.query_one(&format!("select ({query})::text"), &[]).await.unwrap().get::<_, Option<String>>(0).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_and_endpoints_are_switched() {
    let db = database("switches").await;
    let receiver = Receiver::start().unwrap();
    endpoint(&db, "hooks", &receiver).await;
    let mut acts = Browser::logged_in(dashboard("acts", "switches").await, TOKEN, "Ann").await;

    let page = acts.get("/subscriptions").await;
    let page = acts.submit(&page, "/do/pause", &[("name", "hooks")], &[]).await;
    assert!(page.status == 200 && page.body.contains("is paused"), "{}", page.body);
    assert_eq!(text(&db, "select paused from outbox.subscription").await, "true");
    assert!(!acts.get("/").await.body.contains("is paused."), "the notice is shown once");
    let page = acts.submit(&page, "/do/resume", &[("name", "hooks")], &[]).await;
    assert!(page.body.contains("is resumed"), "{}", page.body);
    assert_eq!(text(&db, "select paused from outbox.subscription").await, "false");

    // A test is sent after the question, and its result is shown.
    let page = acts.get("/endpoint?name=hooks").await;
    let asked = acts.submit(&page, "/do/test", &[("name", "hooks")], &[]).await;
    assert!(receiver.arrivals().is_empty() && asked.body.contains("outbox.test"), "{}", asked.body);
    let tested = acts.submit(&asked, "/do/test", &[("confirmed", "yes")], &[]).await;
    assert!(tested.body.contains("completed") && tested.body.contains("200"), "{}", tested.body);
    assert_eq!(receiver.arrivals().len(), 1);

    // The new secret is shown once, and it is the one that signs.
    let asked = acts.submit(&page, "/do/rotate", &[("name", "hooks")], &[]).await;
    assert!(!asked.body.contains("whsec_"), "{}", asked.body);
    let rotated = acts.submit(&asked, "/do/rotate", &[("confirmed", "yes")], &[]).await;
    let stored = "select secret from outbox.endpoint_secret where expires_at is null";
    assert!(rotated.body.contains(&text(&db, stored).await), "{}", rotated.body);
    assert!(!acts.get("/endpoint?name=hooks").await.body.contains("whsec_"));

    let asked = acts.submit(&page, "/do/disable", &[("name", "hooks")], &[]).await;
    assert_eq!(text(&db, "select active from outbox.endpoint").await, "true", "a question does nothing");
    let done = acts.submit(&asked, "/do/disable", &[("confirmed", "yes")], &[("because", "moved away")]).await;
    assert!(done.body.contains("is disabled") && done.body.contains("moved away"), "{}", done.body);
    assert_eq!(text(&db, "select active from outbox.endpoint").await, "false");
    let done = acts.submit(&done, "/do/enable", &[("name", "hooks")], &[]).await;
    assert!(done.body.contains("is enabled"), "{}", done.body);
    assert_eq!(text(&db, "select active from outbox.endpoint").await, "true");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_decided_on_one_by_one_and_all_that_match() {
    let db = database("letters").await;
    dead_letters(&db, 7, "the card was declined").await;
    let mut acts = Browser::logged_in(dashboard("acts", "letters").await, TOKEN, "Ann").await;
    let open = "select count(*) from outbox.dead_letter where resolution = 'open'";

    let page = acts.get("/dead-letter?id=1").await;
    let page = acts.submit(&page, "/do/requeue", &[], &[]).await;
    assert!(page.body.contains("is requeued"), "{}", page.body);
    assert!(page.form("/do/requeue", &[]).is_none(), "it is not open any more");
    let page = acts.get("/dead-letter?id=2").await;
    for (id, action, state) in [(2, "resolve", "resolved"), (3, "ignore", "ignored")] {
        let page = acts.get(&format!("/dead-letter?id={id}")).await;
        let asked = acts.submit(&page, &format!("/do/{action}"), &[], &[]).await;
        let done =
            acts.submit(&asked, &format!("/do/{action}"), &[("confirmed", "yes")], &[("because", "told them")]).await;
        assert!(done.body.contains(state), "{}", done.body);
        let record = format!("select resolved_by || ' ' || resolution_note from outbox.dead_letter where id = {id}");
        assert_eq!(text(&db, &record).await, "dashboard: Ann told them");
    }
    // The page is older than what was done.
    let again = acts.submit(&page, "/do/requeue", &[], &[]).await;
    assert!(again.status == 200 && again.body.contains("is requeued"), "{}", again.body);
    let twice = acts.submit(&page, "/do/requeue", &[], &[]).await;
    assert!(twice.status == 409 && twice.body.contains("was requeued already"), "{}", twice.body);
    let mut completed = 0;
    wait_until("a worker completes both", PATIENCE, async || {
        let complete = "select outbox.complete(c.lease, array[c.delivery_id]) from outbox.claim('work', 'w') c";
        completed += db.query(complete, &[]).await.unwrap().len();
        completed == 2
    })
    .await;

    // One of the group cannot be requeued. It stops no other, and dead letters that come after the question are left alone.
    let erased = "select outbox.erase((select message_id from outbox.dead_letter where id = 4), 'ann', 'asked for')";
    db.batch_execute(erased).await.unwrap();
    let before: i64 = text(&db, open).await.parse().unwrap();
    let groups = acts.get("/dead-letters").await;
    let asked = acts.submit(&groups, "/do/requeue-all", &[("reason", "rejected")], &[]).await;
    assert!(asked.body.contains(&format!("<strong>{before} dead letters</strong>")), "{}", asked.body);
    assert_eq!(text(&db, open).await, before.to_string(), "a count does nothing");
    dead_letters(&db, 2, "the card was declined").await;
    let done = acts.submit(&asked, "/do/requeue-all", &[("confirmed", "yes")], &[("because", "fixed")]).await;
    assert!(done.body.contains(&format!("{} dead letters were requeued", before - 1)), "{}", done.body);
    assert!(done.body.contains("1 were not") && done.body.contains("has been erased"), "{}", done.body);
    assert_eq!(text(&db, open).await, "3", "the erased one and the two new ones");
    let audited = "select bool_and(detail ->> 'actor' = 'dashboard: Ann' and reason = 'fixed') from outbox.audit
        where action = 'requeued' and object <> 'dead letter 1' and object <> 'dead letter 2'";
    assert_eq!(text(&db, audited).await, "true");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_dead_letters_are_requeued_in_parts() {
    let db = database("parts").await;
    dead_letters(&db, 620, "the card was declined").await;
    let mut acts = Browser::logged_in(dashboard("acts", "parts").await, TOKEN, "").await;
    let groups = acts.get("/dead-letters").await;
    let asked = acts.submit(&groups, "/do/requeue-all", &[], &[]).await;
    let mut page = acts.submit(&asked, "/do/requeue-all", &[("confirmed", "yes")], &[]).await;
    let mut parts = 1;
    while page.form("/do/requeue-all", &[("confirmed", "yes")]).is_some() {
        let left = "select count(*) from outbox.dead_letter where resolution = 'open'";
        assert!(
            page.body.contains(&format!("{} of those that matched are left", text(&db, left).await)),
            "{}",
            page.body
        );
        assert!(page.body.contains("data-continue=\"yes\"") && page.body.contains(" of 620"), "{}", page.body);
        page = acts.submit(&page, "/do/requeue-all", &[("confirmed", "yes")], &[]).await;
        parts += 1;
    }
    assert!(parts >= 2 && page.body.contains("0 of those that matched are left"), "{}", page.body);
    assert_eq!(text(&db, "select count(*) from outbox.dead_letter where resolution = 'open'").await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_retried_sent_again_and_cancelled() {
    let db = database("mended").await;
    let receiver = Receiver::start().unwrap();
    endpoint(&db, "hooks", &receiver).await;
    let ids = dead_letters(&db, 2, "no").await;
    let pushed = text(&db, "select outbox.enqueue('push.it', '1')").await;
    wait_until("it is delivered", PATIENCE, async || receiver.arrivals().len() == 1).await;
    let mut acts = Browser::logged_in(dashboard("acts", "mended").await, TOKEN, "").await;

    let path = format!("/message?id={pushed}");
    wait_until("the outcome is recorded", PATIENCE, async || acts.get(&path).await.form("/do/resend", &[]).is_some())
        .await;
    let page = acts.get(&path).await;
    let asked = acts.submit(&page, "/do/resend", &[("subscription", "hooks")], &[]).await;
    let done = acts.submit(&asked, "/do/resend", &[("confirmed", "yes")], &[]).await;
    assert!(done.body.contains("is sent once more"), "{}", done.body);
    wait_until("it is sent again", PATIENCE, async || receiver.arrivals().len() == 2).await;

    let page = acts.get(&format!("/message?id={}", ids[0])).await;
    assert!(page.form("/do/resend", &[]).is_none(), "workers cannot be sent to");
    let page = acts.submit(&page, "/do/retry", &[("subscription", "work")], &[]).await;
    assert!(page.body.contains("is tried again now"), "{}", page.body);
    assert_eq!(text(&db, "select count(*) from outbox.delivery").await, "1");
    let asked = acts.submit(&page, "/do/cancel", &[], &[]).await;
    let done = acts.submit(&asked, "/do/cancel", &[("confirmed", "yes")], &[("because", "not needed")]).await;
    assert!(done.body.contains("is cancelled"), "{}", done.body);
    assert_eq!(text(&db, "select count(*) from outbox.delivery").await, "0");

    // A message is erased with a reason.
    let asked = acts.submit(&acts.clone().get(&path).await, "/do/erase", &[], &[]).await;
    let refused = acts.submit(&asked, "/do/erase", &[("confirmed", "yes")], &[]).await;
    assert!(refused.status == 400 && refused.body.contains("a reason is required"), "{}", refused.body);
    let done = acts.submit(&asked, "/do/erase", &[("confirmed", "yes")], &[("because", "asked by the customer")]).await;
    assert!(done.body.contains("is erased"), "{}", done.body);
    assert_eq!(text(&db, &format!("select payload is null from outbox.message where id = {pushed}")).await, "true");
    let recorded = "select detail ->> 'actor' || ': ' || reason from outbox.audit where action = 'erase'";
    assert_eq!(text(&db, recorded).await, "dashboard: asked by the customer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_is_begun_followed_and_cancelled() {
    let db = database("replayed").await;
    dead_letters(&db, 1, "no").await;
    db.batch_execute("select outbox.enqueue('job.run', '1') from generate_series(1, 50)").await.unwrap();
    wait_until("all are routed", PATIENCE, async || {
        text(&db, "select routed = messages from outbox.stats()").await == "true"
    })
    .await;
    let mut acts = Browser::logged_in(dashboard("acts", "replayed").await, TOKEN, "Ann").await;
    let page = acts.get("/subscription?name=work").await;
    let asked = acts.submit(&page, "/do/replay", &[], &[]).await;
    assert!(
        asked.body.contains("From position") && text(&db, "select count(*) from outbox.replay").await == "0",
        "{}",
        asked.body
    );
    for (name, bad) in [("from_position", "first"), ("to_position", "999999"), ("rate", "0"), ("from_time", "then")] {
        let refused = acts.submit(&asked, "/do/replay", &[("confirmed", "yes")], &[(name, bad)]).await;
        assert!(refused.status == 400 && refused.body.contains("role=\"alert\""), "{name} {bad}: {}", refused.body);
    }
    let fields = [("from_position", "2"), ("rate", "1"), ("new_ids", "true")];
    let begun = acts.submit(&asked, "/do/replay", &[("confirmed", "yes")], &fields).await;
    assert!(
        begun.status == 200 && begun.body.contains("has begun") && begun.body.contains("<progress"),
        "{}",
        begun.body
    );
    assert_eq!(text(&db, "select from_position || ' ' || rate || ' ' || new_ids from outbox.replay").await, "2 1 true");
    assert!(acts.get("/workers").await.body.contains("href=\"/replay?id=1\""));
    let asked = acts.submit(&begun, "/do/cancel-replay", &[], &[]).await;
    let done = acts.submit(&asked, "/do/cancel-replay", &[("confirmed", "yes")], &[]).await;
    assert!(done.body.contains("is cancelled"), "{}", done.body);
    assert_eq!(text(&db, "select state from outbox.replay").await, "cancelled");
    let gone = acts.get("/replay?id=1").await;
    assert!(gone.body.contains("cancelled") && gone.form("/do/cancel-replay", &[]).is_none(), "{}", gone.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_is_reset_with_a_reason() {
    let db = database("reset").await;
    db.batch_execute("select outbox.enqueue('a', '1') from generate_series(1, 5)").await.unwrap();
    wait_until("all are numbered", PATIENCE, async || text(&db, "select outbox.head()").await == "5").await;
    db.batch_execute("select outbox.cursor_advance('totals', 4, subject => 'it''s')").await.unwrap();
    let mut acts = Browser::logged_in(dashboard("acts", "reset").await, TOKEN, "Ann").await;
    let page = acts.get("/workers").await;
    let asked = acts.submit(&page, "/do/reset-cursor", &[("subject", "it's")], &[]).await;
    assert!(asked.body.contains("value=\"4\""), "the position is that of now: {}", asked.body);
    for fields in
        [&[("position", "2")][..], &[("position", "6"), ("because", "x")], &[("position", "x"), ("because", "x")]]
    {
        assert_eq!(
            acts.submit(&asked, "/do/reset-cursor", &[("confirmed", "yes")], fields).await.status,
            400,
            "{fields:?}"
        );
    }
    let fields = [("position", "2"), ("because", "the sums were wrong")];
    let done = acts.submit(&asked, "/do/reset-cursor", &[("confirmed", "yes")], &fields).await;
    assert!(done.status == 200 && done.body.contains("is reset"), "{}", done.body);
    assert_eq!(text(&db, "select position from outbox.cursor").await, "2");
    let recorded = "select (detail ->> 'actor') || ': ' || reason from outbox.audit where action = 'cursor_reset'";
    assert_eq!(text(&db, recorded).await, "dashboard: Ann: the sums were wrong");
}

/// Each action leaves a row of the audit log with the person.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_action_is_recorded_with_the_person() {
    let db = database("recorded").await;
    let receiver = Receiver::start().unwrap();
    endpoint(&db, "hooks", &receiver).await;
    let pushed = text(&db, "select outbox.enqueue('push.it', '1')").await;
    let mut acts = Browser::logged_in(dashboard("acts", "recorded").await, TOKEN, "Ann").await;
    let path = format!("/message?id={pushed}");
    wait_until("the outcome is recorded", PATIENCE, async || acts.get(&path).await.form("/do/resend", &[]).is_some())
        .await;
    let form_token = acts.get("/").await.form("/logout", &[]).unwrap()["form_token"].clone();
    for action in ["pause", "resume", "disable", "enable", "rotate", "test", "resend", "replay", "cancel-replay"] {
        let fields = [
            ("form_token", form_token.as_str()),
            ("confirmed", "yes"),
            ("name", "hooks"),
            ("message_id", &pushed),
            ("subscription", "hooks"),
            ("rate", "1"),
            ("replay_id", "1"),
        ];
        let done = acts.post(&format!("/do/{action}"), &fields).await;
        assert!(
            [200, 303].contains(&done.status) || action == "cancel-replay",
            "{action}: {} {}",
            done.status,
            done.body
        );
    }
    let recorded = "select string_agg(distinct action, ' ' order by action) from outbox.audit
        where detail ->> 'actor' = 'dashboard: Ann'";
    let recorded = text(&db, recorded).await;
    let all =
        "disable_endpoint enable_endpoint pause_subscription replay resend resume_subscription rotate_secret send_test";
    assert_eq!(recorded.replace("cancel_replay ", ""), all);
    assert_eq!(text(&db, "select count(*) from outbox.audit where detail::text like '%whsec%'").await, "0");
}

/// A role that may only see has no buttons, and a form that it makes itself is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_cannot_act() {
    let db = database("viewer").await;
    let receiver = Receiver::start().unwrap();
    endpoint(&db, "hooks", &receiver).await;
    let ids = dead_letters(&db, 1, "no").await;
    let mut sees = Browser::logged_in(dashboard("sees", "viewer").await, TOKEN, "").await;
    let message = format!("/message?id={}", ids[0]);
    for path in [
        "/subscriptions",
        "/subscription?name=hooks",
        "/endpoint?name=hooks",
        "/dead-letters",
        "/dead-letter?id=1",
        &message,
    ] {
        let page = sees.get(path).await;
        assert!(page.status == 200 && !page.body.contains("action=\"/do/"), "{path}: {}", page.body);
    }
    let form_token = sees.get("/").await.form("/logout", &[]).unwrap()["form_token"].clone();
    let state = "select md5(string_agg(t::text, '')) from (select s.paused, e.active, e.disabled_at, l.resolution,
        (select count(*) from outbox.delivery) d, (select count(*) from outbox.endpoint_secret) n,
            (select count(*) from outbox._manual_send) m
        from outbox.subscription s, outbox.endpoint e, outbox.dead_letter l order by s.id) t";
    let before = text(&db, state).await;
    for action in [
        "pause",
        "resume",
        "enable",
        "disable",
        "rotate",
        "test",
        "requeue",
        "resolve",
        "ignore",
        "requeue-all",
        "retry",
        "resend",
        "cancel",
        "cancel-replay",
        "erase",
        "replay",
        "reset-cursor",
    ] {
        let fields = [
            ("form_token", form_token.as_str()),
            ("confirmed", "yes"),
            ("name", "hooks"),
            ("dead_letter_id", "1"),
            ("message_id", &ids[0].to_string()),
            ("subscription", "work"),
            ("subscription_id", "2"),
            ("replay_id", "1"),
            ("consumer", "totals"),
            ("position", "1"),
            ("because", "no reason"),
        ];
        let answer = sees.post(&format!("/do/{action}"), &fields).await;
        assert!(answer.status == 403 && answer.body.contains("permission denied"), "{action}: {}", answer.body);
    }
    assert_eq!(text(&db, state).await, before);
    assert!(receiver.arrivals().is_empty());
}
