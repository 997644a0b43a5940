//! A file or the standard output, with one JSON object per line (NDJSON).
//!
//! A file is synced before records count as stored. After a crash, an incomplete last line is removed, and the last complete
//! line says where to continue, so that a file contains every record once. The rest of a failed write is removed at once. A
//! file that has another length than the relay left it with has another writer, such as an instance that took over; the
//! relay then reads the last line again.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;

use async_trait::async_trait;
use base64::Engine as _;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Failure, Last, Opened, Sent, Sink};
use crate::record::{Binding, Record};

/// A file, or the standard output.
#[derive(Debug)]
pub(super) struct FileSink {
    /// `None` is the standard output.
    path: Option<PathBuf>,
    /// The open file, and its length.
    file: Option<(File, u64)>,
}

/// The longest line in bytes.
const LONGEST: usize = 64 << 20;

/// The part of a file that is searched for the beginning of its last line.
const TAIL: u64 = 2 * LONGEST as u64;

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
        let limit = LONGEST;
        let Some(path) = &self.path else { return Ok(Opened { limit, last: None }) };
        let shown = |error: std::io::Error| format!("cannot open {}: {error}", path.display());
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(path).map_err(shown)?;
        let (length, last) = last_line(&mut file).map_err(shown)?;
        // A relay that was killed may have left an incomplete line.
        if file.metadata().map_err(shown)?.len() > length {
            file.set_len(length).map_err(shown)?;
        }
        self.file = Some((file, length));
        Ok(Opened { limit, last })
    }

    async fn look(&mut self) -> Result<Opened, String> {
        let limit = LONGEST;
        let Some(path) = &self.path else { return Ok(Opened { limit, last: None }) };
        let shown = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
        match File::open(path) {
            Ok(mut file) => Ok(Opened { limit, last: last_line(&mut file).map_err(shown)?.1 }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Opened { limit, last: None }),
            Err(error) => Err(shown(error)),
        }
    }

    fn refuses(&self, record: &Record) -> Option<String> {
        (record.size() > LONGEST).then(|| too_long(record.size()))
    }

    async fn send(&mut self, records: &[Record]) -> Sent {
        let mut lines = Vec::with_capacity(records.iter().map(|record| record.size() * 2).sum());
        let mut sent = Sent::all(records);
        for (index, record) in records.iter().enumerate() {
            let begin = lines.len();
            if let Err(error) = serde_json::to_writer(&mut lines, &line(record)) {
                return Sent::retry(0, error.to_string());
            }
            lines.push(b'\n');
            if lines.len() - begin > LONGEST {
                sent = Sent { stored: index, failure: Some(Failure::Refused(too_long(lines.len() - begin))) };
                lines.truncate(begin);
                break;
            }
        }
        let written = match &mut self.file {
            Some((file, length)) => append(file, length, &lines),
            None => {
                let mut out = std::io::stdout().lock();
                out.write_all(&lines).and_then(|()| out.flush())
            }
        };
        match written {
            Ok(()) => sent,
            // The file is opened again, which finds out what was written.
            Err(error) => Sent::retry(0, error.to_string()),
        }
    }
}

fn too_long(size: usize) -> String {
    format!("the message has about {size} bytes, and a line has at most {LONGEST}")
}

/// Appends lines, all or none.
fn append(file: &mut File, length: &mut u64, lines: &[u8]) -> std::io::Result<()> {
    if file.metadata()?.len() != *length {
        return Err(std::io::Error::other("another process has written to the file"));
    }
    if let Err(error) = file.write_all(lines).and_then(|()| file.sync_data()) {
        file.set_len(*length)?;
        return Err(error);
    }
    *length += lines.len() as u64;
    Ok(())
}

/// A record as a line. A body that is JSON is the field `body`; other bodies are base64 in `body_base64`.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    topic: &'a str,
    key: Option<&'a str>,
    headers: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

pub(super) fn line(record: &Record) -> Line<'_> {
    // Between the tokens of JSON, a line break is white space like any other.
    let json = std::str::from_utf8(&record.body).ok().map(|text| text.replace(['\n', '\r'], " "));
    let body = json.and_then(|text| RawValue::from_string(text).ok());
    let body_base64 = body.is_none().then(|| base64::engine::general_purpose::STANDARD.encode(&record.body));
    let headers = record.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    Line { topic: &record.topic, key: record.key.as_deref(), headers, body, body_base64 }
}

/// Returns the length of the complete lines of a file, and the marks of the last one.
fn last_line(file: &mut File) -> std::io::Result<(u64, Option<Last>)> {
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
    let last = tail[..complete].split(|byte| *byte == b'\n').rev().find(|line| !line.is_empty());
    let Some(last) = last else { return Ok((end, None)) };
    let not_ours = || std::io::Error::other("its last line was not written by a relay");
    let line: Value = serde_json::from_slice(last).map_err(|_| not_ours())?;
    let marks = Last::of(|name| line["headers"][name].as_str()).ok_or_else(not_ours)?;
    Ok((end, Some(marks)))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::record::{EPOCH, ID, POSITION, RELAY, SOURCE};
    use crate::source::Place;

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
                (ID.to_owned(), format!("msg_{position}")),
            ],
            body: if position == 2 {
                Bytes::from_static(&[0xff])
            } else {
                Bytes::from_static(b"{\"n\":\n 1.000000000000000000001}")
            },
        }
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_is_refused_and_the_lines_before_it_are_written() {
        let path = std::env::temp_dir().join(format!("outbox-relay-long-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let mut sink = FileSink::new(path.clone());
        sink.open().await.unwrap();
        // As base64 the body is longer than a line may be.
        let long = Record { body: Bytes::from(vec![0xff; LONGEST - LONGEST / 8]), ..record(2) };
        assert_eq!(sink.refuses(&long), None);
        let sent = sink.send(&[record(1), long, record(3)]).await;
        assert!(matches!(&sent, Sent { stored: 1, failure: Some(Failure::Refused(_)) }), "{sent:?}");
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
        let longer = Record { body: Bytes::from(vec![b'1'; LONGEST]), ..record(2) };
        assert!(sink.refuses(&longer).unwrap().contains("a line has at most"));
        let _ = std::fs::remove_file(&path);
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
        assert_eq!((last.source.as_str(), last.id.as_str()), ("/s", "msg_2"));
        assert_eq!(last.place, Place { epoch: 1, position: 2 });
        // The first instance does not write after the other one, which may have written more.
        std::fs::write(&path, format!("{whole}{whole}")).unwrap();
        let late = sink.send(&[record(3)]).await;
        assert!(matches!(&late.failure, Some(Failure::Retry(why)) if why.contains("another process")), "{late:?}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{whole}{whole}"));
        std::fs::write(&path, &whole).unwrap();
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
