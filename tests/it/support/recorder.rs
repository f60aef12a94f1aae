//! A relay between the proxy and PostgreSQL that decodes what the servers receive. It reports a frame that no client
//! sent and that the proxy does not make, a frame of one client before the last frame of another was answered, and
//! a text that must not reach a server. A frame that is torn, or has bytes of another in it, is a frame that nobody
//! sent. It can play a server in doubt, too ([`Tampering`]).

mod server;
mod tampering;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::link::Frame;
use server::{Server, key};
pub(crate) use tampering::Tampering;
use tampering::{Plan, encode};

/// Frames remembered for a report.
const REMEMBERED: usize = 200;
/// Rows of fewer bytes may be those of another message.
const MIN_LATE_BYTES: usize = 12;

/// The relay; its tasks end with the test.
pub(crate) struct Recorder {
    port: u16,
    record: Arc<Mutex<Record>>,
}

/// What all connections write into.
#[derive(Default)]
struct Record {
    /// Whether connections that are opened from now on are checked.
    armed: bool,
    own_texts: OwnTexts,
    /// What each client has sent since the beginning of the sequence, and whether servers may receive it.
    sent: HashMap<Vec<u8>, Sender>,
    /// Rows that no server may receive.
    late: Vec<Vec<u8>>,
    plan: Plan,
    violations: Vec<String>,
    trace: VecDeque<String>,
    connections: usize,
}

/// Whether the texts that the proxy makes are known.
#[derive(Default, PartialEq, Eq)]
enum OwnTexts {
    #[default]
    Known,
    /// It is another build: a text that no client sent is taken for its own.
    Unknown,
}

/// Who sent a frame.
#[derive(Default)]
struct Sender {
    clients: HashSet<usize>,
    is_forbidden: bool,
}

// === impl Recorder ===

impl Recorder {
    /// Listens in front of a PostgreSQL on this machine.
    pub(crate) async fn start(server_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let is_another_build = std::env::var_os("PGTENANT_WIRE_FUZZ_ANOTHER_BUILD").is_some();
        let own_texts = if is_another_build { OwnTexts::Unknown } else { OwnTexts::Known };
        let record = Arc::new(Mutex::new(Record { own_texts, ..Record::default() }));
        let shared = Arc::clone(&record);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server_port)).await else { continue };
                relay(client, server, &shared);
            }
        });
        Self { port, record }
    }

    /// Where the proxy has to connect to.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Checks connections that are opened from now on.
    pub(crate) fn arm(&self) {
        lock(&self.record).armed = true;
    }

    /// Forgets what clients have sent.
    pub(crate) fn begin(&self) {
        let mut record = lock(&self.record);
        record.sent.clear();
        record.late.clear();
        (record.plan.next, record.plan.done) = (None, 0);
        record.violations.clear();
        record.trace.clear();
    }

    /// A client is about to send this message.
    pub(crate) fn sends(&self, client: usize, message: &[u8]) {
        self.note(message, |sender| {
            sender.clients.insert(client);
        });
    }

    /// A client is about to send this message, which no server may receive.
    pub(crate) fn forbids(&self, message: &[u8]) {
        self.note(message, |sender| sender.is_forbidden = true);
    }

    fn note(&self, message: &[u8], change: impl FnOnce(&mut Sender)) {
        let Some((tag, body)) = message.split_first() else { return };
        if let Some(key) = body.get(4..).and_then(|body| key(*tag, body)) {
            change(lock(&self.record).sent.entry(key).or_default());
        }
    }

    /// A client is about to send these rows; it was told that their COPY has ended.
    pub(crate) fn sends_late(&self, rows: &[u8]) {
        lock(&self.record).late.push(rows.to_vec());
    }

    /// Does something to the next hand-over; none: to no more of them.
    pub(crate) fn tampers(&self, tampering: Option<Tampering>) {
        lock(&self.record).plan.next = tampering;
    }

    /// Whether it has done something since the beginning of the sequence.
    pub(crate) fn has_tampered(&self) -> bool {
        lock(&self.record).plan.done > 0
    }

    /// Whether no answer may be repeated to this proxy any more.
    pub(crate) fn has_repeated_enough(&self) -> bool {
        lock(&self.record).plan.has_repeated_enough()
    }

    /// Another proxy has taken the place of the one before.
    pub(crate) fn serves_another_proxy(&self) {
        lock(&self.record).plan.repeats = 0;
    }

    /// What was wrong since the beginning of the sequence.
    pub(crate) fn violations(&self) -> Vec<String> {
        lock(&self.record).violations.clone()
    }

    /// The last frames both ways.
    pub(crate) fn trace(&self) -> String {
        lock(&self.record).trace.iter().cloned().collect::<Vec<_>>().join("\n")
    }
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

// === the relay ===

fn relay(client: TcpStream, server: TcpStream, record: &Arc<Mutex<Record>>) {
    drop((client.set_nodelay(true), server.set_nodelay(true)));
    let (from_proxy, to_proxy) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut shared = lock(record);
    shared.connections += 1;
    if !shared.armed {
        tokio::spawn(forward(from_proxy, to_server, Unseen));
        tokio::spawn(forward(from_server, to_proxy, Unseen));
        return;
    }
    let state = Arc::new(Mutex::new(Server::new(shared.connections)));
    tokio::spawn(forward(from_proxy, to_server, Sent::new(record, &state)));
    tokio::spawn(forward(from_server, to_proxy, Answered::new(record, &state)));
}

