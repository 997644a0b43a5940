//! Reads the response of a receiver within limits.

use std::future::Future as _;
use std::io::Write;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use http::Response;
use http::header::{CONTENT_ENCODING, HeaderMap, HeaderName, RETRY_AFTER};
use http_body::Body as _;
use hyper::body::Incoming;
use outbox_core::policy::{Control, Fault};
use outbox_core::retry_after;
use serde_json::Value;

use crate::connect::{Connection, Failure};
use crate::request::describe;
use crate::{Endpoint, ResponseId};

const WEBHOOK_DELIVERY: HeaderName = HeaderName::from_static("webhook-delivery");

/// The number of bytes of a response that are read, after decompression. A longer response closes the connection but does
/// not change the outcome of the delivery.
const READ_LIMIT: usize = 64 * 1024;
/// The number of bytes of a failure's response that are stored.
const KEEP_LIMIT: usize = 4 * 1024;
/// The wait for a body that does not affect the outcome.
const BODY_PATIENCE: Duration = Duration::from_secs(1);
/// The largest size of a stored header, and of the receiver's own id, in bytes.
const HEADER_LIMIT: usize = 512;

/// A response.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// The beginning of the body, for failures.
    pub(crate) text: Option<Box<str>>,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) control: Option<Control>,
    pub(crate) response_id: Option<Box<str>>,
    /// Selected headers, as JSON text.
    pub(crate) headers: Option<Box<str>>,
    /// The status of each message of a batch.
    pub(crate) results: Option<Vec<u16>>,
    /// The whole head, if requested.
    pub(crate) head: HeaderMap,
    /// The body as bytes, if requested.
    pub(crate) body: Vec<u8>,
    /// Whether the connection can be used again.
    pub(crate) reusable: bool,
}

/// The parts of an answer that the caller needs in addition to its status.
pub(crate) struct Wish<'a> {
    /// Webhook ids of the messages of a batch.
    pub(crate) batch: &'a [&'a str],
    /// Whether the body is needed with every status. An answer without it is useless then.
    pub(crate) body: bool,
    /// Whether the head is needed.
    pub(crate) head: bool,
}

/// Collects decompressed bytes up to a limit.
struct Limited {
    bytes: Vec<u8>,
    keep: usize,
    total: usize,
}

impl Write for Limited {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.total += data.len();
        let room = self.keep - self.bytes.len().min(self.keep);
        self.bytes.extend_from_slice(&data[..data.len().min(room)]);
        if self.total > READ_LIMIT { Err(std::io::Error::other("limit")) } else { Ok(data.len()) }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A body that is being read. For gzip the first member is read, and the data after it is ignored.
enum Reader {
    Plain(Limited),
    Gzip(Box<flate2::write::GzDecoder<Limited>>),
}

impl Reader {
    fn new(keep: usize, gzip: bool) -> Reader {
        let sink = Limited { bytes: Vec::new(), keep, total: 0 };
        if gzip { Reader::Gzip(Box::new(flate2::write::GzDecoder::new(sink))) } else { Reader::Plain(sink) }
    }

    fn sink(&self) -> &Limited {
        match self {
            Reader::Plain(sink) => sink,
            Reader::Gzip(decoder) => decoder.get_ref(),
        }
    }

    fn write(&mut self, mut data: &[u8]) -> std::io::Result<()> {
        match self {
            Reader::Plain(sink) => sink.write_all(data),
            Reader::Gzip(decoder) => {
                while !data.is_empty() {
                    match decoder.write(data)? {
                        0 => break,
                        n => data = &data[n..],
                    }
                }
                Ok(())
            }
        }
    }

