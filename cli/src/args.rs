//! What can be said on the command line.

use clap::{Args as ClapArgs, Parser, Subcommand};
use clap_complete::Shell;

/// Looks at and operates the transactional outbox of a PostgreSQL database.
#[derive(Debug, Parser)]
#[command(name = "outbox", version, about, max_term_width = 100)]
pub(super) struct Args {
    /// Connection string; else PGHOST, PGUSER, ... say it
    #[arg(short, long, global = true, env = "DATABASE_URL", hide_env_values = true)]
    pub(super) dsn: Option<String>,
    /// Print JSON: one value per line
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// One screen: where everything stands, and what is wrong (exit code 1)
    Status {
        /// Seconds over which throughput is measured; 0: not at all
        #[arg(long, default_value_t = 1.0)]
        over: f64,
    },
    /// The same, live; q ends it
    Top {
        /// Seconds between looks
        #[arg(long, default_value_t = 1.0)]
        every: f64,
        /// Draw this many times and end
        #[arg(long)]
        count: Option<u32>,
        /// Instead of a terminal, draw into a picture (SVG)
        #[arg(long, value_name = "FILE")]
        picture: Option<String>,
    },
    /// Check preloading, settings, privileges, versions, held snapshots (exit code 1 if something is wrong)
    Doctor,
    /// Follow the feed
    Tail {
        /// Topics (* one word, # any number); all if none is given
        topics: Vec<String>,
        /// Begin behind this position; 0: from the first that is stored
        #[arg(long)]
        after: Option<i64>,
        /// End after so many messages
        #[arg(short = 'n', long)]
        count: Option<u64>,
    },
    /// Enqueue one message
    Send {
        /// The topic
        topic: String,
        /// The payload, JSON; - reads it from the standard input
        payload: String,
        /// Send the payload as it is, as text
        #[arg(long)]
        text: bool,
        /// The ordering key
        #[arg(long)]
        key: Option<String>,
        /// The tenant
        #[arg(long)]
        tenant: Option<String>,
        /// A header, name=value
        #[arg(long = "header", value_parser = pair)]
        headers: Vec<(String, String)>,
        /// The same key, topic and tenant with the same content is enqueued once
        #[arg(long)]
        idempotency_key: Option<String>,
    },
    /// Receive webhooks here: print them and check their signatures
    Listen {
        /// Where to listen
        #[arg(long, default_value = "127.0.0.1:8080")]
        address: String,
        /// The signing secret (whsec_...)
        #[arg(long, env = "OUTBOX_SECRET", hide_env_values = true)]
        secret: Option<String>,
        /// The status to answer with
        #[arg(long, default_value_t = 200)]
        status: u16,
        /// End after so many requests
        #[arg(short = 'n', long)]
        count: Option<usize>,
    },
    /// HTTP targets
    #[command(subcommand)]
    Endpoint(Endpoint),
    /// Who gets what
    #[command(subcommand)]
    Subscription(Subscription),
    /// Dead letters
    #[command(subcommand, alias = "dlq")]
    DeadLetter(DeadLetter),
    /// Cursors of readers
    #[command(subcommand)]
    Cursor(Cursor),
    /// One message
    #[command(subcommand)]
    Message(Message),
    /// Registered topics
    #[command(subcommand)]
    Topic(Registry),
    /// Registered publishers
    #[command(subcommand)]
    Publisher(Registry),
    /// What became of messages
    #[command(subcommand)]
    Archive(Archive),
    /// Deliver a stretch of history again, and show how far it is; Ctrl-C leaves it running (exit code 130)
    Replay {
        #[command(flatten)]
        what: Replay,
        /// Arguments of outbox.replay() by name: from_position=1 to_position=100 rate=500
        #[arg(value_parser = pair)]
        args: Vec<(String, String)>,
    },
    /// Call any function of the schema: outbox call cancel message_id=42
    Call {
        /// The function
        function: String,
        /// Arguments by name; a value that is JSON is taken as such
        #[arg(value_parser = pair)]
        args: Vec<(String, String)>,
    },
    /// Print a completion script
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// What to do about replays.
#[derive(Debug, ClapArgs)]
#[group(id = "what", required = true, multiple = false)]
pub(super) struct Replay {
    /// The subscription
    pub(super) subscription: Option<String>,
    /// Show how far a replay is that was begun before
    #[arg(long, value_name = "ID")]
    pub(super) follow: Option<i64>,
    /// End a replay
    #[arg(long, value_name = "ID")]
    pub(super) cancel: Option<i64>,
    /// All replays
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
    /// All of them
    List,
    /// One of them
    Show { name: String },
    /// Make one; shows its signing secret, once
    Create {
        name: String,
        url: String,
        #[command(flatten)]
        more: More,
    },
    /// Switch on
    Enable { name: String },
    /// Switch off: deliveries wait
    Disable {
        name: String,
        #[command(flatten)]
        more: More,
    },
    /// New signing secret; the old one goes on for a while
    RotateSecret {
        name: String,
        #[command(flatten)]
        more: More,
    },
    /// Remove
    Drop { name: String },
}

#[derive(Debug, Subcommand)]
pub(super) enum Subscription {
    /// All of them
    List,
    /// One of them
    Show { name: String },
    /// Make one; without --endpoint it is for workers
    Create {
        name: String,
        /// Topics (* one word, # any number)
        #[arg(required = true)]
        topics: Vec<String>,
        #[arg(long)]
        endpoint: Option<String>,
        #[command(flatten)]
        more: More,
    },
    /// Hold deliveries
    Pause { name: String },
    /// Go on
    Resume { name: String },
    /// End it
    Drop { name: String },
}

#[derive(Debug, Subcommand)]
pub(super) enum DeadLetter {
    /// Those that are open, the oldest first
    List {
        /// Resolved ones too
        #[arg(long)]
        all: bool,
        #[arg(long, default_value_t = 50)]
        limit: i64,
    },
    /// One of them
    Show { id: i64 },
    /// Counts, ages, the most frequent reason
    Stats,
    /// Try again
    Requeue {
        #[command(flatten)]
        of: DeadLetterAction,
    },
    /// Mark as dealt with
    Resolve {
        #[command(flatten)]
        of: DeadLetterAction,
    },
    /// Mark as not to be dealt with
    Ignore {
        #[command(flatten)]
        of: DeadLetterAction,
    },
}

/// Which dead letters, by whom and why.
#[derive(Debug, ClapArgs)]
pub(super) struct DeadLetterAction {
    #[arg(required = true)]
    pub(super) ids: Vec<i64>,
    /// Who decides
    #[arg(long, env = "USER", default_value = "outbox")]
    pub(super) actor: String,
    /// Why
    #[arg(long)]
    pub(super) note: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Cursor {
    /// All of them
    List,
    /// One of them
    Show {
        consumer: String,
        #[command(flatten)]
        more: More,
    },
    /// Move it, in either direction
    Reset {
        consumer: String,
        position: i64,
        /// Why; it is kept
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        more: More,
    },
    /// Forget it
    Delete {
        consumer: String,
        /// Why; it is kept
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        more: More,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Message {
    /// Everything that happened to it
    Show { id: i64 },
    /// Not to be delivered where it has not been yet
    Cancel {
        id: i64,
        #[command(flatten)]
        more: More,
    },
    /// A waiting or dead delivery now, its count over
    Retry {
        id: i64,
        subscription: String,
        #[command(flatten)]
        more: More,
    },
    /// Remove its content
    Erase {
        id: i64,
        #[arg(long, env = "USER", default_value = "outbox")]
        actor: String,
        #[arg(long)]
        reason: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Registry {
    /// All of them
    List,
    /// Register one
    Create {
        code: String,
        #[command(flatten)]
        more: More,
    },
    /// Change one
    Alter {
        code: String,
        #[command(flatten)]
        more: More,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Archive {
    /// The latest, or those that --set selects
    List {
        #[command(flatten)]
        more: More,
    },
    /// One message
    Show { id: i64 },
    /// Counts
    Stats {
        #[command(flatten)]
        more: More,
    },
}

fn pair(text: &str) -> Result<(String, String), String> {
    text.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())).ok_or_else(|| "expected name=value".to_owned())
}
