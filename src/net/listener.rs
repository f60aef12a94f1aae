//! Listening: TCP and a unix socket, accepting with back-off when the machine is out of file descriptors.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener};

use crate::net::stream::Stream;

/// Pending connections that the kernel keeps for us.
const BACKLOG: i32 = 4096;

/// The open doors.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    unix: Option<UnixDoor>,
}

#[derive(Debug)]
struct UnixDoor {
    listener: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Binds `address` (`host:port`) and, if given, `<socket_dir>/.s.PGSQL.<port>`.
    pub async fn bind(address: &str, socket_dir: Option<&Path>) -> io::Result<Self> {
        let resolved = tokio::net::lookup_host(address)
            .await?
            .next()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the address resolves to nothing"))?;
        let tcp = bind_tcp(resolved)?;
        let unix = match socket_dir {
            None => None,
            Some(dir) => Some(UnixDoor::bind(dir, tcp.local_addr()?.port()).await?),
        };
        Ok(Self { tcp, unix })
    }

    /// Where TCP listens, with the port that the system chose if 0 was asked for.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// The next connection. Cancel safe. Errors of one connection attempt are waited out, never returned.
    pub async fn accept(&self) -> Stream {
        loop {
            let accepted = match &self.unix {
                None => self.tcp.accept().await.and_then(|(tcp, _)| prepare(tcp)),
                Some(unix) => tokio::select! {
                    tcp = self.tcp.accept() => tcp.and_then(|(tcp, _)| prepare(tcp)),
                    unix = unix.listener.accept() => unix.map(|(unix, _)| Stream::Unix(unix)),
                },
            };
            match accepted {
                Ok(stream) => return stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Small answers go out at once, and a peer that vanished without a word is noticed.
pub fn prepare(tcp: TcpStream) -> io::Result<Stream> {
    tcp.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(10))
        .with_retries(6);
    socket2::SockRef::from(&tcp).set_tcp_keepalive(&keepalive)?;
    Ok(Stream::Tcp(tcp))
}

impl UnixDoor {
    async fn bind(dir: &Path, port: u16) -> io::Result<Self> {
        let path = dir.join(format!(".s.PGSQL.{port}"));
        let listener = match UnixListener::bind(&path) {
            Ok(listener) => listener,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                // A socket file that nobody answers is what a killed process left behind.
                if tokio::net::UnixStream::connect(&path).await.is_ok() {
                    return Err(error);
                }
                std::fs::remove_file(&path)?;
                UnixListener::bind(&path)?
            }
            Err(error) => return Err(error),
        };
        // Whatever the umask: the password decides who comes in, as with PostgreSQL's own socket, and the
        // directory's mode who may try.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))?;
        Ok(Self { listener, path })
    }
}

impl Drop for UnixDoor {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "the socket file was gone already");
        }
    }
}
