//! The command `serve`: the dashboard.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;

use pg_outbox::connect::Target;
use pg_outbox::error::{Error, Result};
use pg_outbox_serve::{Options, Server, Traces};

/// The variables with the tokens.
const TOKEN: &str = "OUTBOX_SERVE_TOKEN";
const METRICS_TOKEN: &str = "OUTBOX_SERVE_METRICS_TOKEN";

/// The variables with headers for the receiver of traces, the first one that is set.
const TRACE_HEADERS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"];

/// The longest file with a token, in bytes.
const MAX_FILE: u64 = 4096;

/// The longest file with databases, in bytes.
const MAX_DATABASES: u64 = 256 * 1024;

/// Serves the dashboard.
#[derive(Debug, ClapArgs)]
pub(super) struct Serve {
    /// Address and port to listen on; others than loopback need --tls-proxy, --host, and a token or --user-header
    #[arg(long, default_value = "127.0.0.1:8484")]
    listen: SocketAddr,
    /// The file with several databases, one a line: a name and a connection string; --dsn is not used then
    #[arg(long, value_name = "FILE", conflicts_with = "dsn")]
    databases: Option<PathBuf>,
    /// The file with the token to log in with; without it that of OUTBOX_SERVE_TOKEN, and without that one is made up and printed
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The file with a token that only reads /metrics; without it that of OUTBOX_SERVE_METRICS_TOKEN
    #[arg(long, value_name = "FILE")]
    metrics_token_file: Option<PathBuf>,
    /// A proxy before this server speaks TLS; cookies are marked as secure
    #[arg(long)]
    tls_proxy: bool,
    /// A name under which browsers reach the dashboard, beside localhost; may be repeated
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<String>,
    /// The header in which a trusted proxy names the person, for example X-Forwarded-User
    #[arg(long, value_name = "HEADER")]
    user_header: Option<String>,
    /// The address of a proxy that may name the person; may be repeated (default: loopback)
    #[arg(long = "trusted-proxy", value_name = "ADDRESS")]
    trusted_proxies: Vec<IpAddr>,
    /// The address of a receiver of OTLP over HTTP for the spans of deliveries, for example http://127.0.0.1:4318/v1/traces; headers
    /// are those of OTEL_EXPORTER_OTLP_TRACES_HEADERS or OTEL_EXPORTER_OTLP_HEADERS
    #[arg(long, value_name = "URL")]
    traces: Option<String>,
}

/// Serves until the program is interrupted or terminated.
pub(super) async fn run(target: impl FnOnce() -> Result<Target>, how: Serve) -> Result<()> {
    let databases = match &how.databases {
        Some(file) => read_databases(file)?,
        None => vec![(String::new(), target()?)],
    };
    let token = read_token(how.token_file.as_deref(), TOKEN)?;
    let metrics_token = read_token(how.metrics_token_file.as_deref(), METRICS_TOKEN)?;
    let traces = match how.traces {
        Some(url) => Some(Traces { url, headers: trace_headers()? }),
        None => None,
    };
    let mut options = Options {
        listen: how.listen,
        token,
        metrics_token,
        tls_proxy: how.tls_proxy,
        hosts: how.hosts,
        user_header: how.user_header,
        traces,
        ..Options::default()
    };
    if !how.trusted_proxies.is_empty() {
        options.trusted_proxies = how.trusted_proxies;
    }
    let server = Server::bind_several(databases, options).await?;
    println!("outbox: the dashboard is at http://{}/", server.address());
    if let Some(token) = server.made_up_token() {
        println!("outbox: log in with the token {token}");
    }
    server.run(pg_outbox::shutdown_signal()).await;
    Ok(())
}

/// Returns the headers for the receiver of traces. The variables of OpenTelemetry have the form `key=value,key2=value2`, with
/// values in percent-encoding.
fn trace_headers() -> Result<Vec<(String, String)>> {
    let given = TRACE_HEADERS.iter().find_map(|name| std::env::var(name).ok().filter(|text| !text.trim().is_empty()));
    let given = given.unwrap_or_default();
    let malformed = || {
        Error::invalid("the headers for the receiver of traces are malformed")
            .hint("OTEL_EXPORTER_OTLP_HEADERS has the form key=value,key2=value2.")
    };
    let pairs = given.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').ok_or_else(malformed)?;
            Ok((name.trim().to_owned(), decoded(value.trim()).ok_or_else(malformed)?))
        })
        .collect()
}

/// Decodes a text in percent-encoding.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// Returns the token of a file, else that of a variable.
fn read_token(file: Option<&Path>, variable: &str) -> Result<Option<String>> {
    let Some(file) = file else {
        return Ok(std::env::var(variable).ok().filter(|token| !token.is_empty()));
    };
    Ok(Some(read(file, "the token", MAX_FILE)?.trim().to_owned()))
}

/// Returns the databases of a file. Empty lines, and those that begin with #, mean nothing.
fn read_databases(file: &Path) -> Result<Vec<(String, Target)>> {
    let text = read(file, "the databases", MAX_DATABASES)?;
    let lines = text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|(n, line)| {
            let place = format!("line {} of \"{}\"", n + 1, file.display());
            // The line is not repeated, because it may have a password.
            let Some((name, dsn)) = line.split_once(char::is_whitespace) else {
                return Err(Error::invalid(format!("{place} is malformed"))
                    .hint("A line has a name and a connection string, for example: shop service=shop"));
            };
            Ok((name.to_owned(), Target::parse_from(dsn.trim(), &place)?))
        })
        .collect()
}

fn read(file: &Path, what: &str, limit: u64) -> Result<String> {
    let cannot = |why: String| Error::invalid(format!("cannot read {what} in \"{}\"", file.display())).detail(why);
    let length = std::fs::metadata(file).map_err(|error| cannot(error.to_string()))?.len();
    if length > limit {
        return Err(cannot(format!("It has {length} bytes; the limit is {limit}.")));
    }
    std::fs::read_to_string(file).map_err(|error| cannot(error.to_string()))
}
