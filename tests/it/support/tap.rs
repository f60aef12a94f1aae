//! A relay between the proxy and `PostgreSQL`. It records the frames that each server connection receives, and it can
//! withhold or end the answers, as a broken network does.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::cluster::Cluster;
use super::config::Config;
use super::eventually;
use super::link::Frame;
use super::message::CANCEL_REQUEST;

/// The messages that a client may send in a session.
const TAGS: &[u8] = b"BCDEFHPQSXcdfp";

/// The relay; it ends with the test's runtime.
pub(crate) struct Tap {
    port: u16,
    received: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Connections below the first number get no more answers, those below the second are closed.
    broken: watch::Sender<(usize, usize)>,
}

// === impl Tap ===

impl Tap {
    /// Listens in front of the cluster.
    pub(crate) async fn start(cluster: &Cluster) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (broken, _) = watch::channel((0, 0));
        let recorder = Self { port: listener.local_addr().unwrap().port(), received: Arc::default(), broken };
        let (received, broken, port) =
            (Arc::clone(&recorder.received), recorder.broken.clone(), cluster.port());
        tokio::spawn(async move {
            while let Ok((proxy, _)) = listener.accept().await {
                let number = {
                    let mut received = received.lock().unwrap();
                    received.push(Vec::new());
                    received.len() - 1
                };
                tokio::spawn(carry((proxy, port), number, Arc::clone(&received), broken.subscribe()));
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

async fn carry(
    (proxy, port): (TcpStream, u16),
    number: usize,
    received: Arc<Mutex<Vec<Vec<u8>>>>,
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
            if to_server.write_all(&buffer[..count]).await.is_err() {
                break;
            }
        }
        drop(to_server.shutdown().await);
    };
    let back = async {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
            drop(broken.wait_for(|(silent, _)| number >= *silent).await);
            if to_proxy.write_all(&buffer[..count]).await.is_err() {
                break;
            }
        }
        drop(to_proxy.shutdown().await);
    };
    tokio::select! {
        _ = async { tokio::join!(there, back) } => {}
        _ = closed.wait_for(|(_, cut)| number < *cut) => {}
    }
}
