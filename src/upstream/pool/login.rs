//! Connecting to `PostgreSQL` and logging in: TLS, cleartext over TLS, MD5 if asked, SCRAM-SHA-256.
//! Startup parameters are the proxy's alone, because they are what RESET returns to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use crate::net::Channel;
use crate::net::listener::prepare;
use crate::net::settings::ServerTls;
use crate::net::stream::Stream;
use crate::net::tls::{client_config, server_name};
use crate::secret::Secret;
use crate::upstream::error::{ConnectError, UpstreamFault};
use crate::upstream::pool::senders::Senders;
use crate::upstream::pool::server::{BackendIdentity, OtherRoles, Server};
use crate::upstream::settings::{ServerAddress, UpstreamSettings};
use crate::wire::{backend, encode, frame};

/// Largest message accepted from a server during login, in bytes.
const MAX_LOGIN_MESSAGE: usize = 64 * 1024;

/// How often a server process looks whether its connection is still there while it runs something, so that what
/// cannot be cancelled ends with its client (`client_connection_check_interval`, PostgreSQL 14 and later).
const CHECK_INTERVAL: (&str, &str) = ("client_connection_check_interval", "2s");

/// What PostgreSQL says to that where its system cannot tell (Windows), one before 14, and a pooler in between.
const CANNOT_CHECK: [&str; 3] = ["22023", "42704", "08P01"];

/// The encoding of a database in which bytes stand for no characters.
const NO_ENCODING: &str = "SQL_ASCII";
/// What PostgreSQL converts the texts of every other database into.
const UTF8: &str = "UTF8";

/// Knows how to reach one upstream as one role.
#[derive(Debug)]
pub(crate) struct Connector {
    settings: UpstreamSettings,
    user: String,
    password: Option<Secret<String>>,
    tls: Option<Arc<ClientConfig>>,
    senders: Arc<Senders>,
    /// What RESET returns `search_path` to.
    search_path: Option<String>,
    /// The database has no encoding (`SQL_ASCII`), as its first server has reported.
    has_no_encoding: AtomicBool,
}

impl Connector {
    /// As the upstream's own role.
    pub(crate) fn new(settings: UpstreamSettings) -> Result<Self, ConnectError> {
        let (user, password) = (settings.user.clone(), settings.password.clone());
        Self::with_role(settings, user, password)
    }

    /// As another role.
    pub(crate) fn with_role(
        settings: UpstreamSettings,
        user: String,
        password: Option<Secret<String>>,
    ) -> Result<Self, ConnectError> {
        let tls = client_config(settings.tls, settings.ca.as_deref())?;
        Ok(Self {
            settings,
            user,
            password,
            tls,
            senders: Arc::default(),
            search_path: None,
            has_no_encoding: AtomicBool::new(false),
        })
    }

    /// In a schema of its own.
    pub(crate) fn with_schema(mut self, schema: &str) -> Self {
        self.search_path = Some(format!("\"{}\"", schema.replace('"', "\"\"")));
        self
    }

    /// The upstream's name in the configuration.
    pub(crate) fn name(&self) -> &str {
        self.settings.name.as_str()
    }

    /// The role that it logs in as.
    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    /// The database that it connects to.
    pub(crate) fn database(&self) -> &str {
        &self.settings.database
    }

    /// Its servers.
    pub(in crate::upstream) const fn senders(&self) -> &Arc<Senders> {
        &self.senders
    }

    /// Prepared statements kept on one server.
    pub(crate) const fn max_prepared(&self) -> usize {
        self.settings.max_prepared
    }

    /// Connects to the first host that takes us and, if there are several, accepts writes.
    pub(crate) async fn connect(&self) -> Result<Server, UpstreamFault> {
        let mut last = ConnectError::ReadOnly;
        for address in &self.settings.hosts {
            let attempt = timeout(self.settings.connect_timeout, self.connect_to(address)).await;
            match attempt.unwrap_or(Err(ConnectError::Timeout)) {
                Ok(server) if self.settings.hosts.len() > 1 && !server.accepts_writes() => {
                    last = ConnectError::ReadOnly;
                }
                Ok(server) => return Ok(server),
                Err(error) => {
                    tracing::warn!(upstream = %self.settings.name, ?address, %error, "cannot connect to the upstream");
                    last = error;
                }
            }
        }
        Err(last.into())
    }

