//! The actions: the function that each calls, the question before those that cannot be taken back, and what was done.
//!
//! The right to an action is the right to call its function. The server checks it again when the function is called.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use maud::{Markup, html};
use serde_json::{Value, json};

use pg_outbox::error::{Error, Kind, Result};

use crate::database::{Database, Work, arguments};
use crate::page::{Live, Page, Viewer, facts, foreign, link, value};
use crate::screens::dead_letters::{self, Group};

/// Dead letters that one request requeues. The page after it goes on with the others.
const BATCH: i64 = 500;

/// The time after which a request requeues no further dead letter.
const BATCH_TIME: Duration = Duration::from_secs(15);

/// The longest wait for the answer to a test message.
const TEST_TIME: Duration = Duration::from_secs(5);

type Fields = BTreeMap<String, String>;

/// An action.
#[derive(Debug)]
pub(crate) struct Action {
    name: &'static str,
    /// The function that the role must be allowed to call.
    pub(crate) function: &'static str,
    pub(crate) label: &'static str,
    /// The page of the navigation that errors belong to.
    pub(crate) part: &'static str,
    /// The fields of the form that are arguments of the function, by the same names.
    fields: &'static [&'static str],
    /// Whether the function takes the actor.
    has_actor: bool,
    /// The argument with a reason, if there is one.
    reason: Option<&'static str>,
    /// Whether the function refuses an empty reason.
    needs_reason: bool,
    /// The arguments that the question before the action asks for.
    inputs: &'static [Input],
    /// The consequence, which is shown with the question before the action. Without it, the action is done at once.
    ask: Option<&'static str>,
    done: &'static str,
}

/// An argument that a person types.
#[derive(Debug)]
struct Input {
    name: &'static str,
    label: &'static str,
    hint: &'static str,
    form: Form,
}

/// The form of an argument.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Number { required: bool },
    Time,
    YesOrNo,
}

/// The result of an action.
pub(crate) enum Done {
    /// A sentence for the page at this address.
    See { notice: String, to: String },
    /// A question, or a result that cannot wait for another page.
    Page(Page),
}

const SUBSCRIPTIONS: &str = "/subscriptions";
const ENDPOINTS: &str = "/endpoints";
const DEAD_LETTERS: &str = "/dead-letters";
const MESSAGES: &str = "/messages";
const WORKERS: &str = "/workers";

