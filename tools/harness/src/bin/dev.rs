//! `make up` and `make down`: a development server with the extension preloaded, in a temporary data folder.
//!
//! The connection string is the last line that `up` prints. It is also in the file `.dsn`, which only its owner can read.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use outbox_harness::postgres::{self, Install, Server, free_port, own, root};

fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("up") => up(),
        Some("down") => down(),
        Some("dsn") => {
            println!("{}", fs::read_to_string(dsn_file()).context("no server; run `make up`")?.trim());
            Ok(())
        }
        _ => bail!("usage: dev up | down | dsn"),
    }
}

fn folder() -> PathBuf {
    root().join(".cache/dev")
}

fn dsn_file() -> PathBuf {
    root().join(".dsn")
}

fn is_up(install: &Install) -> bool {
    let status = install.command("pg_ctl").arg("-D").arg(folder().join("data")).arg("status").output();
    status.is_ok_and(|output| output.status.success())
}

fn up() -> Result<()> {
    let install = Install::find()?;
    let data = folder().join("data");
    if is_up(&install) {
        eprintln!("the server is up already");
        println!("{}", fs::read_to_string(dsn_file())?.trim());
        return Ok(());
    }
    // The data of another major version cannot be used.
    let version = fs::read_to_string(data.join("PG_VERSION")).unwrap_or_default();
    if version.trim() != install.major.to_string() {
        let _ = fs::remove_dir_all(folder());
    }
    let password_file = folder().join("password");
    fs::create_dir_all(folder())?;
    let mut server = if data.join("PG_VERSION").exists() {
        Server::on(install.clone(), data.clone(), fs::read_to_string(&password_file)?, &[])
    } else {
        fs::create_dir_all(&data)?;
        let server = Server::init(install.clone(), data.clone(), &[])?;
        fs::write(&password_file, server.password())?;
        fs::set_permissions(&password_file, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        server
    };
    server.keep();
    server.set("shared_preload_libraries", "pg_outbox");
    server.port = free_port()?;
    let log = folder().join("log");
    fs::write(&log, "")?;
    own(&log)?;
    let options: Vec<String> = server.options().iter().map(|o| format!("'{}'", o.replace('\'', "'\\''"))).collect();
    let status = install
        .command("pg_ctl")
        .arg("-D")
        .arg(&data)
        .arg("-l")
        .arg(&log)
        .args(["-w", "-s", "-o", &options.join(" "), "start"])
        .status()?;
    if !status.success() {
        bail!("the server did not start:\n{}", postgres::tail(&fs::read_to_string(&log)?, 20));
    }
    let dsn = server.dsn("postgres");
    fs::write(dsn_file(), format!("{dsn}\n"))?;
    fs::set_permissions(dsn_file(), std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let db = outbox_harness::connect(&dsn).await?;
        db.batch_execute("set client_min_messages = warning; create extension if not exists pg_outbox").await?;
        anyhow::Ok(())
    })?;
    eprintln!(
        "PostgreSQL {} with pg_outbox; http:// and loopback are allowed as targets; log in {}",
        install.major,
        log.display()
    );
    println!("{dsn}");
    Ok(())
}

fn down() -> Result<()> {
    let install = Install::find()?;
    if is_up(&install) {
        let status = install
            .command("pg_ctl")
            .arg("-D")
            .arg(folder().join("data"))
            .args(["-w", "-s", "-m", "fast", "stop"])
            .status()?;
        if !status.success() {
            bail!("the server did not stop");
        }
    }
    let _ = fs::remove_file(dsn_file());
    let _ = fs::remove_dir_all(folder());
    eprintln!("the server is down, its data is removed");
    Ok(())
}