    /// Servers speak UTF-8, into which PostgreSQL converts; but not from a database without an encoding, where it would
    /// refuse every text that is none.
    async fn connect_to(&self, address: &ServerAddress) -> Result<Server, ConnectError> {
        let expected = if self.has_no_encoding.load(Ordering::Relaxed) { NO_ENCODING } else { UTF8 };
        let logged_in = self.log_in_with(address, expected).await?;
        let (_, (reported, _)) = &logged_in;
        let has_none = reported.get("server_encoding").is_some_and(|encoding| encoding == NO_ENCODING);
        let wanted = if has_none { NO_ENCODING } else { UTF8 };
        if wanted == expected {
            return self.server(address, logged_in).await;
        }
        self.has_no_encoding.store(has_none, Ordering::Relaxed);
        let logged_in = self.log_in_with(address, wanted).await?;
        self.server(address, logged_in).await
    }

    /// Logs in with the parameters of servers.
    async fn log_in_with(
        &self,
        address: &ServerAddress,
        encoding: &str,
    ) -> Result<(Channel, Greeting), ConnectError> {
        let mut parameters = vec![
            ("client_encoding", encoding),
            ("standard_conforming_strings", "on"),
            ("row_security", "on"),
            ("application_name", "pgtenant"),
        ];
        if let Some(search_path) = &self.search_path {
            parameters.push(("search_path", search_path));
        }
        let checking: Vec<_> = parameters.iter().copied().chain([CHECK_INTERVAL]).collect();
        match self.log_in(address, &checking).await {
            Err(ConnectError::Refused { sqlstate, .. }) if CANNOT_CHECK.contains(&&*sqlstate) => {
                self.log_in(address, &parameters).await
            }
            outcome => outcome,
        }
    }

    async fn server(
        &self,
        address: &ServerAddress,
        (mut channel, (parameters, cancel_key)): (Channel, Greeting),
    ) -> Result<Server, ConnectError> {
        let identity = identify(&mut channel).await?;
        let sender = self.senders.enter(identity.backend_pid);
        Ok(Server::new(channel, (address.clone(), cancel_key), identity, sender).with_parameters(parameters))
    }

    /// Logs in, with these parameters besides user and database.
    pub(in crate::upstream) async fn log_in(
        &self,
        address: &ServerAddress,
        parameters: &[(&str, &str)],
    ) -> Result<(Channel, Greeting), ConnectError> {
        let mut channel = Channel::new(self.open(address).await?);
        let who = [("user", self.user.as_str()), ("database", self.settings.database.as_str())];
        encode::startup(channel.output.space(), &[&who, parameters].concat());
        channel.flush().await?;
        self.authenticate(&mut channel).await?;
        let greeting = greeting(&mut channel).await?;
        Ok((channel, greeting))
    }

    /// Where servers are, and how long reaching one may take.
    pub(in crate::upstream) fn hosts(&self) -> (&[ServerAddress], Duration) {
        (&self.settings.hosts, self.settings.connect_timeout)
    }

    /// A stream to the server, encrypted as configured; nothing of the session was sent yet.
    pub(crate) async fn open(&self, address: &ServerAddress) -> Result<Stream, ConnectError> {
        let (mut tcp, host) = match address {
            ServerAddress::Unix(path) => return Ok(Stream::Unix(UnixStream::connect(path).await?)),
            ServerAddress::Tcp { host, port } => (TcpStream::connect((host.as_str(), *port)).await?, host),
        };
        let Some(config) = &self.tls else { return Ok(prepare(tcp)?) };
        let mut request = Vec::new();
        encode::ssl_request(&mut request);
        tcp.write_all(&request).await?;
        match tcp.read_u8().await? {
            b'S' => {
                let Stream::Tcp(tcp) = prepare(tcp)? else { return Err(ConnectError::Protocol) };
                let tls = TlsConnector::from(Arc::clone(config)).connect(server_name(host)?, tcp).await?;
                Ok(Stream::TlsClient(Box::new(tls)))
            }
            b'N' if self.settings.tls == ServerTls::Prefer => Ok(prepare(tcp)?),
            b'N' => Err(ConnectError::NoTls),
            _ => Err(ConnectError::Protocol),
        }
    }