const ACTIONS: &[Action] = &[
    plain("pause", "pause_subscription", "Pause", SUBSCRIPTIONS, "is paused"),
    plain("resume", "resume_subscription", "Resume", SUBSCRIPTIONS, "is resumed"),
    plain("enable", "enable_endpoint", "Enable", ENDPOINTS, "is enabled"),
    Action {
        reason: Some("reason"),
        ask: Some("Nothing is sent to the endpoint until it is enabled again. Its deliveries wait."),
        ..plain("disable", "disable_endpoint", "Disable", ENDPOINTS, "is disabled")
    },
    Action {
        ask: Some(
            "The endpoint gets a new signing secret, which is shown on the next page and never again. The old secret signs \
             too for 24 hours. Until the receiver has the new one, it checks signatures with the old one.",
        ),
        ..plain("rotate", "rotate_secret", "Rotate secret", ENDPOINTS, "has a new secret")
    },
    Action {
        ask: Some("A test message of the topic outbox.test is sent to the endpoint, signed like any other."),
        ..plain("test", "send_test", "Send test", ENDPOINTS, "was sent a test message")
    },
    letter("requeue", "requeue", "Requeue", None, "is requeued"),
    letter(
        "resolve",
        "resolve_dead_letter",
        "Resolve",
        Some("The delivery was dealt with in another way, and is not tried again."),
        "is resolved",
    ),
    letter(
        "ignore",
        "ignore_dead_letter",
        "Ignore",
        Some("The delivery is not worth dealing with, and is not tried again."),
        "is ignored",
    ),
    Action {
        fields: &["subscription_id", "reason", "cause", "upto", "after", "done", "total"],
        has_actor: true,
        reason: Some("note"),
        ..plain("requeue-all", "requeue", "Requeue all that match", DEAD_LETTERS, "")
    },
    Action {
        fields: &["message_id", "subscription"],
        has_actor: true,
        ..plain("retry", "retry", "Retry now", MESSAGES, "is tried again now")
    },
    Action {
        fields: &["message_id", "subscription"],
        ask: Some(
            "The message is sent once more, whatever the state of its delivery. The receiver sees the same webhook id.",
        ),
        ..plain("resend", "resend", "Resend", MESSAGES, "is sent once more")
    },
    Action {
        fields: &["message_id"],
        has_actor: true,
        reason: Some("reason"),
        ask: Some(
            "All deliveries of the message that have not ended are ended. A cancelled message is not delivered any more.",
        ),
        ..plain("cancel", "cancel", "Cancel", MESSAGES, "is cancelled")
    },
    Action {
        fields: &["message_id"],
        has_actor: true,
        reason: Some("reason"),
        needs_reason: true,
        ask: Some(
            "The payload, headers, metadata and answers of the message are gone for good, and its waiting deliveries end. Ids, \
             topic, key and times stay. It can never be sent again.",
        ),
        ..plain("erase", "erase", "Erase", MESSAGES, "is erased")
    },
    Action {
        fields: &["subscription"],
        ask: Some(
            "The messages that the subscription matched between two positions, both included, are delivered again, beside the \
             live ones. Receivers see the same webhook ids unless new ones are asked for.",
        ),
        inputs: &[
            number_input("from_position", "From position", "empty: the first one that is stored", false),
            number_input("to_position", "To position", "empty: the last one of now", false),
            Input {
                name: "from_time",
                label: "From time (UTC), where the position is empty",
                hint: "2026-11-30 08:00",
                form: Form::Time,
            },
            Input {
                name: "to_time",
                label: "Before time (UTC), where the position is empty",
                hint: "2026-11-30 09:00",
                form: Form::Time,
            },
            number_input("rate", "Messages per second at most", "200", false),
            Input { name: "new_ids", label: "New webhook ids", hint: "", form: Form::YesOrNo },
        ],
        ..plain("replay", "replay", "Replay", SUBSCRIPTIONS, "is replayed")
    },
    Action {
        fields: &["replay_id"],
        ask: Some("The replay ends. Its waiting deliveries are cancelled; those in flight end by themselves."),
        ..plain("cancel-replay", "cancel_replay", "Cancel replay", WORKERS, "is cancelled")
    },
    Action {
        fields: &["consumer", "stream", "subject"],
        reason: Some("reason"),
        needs_reason: true,
        ask: Some(
            "The reader goes on after the position that is given here. Further back, it reads messages once more; further on, it \
             never reads those in between. A reader that runs notices at its next step.",
        ),
        inputs: &[number_input("position", "Position, from 0 on", "", true)],
        ..plain("reset-cursor", "cursor_reset", "Reset", WORKERS, "is reset")
    },
];

const fn number_input(name: &'static str, label: &'static str, hint: &'static str, required: bool) -> Input {
    Input { name, label, hint, form: Form::Number { required } }
}

const fn plain(
    name: &'static str,
    function: &'static str,
    label: &'static str,
    part: &'static str,
    done: &'static str,
) -> Action {
    Action {
        name,
        function,
        label,
        part,
        fields: &["name"],
        has_actor: false,
        reason: None,
        needs_reason: false,
        inputs: &[],
        ask: None,
        done,
    }
}

const fn letter(
    name: &'static str,
    function: &'static str,
    label: &'static str,
    ask: Option<&'static str>,
    done: &'static str,
) -> Action {
    Action {
        fields: &["dead_letter_id"],
        has_actor: true,
        reason: Some("note"),
        ask,
        ..plain(name, function, label, DEAD_LETTERS, done)
    }
}

pub(crate) fn find(name: &str) -> Option<&'static Action> {
    ACTIONS.iter().find(|action| action.name == name)
}

