//! A relay between the proxy and PostgreSQL that decodes what the servers receive. It reports a frame that no client
//! sent and that the proxy does not make, a frame of one client before the last frame of another was answered, and
//! a text that must not reach a server. A frame that is torn, or has bytes of another in it, is a frame that nobody
//! sent.

mod server;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::link::Frame;
use server::{Server, key};

/// Frames remembered for a report.
const REMEMBERED: usize = 200;

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
    fn sees(&mut self, bytes: &[u8]);
}

/// Looks at nothing.
struct Unseen;

impl Observer for Unseen {
    fn sees(&mut self, _: &[u8]) {}
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut observer: impl Observer) {
    let mut buffer = BytesMut::with_capacity(16 * 1024);
    while matches!(from.read_buf(&mut buffer).await, Ok(1..)) {
        observer.sees(&buffer);
        if to.write_all(&buffer).await.is_err() {
            return;
        }
        buffer.clear();
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
    buffer: BytesMut,
    is_started: bool,
}

impl Sent {
    fn new(record: &Arc<Mutex<Record>>, server: &Arc<Mutex<Server>>) -> Self {
        Self {
            record: Arc::clone(record),
            server: Arc::clone(server),
            buffer: BytesMut::new(),
            is_started: false,
        }
    }

    /// Takes the packet that begins a session; false if more has to come.
    fn start(&mut self) -> bool {
        let Some(header) = self.buffer.get(..4) else { return false };
        let mut header = header;
        let total = usize::try_from(header.get_u32()).unwrap();
        if self.buffer.len() < total {
            return false;
        }
        self.buffer.advance(total);
        self.is_started = true;
        true
    }
}

impl Observer for Sent {
    fn sees(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        if !self.is_started && !self.start() {
            return;
        }
        let mut record = lock(&self.record);
        let mut server = self.server.lock().unwrap();
        while let Some(frame) = next_frame(&mut self.buffer) {
            server.receives(&frame, &mut record);
        }
    }
}

/// Frames from a server to the proxy.
struct Answered {
    record: Arc<Mutex<Record>>,
    server: Arc<Mutex<Server>>,
    buffer: BytesMut,
}

impl Answered {
    fn new(record: &Arc<Mutex<Record>>, server: &Arc<Mutex<Server>>) -> Self {
        Self { record: Arc::clone(record), server: Arc::clone(server), buffer: BytesMut::new() }
    }
}

impl Observer for Answered {
    fn sees(&mut self, bytes: &[u8]) {
        let mut record = lock(&self.record);
        let mut server = self.server.lock().unwrap();
        self.buffer.extend_from_slice(bytes);
        while let Some(frame) = next_frame(&mut self.buffer) {
            server.answers(&frame, &mut record);
        }
    }
}

impl Record {
    fn remember(&mut self, line: String) {
        if self.trace.len() >= REMEMBERED {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }
}