    fn into_bytes(self) -> Vec<u8> {
        match self {
            Reader::Plain(sink) => sink.bytes,
            Reader::Gzip(mut decoder) => {
                let _ = decoder.try_finish();
                std::mem::take(&mut decoder.get_mut().bytes)
            }
        }
    }
}

impl Reply {
    /// Creates a reply that has only a status.
    pub(crate) fn bare(status: u16) -> Reply {
        Reply {
            status,
            text: None,
            retry_after: None,
            control: None,
            response_id: None,
            headers: None,
            results: None,
            head: HeaderMap::new(),
            body: Vec::new(),
            reusable: false,
        }
    }
}

/// Reads a response to its end, but not beyond the limits.
///
/// The status decides the outcome. `seen` is set as soon as no further data can change the meaning of the answer. From then
/// on, a body that is truncated, malformed or endless costs only the connection. Errors are returned only if the caller
/// needs the body.
pub(crate) async fn read(
    connection: &mut Connection,
    response: Response<Incoming>,
    endpoint: &Endpoint,
    wish: Wish<'_>,
    seen: &mut Option<Box<Reply>>,
) -> Result<(), Failure> {
    let (head, mut body) = response.into_parts();
    let success = head.status.is_success();
    let header = |name: &HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok());
    let mut reply = Reply {
        retry_after: header(&RETRY_AFTER).and_then(|value| retry_after::parse(value, SystemTime::now())),
        control: header(&WEBHOOK_DELIVERY).and_then(Control::parse),
        headers: selected(&head.headers, endpoint),
        ..Reply::bare(head.status.as_u16())
    };
    let pointer = match &endpoint.response_id {
        Some(ResponseId::Header(name)) => {
            let id = head.headers.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()));
            reply.response_id = id.map(|id| clean(cut(&id).as_bytes()));
            None
        }
        Some(ResponseId::Pointer(pointer)) => Some(pointer.as_str()),
        None => None,
    };
    let needed = wish.body || success && (pointer.is_some() || !wish.batch.is_empty());
    let gzip = head.headers.get(CONTENT_ENCODING).is_some_and(|e| e.as_bytes().eq_ignore_ascii_case(b"gzip"));
    if wish.head {
        reply.head = head.headers;
    } else {
        connection.recycle(head.headers);
    }
    let keep = if needed || pointer.is_some() {
        READ_LIMIT
    } else if success {
        0
    } else {
        KEEP_LIMIT
    };
    let mut own = None;
    let reply = if needed { own.insert(Box::new(reply)) } else { seen.insert(Box::new(reply)) };
    if body.is_end_stream() && keep == 0 {
        reply.reusable = true;
        return Ok(());
    }
    let mut reader = Reader::new(keep, gzip);
    let end = {
        let mut end = std::pin::pin!(collect(connection, &mut body, &mut reader));
        // Most bodies arrive with their head, and a timer has a cost, so the body is polled once before a timer is set.
        match std::future::poll_fn(|cx| Poll::Ready(end.as_mut().poll(cx))).await {
            Poll::Ready(end) => end,
            Poll::Pending if needed => end.await,
            // The body is useful, and reading it to its end keeps the connection reusable, but neither is required.
            Poll::Pending => tokio::time::timeout(BODY_PATIENCE, end).await.unwrap_or(Ok(false)),
        }
    };
    let end = match end {
        Ok(complete) => complete,
        Err(failure) if needed => return Err(failure),
        Err(_) => false,
    };
    reply.reusable = end;
    let bytes = reader.into_bytes();
    if success && !wish.batch.is_empty() {
        reply.results = per_message(&bytes, wish.batch);
    }
    if let Some(pointer) = pointer {
        let json = serde_json::from_slice::<Value>(&bytes).ok();
        let id = json.as_ref().and_then(|json| match json.pointer(pointer)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        });
        reply.response_id = id.map(|id| clean(cut(&id).as_bytes()));
    }
    reply.text = (!success && !bytes.is_empty()).then(|| clean(&bytes[..bytes.len().min(KEEP_LIMIT)]));
    if wish.body {
        reply.body = bytes;
    }
    if own.is_some() {
        *seen = own;
    }
    Ok(())
}