/// Does an action, or returns the page that asks for confirmation.
pub(crate) async fn run(
    database: &Database,
    viewer: &Viewer,
    action: &'static Action,
    fields: &Fields,
) -> Result<Done> {
    if !viewer.rights.may_call(action.function) {
        return Err(Error::new("42501", format!("permission denied for function {}", action.function))
            .hint("The role of the connection needs the capability admin."));
    }
    let confirmed = field(fields, "confirmed") == "yes";
    match action.name {
        "requeue-all" if confirmed => return requeue_all(database, viewer, action, fields).await,
        "requeue-all" => return count_all(database, viewer, action, fields).await,
        _ => {}
    }
    if let (Some(consequence), false) = (action.ask, confirmed) {
        return Ok(Done::Page(question(viewer, action, fields, html! { p { (consequence) } }, Go::Once)));
    }
    match action.name {
        "rotate" => rotate(database, viewer, action, fields).await,
        "test" => test(database, viewer, action, fields).await,
        _ => {
            let rows = call(database, viewer, action.function, args(viewer, action, fields)).await?;
            if let ("replay", Some(id)) = (action.name, rows.first().and_then(Value::as_i64)) {
                let notice = format!("Replay {id} of \"{}\" has begun.", field(fields, "subscription"));
                return Ok(Done::See { notice, to: link("/replay", &[("id", &id.to_string())]) });
            }
            let notice = format!("{} {}.", object(action, fields), action.done);
            Ok(Done::See { notice, to: back(action, fields) })
        }
    }
}

/// Calls a function in a transaction of its own, in the name of the person: functions without an argument for the actor take it
/// from the context.
async fn call(database: &Database, viewer: &Viewer, function: &str, args: Value) -> Result<Vec<Value>> {
    let work = database.write().await?;
    let called = async {
        if viewer.rights.may_call("set_context") {
            work.call("set_context", json!({"user_id": viewer.actor})).await?;
        }
        work.call(function, args).await
    }
    .await;
    work.end(called).await
}

fn field<'a>(fields: &'a Fields, name: &str) -> &'a str {
    fields.get(name).map_or("", String::as_str)
}

/// Returns the arguments of the function.
fn args(viewer: &Viewer, action: &Action, fields: &Fields) -> Value {
    let named = action.fields.iter().map(|name| (*name, field(fields, name)));
    let named = named.chain(action.inputs.iter().map(|input| (input.name, field(fields, input.name).trim())));
    let actor = action.has_actor.then_some(("actor", viewer.actor.as_str()));
    let reason = action.reason.map(|name| (name, field(fields, "because")));
    let mut args = arguments(named.chain(actor).chain(reason));
    // The function itself refuses an argument that it needs and that is empty.
    let required = action.inputs.iter().filter(|input| input.form == Form::Number { required: true });
    for name in required.map(|input| input.name).chain(action.reason.filter(|_| action.needs_reason)) {
        if args[name].is_null() {
            args[name] = json!("");
        }
    }
    args
}

/// Names the object of an action, for sentences.
fn object(action: &Action, fields: &Fields) -> String {
    match action.fields.first() {
        Some(&"dead_letter_id") => format!("Dead letter {}", field(fields, "dead_letter_id")),
        Some(&"message_id") => match field(fields, "subscription") {
            "" => format!("Message {}", field(fields, "message_id")),
            subscription => format!("Message {} for \"{subscription}\"", field(fields, "message_id")),
        },
        Some(&"replay_id") => format!("Replay {}", field(fields, "replay_id")),
        Some(&"consumer") => format!("Reader \"{}\"", field(fields, "consumer")),
        Some(&"subscription") => format!("Subscription \"{}\"", field(fields, "subscription")),
        _ if action.part == ENDPOINTS => format!("Endpoint \"{}\"", field(fields, "name")),
        _ => format!("Subscription \"{}\"", field(fields, "name")),
    }
}

/// Returns the page of the object.
fn back(action: &Action, fields: &Fields) -> String {
    match action.part {
        SUBSCRIPTIONS => {
            link("/subscription", &[("name", field(fields, "name")), ("name", field(fields, "subscription"))])
        }
        ENDPOINTS => link("/endpoint", &[("name", field(fields, "name"))]),
        MESSAGES => link("/message", &[("id", field(fields, "message_id"))]),
        DEAD_LETTERS => match field(fields, "dead_letter_id") {
            "" => DEAD_LETTERS.to_owned(),
            id => link("/dead-letter", &[("id", id)]),
        },
        other => other.to_owned(),
    }
}

/// Whether the form of a question is there.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Go {
    Not,
    Once,
    /// The script of the page presses the button, until all is done or somebody stops it.
    On,
}

