//! SQL regression tests: each `regress/sql/*.sql` runs through psql in a database of its own, and its output must equal
//! the file in `regress/expected`. `UPDATE=1 make test-regress` writes the expected files again. Read the difference
//! before you commit it.

use std::fs;
use std::path::Path;

use outbox_harness::Server;
use outbox_tests::{bare_server, outbox_harness, server};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_print_what_is_expected() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("regress");
    let mut scripts: Vec<_> = fs::read_dir(folder.join("sql")).unwrap().map(|entry| entry.unwrap().path()).collect();
    scripts.sort();
    let mut wrong = Vec::new();
    for script in scripts {
        let name = script.file_stem().unwrap().to_string_lossy().into_owned();
        // Tests run without a dispatcher, which could change the results at any moment, unless their name ends with _worker.
        let server = if name.ends_with("_worker") { server().await } else { bare_server().await };
        let printed = run(server, &name, &script).await;
        assert!(!printed.contains("create extension pg_outbox;\nERROR"), "{name}: {printed}");
        assert!(!printed.contains("ERROR:  XX000"), "{name} met an internal error: {printed}");
        let expected = folder.join("expected").join(format!("{name}.out"));
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&expected, &printed).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != printed {
            let actual = std::env::temp_dir().join(format!("{name}.{}.out", std::process::id()));
            fs::write(&actual, &printed).unwrap();
            let diff = std::process::Command::new("diff").arg("-u").arg(&expected).arg(&actual).output().unwrap();
            let _ = fs::remove_file(&actual);
            wrong.push(format!("{name}:\n{}", String::from_utf8_lossy(&diff.stdout)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

async fn run(server: &Server, name: &str, script: &Path) -> String {
    let db = server.empty_database(name).await.unwrap();
    drop(db);
    let mut command = tokio::process::Command::from(server.install.command("psql"));
    let sql = fs::read(script).unwrap();
    command
        .args([
            "-X",
            "-a",
            "-q",
            "--no-psqlrc",
            "-P",
            "pager=off",
            "-v",
            "VERBOSITY=verbose",
            "-v",
            "SHOW_CONTEXT=never",
        ])
        .arg(server.dsn(name))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    // Output and errors go to one stream, so that errors appear in the right place.
    let mut wrapped = tokio::process::Command::new("sh");
    wrapped
        .arg("-c")
        .arg("exec \"$@\" 2>&1")
        .arg("sh")
        .arg(command.as_std().get_program())
        .args(command.as_std().get_args());
    let mut child = wrapped.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    tokio::spawn(async move {
        let _ = tokio::io::AsyncWriteExt::write_all(&mut stdin, &sql).await;
    });
    let printed = String::from_utf8_lossy(&child.wait_with_output().await.unwrap().stdout).into_owned();
    // The expected files contain SQLSTATEs, but not locations in PostgreSQL's source.
    printed.lines().filter(|line| !line.starts_with("LOCATION:")).map(|line| format!("{line}\n")).collect()
}