    /// Sends a cancel request and waits until the server has closed the connection, which it does after it
    /// has sent the signal; until then the server process must not be given to anybody else.
    pub(crate) async fn cancel(
        &self,
        address: &ServerAddress,
        process_id: u32,
        key: &[u8],
    ) -> Result<(), ConnectError> {
        let work = async {
            let mut stream = self.open(address).await?;
            let mut request = Vec::new();
            encode::cancel_request(&mut request, process_id, key);
            stream.write_all(&request).await?;
            stream.flush().await?;
            let mut rest = [0; 16];
            while matches!(stream.read(&mut rest).await, Ok(1..)) {}
            Ok(())
        };
        timeout(self.settings.connect_timeout, work).await.unwrap_or(Err(ConnectError::Timeout))
    }

    async fn authenticate(&self, channel: &mut Channel) -> Result<(), ConnectError> {
        loop {
            let (tag, body) = read_message(channel).await?;
            if tag != b'R' {
                return Err(unexpected(tag, &body));
            }
            let (code, data) = backend::authentication(&body).ok_or(ConnectError::Protocol)?;
            match code {
                0 => return Ok(()),
                3 => self.send_cleartext(channel).await?,
                5 => {
                    let salt = data.first_chunk::<4>().ok_or(ConnectError::Protocol)?;
                    let hash = md5_hash(self.user.as_bytes(), self.password()?.as_bytes(), *salt);
                    send_password(channel, hash.as_bytes()).await?;
                }
                10 => self.scram(channel, data).await?,
                _ => {
                    return Err(ConnectError::Authentication(
                        "the server asks for an authentication method that is not supported",
                    ));
                }
            }
        }
    }

    fn password(&self) -> Result<&str, ConnectError> {
        let password = self
            .password
            .as_ref()
            .ok_or(ConnectError::Authentication("the server asks for a password and none is configured"))?;
        Ok(password.expose())
    }

    async fn send_cleartext(&self, channel: &mut Channel) -> Result<(), ConnectError> {
        if matches!(channel.stream, Stream::Tcp(_)) {
            return Err(ConnectError::Authentication(
                "the server asks for a cleartext password over an unencrypted connection",
            ));
        }
        send_password(channel, self.password()?.as_bytes()).await
    }

    async fn scram(&self, channel: &mut Channel, mechanisms: &[u8]) -> Result<(), ConnectError> {
        const MECHANISM: &str = "SCRAM-SHA-256";
        if !mechanisms.split(|&byte| byte == 0).any(|name| name == MECHANISM.as_bytes()) {
            return Err(ConnectError::Authentication(
                "the server offers no SASL mechanism that is supported",
            ));
        }
        let mut scram = ScramSha256::new(self.password()?.as_bytes(), ChannelBinding::unsupported());
        encode::sasl_initial_response(channel.output.space(), MECHANISM, scram.message());
        channel.flush().await?;
        scram.update(&read_sasl(channel, 11).await?)?;
        send_frame(channel, scram.message()).await?;
        scram.finish(&read_sasl(channel, 12).await?)?;
        Ok(())
    }
}

async fn send_password(channel: &mut Channel, password: &[u8]) -> Result<(), ConnectError> {
    let mut body = Vec::with_capacity(password.len() + 1);
    encode::cstr(&mut body, password);
    send_frame(channel, &body).await
}

async fn send_frame(channel: &mut Channel, body: &[u8]) -> Result<(), ConnectError> {
    encode::password(channel.output.space(), body);
    Ok(channel.flush().await?)
}

async fn read_sasl(channel: &mut Channel, expected: u32) -> Result<Vec<u8>, ConnectError> {
    let (tag, body) = read_message(channel).await?;
    match backend::authentication(&body) {
        Some((code, data)) if tag == b'R' && code == expected => Ok(data.to_vec()),
        _ => Err(unexpected(tag, &body)),
    }
}

