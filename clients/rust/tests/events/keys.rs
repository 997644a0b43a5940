//! Providers of keys: a real OpenBao, which has the interface of Vault, KMS by moto, and answers that no server should give.
//! `scripts/setup keys` downloads the two.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use outbox_harness::postgres::{free_port, fresh_folder, root};
use outbox_harness::wait_until;
use pg_outbox::events::encrypt::KeyProvider;
use pg_outbox::events::keys::{Credentials, KmsKeys, VaultKeys};
use pg_outbox::events::{ANY, EventStore, Fault, FieldEncryption, NewEvent};
use pg_outbox::{Error, Kind};
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::shop::{PATIENCE, outbox};

const KEY: [u8; 32] = [7; 32];

/// A program that ends when it is dropped, or with this process.
struct Running(Child);

impl Running {
    fn start(program: PathBuf, args: &[&str], output: Stdio) -> Running {
        assert!(program.exists(), "there is no {}: scripts/setup keys", program.display());
        let mut shell = Command::new("sh");
        // The input of the shell ends with this process, and the shell ends the program then.
        shell.arg("-c").arg("exec 3<&0; \"$@\" <&- 3<&- & pid=$!; (cat <&3 >/dev/null; kill -TERM $pid 2>/dev/null) & exec 3<&-; wait $pid");
        shell.arg("sh").arg(program).args(args).stdin(Stdio::piped()).stdout(output).stderr(Stdio::null());
        Running(shell.spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// An OpenBao with TLS, a transit engine, and the key `m1`.
struct Bao {
    address: String,
    ca: PathBuf,
    _running: Running,
}

impl Bao {
    fn program() -> PathBuf {
        root().join(".cache/keys/bao")
    }

    async fn start() -> Bao {
        let (folder, port) = (fresh_folder("bao").unwrap(), free_port().unwrap());
        let listen = format!("-dev-listen-address=127.0.0.1:{port}");
        let certificates = format!("-dev-tls-cert-dir={}", folder.display());
        let args =
            ["server", "-dev", "-dev-tls", &certificates, "-dev-root-token-id=root", "-dev-no-store-token", &listen];
        let running = Running::start(Bao::program(), &args, Stdio::null());
        let bao =
            Bao { address: format!("https://127.0.0.1:{port}"), ca: folder.join("vault-ca.pem"), _running: running };
        wait_until("OpenBao runs", PATIENCE, async || bao.tried(&["secrets", "enable", "transit"])).await;
        bao.run(&["write", "-f", "transit/keys/m1"]);
        bao
    }

    fn tried(&self, args: &[&str]) -> bool {
        let mut command = Command::new(Bao::program());
        command.args(args).env("BAO_ADDR", &self.address).env("BAO_CACERT", &self.ca).env("BAO_TOKEN", "root");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
    }

    fn run(&self, args: &[&str]) {
        assert!(self.tried(args), "bao {args:?}");
    }

    fn keys(&self) -> VaultKeys {
        VaultKeys::new(&self.address).unwrap().ca_file(&self.ca).unwrap().token("root\n")
    }
}

fn fault(error: &Error) -> (Option<Fault>, Kind) {
    (Fault::of(error), error.kind())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_vault_wrap_are_rotated_and_revoked() {
    let bao = Bao::start().await;
    let keys = bao.keys();
    bao.run(&["write", "-f", "transit/keys/other"]);
    let wrapped = keys.wrap_key("m1", &KEY).await.unwrap();
    assert!(wrapped.starts_with(b"vault:v1:"));
    assert_eq!(keys.unwrap_key("m1", &wrapped).await.unwrap(), KEY);
    let error = keys.unwrap_key("other", &wrapped).await.unwrap_err();
    assert_eq!(fault(&error), (Some(Fault::Encryption), Kind::Invalid));
    let error = keys.unwrap_key("no such key", &wrapped).await.unwrap_err();
    assert_eq!(fault(&error), (Some(Fault::KeyNotFound), Kind::NotFound));
    let denied = bao.keys().token("s.wrong").wrap_key("m1", &KEY).await.unwrap_err();
    assert!(fault(&denied) == (Some(Fault::Encryption), Kind::Invalid) && denied.to_string().contains("403"));
    let untrusted = VaultKeys::new(&bao.address).unwrap().token("root").wrap_key("m1", &KEY).await.unwrap_err();
    assert_eq!(fault(&untrusted), (Some(Fault::Encryption), Kind::Retry));

    let outbox = outbox("ev_vault").await;
    let session = outbox.session().await.unwrap();
    let encryption = || {
        let encryption = FieldEncryption::new(bao.keys(), "m1").fields("customer.named", &["name"]).unwrap();
        encryption.per_subject(|event| Some(event.stream.to_owned()))
    };
    let named = || NewEvent::new("customer.named", &json!({"name": "Ada"})).unwrap();
    let store = EventStore::new().encryption(encryption());
    store.append(&**session, "customer-1", [named()], ANY).await.unwrap();
    let prefix = async || {
        let sql = "select convert_from(wrapped_key, 'utf8'), master_key from outbox.subject_keys('customer-1')";
        let row = session.query_one(sql, &[]).await.unwrap();
        (row.get::<_, String>(0)[..9].to_owned(), row.get::<_, String>(1))
    };
    let name = async || {
        let fresh = EventStore::new().encryption(encryption());
        fresh.load(&**session, "customer-1", 1).await.map(|events| events[0].data["name"].clone())
    };
    assert_eq!((prefix().await, name().await.unwrap()), (("vault:v1:".into(), "m1".into()), json!("Ada")));
    // The key is rotated, and the old version is needed no longer after the data key was wrapped again.
    bao.run(&["write", "-f", "transit/keys/m1/rotate"]);
    assert_eq!(encryption().rewrap(&**session, "customer-1", "m1").await.unwrap(), 1);
    bao.run(&["write", "transit/keys/m1/config", "min_decryption_version=2"]);
    assert_eq!((prefix().await, name().await.unwrap()), (("vault:v2:".into(), "m1".into()), json!("Ada")));
    assert_eq!(encryption().rewrap(&**session, "customer-1", "other").await.unwrap(), 1);
    assert_eq!((prefix().await, name().await.unwrap()), (("vault:v1:".into(), "other".into()), json!("Ada")));
    let args = json!({"subject": "customer-1", "actor": "dpo", "reason": "asked for"});
    outbox.call("revoke_subject_keys", args, &[]).await.unwrap();
    assert_eq!(encryption().rewrap(&**session, "customer-1", "m1").await.unwrap(), 0);
    assert_eq!(name().await.unwrap(), json!(null));
}

/// KMS of moto.
#[derive(Deserialize)]
struct Moto {
    endpoint: String,
    id: String,
    secret: String,
    key: String,
}

impl Moto {
    fn start() -> (Moto, Running) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys.py");
        // The four calls of the script are not authenticated.
        let python = root().join(".cache/keys/py/bin/python");
        let python = python.to_str().unwrap();
        let mut running =
            Running::start("/usr/bin/env".into(), &["INITIAL_NO_AUTH_ACTION_COUNT=4", python, script], Stdio::piped());
        let mut line = String::new();
        BufReader::new(running.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        (serde_json::from_str(&line).expect("scripts/setup keys"), running)
    }

    fn keys(&self, secret: &str) -> KmsKeys {
        let credentials = Credentials::new(&self.id, secret);
        let keys = KmsKeys::new("eu-central-1").unwrap().endpoint(&self.endpoint).unwrap();
        keys.credentials(move || {
            let credentials = credentials.clone();
            Box::pin(async move { Ok(credentials) })
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_kms_wrap_and_their_requests_are_signed() {
    let (moto, _running) = Moto::start();
    let keys = moto.keys(&moto.secret);
    let wrapped = keys.wrap_key(&moto.key, &KEY).await.unwrap();
    assert!(wrapped.len() > 32 && !wrapped.windows(32).any(|part| part == KEY));
    assert_eq!(keys.unwrap_key(&moto.key, &wrapped).await.unwrap(), KEY);
    let error = keys.wrap_key("00000000-0000-0000-0000-000000000000", &KEY).await.unwrap_err();
    assert_eq!(fault(&error), (Some(Fault::KeyNotFound), Kind::NotFound), "{}", error.report());
    let error = keys.unwrap_key(&moto.key, b"damaged damaged damaged damaged damaged").await.unwrap_err();
    assert_eq!(fault(&error), (Some(Fault::Encryption), Kind::Invalid), "{}", error.report());
    // The server checks signatures.
    let error = moto.keys("another secret").wrap_key(&moto.key, &KEY).await.unwrap_err();
    assert!(
        fault(&error) == (Some(Fault::Encryption), Kind::Invalid) && error.to_string().contains("403"),
        "{}",
        error.report()
    );
    assert!(!error.report().contains("another secret"));

    let outbox = outbox("ev_kms").await;
    let session = outbox.session().await.unwrap();
    let encryption = FieldEncryption::new(keys, &moto.key).fields("customer.named", &["name"]).unwrap();
    let store = EventStore::new().encryption(encryption);
    let named = NewEvent::new("customer.named", &json!({"name": "Ada"})).unwrap();
    store.append(&**session, "customer-1", [named], ANY).await.unwrap();
    assert_ne!(store.load_raw(&**session, "customer-1", 1).await.unwrap()[0].data["name"], "Ada");
    assert_eq!(store.load(&**session, "customer-1", 1).await.unwrap()[0].data["name"], "Ada");
}

/// Answers each request with a status and a body, and returns the address. Without an answer it is silent.
async fn double(answer: Option<(u16, Vec<u8>)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            if let Some((status, body)) = &answer {
                let head = format!(
                    "HTTP/1.1 {status} x\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(&[head.as_bytes(), body].concat()).await;
            }
            kept.push(stream);
        }
    });
    address
}

fn providers(address: &str) -> Vec<Box<dyn KeyProvider>> {
    let wait = Duration::from_millis(500);
    let credentials = || KmsKeys::new("eu-central-1").unwrap().endpoint(address).unwrap().timeout(wait).unwrap();
    let kms = credentials().credentials(|| Box::pin(async { Ok(Credentials::new("id", "confidential")) }));
    let vault = VaultKeys::new(address).unwrap().token("confidential").timeout(wait).unwrap();
    vec![Box::new(vault), Box::new(kms)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_pass_are_told_apart_from_those_that_do_not() {
    let short = STANDARD.encode([7; 31]);
    let data = json!({"data": {"plaintext": short, "ciphertext": 5}, "Plaintext": short, "CiphertextBlob": "%"});
    for (answer, kind) in [
        (Some((503, vec![])), Kind::Retry),
        (Some((429, vec![])), Kind::Retry),
        (Some((403, b"{}".to_vec())), Kind::Invalid),
        (Some((307, vec![])), Kind::Invalid),
        (Some((200, vec![])), Kind::Invalid),
        (Some((200, b"[]".to_vec())), Kind::Invalid),
        (Some((200, b"{\"data\": 1}".to_vec())), Kind::Invalid),
        (Some((200, data.to_string().into_bytes())), Kind::Invalid),
        (Some((200, vec![b' '; 70_000])), Kind::Retry),
        (Some((400, b"{\"__type\": \"KMSInternalException\", \"errors\": []}".to_vec())), Kind::Retry),
        (None, Kind::Retry),
    ] {
        let address = double(answer.clone()).await;
        for (n, provider) in providers(&address).into_iter().enumerate() {
            // The last but one is an error of KMS alone.
            let kind =
                if n == 0 && answer.as_ref().is_some_and(|(status, _)| *status == 400) { Kind::Invalid } else { kind };
            for error in [
                provider.wrap_key("m1", &KEY).await.unwrap_err(),
                provider.unwrap_key("m1", b"vault:v1:AAAA").await.unwrap_err(),
            ] {
                let status = answer.as_ref().map(|(status, _)| *status);
                assert_eq!(fault(&error), (Some(Fault::Encryption), kind), "{status:?} {}", error.report());
                assert!(!error.report().contains("confidential"));
            }
        }
    }
    for provider in providers("http://127.0.0.1:1") {
        assert_eq!(provider.wrap_key("m1", &KEY).await.unwrap_err().kind(), Kind::Retry);
    }
    // A token that a header cannot have is not shown.
    let keys = VaultKeys::new("http://127.0.0.1:1").unwrap().token("confidential\u{7}");
    let error = keys.wrap_key("m1", &KEY).await.unwrap_err();
    assert!(error.kind() == Kind::Invalid && !error.report().contains("confidential"), "{}", error.report());
    assert!(!format!("{keys:?}").contains("confidential"));
}

/// Begins each answer with a text, and repeats another one for ever. Returns the address.
async fn endless(begin: &'static str, part: &'static str, pause: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let mut sent = stream.write_all(begin.as_bytes()).await;
                while sent.is_ok() {
                    tokio::time::sleep(pause).await;
                    sent = stream.write_all(part.as_bytes()).await;
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_server_and_no_source_of_credentials_is_waited_for_without_end() {
    let (at_once, slow) = (Duration::ZERO, Duration::from_millis(20));
    for (begin, part, pause) in [
        ("HTTP/1.1 200 x\r\n\r\n", " ", slow),
        ("HTTP/1.1 200 x\r\n\r\n", "          ", at_once),
        ("HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\n", "1\r\n \r\n", slow),
        ("HTTP/1.1 200 x\r\n", "a: b\r\n", slow),
        ("", "HTTP/1.1 103 x\r\n\r\n", slow),
        ("", "x", at_once),
    ] {
        let address = endless(begin, part, pause).await;
        for provider in providers(&address) {
            let error = tokio::time::timeout(PATIENCE, provider.wrap_key("m1", &KEY)).await.unwrap().unwrap_err();
            assert_eq!(fault(&error), (Some(Fault::Encryption), Kind::Retry), "{begin:?} {}", error.report());
        }
    }
    let silent = KmsKeys::new("eu-central-1").unwrap().timeout(Duration::from_millis(100)).unwrap();
    let silent = silent.credentials(|| Box::pin(std::future::pending()));
    let error = tokio::time::timeout(PATIENCE, silent.wrap_key("m1", &KEY)).await.unwrap().unwrap_err();
    assert_eq!(fault(&error), (Some(Fault::Encryption), Kind::Retry), "{}", error.report());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_a_file_need_none_of_the_system() {
    const SYSTEM: &str = "SSL_CERT_FILE";
    if std::env::var(SYSTEM).as_deref() != Ok("/dev/null") {
        // The variables are those of another process, in which this test runs alone.
        let mut test = Command::new(std::env::current_exe().unwrap());
        test.args(["--exact", "keys::certificates_of_a_file_need_none_of_the_system"]).env(SYSTEM, "/dev/null");
        let output = test.env_remove("SSL_CERT_DIR").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let bao = Bao::start().await;
    let wrapped = bao.keys().wrap_key("m1", &KEY).await.unwrap();
    assert_eq!(bao.keys().unwrap_key("m1", &wrapped).await.unwrap(), KEY);
    let untrusted = VaultKeys::new(&bao.address).unwrap().token("root").wrap_key("m1", &KEY).await.unwrap_err();
    assert_eq!(Fault::of(&untrusted), Some(Fault::Encryption), "{}", untrusted.report());
}
