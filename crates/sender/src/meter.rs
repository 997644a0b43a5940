//! Limits the work that a peer can cause on this thread. The bytes are counted below TLS and HTTP, because the libraries for
//! TLS and HTTP loop over all data that arrives.
//!
//! Invariants:
//! * For each request that was sent over it, a connection reads at most a fixed number of bytes. All bytes count: heads,
//!   interim answers, frames without content and records without data.
//! * After a few kilobytes without a pause, the task yields until the event queue has been polled. A peer whose bytes never
//!   end costs other connections a fraction of a millisecond per turn.
//! * The status of an HTTP/1 answer is known as soon as it has arrived, even if the library then refuses the answer.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The largest number of bytes of one answer, including head, interim answers, body and their encryption.
pub(crate) const ANSWER_BYTES: usize = 512 * 1024;
/// The largest number of bytes of all concurrent answers on an HTTP/2 connection.
const SHARED_BYTES: usize = 64 << 20;
/// The number of bytes that are read without a pause.
const TURN: usize = 16 * 1024;
/// The largest number of interim answers (1xx) to one request.
const INTERIM: usize = 16;

/// Counts the bytes that one connection reads.
#[derive(Debug)]
pub(crate) struct Meter {
    left: Cell<usize>,
    turn: Cell<usize>,
    /// The limit that was exceeded, after which the connection reads no more.
    excess: Cell<Option<&'static str>>,
    scan: RefCell<Scan>,
}

impl Meter {
    fn new() -> Rc<Meter> {
        Rc::new(Meter {
            left: Cell::new(ANSWER_BYTES),
            turn: Cell::new(0),
            excess: Cell::new(None),
            scan: RefCell::default(),
        })
    }

    /// Allows the bytes of another answer, before a request is sent. `shared`: other requests run at the same time.
    pub(crate) fn begin(&self, shared: bool) {
        if shared {
            self.left.set(self.left.get().saturating_add(ANSWER_BYTES).min(SHARED_BYTES));
        } else {
            self.left.set(ANSWER_BYTES);
            *self.scan.borrow_mut() = Scan::default();
        }
    }

    /// Returns whether no byte of an HTTP/1 answer has arrived.
    pub(crate) fn is_silent(&self) -> bool {
        !self.scan.borrow().begun
    }

    /// Returns the status of the HTTP/1 answer, if it has arrived.
    pub(crate) fn status(&self) -> Option<u16> {
        self.scan.borrow().status
    }

    /// Returns the limit because of which the answer was not read to its end, if any.
    pub(crate) fn excess(&self) -> Option<&'static str> {
        self.excess.get()
    }

    /// Scans bytes of an HTTP/1 answer.
    pub(crate) fn see(&self, data: &[u8]) -> io::Result<()> {
        let mut scan = self.scan.borrow_mut();
        scan.see(data);
        if scan.interim > INTERIM {
            return Err(self.stop("more than 16 interim answers"));
        }
        Ok(())
    }

    fn stop(&self, why: &'static str) -> io::Error {
        self.excess.set(Some(why));
        io::Error::other(why)
    }
}

/// Reads the status lines of an HTTP/1 answer and of the interim answers before it.
#[derive(Debug, Default)]
struct Scan {
    begun: bool,
    place: Place,
    line: [u8; 13],
    len: usize,
    interim: usize,
    status: Option<u16>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Place {
    /// In a status line.
    #[default]
    Line,
    /// After the status of an interim answer. `true`: at the beginning of a line.
    Interim(bool),
    /// After the final status, or in data that has no status.
    Over,
}

impl Scan {
    fn see(&mut self, data: &[u8]) {
        self.begun |= !data.is_empty();
        for byte in data {
            match self.place {
                Place::Over => return,
                // Empty lines before a status line are skipped.
                Place::Line if self.len == 0 && matches!(byte, b'\r' | b'\n') => {}
                Place::Line => {
                    self.line[self.len] = *byte;
                    self.len += 1;
                    if self.len == self.line.len() {
                        self.status_line();
                    }
                }
                Place::Interim(at_start) => match byte {
                    b'\n' if at_start => (self.place, self.len) = (Place::Line, 0),
                    b'\n' => self.place = Place::Interim(true),
                    b'\r' => {}
                    _ => self.place = Place::Interim(false),
                },
            }
        }
    }

