//! `/metrics`, `/healthz` and `/readyz` on the metrics address.
//! Promise: a connection is closed that neither asks nor takes its answer, there are few of them, and what is scraped is
//! written off the workers that serve clients.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::observability::metrics::Exporter;

/// Connections at one time; others wait in the kernel's queue.
pub const MAX_CONNECTIONS: usize = 16;
/// From the connection, or the last byte of an answer, to the next request; from a request's first byte to its answer's; and
/// between two bytes of an answer that is taken.
const PATIENCE: Duration = Duration::from_secs(10);
/// From a request's first byte to its answer's last.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Pause after an accept that failed.
const RETRY: Duration = Duration::from_millis(50);

/// Whether new clients are welcome; false while draining.
#[derive(Debug, Clone, Default)]
pub struct Ready(Arc<AtomicBool>);

impl Ready {
    /// New clients are welcome.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// They are not.
    pub fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Serves until dropped.
pub async fn serve(listener: TcpListener, exporter: Exporter, ready: Ready) -> io::Result<()> {
    let scrapes = Arc::new(Scrapes::new(move || exporter.render()));
    let router = Router::new()
        .route(
            "/metrics",
            get(move || async move {
                ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], scrapes.text().await)
            }),
        )
        .route("/healthz", get(|| async { "ok\n" }))
        .route(
            "/readyz",
            get(move || async move {
                if ready.0.load(Ordering::Relaxed) {
                    "ready\n".into_response()
                } else {
                    (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response()
                }
            }),
        );
    let seats = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    axum::serve(Door { listener, seats }, router).await
}

/// Writes the text of a scrape, once for all who ask for it in the meantime.
struct Scrapes {
    render: Arc<dyn Fn() -> String + Send + Sync>,
    waiting: AtomicUsize,
    /// When the last one was begun, and its text, as long as somebody waits who may want it.
    last: Mutex<Option<(Instant, Bytes)>>,
}

/// One of those who wait.
struct Waiting<'s>(&'s AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Scrapes ===

impl Scrapes {
    fn new(render: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self { render: Arc::new(render), waiting: AtomicUsize::new(0), last: Mutex::default() }
    }

    /// The text as it is at the time of asking, or later.
    async fn text(&self) -> Bytes {
        let asked = Instant::now();
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        let mut last = self.last.lock().await;
        let text = match &*last {
            Some((begun, text)) if *begun >= asked => text.clone(),
            _ => {
                let (begun, render) = (Instant::now(), Arc::clone(&self.render));
                let text = tokio::task::spawn_blocking(move || Bytes::from(render())).await;
                let text = text.unwrap_or_default();
                *last = Some((begun, text.clone()));
                text
            }
        };
        if self.waiting.load(Ordering::Relaxed) == 1 {
            *last = None;
        }
        text
    }
}

/// Accepts connections, no more than there are seats.
struct Door {
    listener: TcpListener,
    seats: Arc<Semaphore>,
}

impl axum::serve::Listener for Door {
    type Io = Visit;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Visit, SocketAddr) {
        loop {
            let Ok(seat) = Arc::clone(&self.seats).acquire_owned().await else {
                std::future::pending::<()>().await;
                continue;
            };
            match self.listener.accept().await {
                Ok((tcp, address)) => return (Visit::new(tcp, seat), address),
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a connection to the metrics address");
                    sleep(RETRY).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends when its time is over.
struct Visit {
    tcp: TcpStream,
    timer: Pin<Box<Sleep>>,
    /// A request has begun, and no byte of its answer was written.
    is_asking: bool,
    /// When the answer must be there.
    ends: Instant,
    _seat: OwnedSemaphorePermit,
}

// === impl Visit ===

impl Visit {
    fn new(tcp: TcpStream, seat: OwnedSemaphorePermit) -> Self {
        let now = Instant::now();
        let timer = Box::pin(sleep_until(now + PATIENCE));
        Self { tcp, timer, is_asking: false, ends: now + ANSWER_LIMIT, _seat: seat }
    }

    fn has_read(&mut self) {
        if !self.is_asking {
            let now = Instant::now();
            self.is_asking = true;
            self.ends = now + ANSWER_LIMIT;
            self.timer.as_mut().reset(now + PATIENCE);
        }
    }

    fn has_written(&mut self) {
        self.is_asking = false;
        let next = (Instant::now() + PATIENCE).min(self.ends);
        self.timer.as_mut().reset(next);
    }

    /// Nothing moves; an error once the time is over.
    fn wait<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        self.timer.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Visit {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = Pin::new(&mut self.tcp).poll_read(cx, buf);
        match outcome {
            Poll::Pending => self.wait(cx),
            Poll::Ready(_) => {
                if buf.filled().len() > before {
                    self.has_read();
                }
                outcome
            }
        }
    }
}

impl AsyncWrite for Visit {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.tcp).poll_write(cx, buf) {
            Poll::Pending => self.wait(cx),
            outcome @ Poll::Ready(_) => {
                self.has_written();
                outcome
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn scrapes_at_one_time_share_a_text_that_is_no_older_than_their_question() {
        let (go, gate) = mpsc::channel::<()>();
        let gate = std::sync::Mutex::new(gate);
        let count = AtomicUsize::new(0);
        let scrapes = Arc::new(Scrapes::new(move || {
            gate.lock().unwrap().recv().unwrap();
            (count.fetch_add(1, Ordering::Relaxed) + 1).to_string()
        }));
        let ask = || {
            let scrapes = Arc::clone(&scrapes);
            tokio::spawn(async move { scrapes.text().await })
        };
        let first = ask();
        while scrapes.last.try_lock().is_ok() {
            tokio::task::yield_now().await;
        }
        // The first is being written, which blocks no worker: this test has one.
        let others = [ask(), ask(), ask()];
        while scrapes.waiting.load(Ordering::Relaxed) < 4 {
            tokio::task::yield_now().await;
        }
        go.send(()).unwrap();
        assert_eq!(first.await.unwrap(), "1");
        go.send(()).unwrap();
        for other in others {
            assert_eq!(other.await.unwrap(), "2", "one text for all of them, begun behind their question");
        }
        assert!(scrapes.last.lock().await.is_none(), "nothing is kept that nobody waits for");
    }
}
