//! A reader as a stream.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use futures_util::future::BoxFuture;

use super::Reader;
use crate::error::{Error, Result};
use crate::message::Message;

/// An endless stream of messages. It ends after the first error. The stream is `Unpin`.
pub struct ReaderStream {
    state: State,
}

enum State {
    /// The reader waits to be polled.
    Idle(Box<Reader>),
    /// The reader is fetching.
    Fetching(BoxFuture<'static, (Box<Reader>, Result<Message>)>),
    /// The stream has ended with an error.
    Ended,
}

impl std::fmt::Debug for ReaderStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReaderStream").finish_non_exhaustive()
    }
}

impl ReaderStream {
    pub(super) fn new(reader: Reader) -> ReaderStream {
        ReaderStream { state: State::Idle(Box::new(reader)) }
    }

    /// Returns the reader, to advance its cursor between two messages.
    ///
    /// # Errors
    /// 22023 while the stream is fetching the next message (it was polled and is not ready), and after it has ended.
    pub fn reader(&mut self) -> Result<&mut Reader> {
        match &mut self.state {
            State::Idle(reader) => Ok(reader),
            State::Fetching(_) => Err(Error::invalid("the stream is fetching the next message")),
            State::Ended => Err(Error::invalid("the stream has ended")),
        }
    }
}

impl Stream for ReaderStream {
    type Item = Result<Message>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Message>>> {
        loop {
            match std::mem::replace(&mut self.state, State::Ended) {
                State::Idle(mut reader) => {
                    self.state = State::Fetching(Box::pin(async move {
                        let next = reader.next().await;
                        (reader, next)
                    }));
                }
                State::Fetching(mut fetching) => {
                    let Poll::Ready((reader, next)) = fetching.as_mut().poll(cx) else {
                        self.state = State::Fetching(fetching);
                        return Poll::Pending;
                    };
                    if next.is_ok() {
                        self.state = State::Idle(reader);
                    }
                    return Poll::Ready(Some(next));
                }
                State::Ended => return Poll::Ready(None),
            }
        }
    }
}
