//! The arguments of the command line. The doc comments of this file are the texts of `--help` and of docs/cli.md.

use clap::{Args as ClapArgs, Parser, Subcommand};
use clap_complete::Shell;

use crate::{events, serve};

/// Inspect and operate the transactional outbox of a PostgreSQL database
#[derive(Debug, Parser)]
#[command(name = "outbox", version, about, max_term_width = 100)]
pub(super) struct Args {
    /// Connection string; without it that of DATABASE_URL, and without that the variables of libpq (PGHOST, PGSERVICE, ...)
    // The environment is not read by clap, which would show the option in every usage line as if it were needed.
    #[arg(short, long, global = true)]
    pub(super) dsn: Option<String>,
    /// Print JSON, one value per line
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show what is wrong, and what is not at rest (exit code 1 if something is wrong)
    Status {
        /// Also list what is at rest
        #[arg(long)]
        all: bool,
        /// Seconds over which throughput is measured; 0 switches the measurement off
        #[arg(long, default_value_t = 1.0)]
        over: f64,
    },
    /// Show the status screen live; q quits, arrows scroll, / finds a name, s sorts, a shows all
    Top {
        /// Seconds between refreshes
        #[arg(long, default_value_t = 1.0)]
        every: f64,
        /// Refresh this many times, then quit
        #[arg(long)]
        count: Option<u32>,
        /// Write the last screen to this file as a picture (SVG) instead of drawing on the terminal
        #[arg(long, value_name = "FILE")]
        picture: Option<String>,
    },
    /// Check preloading, settings, privileges, versions and held snapshots (exit code 1 if something is wrong)
    Doctor,
    /// Print the metrics in the text format of Prometheus
    Metrics,
    /// Serve the dashboard, /metrics, /healthz and /readyz over HTTP
    Serve(serve::Serve),
    /// Follow the feed and print its messages
    Tail {
        /// Topic patterns (* matches one word, # any number of words); without a pattern, all topics
        topics: Vec<String>,
        /// Start after this position (0: at the first stored message); without it, at the end of the feed
        #[arg(long)]
        after: Option<i64>,
        /// Stop after this many messages
        #[arg(short = 'n', long)]
        count: Option<u64>,
    },
    /// Enqueue one message
    Send(SendArgs),
    /// Receive webhooks: print the requests and check their signatures
    Listen {
        /// Address and port to listen on
        #[arg(long, default_value = "127.0.0.1:8080")]
        address: String,
        /// The signing secret (whsec_...)
        #[arg(long, env = "OUTBOX_SECRET", hide_env_values = true)]
        secret: Option<String>,
        /// The HTTP status to answer with
        #[arg(long, default_value_t = 200)]
        status: u16,
        /// Stop after this many requests
        #[arg(short = 'n', long)]
        count: Option<usize>,
    },
    /// Manage endpoints, the destinations that messages are pushed to
    #[command(subcommand)]
    Endpoint(Endpoint),
    /// Manage subscriptions, which send the messages of some topics to an endpoint or to workers
    #[command(subcommand)]
    Subscription(Subscription),
    /// Look at deliveries that wait or are worked on, and at those that have ended
    #[command(subcommand)]
    Delivery(Delivery),
    /// Look at the workers that have deliveries
    #[command(subcommand)]
    Worker(Worker),
    /// Manage dead letters, the deliveries that are not retried automatically any more
    #[command(subcommand, alias = "dlq")]
    DeadLetter(DeadLetter),
    /// Manage the cursors of readers
    #[command(subcommand)]
    Cursor(Cursor),
    /// Show, cancel, retry or erase one message
    #[command(subcommand)]
    Message(Message),
    /// Manage the registered topics
    #[command(subcommand)]
    Topic(Registry),
    /// Manage the registered publishers
    #[command(subcommand)]
    Publisher(Registry),
    /// Show the results of messages that are finished
    #[command(subcommand)]
    Archive(Archive),
    /// Deliver a range of history again and show the progress; Ctrl-C leaves the replay running (exit code 130)
    Replay {
        #[command(flatten)]
        what: Replay,
        /// Arguments of outbox.replay() by name, for example from_position=1 to_position=100 rate=500
        #[arg(value_parser = pair)]
        args: Vec<(String, String)>,
    },
    /// List streams of events, or show one of them
    Streams(events::Streams),
    /// Print the events of a stream, or those of all streams in the committed order
    Events(events::Events),
    /// Keep a projection up to date; without a name, list the projections (exit code 4 if it is faulted or paused)
    Project(events::Project),
    /// List sagas, or show one of them
    Sagas(events::Sagas),
    /// Export the events that concern a person, as JSON, one per line, and the counts as the last line
    Export(events::Export),
    /// Call any function of the schema, for example: outbox call cancel message_id=42
    Call {
        /// The name of the function, without the schema
        function: String,
        /// Arguments by name, name=value; a value that parses as JSON is passed as JSON, any other as text
        #[arg(value_parser = pair)]
        args: Vec<(String, String)>,
    },
    /// Print a shell completion script
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// The message to enqueue.
#[derive(Debug, ClapArgs)]
pub(super) struct SendArgs {
    /// The topic
    pub(super) topic: String,
    /// The payload as JSON; - reads it from the standard input
    pub(super) payload: String,
    /// Send the payload unchanged, as text instead of JSON
    #[arg(long)]
    pub(super) text: bool,
    /// The ordering key
    #[arg(long)]
    pub(super) key: Option<String>,
    /// The tenant
    #[arg(long)]
    pub(super) tenant: Option<String>,
    /// A header, name=value; may be repeated
    #[arg(long = "header", value_parser = pair)]
    pub(super) headers: Vec<(String, String)>,
    /// Idempotency key: a message with the same key, topic, tenant and content is enqueued only once
    #[arg(long)]
    pub(super) idempotency_key: Option<String>,
    /// Deliver not before this time, in any form that PostgreSQL takes
    #[arg(long)]
    pub(super) deliver_at: Option<String>,
    /// The priority, from -100 to 100; higher goes first
    #[arg(long, allow_negative_numbers = true)]
    pub(super) priority: Option<i32>,
    #[command(flatten)]
    pub(super) more: More,
}

/// Starts, follows, cancels or lists replays.
#[derive(Debug, ClapArgs)]
#[group(id = "what", required = true, multiple = false)]
pub(super) struct Replay {
    /// The subscription whose messages are delivered again
    pub(super) subscription: Option<String>,
    /// Show the progress of a replay that was started earlier
    #[arg(long, value_name = "ID")]
    pub(super) follow: Option<i64>,
    /// Cancel a replay
    #[arg(long, value_name = "ID")]
    pub(super) cancel: Option<i64>,
    /// List all replays
    #[arg(long)]
    pub(super) list: bool,
}

/// Further arguments of the SQL function.
#[derive(Debug, ClapArgs)]
pub(super) struct More {
    /// Any other argument of the SQL function, name=value; may be repeated
    #[arg(long = "set", value_parser = pair)]
    pub(super) set: Vec<(String, String)>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Endpoint {
    /// List all endpoints
    List,
    /// Show one endpoint
    Show { name: String },
    /// Create an endpoint; its signing secret is shown only this once
    Create {
        name: String,
        url: String,
        #[command(flatten)]
        more: More,
    },
    /// Switch an endpoint on
    Enable { name: String },
    /// Switch an endpoint off; its deliveries wait, or are skipped with --set mode=skip
    Disable {
        name: String,
        #[command(flatten)]
        more: More,
    },
    /// Give an endpoint a new signing secret; the old secret also signs until the overlap has passed
    RotateSecret {
        name: String,
        #[command(flatten)]
        more: More,
    },
    /// Remove an endpoint that no subscription uses
    Drop { name: String },
}

#[derive(Debug, Subcommand)]
pub(super) enum Subscription {
    /// List all subscriptions: what they get, who gets it, and where they stand
    List,
    /// Show one subscription
    Show { name: String },
    /// Create a subscription, or alter the one that there is, so that it is as described
    Ensure {
        name: String,
        /// Topic patterns (* matches one word, # any number of words)
        #[arg(required = true)]
        topics: Vec<String>,
        /// The endpoint that the messages are pushed to
        #[arg(long)]
        endpoint: Option<String>,
        #[command(flatten)]
        more: More,
    },
    /// Create a subscription; without --endpoint, workers claim its messages
    Create {
        name: String,
        /// Topic patterns (* matches one word, # any number of words)
        #[arg(required = true)]
        topics: Vec<String>,
        /// The endpoint that the messages are pushed to
        #[arg(long)]
        endpoint: Option<String>,
        #[command(flatten)]
        more: More,
    },
    /// Pause a subscription; its deliveries wait
    Pause { name: String },
    /// Resume a paused subscription where it stopped
    Resume { name: String },
    /// End a subscription
    Drop { name: String },
}

#[derive(Debug, Subcommand)]
pub(super) enum Delivery {
    /// List deliveries, the longest due first
    List {
        /// Of this subscription
        #[arg(long)]
        subscription: Option<String>,
        /// In this state: pending, processing, failed, dead, expired, completed or cancelled; without it, those that have
        /// not ended
        #[arg(long)]
        state: Option<String>,
        /// That this worker has
        #[arg(long)]
        worker: Option<String>,
        /// Of this message
        #[arg(long)]
        message: Option<i64>,
        /// List at most this many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
        limit: i64,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Worker {
    /// List the workers that have deliveries, with how many and for how long
    List,
}

#[derive(Debug, Subcommand)]
pub(super) enum DeadLetter {
    /// List dead letters, oldest first
    List {
        #[command(flatten)]
        which: DeadLetterFilter,
        /// Include the dead letters that are no longer open
        #[arg(long)]
        all: bool,
        /// List at most this many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
        limit: i64,
    },
    /// Show one dead letter
    Show { id: i64 },
    /// Show counts, ages and the most frequent reason
    Stats,
    /// Deliver dead letters again, with a new count of attempts
    Requeue {
        #[command(flatten)]
        of: DeadLetterAction,
    },
    /// Mark dead letters as dealt with in another way
    Resolve {
        #[command(flatten)]
        of: DeadLetterAction,
    },
    /// Mark dead letters as not worth dealing with
    Ignore {
        #[command(flatten)]
        of: DeadLetterAction,
    },
}

/// Which dead letters: those that have all of these.
#[derive(Debug, Default, ClapArgs)]
pub(super) struct DeadLetterFilter {
    /// The subscription
    #[arg(long)]
    pub(super) subscription: Option<String>,
    /// The endpoint
    #[arg(long)]
    pub(super) endpoint: Option<String>,
    /// The reason, such as max_attempts, rejected or expired
    #[arg(long)]
    pub(super) reason: Option<String>,
    /// The topic
    #[arg(long)]
    pub(super) topic: Option<String>,
    /// The tenant
    #[arg(long)]
    pub(super) tenant: Option<String>,
    /// The ordering key
    #[arg(long)]
    pub(super) key: Option<String>,
    /// Dead for longer than this, for example "2 hours"
    #[arg(long, value_name = "DURATION")]
    pub(super) older_than: Option<String>,
}

/// The dead letters of a decision, and who decides for which reason. Either ids or a selection is given.
#[derive(Debug, ClapArgs)]
pub(super) struct DeadLetterAction {
    /// The ids
    #[arg(value_name = "ID")]
    pub(super) ids: Vec<i64>,
    #[command(flatten)]
    pub(super) which: DeadLetterFilter,
    /// All open dead letters
    #[arg(long)]
    pub(super) every: bool,
    /// Of a selection: only list what would be done
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Of a selection: at most this many, oldest first
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    pub(super) limit: i64,
    #[command(flatten)]
    pub(super) by: By,
    /// The reason, for the record
    #[arg(long)]
    pub(super) note: Option<String>,
}

/// The actor of a change.
#[derive(Debug, ClapArgs)]
pub(super) struct By {
    /// The person or ticket, for the record; without it, the user of the system and the user of the database
    #[arg(long, alias = "by")]
    pub(super) actor: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Cursor {
    /// List all cursors
    List,
    /// Show one cursor
    Show {
        consumer: String,
        #[command(flatten)]
        more: More,
    },
    /// Move a cursor to a position, forwards or backwards
    Reset {
        consumer: String,
        position: i64,
        /// The reason; it is recorded in outbox.audit
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        more: More,
    },
    /// Delete a cursor
    Delete {
        consumer: String,
        /// The reason; it is recorded in outbox.audit
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        more: More,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Message {
    /// Show a message with its content, its deliveries and everything that happened to it
    Show { id: i64 },
    /// Cancel the deliveries of a message that are not finished yet
    Cancel {
        id: i64,
        #[command(flatten)]
        by: By,
        /// The reason, for the record
        #[arg(long)]
        reason: Option<String>,
    },
    /// Make a failed, waiting, dead or expired delivery due now and reset its attempt count
    Retry {
        id: i64,
        subscription: String,
        #[command(flatten)]
        by: By,
    },
    /// Remove the content of a message
    Erase {
        id: i64,
        #[command(flatten)]
        by: By,
        /// The reason; it is recorded in outbox.audit
        #[arg(long)]
        reason: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Registry {
    /// List all entries
    List,
    /// Add an entry
    Create {
        code: String,
        #[command(flatten)]
        more: More,
    },
    /// Change an entry
    Alter {
        code: String,
        #[command(flatten)]
        more: More,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Archive {
    /// List the latest finished messages, or those that --set selects
    List {
        #[command(flatten)]
        more: More,
    },
    /// Show one message: its result if it is finished, else how far it is
    Show { id: i64 },
    /// Count the results of the last 1,000 messages
    Stats {
        #[command(flatten)]
        more: More,
    },
}

fn pair(text: &str) -> Result<(String, String), String> {
    text.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())).ok_or_else(|| "expected name=value".to_owned())
}
