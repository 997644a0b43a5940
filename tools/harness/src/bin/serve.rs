//! A temporary server for tests in other languages. The program prints the connection string and then executes the
//! commands on its standard input.
//!
//! `serve [name=value ...]` starts the server with the extension preloaded and with these settings. Commands:
//!
//! - `restart fast`, `restart immediate`, `stop fast`, `stop immediate`, `start`: answered with `ok` or an error.
//! - `tls FOLDER`: puts TLS in front of the server, with a certificate for `localhost`. Its authority is written to
//!   `ca.pem` in the folder, and another authority to `other.pem`. Answered with the port.
//! - `pooler MODE SIZE`: puts PgBouncer in front of the server. Answered with the port.
//!
//! The program ends at the end of its input, and removes everything.

use std::io::{BufRead, Write};

use anyhow::{Context, Result, bail};
use outbox_harness::tls::Ca;
use outbox_harness::tls_proxy::TlsProxy;
use outbox_harness::{Pooler, Server, Stop};

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

fn how(word: Option<&str>) -> Result<Stop> {
    match word {
        Some("fast") => Ok(Stop::Fast),
        Some("immediate") => Ok(Stop::Immediate),
        other => bail!("stop how? fast or immediate, not {other:?}"),
    }
}

/// Executes a command and returns the answer.
async fn obey(
    server: &mut Server,
    front: &mut Option<TlsProxy>,
    poolers: &mut Vec<Pooler>,
    line: &str,
) -> Result<String> {
    let mut words = line.split_whitespace();
    match words.next() {
        Some("restart") => server.restart(how(words.next())?).await?,
        Some("stop") => server.stop(how(words.next())?)?,
        Some("start") => server.run().await?,
        Some("tls") => {
            let folder = std::path::Path::new(words.next().context("tls where?")?);
            let ca = Ca::new()?;
            std::fs::write(folder.join("ca.pem"), ca.pem())?;
            std::fs::write(folder.join("other.pem"), Ca::new()?.pem())?;
            let started = front.insert(TlsProxy::start(&ca.issue(&["localhost"])?, server.port).await?);
            return Ok(started.port().to_string());
        }
        Some("pooler") => {
            let mode = words.next().context("which mode?")?;
            let size = words.next().context("of how many sessions?")?.parse()?;
            let started = Pooler::start(server, mode, size).await?;
            let port = started.port.to_string();
            poolers.push(started);
            return Ok(port);
        }
        other => bail!("unknown command {other:?}"),
    }
    Ok("ok".to_owned())
}

#[tokio::main]
async fn main() -> Result<()> {
    let settings: Vec<String> = std::env::args().skip(1).collect();
    let settings = settings
        .iter()
        .map(|setting| setting.split_once('=').context("a setting is name=value"))
        .collect::<Result<Vec<_>>>()?;
    let preload = settings.iter().all(|(name, _)| *name != "shared_preload_libraries");
    let mut server = if preload { Server::start(&settings).await? } else { Server::start_plain(&settings).await? };
    say(&server.dsn("postgres"))?;
    let (mut front, mut poolers) = (None, Vec::new());
    for line in std::io::stdin().lock().lines() {
        match obey(&mut server, &mut front, &mut poolers, &line?).await {
            Ok(answer) => say(&answer)?,
            Err(error) => say(&format!("error: {error:#}").replace('\n', " | "))?,
        }
    }
    Ok(())
}
