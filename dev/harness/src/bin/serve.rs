//! A throwaway server for tests in other languages: prints its connection string, then obeys lines on its input.
//!
//! `serve [name=value ...]` starts it with the extension preloaded and these settings. Commands: `restart fast`,
//! `restart immediate`, `stop fast`, `stop immediate`, `start`. Each is answered with `ok`, or with what went wrong. It ends,
//! and removes everything, when its input does.

use std::io::{BufRead, Write};

use anyhow::{Context, Result, bail};
use outbox_harness::{Server, Stop};

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

async fn obey(server: &mut Server, line: &str) -> Result<()> {
    let mut words = line.split_whitespace();
    match words.next() {
        Some("restart") => server.restart(how(words.next())?).await,
        Some("stop") => server.stop(how(words.next())?),
        Some("start") => server.run().await,
        other => bail!("unknown command {other:?}"),
    }
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
    for line in std::io::stdin().lock().lines() {
        match obey(&mut server, &line?).await {
            Ok(()) => say("ok")?,
            Err(error) => say(&format!("error: {error:#}").replace('\n', " | "))?,
        }
    }
    Ok(())
}