    fn status_line(&mut self) {
        let Scan { line, .. } = self;
        let ends = matches!(line[12], b' ' | b'\r' | b'\n');
        let digits = line[9..12].iter().all(u8::is_ascii_digit);
        let status = line[9..12].iter().fold(0, |n, digit| n * 10 + u16::from(digit.wrapping_sub(b'0')));
        self.place = Place::Over;
        if !line.starts_with(b"HTTP/1.") || line[8] != b' ' || !ends || !digits || status < 100 {
            return;
        }
        if matches!(status, 100 | 102..=199) {
            self.interim += 1;
            self.place = Place::Interim(line[12] == b'\n');
        } else {
            self.status = Some(status);
        }
    }
}

/// A socket whose bytes are counted.
#[derive(Debug)]
pub(crate) struct Metered {
    stream: TcpStream,
    meter: Rc<Meter>,
}

impl Metered {
    pub(crate) fn new(stream: TcpStream) -> Metered {
        let _ = stream.set_nodelay(true);
        Metered { stream, meter: Meter::new() }
    }

    pub(crate) fn meter(&self) -> Rc<Meter> {
        Rc::clone(&self.meter)
    }
}

impl AsyncRead for Metered {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Metered { stream, meter } = self.get_mut();
        if meter.left.get() == 0 {
            return Poll::Ready(Err(meter.stop("more than 512 kB")));
        }
        if meter.turn.get() >= TURN {
            meter.turn.set(0);
            // Wakes this task after the event queue has been polled, so that a busy peer does not block other connections.
            if std::pin::pin!(tokio::task::yield_now()).poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
        let before = to.filled().len();
        let poll = Pin::new(stream).poll_read(cx, to);
        match poll {
            Poll::Pending => meter.turn.set(0),
            Poll::Ready(_) => {
                let read = to.filled().len() - before;
                meter.turn.set(meter.turn.get() + read);
                meter.left.set(meter.left.get().saturating_sub(read));
            }
        }
        poll
    }
}

impl AsyncWrite for Metered {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scan<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Scan {
        let mut scan = Scan::default();
        parts.into_iter().for_each(|part| scan.see(part));
        scan
    }

    #[test]
    fn a_status_is_found_behind_interim_answers_however_the_bytes_are_cut() {
        let early = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
        for (text, status, interim) in [
            ("HTTP/1.1 200 OK\r\n", Some(200), 0),
            ("HTTP/1.0 410\r\n\r\n", Some(410), 0),
            ("\r\n\r\nHTTP/1.1 999 What\r\n", Some(999), 0),
            ("HTTP/1.1 101 Switching\r\n", Some(101), 0),
            (&format!("{early}HTTP/1.1 100\n\nHTTP/1.1 204 \n\n"), Some(204), 2),
            (&early.repeat(9), None, 9),
            ("HTTP/1.1 20", None, 0),
            ("HTTP/1.1 2000 OK\r\n", None, 0),
            ("HTTP/2 200 OK\r\n\r\n", None, 0),
            ("HTTP/1.1 2x0 OK\r\n\r\n", None, 0),
            ("GET / HTTP/1.1\r\n\r\nHTTP/1.1 200 OK", None, 0),
        ] {
            for scan in [scan([text.as_bytes()]), scan(text.as_bytes().chunks(1)), scan(text.as_bytes().chunks(7))] {
                assert_eq!((scan.status, scan.interim), (status, interim), "{text}");
                assert!(scan.begun);
            }
        }
        assert!(!scan([b"".as_slice()]).begun);
    }

    proptest! {
        #[test]
        fn any_bytes_are_scanned_alike_in_parts(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200), keep in 0usize..60, cut in 1usize..50,
        ) {
            let good = b"HTTP/1.1 102 \r\na: b\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
            bytes.splice(0..0, good[..keep.min(good.len())].iter().copied());
            let (whole, parts) = (scan([&bytes[..]]), scan(bytes.chunks(cut)));
            prop_assert_eq!((whole.status, whole.interim), (parts.status, parts.interim));
        }
    }
}
