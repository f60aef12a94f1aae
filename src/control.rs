//! Connections of our own to PostgreSQL, for the operator's side: looking at catalogs, installing protection.
//! No client's bytes ever travel on one; they share the pool's way to a host, its TLS and its limits.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls};

use crate::net::stream::Stream;
use crate::secret::Secret;
use crate::upstream::settings::{ServerAddress, UpstreamSettings};
use crate::upstream::{ConnectError, Connector};

/// Connects to an upstream as a role: to the first host that takes us and, if there are several, accepts
/// writes. The session is as the server gives it; settings are for the caller to make, in a transaction.
pub async fn connect(
    settings: &UpstreamSettings,
    user: &str,
    password: Option<&Secret<String>>,
) -> Result<Client, ConnectError> {
    connect_hearing(settings, (user, password), None).await
}

/// The same. Each notification leaves a mark in `news`, which closes with the connection.
pub async fn connect_hearing(
    settings: &UpstreamSettings,
    (user, password): (&str, Option<&Secret<String>>),
    news: Option<mpsc::Sender<()>>,
) -> Result<Client, ConnectError> {
    let connector = Connector::with_role(settings.clone(), user.to_owned(), password.cloned())?;
    let mut login = Config::new();
    login.user(user).dbname(&settings.database).application_name("pgtenant");
    if let Some(password) = password {
        login.password(password.expose());
    }
    let mut last = ConnectError::ReadOnly;
    for address in &settings.hosts {
        let attempt = timeout(settings.connect_timeout, log_in(&connector, address, (&login, news.clone())));
        match attempt.await.unwrap_or(Err(ConnectError::Timeout)) {
            Ok((client, true)) => return Ok(client),
            Ok((client, false)) if settings.hosts.len() == 1 => return Ok(client),
            Ok((_, false)) => last = ConnectError::ReadOnly,
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The session, and whether it accepts writes.
async fn log_in(
    connector: &Connector,
    address: &ServerAddress,
    (login, news): (&Config, Option<mpsc::Sender<()>>),
) -> Result<(Client, bool), ConnectError> {
    // The stream is encrypted already where it has to be, which is why no TLS is asked for on top of it.
    let stream = Wary { stream: connector.open(address).await?, asked: Asked::default() };
    let (client, mut connection) = login.connect_raw(stream, NoTls).await.map_err(refused)?;
    // What goes wrong on the connection is told to whoever asks the client next; dropping that ends this.
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let (AsyncMessage::Notification(_), Some(news)) = (message, &news) {
                // One mark says as much as many.
                let _known = news.try_send(());
            }
        }
    });
    let sql = "SELECT NOT pg_catalog.current_setting('transaction_read_only')::pg_catalog.bool";
    let writes = client.query_typed(sql, &[]).await.map_err(refused)?;
    let accepts_writes = writes.first().is_some_and(|row| row.try_get(0).unwrap_or(false));
    Ok((client, accepts_writes))
}

fn refused(error: tokio_postgres::Error) -> ConnectError {
    match error.as_db_error() {
        Some(db) => {
            ConnectError::Refused { sqlstate: db.code().code().to_owned(), message: db.message().to_owned() }
        }
        None => ConnectError::Io(io::Error::other(error)),
    }
}

/// A stream to a server that ends if that asks for a cleartext password which others could read: the pool's
/// own login refuses that too, and the driver would answer.
struct Wary {
    stream: Stream,
    asked: Asked,
}

/// What a server said up to its first request for authentication.
#[derive(Debug, Default)]
struct Asked {
    bytes: Vec<u8>,
    is_known: bool,
}

/// Longest beginning that is looked at; a server that says more before it asks is none.
const MAX_BEGINNING_BYTES: usize = 64 * 1024;

/// AuthenticationCleartextPassword without its length.
const CLEARTEXT: [u8; 4] = [0, 0, 0, 3];

impl Asked {
    /// Takes in what was read; an error if it must not reach the driver.
    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.is_known {
            return Ok(());
        }
        self.bytes.extend_from_slice(bytes);
        let mut rest = &self.bytes[..];
        while let Some((header, body)) = rest.split_first_chunk::<5>() {
            let [tag, length @ ..] = *header;
            let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX).saturating_sub(4);
            let Some((body, behind)) = body.split_at_checked(length) else { break };
            if tag == b'R' {
                self.is_known = true;
                let is_cleartext = body == CLEARTEXT;
                self.bytes = Vec::new();
                return if is_cleartext { Err(cleartext()) } else { Ok(()) };
            }
            rest = behind;
        }
        if self.bytes.len() > MAX_BEGINNING_BYTES { Err(io::ErrorKind::InvalidData.into()) } else { Ok(()) }
    }
}

fn cleartext() -> io::Error {
    io::Error::other("the server asks for a cleartext password over an unencrypted connection")
}

impl AsyncRead for Wary {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        if matches!(this.stream, Stream::Tcp(_)) {
            this.asked.take(buf.filled().get(before..).unwrap_or_default())?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wary {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTICE: &[u8] = b"N\0\0\0\x07Sx\0";
    const ASKS: &[u8] = b"R\0\0\0\x08\0\0\0\x03";

    #[test]
    fn a_request_for_a_cleartext_password_is_seen_however_it_comes() {
        for beginning in [ASKS.to_vec(), [NOTICE, NOTICE, ASKS].concat()] {
            for at in 0..beginning.len() {
                let (first, second) = beginning.split_at(at);
                let mut asked = Asked::default();
                assert!(asked.take(first).is_ok() && asked.take(second).is_err(), "cut at {at}");
            }
        }
    }

    #[test]
    fn other_requests_and_what_follows_them_pass() {
        let mut asked = Asked::default();
        assert!(asked.take(b"R\0\0\0\x0c\0\0\0\x05salt").is_ok());
        assert!(asked.take(ASKS).is_ok(), "the driver takes no second request of another kind");
        assert!(Asked::default().take(&vec![b'N'; MAX_BEGINNING_BYTES + 1]).is_err());
    }
}
