//! A relay between the proxy and `PostgreSQL`. It records the frames that each server connection receives, and it can
//! withhold or end the answers, as a broken network does; end or hold up a connection at any byte; and change a statement.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use super::cluster::Cluster;
use super::config::Config;
use super::link::Frame;
use super::message::CANCEL_REQUEST;
use super::{eventually, within};

/// The messages that a client may send in a session.
const TAGS: &[u8] = b"BCDEFHPQSXcdfp";

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    ToServer,
    ToProxy,
}

/// What a connection does at a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// It ends, both ways.
    Ends,
    /// It carries no more until it is let go.
    Holds,
}

/// What waits for the bytes of one way, on whatever connection they go.
#[derive(Debug)]
struct Trap {
    way: Way,
    left: usize,
    then: Then,
}

/// What is done to bytes on their way.
#[derive(Default)]
struct Disturbance {
    trap: Mutex<Option<Trap>>,
    /// Bytes that the server receives as others of the same length, once.
    change: Mutex<Option<(Vec<u8>, Vec<u8>)>>,
    /// Bytes that went so far: to servers, to the proxy.
    carried: [AtomicUsize; 2],
    has_sprung: Notify,
    may_go_on: Notify,
}

/// What each server connection has received.
type Received = Arc<Mutex<Vec<Vec<u8>>>>;

/// The relay; it ends with the test's runtime.
pub(crate) struct Tap {
    port: u16,
    received: Received,
    disturbance: Arc<Disturbance>,
    /// Connections below the first number get no more answers, those below the second are closed.
    broken: watch::Sender<(usize, usize)>,
}

// === impl Tap ===

impl Tap {
    /// Listens in front of the cluster.
    pub(crate) async fn start(cluster: &Cluster) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (broken, _) = watch::channel((0, 0));
        let port = listener.local_addr().unwrap().port();
        let recorder = Self { port, received: Arc::default(), disturbance: Arc::default(), broken };
        let (received, disturbance) = (Arc::clone(&recorder.received), Arc::clone(&recorder.disturbance));
        let (broken, port) = (recorder.broken.clone(), cluster.port());
        tokio::spawn(async move {
            while let Ok((proxy, _)) = listener.accept().await {
                let number = {
                    let mut received = received.lock().unwrap();
                    received.push(Vec::new());
                    received.len() - 1
                };
                let (received, disturbance) = (Arc::clone(&received), Arc::clone(&disturbance));
                let broken = broken.subscribe();
                tokio::spawn(carry((proxy, port), number, (received, disturbance), broken));
            }
        });
        recorder
    }

    /// Makes the proxy connect to the relay.
    pub(crate) fn stand_between(&self, config: &mut Config) {
        config.set("upstream.main.hosts", vec![format!("127.0.0.1:{}", self.port)]);
    }

    /// Withholds all further answers of the connections that are open.
    pub(crate) fn withhold(&self) {
        let open = self.received.lock().unwrap().len();
        self.broken.send_modify(|broken| broken.0 = open);
    }

    /// Closes the connections that are open, without their last answers.
    pub(crate) fn cut(&self) {
        let open = self.received.lock().unwrap().len();
        self.broken.send_modify(|broken| *broken = (open, open));
    }

    /// Bytes that went this way so far.
    pub(crate) fn carried(&self, way: Way) -> usize {
        self.disturbance.carried[way as usize].load(Ordering::SeqCst)
    }

    /// After so many more bytes of one way their connection does this. Whatever waited before waits no more.
    pub(crate) fn at(&self, way: Way, left: usize, then: Then) {
        *self.disturbance.trap.lock().unwrap() = Some(Trap { way, left, then });
    }

    /// Waits until a connection is held up.
    pub(crate) async fn holds(&self) {
        within("a connection to be held up", self.disturbance.has_sprung.notified()).await;
    }

    /// Lets it go on.
    pub(crate) fn let_go(&self) {
        self.disturbance.may_go_on.notify_one();
    }

    /// The next time that a server is sent these bytes it receives others of the same length.
    pub(crate) fn change(&self, from: &[u8], to: &[u8]) {
        assert_eq!(from.len(), to.len());
        *self.disturbance.change.lock().unwrap() = Some((from.to_vec(), to.to_vec()));
    }

    /// Whether bytes wait to be changed.
    pub(crate) fn waits_for_change(&self) -> bool {
        self.disturbance.change.lock().unwrap().is_some()
    }

    /// Waits until a server connection has received a text.
    pub(crate) async fn receives(&self, text: &str) {
        let has = |bytes: &Vec<u8>| bytes.windows(text.len()).any(|part| part == text.as_bytes());
        let received = || async { self.received.lock().unwrap().iter().any(has).then_some(()) };
        eventually(&format!("'{text}' to be sent"), received).await;
    }

    /// The frames of each session, its startup packet left out. Fails if one is torn or of no known kind.
    pub(crate) fn frames(&self) -> Vec<Vec<Frame>> {
        let received = self.received.lock().unwrap();
        received.iter().filter(|bytes| !is_cancel(bytes)).map(|bytes| decode(bytes)).collect()
    }

    /// The bodies of all CopyData frames.
    pub(crate) fn copied(&self) -> Vec<Bytes> {
        let all = self.frames().into_iter().flatten();
        all.filter(|frame| frame.tag == b'd').map(|frame| frame.body).collect()
    }
}

