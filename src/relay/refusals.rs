//! Segments that no server sees, or of which the server was lost: the rest of them is dropped, and the
//! client is told that it is idle when its Sync comes.

use crate::fault::Report;
use crate::net::Channel;
use crate::relay::{Conversation, Discard, Stream};
use crate::wire::encode;
use crate::wire::frame;

impl Conversation {
    /// Largest message that is collected, in bytes.
    pub fn max_message_bytes(&self) -> usize {
        self.relay.max_message_bytes
    }

    /// The client was told an error instead of an answer to the request in front.
    pub fn refuse(&mut self, client: &mut Channel) {
        match frame::header(client.input.bytes()) {
            Ok(Some(header)) if matches!(header.tag, b'Q' | b'F') => {
                self.drop_frame(header.total, client);
                encode::ready_for_query(client.output.space(), b'I');
            }
            _ => self.discard = Discard::Refused,
        }
    }

    /// The client was told an error in the middle of an extended segment.
    pub fn refuse_rest(&mut self) {
        self.discard = Discard::Refused;
    }

    /// Why the segment is refused, for a client that has sent another one ahead.
    pub fn refuses_for(&mut self, report: Report) {
        self.refused_for = Some(Box::new(report));
    }

    /// Takes the reason.
    pub fn take_reason(&mut self) -> Option<Report> {
        self.refused_for.take().map(|report| *report)
    }

    /// Whether frames are being dropped.
    pub fn is_refusing(&self) -> bool {
        self.discard == Discard::Refused || self.from_client != Stream::No
    }

    /// Drops the next frame, or what is there of one. None: more bytes are needed, or the client says
    /// goodbye.
    pub fn skip_refused(&mut self, client: &mut Channel) -> Option<()> {
        if let Stream::Drop(left) | Stream::Pass(left) = self.from_client {
            let count = left.min(client.input.len());
            client.input.consume(count);
            self.from_client = if count == left { Stream::No } else { Stream::Drop(left - count) };
            return (count > 0).then_some(());
        }
        let header = frame::header(client.input.bytes()).ok()??;
        match header.tag {
            b'X' => None,
            b'S' => {
                self.discard = Discard::No;
                self.drop_frame(header.total, client);
                encode::ready_for_query(client.output.space(), b'I');
                Some(())
            }
            _ => {
                self.drop_frame(header.total, client);
                Some(())
            }
        }
    }

    /// Drops a frame, also the part of it that has not come yet.
    pub fn drop_frame(&mut self, total: usize, client: &mut Channel) {
        let count = total.min(client.input.len());
        client.input.consume(count);
        self.metrics.bytes_in(count);
        self.from_client = if count == total { Stream::No } else { Stream::Drop(total - count) };
    }

    /// The next request will be answered with this error.
    pub fn owe_error(&mut self, report: Report) {
        self.owed_error = Some(Box::new(report));
    }

    /// Takes it.
    pub fn take_owed_error(&mut self) -> Option<Report> {
        self.owed_error.take().map(|report| *report)
    }

    /// Whether the frame in front is one for a server, and not one that is answered without.
    pub fn wants_server(&self, client: &Channel) -> bool {
        let bytes = client.input.bytes();
        let may_discard =
            bytes.get(frame::HEADER_BYTES).is_none_or(|first| matches!(first, b'd' | b'D' | b'/' | b'-'));
        match bytes.first() {
            Some(b'Q') => !may_discard && !bytes.get(5..).is_some_and(|text| text.starts_with(b" ")),
            Some(b'P' | b'B' | b'D' | b'E') => true,
            _ => false,
        }
    }
}
