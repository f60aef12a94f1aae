//! One byte stream behind one type: TCP, unix socket, or TLS on either side.
//! Promise: waiting for readability holds no buffer, and a read that does not fill its buffer costs one
//! system call (tokio clears readiness after a short read).

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connected stream.
#[derive(Debug)]
pub enum Stream {
    /// Plain TCP.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
    /// TLS where we are the server.
    TlsServer(Box<tokio_rustls::server::TlsStream<TcpStream>>),
    /// TLS where we are the client.
    TlsClient(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

macro_rules! each {
    ($self:expr, $stream:ident => $body:expr) => {
        match $self {
            Stream::Tcp($stream) => $body,
            Stream::Unix($stream) => $body,
            Stream::TlsServer($stream) => $body,
            Stream::TlsClient($stream) => $body,
        }
    };
}

impl Stream {
    /// Whether the bytes are encrypted.
    pub const fn is_tls(&self) -> bool {
        matches!(self, Self::TlsServer(_) | Self::TlsClient(_))
    }

    /// The server name that a TLS client asked for (RFC 6066), in lower case.
    pub fn server_name(&self) -> Option<&str> {
        let Self::TlsServer(stream) = self else { return None };
        stream.get_ref().1.server_name()
    }

    /// The certificate that a TLS client has shown and proven, verified against the configured authorities; DER.
    pub fn client_certificate(&self) -> Option<&[u8]> {
        let Self::TlsServer(stream) = self else { return None };
        stream.get_ref().1.peer_certificates()?.first().map(|certificate| &**certificate)
    }

    /// Where the other side is; none: a unix socket.
    pub fn peer(&self) -> Option<SocketAddr> {
        let tcp = match self {
            Self::Unix(_) => return None,
            Self::Tcp(stream) => stream,
            Self::TlsServer(stream) => stream.get_ref().0,
            Self::TlsClient(stream) => stream.get_ref().0,
        };
        tcp.peer_addr().ok()
    }

    /// Ready when a read would give bytes, an end or an error. Cancel safe; takes no buffer.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
            Self::TlsServer(stream) => {
                let (tcp, tls) = stream.get_mut();
                poll_tls_readable(tcp, tls.process_new_packets(), cx)
            }
            Self::TlsClient(stream) => {
                let (tcp, tls) = stream.get_mut();
                poll_tls_readable(tcp, tls.process_new_packets(), cx)
            }
        }
    }

    /// Whether the other side has closed or broken the connection, also behind bytes that nobody has read yet; elsewhere
    /// than on Linux, whether both directions are closed.
    pub fn has_left(&self) -> bool {
        let socket = match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
            Self::TlsServer(stream) => stream.get_ref().0.as_fd(),
            Self::TlsClient(stream) => stream.get_ref().0.as_fd(),
        };
        // Errors and the end of both directions are reported whether they are asked for or not.
        #[cfg(target_os = "linux")]
        let asked = PollFlags::RDHUP;
        #[cfg(not(target_os = "linux"))]
        let asked = PollFlags::empty();
        poll(&mut [PollFd::from_borrowed_fd(socket, asked)], Some(&Timespec::default())) == Ok(1)
    }

    /// Reads into `space`; 0 is the end of the stream.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, space: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(space);
        ready!(each!(self, stream => Pin::new(stream).poll_read(cx, &mut buf)))?;
        Poll::Ready(Ok(buf.filled().len()))
    }

    /// Writes some of `bytes`; a TLS stream is flushed to the socket as well.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    /// Pushes what TLS still holds to the socket; costs nothing on a plain stream.
    pub fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }
}

fn poll_tls_readable(
    tcp: &TcpStream,
    state: Result<rustls::IoState, rustls::Error>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    match state {
        Ok(state) if state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed() => {
            tcp.poll_read_ready(cx)
        }
        // Plaintext, a close or an error: the read that follows will tell which.
        Ok(_) | Err(_) => Poll::Ready(Ok(())),
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_peer_that_has_left_is_noticed_behind_bytes_that_nobody_has_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (unix, unix_peer) = UnixStream::pair().unwrap();
        let tcp_peer = listener.accept().await.unwrap().0;
        for (stream, mut peer) in
            [(Stream::Tcp(tcp), Stream::Tcp(tcp_peer)), (Stream::Unix(unix), Stream::Unix(unix_peer))]
        {
            assert!(!stream.has_left(), "{stream:?}");
            peer.write_all(b"not read").await.unwrap();
            assert!(!stream.has_left(), "{stream:?}");
            drop(peer);
            assert!(stream.has_left(), "{stream:?}");
        }
    }
}
