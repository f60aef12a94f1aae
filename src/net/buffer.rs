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
/// A buffer above this length is given up for a small one as soon as what is left in it fits into that, in bytes.
const LARGE_BYTES: usize = 64 * 1024;
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

    /// Bytes of memory that it takes.
    pub const fn held(&self) -> usize {
        self.data.len()
    }

    /// Consumes the first `count` bytes.
    pub fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        self.shrink();
    }

    /// Gives up memory that is not needed any more.
    fn shrink(&mut self) {
        if self.mark.is_some() {
            return;
        }
        if self.start == self.end {
            self.rest();
        } else if self.data.len() > LARGE_BYTES && self.len() <= READ_BYTES / 2 {
            let mut data = READ_RESERVE.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; READ_BYTES]);
            let count = self.len();
            if let Some(space) = data.get_mut(..count) {
                space.copy_from_slice(self.bytes());
                (self.data, self.start, self.end) = (data, 0, count);
            }
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
        self.shrink();
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
        let short = READ_BYTES / 4;
        if self.data.len() - self.end >= short {
            return;
        }
        if self.start > 0 {
            self.mark = None;
            self.data.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let least = (self.end + short).max(READ_BYTES);
        if self.data.len() < least {
            // Twice the length at a time, so that one large message is not copied for every read, and no more than has
            // come already: what was only announced takes no memory.
            let most = wanted.saturating_add(READ_BYTES / 4).max(least);
            let length = (2 * self.data.len()).clamp(least, most);
            self.data.reserve_exact(length - self.data.len());
            self.data.resize(length, 0);
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
        if self.sent >= BACKPRESSURE_BYTES && self.sent >= self.data.len() / 2 {
            self.forget_sent();
        }
        &mut self.data
    }

    /// Bytes that it keeps, those that were sent and are not forgotten yet included.
    pub const fn held(&self) -> usize {
        self.data.len()
    }

    /// A side that reads slowly may never have taken everything: what it has taken is not kept.
    fn forget_sent(&mut self) {
        self.data.drain(..self.sent);
        self.sent = 0;
        if self.data.capacity() > 4 * BACKPRESSURE_BYTES {
            self.data.shrink_to(2 * BACKPRESSURE_BYTES);
        }
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
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::UnixStream;

    use super::*;

    /// Reads until so many bytes are there, each read as if this many were wanted.
    async fn fill(buffer: &mut ReadBuffer, stream: &mut Stream, count: usize, wanted: usize) {
        while buffer.len() < count {
            assert_ne!(poll_fn(|cx| buffer.poll_fill(stream, cx, wanted)).await.unwrap(), 0);
        }
    }

    #[tokio::test]
    async fn a_message_takes_memory_as_its_bytes_come_not_as_announced() {
        let (mut client, own) = UnixStream::pair().unwrap();
        let (mut stream, mut buffer) = (Stream::Unix(own), ReadBuffer::default());
        let wanted = 3 << 20;
        client.write_all(&[1; 5]).await.unwrap();
        fill(&mut buffer, &mut stream, 5, wanted).await;
        assert_eq!(buffer.held(), READ_BYTES, "five bytes of three MiB");
        let bytes = vec![1; wanted + 100];
        let (_, ()) = tokio::join!(client.write_all(&bytes[5..]), async {
            for part in 1..=16 {
                fill(&mut buffer, &mut stream, part * wanted / 16, wanted).await;
                assert!(
                    buffer.held() <= 2 * buffer.len() + 2 * READ_BYTES,
                    "{} of {}",
                    buffer.len(),
                    buffer.held()
                );
            }
        });
        assert!(buffer.held() <= wanted + READ_BYTES, "{}", buffer.held());
        fill(&mut buffer, &mut stream, wanted + 100, wanted + 100).await;
        buffer.consume(wanted);
        assert_eq!((buffer.len(), buffer.held()), (100, READ_BYTES), "the beginning of the next one");
        assert!(buffer.bytes().iter().all(|byte| *byte == 1));
        buffer.consume(100);
        assert_eq!(buffer.held(), 0);
    }

    #[tokio::test]
    async fn what_is_marked_stays_until_it_is_forgotten() {
        let (mut client, own) = UnixStream::pair().unwrap();
        let (mut stream, mut buffer) = (Stream::Unix(own), ReadBuffer::default());
        let bytes = vec![1; 200_000];
        let (_, ()) =
            tokio::join!(client.write_all(&bytes), fill(&mut buffer, &mut stream, 200_000, 200_000));
        buffer.mark();
        buffer.consume(199_999);
        assert!(buffer.held() >= 200_000);
        buffer.forget();
        assert_eq!((buffer.len(), buffer.held()), (1, READ_BYTES));
    }

    #[test]
    fn a_side_that_never_takes_everything_does_not_make_the_buffer_grow() {
        let (mut buffer, mut given) = (WriteBuffer::default(), 0_usize);
        for _ in 0..2000 {
            while !buffer.is_full() {
                buffer.space().extend_from_slice(&given.to_be_bytes().repeat(1000));
                given += 1;
            }
            // So many bytes went out.
            buffer.sent += 20_000;
            assert!(!buffer.is_empty() && buffer.held() <= 4 * BACKPRESSURE_BYTES, "{}", buffer.held());
        }
        let last = buffer.data.last_chunk::<8>().map(|bytes| usize::from_be_bytes(*bytes));
        assert!(given > 4000 && last == Some(given - 1));
        buffer.space().extend_from_slice(&vec![0; 3 << 20]);
        buffer.sent = buffer.data.len() - 1;
        assert_eq!(buffer.space().len(), 1);
        assert!(buffer.data.capacity() <= 2 * BACKPRESSURE_BYTES);
    }

    /// Takes bytes as a read does that fills all the room there is.
    fn fill_all(buffer: &mut ReadBuffer, wanted: usize) {
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
    fn room_is_made_behind_what_was_consumed() {
        let mut buffer = ReadBuffer::default();
        fill_all(&mut buffer, 1);
        buffer.mark();
        buffer.consume(READ_BYTES - 10);
        buffer.make_room(READ_BYTES / 2);
        assert_eq!((buffer.len(), buffer.data.len(), buffer.is_marked()), (10, READ_BYTES, false));
    }

    #[test]
    fn a_mark_stays_while_the_buffer_grows_behind_it() {
        let mut buffer = ReadBuffer::default();
        buffer.mark();
        fill_all(&mut buffer, 1);
        buffer.make_room(4 * READ_BYTES);
        assert_eq!((buffer.data.len(), buffer.rewind()), (2 * READ_BYTES, true));
    }
}