/// The page before an action, with a form that does it.
fn question(viewer: &Viewer, action: &Action, fields: &Fields, consequence: Markup, go: Go) -> Page {
    let body = html! {
        (consequence)
        @if go != Go::Not {
            form method="post" action={ "/do/" (action.name) } data-continue=[(go == Go::On).then_some("yes")] {
                input type="hidden" name="form_token" value=(viewer.form_token);
                input type="hidden" name="confirmed" value="yes";
                @for name in action.fields { input type="hidden" name=(name) value=(field(fields, name)); }
                @for input in action.inputs { (typed(input, fields)) }
                @if action.reason.is_some() {
                    label for="because" { "Reason, for the record" }
                    input id="because" name="because" maxlength="1000" value=(field(fields, "because"))
                        required[action.needs_reason];
                }
                button class="primary" { (action.label) }
            }
        }
        p { a href=(back(action, fields)) { "Back" } }
    };
    let title = match action.name {
        "requeue-all" => "Requeue all that match?".to_owned(),
        _ => format!("{}: {}?", object(action, fields), action.label.to_lowercase()),
    };
    Page { title, part: action.part, live: Live::No, body }
}

/// The field of an argument.
fn typed(input: &Input, fields: &Fields) -> Markup {
    let Input { name, label, hint, form } = *input;
    let given = field(fields, name);
    html! {
        label for=(name) { (label) }
        @match form {
            Form::Number { required } => {
                input id=(name) name=(name) value=(given) placeholder=(hint) inputmode="numeric" pattern="[0-9]{1,18}" maxlength="18"
                    required[required];
            }
            Form::Time => { input id=(name) name=(name) value=(given) placeholder=(hint) maxlength="40"; }
            Form::YesOrNo => {
                select id=(name) name=(name) {
                    option value="" { "no" }
                    option value="true" selected[given == "true"] { "yes" }
                }
            }
        }
    }
}

/// Gives an endpoint a new secret. The answer itself shows it, because nothing else may know it.
async fn rotate(database: &Database, viewer: &Viewer, action: &Action, fields: &Fields) -> Result<Done> {
    let rows = call(database, viewer, action.function, arguments([("name", field(fields, "name"))])).await?;
    let secret = rows.first().map_or("", |row| row["signing_secret"].as_str().unwrap_or_default());
    let body = html! {
        p { (foreign(&object(action, fields))) " has a new signing secret. It is shown only here: give it to the receiver." }
        pre { (secret) }
        p { a href=(back(action, fields)) { "Back to the endpoint" } }
    };
    Ok(Done::Page(Page { title: "New signing secret".to_owned(), part: ENDPOINTS, live: Live::No, body }))
}

