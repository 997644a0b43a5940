//! A file or the standard output, with one JSON object per line (NDJSON).
//!
//! A file is synced before records count as stored. After a crash, an incomplete last line is removed, and the last complete
//! line says where to continue, so that a file contains every record once.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;

use async_trait::async_trait;
use base64::Engine as _;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Last, Opened, Sent, Sink};
use crate::record::{Binding, EPOCH, POSITION, RELAY, Record, SOURCE};
use crate::source::Place;

/// A file, or the standard output.
#[derive(Debug)]
pub(super) struct FileSink {
    /// `None` is the standard output.
    path: Option<PathBuf>,
    file: Option<File>,
}

/// The longest last line that is searched for its beginning. Records are much smaller.
const TAIL: u64 = 256 * 1024 * 1024;

impl FileSink {
    pub(super) fn new(path: PathBuf) -> FileSink {
        FileSink { path: Some(path), file: None }
    }

    pub(super) fn stdout() -> FileSink {
        FileSink { path: None, file: None }
    }
}

#[async_trait]
impl Sink for FileSink {
    fn binding(&self) -> Binding {
        Binding { prefix: "ce-", ascii: false, key_header: false }
    }

    fn describe(&self) -> String {
        match &self.path {
            Some(path) => format!("file {}", path.display()),
            None => "stdout".to_owned(),
        }
    }

    async fn open(&mut self) -> Result<Opened, String> {
        let limit = usize::MAX;
        let Some(path) = &self.path else { return Ok(Opened { limit, last: None }) };
        let shown = |error: std::io::Error| format!("cannot open {}: {error}", path.display());
        let mut file =
            OpenOptions::new().create(true).read(true).write(true).truncate(false).open(path).map_err(shown)?;
        let last = continue_file(&mut file).map_err(shown)?;
        self.file = Some(file);
        Ok(Opened { limit, last })
    }

    fn refuses(&self, _: &Record) -> Option<String> {
        None
    }

    async fn send(&mut self, records: &[Record]) -> Sent {
        let mut lines = Vec::with_capacity(records.iter().map(|record| record.size() * 2).sum());
        for record in records {
            if let Err(error) = serde_json::to_writer(&mut lines, &line(record)) {
                return Sent::retry(0, error.to_string());
            }
            lines.push(b'\n');
        }
        let written = match &mut self.file {
            Some(file) => file.write_all(&lines).and_then(|()| file.sync_data()),
            None => {
                let mut out = std::io::stdout().lock();
                out.write_all(&lines).and_then(|()| out.flush())
            }
        };
        match written {
            Ok(()) => Sent::all(records),
            // The file is opened again, which removes an incomplete line and finds out what was written.
            Err(error) => Sent::retry(0, error.to_string()),
        }
    }
}

/// A record as a line. A body that is JSON is the field `body`; other bodies are base64 in `body_base64`.
#[derive(Serialize)]
struct Line<'a> {
    topic: &'a str,
    key: Option<&'a str>,
    headers: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

fn line(record: &Record) -> Line<'_> {
    // Between the tokens of JSON, a line break is white space like any other.
    let json = std::str::from_utf8(&record.body).ok().map(|text| text.replace(['\n', '\r'], " "));
    let body = json.and_then(|text| RawValue::from_string(text).ok());
    let body_base64 = body.is_none().then(|| base64::engine::general_purpose::STANDARD.encode(&record.body));
    let headers = record.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    Line { topic: &record.topic, key: record.key.as_deref(), headers, body, body_base64 }
}

/// Removes an incomplete last line, moves to the end and returns the marks of the last line.
fn continue_file(file: &mut File) -> std::io::Result<Option<Last>> {
    let size = file.seek(SeekFrom::End(0))?;
    let mut window = size.min(64 * 1024);
    let (tail, start) = loop {
        file.seek(SeekFrom::Start(size - window))?;
        let mut tail = vec![0; usize::try_from(window).unwrap_or_default()];
        file.read_exact(&mut tail)?;
        // The window has the whole last line if there is another line's end before it.
        let ends = tail.iter().filter(|byte| **byte == b'\n').count();
        if window == size || ends > 1 || window >= TAIL {
            break (tail, size - window);
        }
        window = (window * 8).min(size);
    };
    let complete = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let end = start + complete as u64;
    if end < size {
        file.set_len(end)?;
    }
    file.seek(SeekFrom::Start(end))?;
    let last = tail[..complete].split(|byte| *byte == b'\n').rev().find(|line| !line.is_empty());
    let Some(last) = last else { return Ok(None) };
    let not_ours = || std::io::Error::other("its last line was not written by a relay");
    let line: Value = serde_json::from_slice(last).map_err(|_| not_ours())?;
    let mark = |name: &str| line["headers"][name].as_str();
    let place = (|| Some(Place { epoch: mark(EPOCH)?.parse().ok()?, position: mark(POSITION)?.parse().ok()? }))();
    match (mark(SOURCE), mark(RELAY), place) {
        (Some(source), Some(relay), Some(place)) => {
            Ok(Some(Last { source: source.to_owned(), relay: relay.to_owned(), place }))
        }
        _ => Err(not_ours()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn record(position: i64) -> Record {
        Record {
            epoch: 1,
            position,
            webhook_id: format!("msg_{position}"),
            topic: "t".to_owned(),
            key: None,
            headers: vec![
                (SOURCE.to_owned(), "/s".to_owned()),
                (RELAY.to_owned(), "r".to_owned()),
                (EPOCH.to_owned(), "1".to_owned()),
                (POSITION.to_owned(), position.to_string()),
            ],
            body: if position == 2 {
                Bytes::from_static(&[0xff])
            } else {
                Bytes::from_static(b"{\"n\":\n 1.000000000000000000001}")
            },
        }
    }

    #[tokio::test]
    async fn a_file_is_continued_after_its_last_complete_line() {
        let path = std::env::temp_dir().join(format!("outbox-relay-file-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let mut sink = FileSink::new(path.clone());
        assert_eq!(sink.open().await.unwrap().last, None);
        assert_eq!(sink.send(&[record(1), record(2)]).await, Sent { stored: 2, failure: None });
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{whole}{{\"topic\": \"cut of")).unwrap();
        let mut again = FileSink::new(path.clone());
        let last = again.open().await.unwrap().last.unwrap();
        assert_eq!((last.source.as_str(), last.place), ("/s", Place { epoch: 1, position: 2 }));
        again.send(&[record(3)]).await;
        let lines: Vec<Value> =
            std::fs::read_to_string(&path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3);
        assert!(whole.contains("1.000000000000000000001"), "{whole}");
        assert_eq!(lines[1]["body_base64"], "/w==");
        std::fs::write(&path, "a poem\n").unwrap();
        assert!(again.open().await.unwrap_err().contains("not written by a relay"));
        let _ = std::fs::remove_file(&path);
    }
}