/// Reads one bounded message.
pub(crate) async fn read_message(channel: &mut Channel) -> Result<(u8, Vec<u8>), ConnectError> {
    read_message_within(channel, MAX_LOGIN_MESSAGE).await
}

/// Reads one message of at most so many bytes.
pub(crate) async fn read_message_within(
    channel: &mut Channel,
    limit: usize,
) -> Result<(u8, Vec<u8>), ConnectError> {
    channel.fill(frame::HEADER_BYTES).await?;
    let header = frame::header(channel.input.bytes())
        .ok()
        .flatten()
        .filter(|header| header.total <= limit)
        .ok_or(ConnectError::Protocol)?;
    channel.fill(header.total).await?;
    let body = channel.input.bytes().get(frame::HEADER_BYTES..header.total).unwrap_or_default().to_vec();
    channel.input.consume(header.total);
    Ok((header.tag, body))
}

fn unexpected(tag: u8, body: &[u8]) -> ConnectError {
    if tag != b'E' {
        return ConnectError::Protocol;
    }
    let field = |code| backend::error_field(body, code).unwrap_or("?").to_owned();
    ConnectError::Refused { sqlstate: field(b'C'), message: field(b'M') }
}

/// Reported parameters; process id and key for cancel requests.
pub(in crate::upstream) type Greeting = (BTreeMap<String, String>, (u32, Vec<u8>));

/// What the server says between `AuthenticationOk` and the first `ReadyForQuery`.
async fn greeting(channel: &mut Channel) -> Result<Greeting, ConnectError> {
    let (mut parameters, mut process_id, mut secret) = (BTreeMap::new(), 0, Vec::new());
    loop {
        let (tag, body) = read_message(channel).await?;
        match tag {
            b'S' => {
                let (name, value) = backend::parameter_status(&body).ok_or(ConnectError::Protocol)?;
                parameters.insert(name.to_owned(), value.to_owned());
            }
            b'K' => {
                let (id, key) = backend::backend_key_data(&body).ok_or(ConnectError::Protocol)?;
                (process_id, secret) = (id, key.to_vec());
            }
            b'N' => {}
            b'Z' => return Ok((parameters, (process_id, secret))),
            _ => return Err(unexpected(tag, &body)),
        }
    }
}

/// Asks the server which process it is and what its clock shows, which a sealed context is bound to, and whether its login
/// role can become another one. From PostgreSQL 16 on a membership says whether it is for that. A role that may not read the
/// catalogs gets an error in place of the second answer.
async fn identify(channel: &mut Channel) -> Result<BackendIdentity, ConnectError> {
    const QUESTION: &[u8] = b"SELECT pg_catalog.pg_backend_pid(), \
        pg_catalog.floor(pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()))::pg_catalog.int8; \
        SELECT r.rolsuper OR EXISTS(SELECT FROM pg_catalog.pg_auth_members AS m WHERE m.member OPERATOR(pg_catalog.=) r.oid \
        AND COALESCE((pg_catalog.to_jsonb(m) OPERATOR(pg_catalog.->>) 'set_option')::pg_catalog.bool, true)) \
        FROM pg_catalog.pg_roles AS r WHERE r.rolname OPERATOR(pg_catalog.=) SESSION_USER";
    encode::query(channel.output.space(), QUESTION);
    channel.flush().await?;
    let (mut identity, mut other_roles) = (None, OtherRoles::Maybe);
    loop {
        let (tag, body) = read_message(channel).await?;
        match tag {
            b'D' if identity.is_some() => {
                if backend::column(&body, 0) == Some("f") {
                    other_roles = OtherRoles::None;
                }
            }
            b'E' if identity.is_some() => {}
            b'D' => {
                let number = |column: usize| backend::column(&body, column)?.parse::<u64>().ok();
                let process_id = number(0).and_then(|number| u32::try_from(number).ok());
                identity = process_id.zip(number(1));
            }
            b'T' | b'C' | b'N' | b'S' => {}
            b'Z' => break,
            _ => return Err(unexpected(tag, &body)),
        }
    }
    let (backend_pid, epoch) = identity.ok_or(ConnectError::Protocol)?;
    Ok(BackendIdentity { backend_pid, clock: (epoch, Instant::now()), other_roles })
}