fn is_cancel(bytes: &[u8]) -> bool {
    bytes.get(4..8) == Some(&CANCEL_REQUEST.to_be_bytes()[..])
}

fn decode(bytes: &[u8]) -> Vec<Frame> {
    let length =
        |at: usize| usize::try_from(u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())).unwrap();
    let mut frames = Vec::new();
    let mut at = if bytes.is_empty() { 0 } else { length(0) };
    while at < bytes.len() {
        let tag = bytes[at];
        let end = at + 1 + length(at + 1);
        assert!(TAGS.contains(&tag), "no frame begins at byte {at}, after {:?}", frames.last());
        assert!(end <= bytes.len(), "the last frame is torn: {} of {end} bytes", bytes.len());
        frames.push(Frame { tag, body: Bytes::copy_from_slice(&bytes[at + 5..end]) });
        at = end;
    }
    frames
}

impl Disturbance {
    /// Where the trap is within these bytes, if it is.
    fn springs(&self, way: Way, count: usize) -> Option<(usize, Then)> {
        let mut trap = self.trap.lock().unwrap();
        let waiting = trap.as_mut().filter(|trap| trap.way == way)?;
        if waiting.left >= count {
            waiting.left -= count;
            return None;
        }
        trap.take().map(|trap| (trap.left, trap.then))
    }

    fn alter(&self, bytes: &mut [u8]) {
        let mut change = self.change.lock().unwrap();
        let Some((from, to)) = change.as_ref() else { return };
        if let Some(at) = bytes.windows(from.len()).position(|part| part == from) {
            bytes[at..at + to.len()].copy_from_slice(to);
            *change = None;
        }
    }

    /// Passes bytes on; false when the connection ends.
    async fn pass(&self, way: Way, bytes: &[u8], out: &mut OwnedWriteHalf) -> bool {
        let Some((end, then)) = self.springs(way, bytes.len()) else {
            self.carried[way as usize].fetch_add(bytes.len(), Ordering::SeqCst);
            return out.write_all(bytes).await.is_ok();
        };
        if out.write_all(&bytes[..end]).await.is_err() || then == Then::Ends {
            return false;
        }
        self.has_sprung.notify_one();
        self.may_go_on.notified().await;
        out.write_all(&bytes[end..]).await.is_ok()
    }
}

async fn carry(
    (proxy, port): (TcpStream, u16),
    number: usize,
    (received, disturbance): (Received, Arc<Disturbance>),
    mut broken: watch::Receiver<(usize, usize)>,
) {
    let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut from_proxy, mut to_proxy) = proxy.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let mut closed = broken.clone();
    let there = async {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = from_proxy.read(&mut buffer).await {
            received.lock().unwrap()[number].extend_from_slice(&buffer[..count]);
            disturbance.alter(&mut buffer[..count]);
            if !disturbance.pass(Way::ToServer, &buffer[..count], &mut to_server).await {
                return Err(());
            }
        }
        drop(to_server.shutdown().await);
        Ok(())
    };
    let back = async {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
            drop(broken.wait_for(|(silent, _)| number >= *silent).await);
            if !disturbance.pass(Way::ToProxy, &buffer[..count], &mut to_proxy).await {
                return Err(());
            }
        }
        drop(to_proxy.shutdown().await);
        Ok(())
    };
    tokio::select! {
        _ = async { tokio::try_join!(there, back) } => {}
        _ = closed.wait_for(|(_, cut)| number < *cut) => {}
    }
}
