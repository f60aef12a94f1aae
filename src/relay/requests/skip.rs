//! Segments that no server sees, or whose server was lost: the rest of them is dropped, and the client is told that it
//! is idle when its Sync comes.

use crate::fault::Report;
use crate::guard::LONG_TEXT_BYTES;
use crate::net::Channel;
use crate::relay::Conversation;
use crate::relay::core::framing::FromClient;
use crate::relay::core::segment::{Segment, Skip};
use crate::wire::encode;
use crate::wire::frame;

impl Conversation {
    /// Largest message that is collected, in bytes.
    pub fn max_message_bytes(&self) -> usize {
        self.relay.max_message_bytes
    }

    /// Bytes of the frame in front, if it is whole and may hold a long text.
    pub fn long_ahead(client: &Channel) -> Option<usize> {
        let bytes = client.input.bytes();
        if bytes.len() <= LONG_TEXT_BYTES {
            return None;
        }
        let header = frame::header(bytes).ok().flatten()?;
        let is_long = matches!(header.tag, b'Q' | b'P') && header.total > LONG_TEXT_BYTES;
        (is_long && header.total <= bytes.len()).then_some(header.total)
    }

    /// The client was told an error instead of an answer to the request in front.
    pub fn refuse(&mut self, client: &mut Channel) {
        self.fail_block();
        match frame::header(client.input.bytes()) {
            Ok(Some(header)) if matches!(header.tag, b'Q' | b'F') => {
                if header.tag == b'Q' {
                    self.close_by_refused_query();
                }
                self.drop_frame(header.total, client);
                encode::ready_for_query(client.output.space(), self.told().byte());
            }
            _ => self.refuse_rest(),
        }
    }

    /// A Query that fails closes the unnamed statement and portal, also if no server saw it.
    pub(super) fn close_by_refused_query(&mut self) {
        self.statements.unnamed = None;
        self.portals.close_unnamed();
    }

    /// The client was told an error in the middle of an extended segment.
    pub const fn refuse_rest(&mut self) {
        self.segment = Segment::Skipping(Skip::NoServer);
    }

    /// Why the segment is refused, for a client that has sent another one ahead.
    pub fn refuses_for(&mut self, report: Report) {
        self.untold.refused_for = Some(Box::new(report));
    }

    /// Takes the reason.
    pub fn take_reason(&mut self) -> Option<Report> {
        self.untold.refused_for.take().map(|report| *report)
    }

    /// Whether frames are being dropped.
    pub fn is_refusing(&self) -> bool {
        self.segment == Segment::Skipping(Skip::NoServer) || !self.from_client.is_boundary()
    }

    /// Whether the rest of a frame is to be dropped, for example of rows whose COPY has failed.
    pub fn is_within_frame(&self) -> bool {
        !self.from_client.is_boundary()
    }

    /// Drops the next frame, or what is there of one. None: more bytes are needed, or the client says goodbye.
    pub fn skip_refused(&mut self, client: &mut Channel) -> Option<()> {
        if !self.from_client.is_boundary() {
            self.from_client.drop_rest();
            let count = self.from_client.advance(&mut client.input, &mut Vec::new());
            return (count > 0).then_some(());
        }
        let header = frame::header(client.input.bytes()).ok()??;
        match header.tag {
            b'X' => None,
            b'S' => {
                self.segment = Segment::Between;
                self.drop_frame(header.total, client);
                encode::ready_for_query(client.output.space(), self.told().byte());
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
        self.from_client = FromClient::Dropped(total);
        let count = self.from_client.advance(&mut client.input, &mut Vec::new());
        self.metrics.bytes_in(count);
    }

    /// The next request will be answered with this error.
    pub fn owe_error(&mut self, report: Report) {
        self.untold.owed = Some(Box::new(report));
    }

    /// Takes it.
    pub fn take_owed_error(&mut self) -> Option<Report> {
        self.untold.owed.take().map(|report| *report)
    }

    /// Whether the frame in front of what the client has sent is one for a server, and not one that is answered without. One
    /// that is not whole yet is waited for without a server.
    pub fn wants_server(&self, bytes: &[u8]) -> bool {
        let is_whole = matches!(frame::header(bytes), Ok(Some(header)) if bytes.len() >= header.total);
        if !is_whole || self.is_within_frame() {
            return false;
        }
        let may_discard =
            bytes.get(frame::HEADER_BYTES).is_none_or(|first| matches!(first, b'd' | b'D' | b'/' | b'-'));
        match bytes.first() {
            Some(b'Q') => !may_discard && !bytes.get(5..).is_some_and(|text| text.starts_with(b" ")),
            Some(b'P' | b'B' | b'D' | b'E') => true,
            _ => false,
        }
    }
}
