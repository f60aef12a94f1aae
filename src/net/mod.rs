//! Sockets: listening, streams, buffers, TLS. It knows bytes, not messages.

pub mod buffer;
pub mod listener;
pub mod settings;
pub mod stream;
pub mod tls;

use std::future::poll_fn;
use std::io;

use buffer::{ReadBuffer, WriteBuffer};
use stream::Stream;

/// A stream with what was read from it and what is to be written to it.
#[derive(Debug)]
pub struct Channel {
    /// The stream itself.
    pub stream: Stream,
    /// Read and not yet consumed.
    pub input: ReadBuffer,
    /// To be written.
    pub output: WriteBuffer,
}

impl Channel {
    /// Wraps a stream with empty buffers.
    pub fn new(stream: Stream) -> Self {
        Self { stream, input: ReadBuffer::default(), output: WriteBuffer::default() }
    }

    /// Reads until at least `count` bytes are there; an end before that is an error. Cancel safe.
    pub async fn fill(&mut self, count: usize) -> io::Result<()> {
        while self.input.len() < count {
            let read = poll_fn(|cx| self.input.poll_fill(&mut self.stream, cx, count)).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Writes everything. Cancel safe: what is unsent stays in the buffer.
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.output.poll_flush(&mut self.stream, cx)).await
    }
}