/// Sends a test message and waits some seconds for its result.
async fn test(database: &Database, viewer: &Viewer, action: &Action, fields: &Fields) -> Result<Done> {
    let sent = call(database, viewer, action.function, arguments([("endpoint", field(fields, "name"))])).await?;
    let id = sent.first().cloned().unwrap_or(Value::Null);
    let started = Instant::now();
    let result = loop {
        let work = database.read().await?;
        let rows = work.call("manual_result", json!({"manual_send_id": id})).await;
        let row = work.end(rows).await?.into_iter().next().unwrap_or(Value::Null);
        if row["state"] != "waiting" || started.elapsed() > TEST_TIME {
            break row;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let body = html! {
        @if result["state"] == "waiting" {
            p { "The test message waits still. The dispatcher sends it as soon as the endpoint takes it." }
        }
        (facts(&[("Result", value(&result["state"])), ("Status", value(&result["status"])),
            ("Error", value(&result["error"])),
            ("Started", crate::page::time(&result["started_at"])), ("Finished", crate::page::time(&result["finished_at"]))]))
        p { a href=(back(action, fields)) { "Back to the endpoint" } }
    };
    let title = format!("Test of \"{}\"", field(fields, "name"));
    Ok(Done::Page(Page { title, part: ENDPOINTS, live: Live::No, body }))
}

/// Counts the dead letters of a group, and asks. The question is about those that are there now: later ones have
/// higher ids.
async fn count_all(database: &Database, viewer: &Viewer, action: &Action, fields: &Fields) -> Result<Done> {
    let group = Group::of(fields)?;
    let work = database.read().await?;
    let counted = dead_letters::count(&work, &group).await;
    let (count, more, upto) = work.end(counted).await?;
    let mut fields = fields.clone();
    fields.insert("upto".to_owned(), upto.to_string());
    fields.insert("after".to_owned(), "0".to_owned());
    fields.insert("done".to_owned(), "0".to_owned());
    fields.insert("total".to_owned(), count.to_string());
    let said = html! {
        p { strong { @if more { "More than " } (count) " dead letters" }
            " match now. Each gets all of its attempts again, and its \
            receiver sees the same webhook id. Dead letters that come later are not among them." }
        p { "They are requeued " (BATCH) " at a time, and you can stop in between." }
        (group.shown())
    };
    Ok(Done::Page(question(viewer, action, &fields, said, if count > 0 { Go::Once } else { Go::Not })))
}

/// Requeues the next dead letters of a group, one transaction each, so that one that cannot be requeued stops no other.
async fn requeue_all(database: &Database, viewer: &Viewer, action: &Action, fields: &Fields) -> Result<Done> {
    let group = Group::of(fields)?;
    let work = database.read().await?;
    let page = dead_letters::ids(&work, &group, BATCH).await;
    let ids = work.end(page).await?;
    let started = Instant::now();
    let (mut requeued, mut failed, mut last, mut why, mut stopped) = (0, 0, group.after, None, false);
    for id in &ids {
        if started.elapsed() > BATCH_TIME {
            break;
        }
        let args = json!({"dead_letter_id": id, "actor": viewer.actor, "note": some(field(fields, "because"))});
        match one(database, action, args).await {
            Ok(_) => requeued += 1,
            Err(error) if concerns_one(&error) => {
                failed += 1;
                let details = error.details();
                why.get_or_insert_with(|| {
                    format!("{} {}", details.message, details.detail.as_deref().unwrap_or_default())
                });
            }
            Err(error) => {
                why = Some(format!("{} ({})", error.details().message, error.code()));
                stopped = true;
                break;
            }
        }
        last = *id;
    }
    // These two are shown, and decide on nothing.
    let figure = |name: &str| field(fields, name).parse::<i64>().unwrap_or(0).max(0);
    let done = figure("done").saturating_add(requeued + failed);
    let mut fields = fields.clone();
    fields.insert("after".to_owned(), last.to_string());
    fields.insert("done".to_owned(), done.to_string());
    let next = group.from(last);
    let work = database.read().await?;
    let counted = dead_letters::count(&work, &next).await;
    let (left, more, _) = work.end(counted).await?;
    let said = html! {
        p role="status" { strong { (requeued) " dead letters were requeued" } ", " (failed) " were not, "
            @if more { "more than " } (left) " of those that matched are left." }
        @let total = figure("total").max(done.saturating_add(left));
        p { progress max=(total) value=(done) aria-label="Dealt with" {} " " (done) " of " @if more { "more than " } (total) }
        @if let Some(why) = &why { p class="failure" { (foreign(why)) } }
        (next.shown())
    };
    let go = match (left > 0, stopped) {
        (false, _) => Go::Not,
        (true, true) => Go::Once,
        (true, false) => Go::On,
    };
    let mut page = question(viewer, action, &fields, said, go);
    page.title = if left > 0 { "Go on?".to_owned() } else { "Requeued".to_owned() };
    Ok(Done::Page(page))
}

/// Whether an error concerns one dead letter: it was requeued meanwhile, is locked, or its transform fails or takes too long.
fn concerns_one(error: &Error) -> bool {
    matches!(error.kind(), Kind::Conflict | Kind::NotFound | Kind::Invalid)
        || ["55P03", "57014"].contains(&error.code())
}

async fn one(database: &Database, action: &Action, args: Value) -> Result<Vec<Value>> {
    let work: Work = database.write().await?;
    let called = work.call(action.function, args).await;
    work.end(called).await
}

fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_have_names_of_their_own_and_ask_before_they_end_something() {
        for (n, action) in ACTIONS.iter().enumerate() {
            assert!(ACTIONS.iter().skip(n + 1).all(|other| other.name != action.name), "{}", action.name);
        }
        for name in [
            "disable",
            "rotate",
            "cancel",
            "resend",
            "resolve",
            "ignore",
            "cancel-replay",
            "erase",
            "replay",
            "reset-cursor",
        ] {
            assert!(find(name).unwrap().ask.is_some(), "{name}");
        }
        // An argument that nobody is asked for could not be given.
        assert!(
            ACTIONS.iter().all(|action| action.ask.is_some() || (action.inputs.is_empty() && !action.needs_reason))
        );
    }
}
