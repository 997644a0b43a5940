//! The command `serve`: the dashboard.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;

use pg_outbox::connect::Target;
use pg_outbox::error::{Error, Result};
use pg_outbox_serve::{Options, Server};

/// The variables with the tokens.
const TOKEN: &str = "OUTBOX_SERVE_TOKEN";
const METRICS_TOKEN: &str = "OUTBOX_SERVE_METRICS_TOKEN";

/// The longest file with a token, in bytes.
const MAX_FILE: u64 = 4096;

/// Serves the dashboard.
#[derive(Debug, ClapArgs)]
pub(super) struct Serve {
    /// Address and port to listen on; others than loopback need --tls-proxy, --host, and a token or --user-header
    #[arg(long, default_value = "127.0.0.1:8484")]
    listen: SocketAddr,
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
}

/// Serves until the program is interrupted or terminated.
pub(super) async fn run(target: Target, how: Serve) -> Result<()> {
    let token = read_token(how.token_file.as_deref(), TOKEN)?;
    let metrics_token = read_token(how.metrics_token_file.as_deref(), METRICS_TOKEN)?;
    let mut options = Options {
        listen: how.listen,
        token,
        metrics_token,
        tls_proxy: how.tls_proxy,
        hosts: how.hosts,
        user_header: how.user_header,
        ..Options::default()
    };
    if !how.trusted_proxies.is_empty() {
        options.trusted_proxies = how.trusted_proxies;
    }
    let server = Server::bind(target, options).await?;
    println!("outbox: the dashboard is at http://{}/", server.address());
    if let Some(token) = server.made_up_token() {
        println!("outbox: log in with the token {token}");
    }
    server.run(pg_outbox::shutdown_signal()).await;
    Ok(())
}

/// Returns the token of a file, else that of a variable.
fn read_token(file: Option<&Path>, variable: &str) -> Result<Option<String>> {
    let Some(file) = file else {
        return Ok(std::env::var(variable).ok().filter(|token| !token.is_empty()));
    };
    let cannot = |why: String| Error::invalid(format!("cannot read the token in \"{}\"", file.display())).detail(why);
    let length = std::fs::metadata(file).map_err(|error| cannot(error.to_string()))?.len();
    if length > MAX_FILE {
        return Err(cannot(format!("It has {length} bytes; the limit is {MAX_FILE}.")));
    }
    let text = std::fs::read_to_string(file).map_err(|error| cannot(error.to_string()))?;
    Ok(Some(text.trim().to_owned()))
}
