//! Buffers that an idle connection does not hold, and the pair of them that every connection reads and
//! writes through. Promise: bounded; an empty buffer goes back to a reserve shared by the thread.

use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll, ready};

use crate::net::stream::Stream;

/// What one read asks for, in bytes.
pub const READ_BYTES: usize = 16 * 1024;
/// Unsent bytes above which no more is read from the other side.
pub const BACKPRESSURE_BYTES: usize = 64 * 1024;
/// Buffers that one thread keeps in reserve (1 MiB).
const RESERVE: usize = 64;

thread_local! {
    static READ_RESERVE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static WRITE_RESERVE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

fn give_back(reserve: &'static std::thread::LocalKey<RefCell<Vec<Vec<u8>>>>, buffer: Vec<u8>) {
    reserve.with_borrow_mut(|reserve| {
        if reserve.len() < RESERVE {
            reserve.push(buffer);
        }
    });
}

/// Bytes read and not yet consumed. Consumed bytes can be kept for a replay by a mark.
#[derive(Debug, Default)]
pub struct ReadBuffer {
    /// Always initialised to its whole length.
    data: Vec<u8>,
    start: usize,
    end: usize,
    mark: Option<usize>,
}

impl ReadBuffer {
    /// With these bytes in it, as if they had been read.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self { data: bytes.to_vec(), start: 0, end: bytes.len(), mark: None }
    }

    /// What is there.
    pub fn bytes(&self) -> &[u8] {
        self.data.get(self.start..self.end).unwrap_or_default()
    }

    /// How many bytes are there.
    pub const fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether none is there.
    pub const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Consumes the first `count` bytes.
    pub fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        if self.start == self.end && self.mark.is_none() {
            self.rest();
        }
    }

    /// Keeps what is consumed from here on, until [`Self::forget`] or until room is needed.
    pub const fn mark(&mut self) {
        self.mark = Some(self.start);
    }

    /// Whether there is a mark to return to.
    pub const fn is_marked(&self) -> bool {
        self.mark.is_some()
    }

    /// Lets go of the mark.
    pub fn forget(&mut self) {
        self.mark = None;
        if self.start == self.end {
            self.rest();
        }
    }

    /// Returns to the mark; false if it was given up.
    pub const fn rewind(&mut self) -> bool {
        match self.mark.take() {
            Some(mark) => {
                self.start = mark;
                true
            }
            None => false,
        }
    }

    /// Reads once. `wanted` is how much shall be there in all: the buffer grows towards it with what has come.
    pub fn poll_fill(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
        wanted: usize,
    ) -> Poll<io::Result<usize>> {
        if self.data.is_empty() {
            ready!(stream.poll_readable(cx))?;
        }
        self.make_room(wanted);
        let result = stream.poll_fill(cx, self.data.get_mut(self.end..).unwrap_or_default());
        match result {
            Poll::Ready(Ok(count)) => self.end += count,
            Poll::Ready(Err(_)) | Poll::Pending => {}
        }
        if self.is_empty() && self.mark.is_none() {
            self.rest();
        }
        result
    }

    fn make_room(&mut self, wanted: usize) {
        if self.data.is_empty() {
            self.data = READ_RESERVE.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; READ_BYTES]);
        }
        let short = wanted.saturating_sub(self.len());
        if self.data.len() - self.end >= short.max(READ_BYTES / 4) {
            return;
        }
        if self.start > 0 {
            self.mark = None;
            self.data.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.data.len() - self.end < READ_BYTES / 4 {
            // Twice the length at a time, so that one large message is not copied for every read, and no more than
            // that: `wanted` is what the sender announces, and memory is for what it has sent.
            let needed = wanted.max(self.end + READ_BYTES / 4).next_power_of_two();
            self.data.resize(needed.min(2 * self.data.len()), 0);
        }
    }

    /// Gives the memory back; the buffer is empty here.
    fn rest(&mut self) {
        self.start = 0;
        self.end = 0;
        let data = std::mem::take(&mut self.data);
        if data.len() == READ_BYTES {
            give_back(&READ_RESERVE, data);
        }
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        self.rest();
    }
}

/// Bytes to be written.
#[derive(Debug, Default)]
pub struct WriteBuffer {
    data: Vec<u8>,
    sent: usize,
    /// TLS has bytes of ours that the socket has not taken yet.
    unpushed: bool,
}

impl WriteBuffer {
    /// Where to append.
    pub fn space(&mut self) -> &mut Vec<u8> {
        if self.data.capacity() == 0 {
            self.data =
                WRITE_RESERVE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(READ_BYTES));
        }
        &mut self.data
    }

    /// Bytes that wait to be written.
    pub const fn len(&self) -> usize {
        self.data.len() - self.sent
    }

    /// Whether everything has reached the socket.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0 && !self.unpushed
    }

    /// Whether the other side must not be read for now.
    pub const fn is_full(&self) -> bool {
        self.len() > BACKPRESSURE_BYTES
    }

    /// Drops what was not sent yet.
    pub fn clear(&mut self) {
        self.data.clear();
        self.sent = 0;
        self.rest();
    }

    /// Writes until everything is out or the socket is full.
    pub fn poll_flush(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.data.len() {
            let count = ready!(stream.poll_send(cx, self.data.get(self.sent..).unwrap_or_default()))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += count;
            self.unpushed = stream.is_tls();
        }
        self.data.clear();
        self.sent = 0;
        self.rest();
        if self.unpushed {
            ready!(stream.poll_push(cx))?;
            self.unpushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn rest(&mut self) {
        let data = std::mem::take(&mut self.data);
        if data.capacity() > 0 && data.capacity() <= 2 * BACKPRESSURE_BYTES {
            give_back(&WRITE_RESERVE, data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{READ_BYTES, ReadBuffer};

    /// Takes bytes as a read does that fills all the room there is.
    fn fill(buffer: &mut ReadBuffer, wanted: usize) {
        buffer.make_room(wanted);
        buffer.end = buffer.data.len();
    }

    #[test]
    fn announced_bytes_take_no_memory_until_they_come() {
        let mut buffer = ReadBuffer::default();
        buffer.make_room(64 << 20);
        buffer.end = 6;
        buffer.make_room(64 << 20);
        assert_eq!(buffer.data.len(), READ_BYTES);
    }

    #[test]
    fn a_large_message_doubles_the_buffer_up_to_its_length() {
        let (mut buffer, wanted, mut steps) = (ReadBuffer::default(), 1 << 20, 0);
        while buffer.len() < wanted {
            let before = buffer.data.len();
            fill(&mut buffer, wanted);
            steps += 1;
            assert!(
                buffer.data.len() <= (2 * before).max(READ_BYTES),
                "from {before} to {}",
                buffer.data.len()
            );
        }
        assert_eq!((buffer.data.len(), steps), (wanted, 7));
    }

    #[test]
    fn room_is_made_behind_what_was_consumed() {
        let mut buffer = ReadBuffer::default();
        fill(&mut buffer, 1);
        buffer.mark();
        buffer.consume(READ_BYTES - 10);
        buffer.make_room(READ_BYTES / 2);
        assert_eq!((buffer.len(), buffer.data.len(), buffer.is_marked()), (10, READ_BYTES, false));
    }

    #[test]
    fn a_mark_stays_while_the_buffer_grows_behind_it() {
        let mut buffer = ReadBuffer::default();
        buffer.mark();
        fill(&mut buffer, 1);
        buffer.make_room(4 * READ_BYTES);
        assert_eq!((buffer.data.len(), buffer.rewind()), (2 * READ_BYTES, true));
    }
}