trait Observer: Send + 'static {
    /// Looks at bytes; what goes on in their place.
    fn passes(&mut self, bytes: &[u8]) -> BytesMut;
}

/// Looks at nothing.
struct Unseen;

impl Observer for Unseen {
    fn passes(&mut self, bytes: &[u8]) -> BytesMut {
        bytes.into()
    }
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut observer: impl Observer) {
    let mut buffer = BytesMut::with_capacity(16 * 1024);
    while matches!(from.read_buf(&mut buffer).await, Ok(1..)) {
        let passed = observer.passes(&buffer);
        if to.write_all(&passed).await.is_err() {
            return;
        }
        buffer.clear();
    }
}

/// Whether something else goes on in a frame's place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Kept,
    Taken,
}

/// Bytes of one direction, taken apart into frames. A part of a frame goes on at once.
#[derive(Default)]
struct Frames {
    buffer: BytesMut,
    /// Bytes of the first frame that have gone on.
    passed: usize,
}

impl Frames {
    /// The next whole frame. It goes on, unless `look` has put something in its place; of one that has gone on in part, the
    /// rest does, and it is looked at only.
    fn next(
        &mut self,
        out: &mut BytesMut,
        look: impl FnOnce(&Frame, Option<&mut BytesMut>) -> Place,
    ) -> bool {
        let Some(frame) = next_frame(&mut self.buffer) else { return false };
        let passed = std::mem::take(&mut self.passed);
        let place = look(&frame, Some(&mut *out).filter(|_| passed == 0));
        if place == Place::Kept || passed > 0 {
            let mut bytes = BytesMut::new();
            encode(&frame, &mut bytes);
            out.extend_from_slice(&bytes[passed..]);
        }
        true
    }

    /// Lets the part of a frame go on that is there.
    fn pass_rest(&mut self, out: &mut BytesMut) {
        out.extend_from_slice(&self.buffer[self.passed..]);
        self.passed = self.buffer.len();
    }
}

/// The next whole frame.
fn next_frame(buffer: &mut BytesMut) -> Option<Frame> {
    let length = u32::from_be_bytes(buffer.get(1..5)?.try_into().ok()?);
    let total = usize::try_from(length).ok()?.max(4) + 1;
    if buffer.len() < total {
        return None;
    }
    let mut bytes = buffer.split_to(total).freeze();
    Some(Frame { tag: bytes.get_u8(), body: bytes.split_off(4) })
}

/// Frames from the proxy to a server.
struct Sent {
    record: Arc<Mutex<Record>>,
    server: Arc<Mutex<Server>>,
    frames: Frames,
    is_started: bool,
}

impl Sent {
    fn new(record: &Arc<Mutex<Record>>, server: &Arc<Mutex<Server>>) -> Self {
        Self {
            record: Arc::clone(record),
            server: Arc::clone(server),
            frames: Frames::default(),
            is_started: false,
        }
    }

    /// Takes the packet that begins a session; false if more has to come.
    fn start(&mut self, out: &mut BytesMut) -> bool {
        let Some(header) = self.frames.buffer.get(..4) else { return false };
        let mut header = header;
        let total = usize::try_from(header.get_u32()).unwrap();
        if self.frames.buffer.len() < total {
            return false;
        }
        out.extend_from_slice(&self.frames.buffer.split_to(total));
        self.is_started = true;
        true
    }
}

impl Observer for Sent {
    fn passes(&mut self, bytes: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        self.frames.buffer.extend_from_slice(bytes);
        if !self.is_started && !self.start(&mut out) {
            return out;
        }
        let mut record = lock(&self.record);
        let mut server = self.server.lock().unwrap();
        let mut look = |frame: &Frame, out: Option<&mut BytesMut>| {
            server.receives(frame, &mut record);
            let replaced = out.and_then(|out| Some((server.kept.asked(frame, &mut record.plan)?, out)));
            match replaced {
                Some((frame, out)) => {
                    encode(&frame, out);
                    Place::Taken
                }
                None => Place::Kept,
            }
        };
        while self.frames.next(&mut out, &mut look) {}
        self.frames.pass_rest(&mut out);
        out
    }
}

/// Frames from a server to the proxy.
struct Answered {
    record: Arc<Mutex<Record>>,
    server: Arc<Mutex<Server>>,
    frames: Frames,
}

impl Answered {
    fn new(record: &Arc<Mutex<Record>>, server: &Arc<Mutex<Server>>) -> Self {
        Self { record: Arc::clone(record), server: Arc::clone(server), frames: Frames::default() }
    }
}

impl Observer for Answered {
    fn passes(&mut self, bytes: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        let mut record = lock(&self.record);
        let mut server = self.server.lock().unwrap();
        self.frames.buffer.extend_from_slice(bytes);
        let mut look = |frame: &Frame, out: Option<&mut BytesMut>| {
            server.answers(frame, &mut record);
            if let Some(out) = out {
                for repeated in server.kept.answered(frame) {
                    record.remember(format!("repeated -> {repeated}"));
                    encode(&repeated, out);
                }
            }
            Place::Kept
        };
        while self.frames.next(&mut out, &mut look) {}
        self.frames.pass_rest(&mut out);
        out
    }
}

impl Record {
    /// Whether rows are such that no server may receive them.
    fn is_late(&self, rows: &[u8]) -> bool {
        rows.len() >= MIN_LATE_BYTES
            && self.late.iter().any(|late| memchr::memmem::find(late, rows).is_some())
    }

    fn remember(&mut self, line: String) {
        if self.trace.len() >= REMEMBERED {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }
}