/// Reads a body. Returns whether it was read to its end.
async fn collect(connection: &mut Connection, body: &mut Incoming, reader: &mut Reader) -> Result<bool, Failure> {
    while !body.is_end_stream() {
        let frame = match connection.frame(body).await {
            None => break,
            Some(frame) => frame.map_err(|error| {
                let why = connection.excess().map_or_else(|| describe(&error), |excess| format!("it has {excess}"));
                (Fault::Body, format!("reading the response: {why}"))
            })?,
        };
        if let Ok(data) = frame.into_data()
            && let Err(error) = reader.write(&data)
        {
            if reader.sink().total > READ_LIMIT {
                return Ok(false);
            }
            return Err((Fault::Body, format!("the response's body is not what its content-encoding says: {error}")));
        }
    }
    Ok(true)
}

/// Converts bytes from outside to text that every database accepts (valid Unicode without NUL characters).
pub(crate) fn clean(bytes: &[u8]) -> Box<str> {
    String::from_utf8_lossy(bytes).replace('\0', "\u{fffd}").into()
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(HEADER_LIMIT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Returns the headers that the endpoint stores, as JSON text.
fn selected(headers: &HeaderMap, endpoint: &Endpoint) -> Option<Box<str>> {
    let mut kept = serde_json::Map::new();
    for name in &endpoint.keep_headers {
        if let Some(value) = headers.get(name) {
            let text = clean(value.as_bytes());
            kept.insert(name.to_string(), Value::String(cut(&text).to_owned()));
        }
    }
    (!kept.is_empty()).then(|| Value::Object(kept).to_string().into())
}

/// Returns the status of each message of a batch, if the answer has one of these forms:
///
/// - an array of statuses, or of objects with a `status`, in the order of the request
/// - an object with such an array as `results`
/// - an object with the webhook ids of the failed messages as `batchItemFailures` (`[{"itemIdentifier": "msg_..."}]`);
///   all other messages have succeeded
fn per_message(body: &[u8], ids: &[&str]) -> Option<Vec<u16>> {
    let json: Value = serde_json::from_slice(body).ok()?;
    if let Some(failures) = json.get("batchItemFailures").and_then(Value::as_array) {
        let failed: Vec<&str> = failures.iter().filter_map(|f| f.get("itemIdentifier")?.as_str()).collect();
        // An unknown identifier makes the whole list unreliable, so all messages count as failed.
        let all_known = failed.len() == failures.len() && failed.iter().all(|f| ids.contains(f));
        let status = |id: &&str| if !all_known || failed.contains(id) { 500 } else { 200 };
        return Some(ids.iter().map(status).collect());
    }
    let list = json.as_array().or_else(|| json.get("results")?.as_array())?;
    if list.len() != ids.len() {
        return None;
    }
    let status = |one: &Value| one.as_u64().or_else(|| one.get("status")?.as_u64()).filter(|s| (100..600).contains(s));
    list.iter().map(|one| status(one).and_then(|s| u16::try_from(s).ok())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_s_answer_in_its_three_forms() {
        let ids = ["msg_a", "msg_b"];
        let read = |body: &str| per_message(body.as_bytes(), &ids);
        assert_eq!(read("[200, 500]"), Some(vec![200, 500]));
        assert_eq!(read(r#"{"results": [{"status": 202}, {"status": 422}]}"#), Some(vec![202, 422]));
        assert_eq!(read(r#"{"batchItemFailures": [{"itemIdentifier": "msg_b"}]}"#), Some(vec![200, 500]));
        assert_eq!(read(r#"{"batchItemFailures": []}"#), Some(vec![200, 200]));
        assert_eq!(read(r#"{"batchItemFailures": [{"itemIdentifier": "msg_x"}]}"#), Some(vec![500, 500]));
        for other in ["", "ok", "[]", "[200]", "[200, 99]", "[200, \"x\"]", r#"{"ok": true}"#] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&vec![0; 10 << 20]).unwrap();
        let bomb = encoder.finish().unwrap();
        let mut reader = Reader::new(KEEP_LIMIT, true);
        assert!(reader.write(&bomb).is_err());
        let sink = reader.sink();
        assert!(sink.total > READ_LIMIT && sink.total < 2 * READ_LIMIT && sink.bytes.len() == KEEP_LIMIT);
    }
}
