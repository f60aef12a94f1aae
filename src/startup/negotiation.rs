//! TLS or not, direct TLS, GSSAPI refused politely, and the startup packet.
//! Sources: "SSL Session Encryption" and "Start-up" in the protocol documentation.

use std::io;

use rustls::ServerConfig;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

use crate::fault::{Fault, Kind, Report, sqlstate};
use crate::net::Channel;
use crate::net::settings::ClientTls;
use crate::net::stream::Stream;
use crate::net::tls::ALPN;
use crate::startup::claim::Claim;
use crate::wire::startup::{Packet, StartupError, parse};
use crate::wire::{encode, startup};

/// First byte of a TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

/// What a connection turned out to be.
#[derive(Debug)]
pub enum Opening {
    /// A client that wants to log in.
    Session(Box<Channel>, Claim),
    /// A cancel request; it gets no answer.
    Cancel {
        /// The process id that we gave out.
        process_id: u32,
        /// The key that we gave out with it.
        key: Vec<u8>,
        /// To be closed in good order once the request was taken: some clients wait for that.
        channel: Box<Channel>,
    },
}

/// Why there is no opening.
#[derive(Debug, thiserror::Error)]
pub enum StartupFault {
    /// The client went away or the handshake failed; nobody is there to be told.
    #[error("connection lost before login: {0}")]
    Lost(#[from] io::Error),
    /// Direct TLS without the protocol's ALPN name.
    #[error("direct TLS without ALPN \"postgresql\"")]
    NoAlpn,
    /// The client can be told.
    #[error("{}", .1.message)]
    Refused(Box<Channel>, Report),
}

impl StartupFault {
    fn refused(channel: Channel, report: Report) -> Self {
        Self::Refused(Box::new(channel), report)
    }
}

impl Fault for StartupFault {
    fn kind(&self) -> Kind {
        Kind::Client
    }

    fn report(&self) -> Report {
        match self {
            Self::Lost(_) | Self::NoAlpn => Report::new(sqlstate::PROTOCOL_VIOLATION, self.to_string()),
            Self::Refused(_, report) => report.clone(),
        }
    }
}

/// What the negotiation needs to know.
#[derive(Debug, Clone)]
pub struct Negotiator {
    /// Whether clients may or must use TLS.
    pub tls: ClientTls,
    /// The certificate to show; none: TLS is off.
    pub identity: Option<Arc<ServerConfig>>,
    /// Largest startup packet, in bytes.
    pub max_startup_bytes: usize,
}

impl Negotiator {
    /// From an accepted stream to its opening.
    pub async fn negotiate(&self, stream: Stream) -> Result<Opening, StartupFault> {
        let mut channel = Channel::new(self.direct_tls(stream).await?);
        let (mut tls_asked, mut gss_asked) = (false, false);
        loop {
            let packet = match self.read_packet(&mut channel).await? {
                Ok(packet) => packet,
                Err(error) => return Err(StartupFault::refused(channel, malformed(&error))),
            };
            match packet {
                Packet::Ssl if !tls_asked && !channel.stream.is_tls() => {
                    tls_asked = true;
                    channel = self.answer_tls(channel).await?;
                }
                Packet::GssEnc if !gss_asked && !channel.stream.is_tls() => {
                    gss_asked = true;
                    channel.output.space().push(b'N');
                    channel.flush().await?;
                }
                Packet::Ssl | Packet::GssEnc => {
                    let report = Report::new(sqlstate::PROTOCOL_VIOLATION, "encryption was asked for twice");
                    return Err(StartupFault::refused(channel, report));
                }
                Packet::Cancel { process_id, key } => {
                    return Ok(Opening::Cancel { process_id, key, channel: Box::new(channel) });
                }
                Packet::Startup(startup) => return self.session(channel, startup),
            }
        }
    }

    fn session(&self, mut channel: Channel, packet: startup::Startup) -> Result<Opening, StartupFault> {
        if self.tls == ClientTls::Require && matches!(channel.stream, Stream::Tcp(_)) {
            let report =
                Report::new(sqlstate::INVALID_AUTHORIZATION, "this server accepts TLS connections only")
                    .hint("Set sslmode=require or stricter.");
            return Err(StartupFault::refused(channel, report));
        }
        if packet.minor > 2 || !packet.unknown_options.is_empty() {
            let version = if packet.minor >= 2 { startup::PROTOCOL_3_2 } else { startup::PROTOCOL_3_0 };
            encode::negotiate_protocol_version(channel.output.space(), version, &packet.unknown_options);
        }
        match Claim::new(packet) {
            Ok(mut claim) => {
                claim.server_name = channel.stream.server_name().map(str::to_owned);
                Ok(Opening::Session(Box::new(channel), claim))
            }
            Err(report) => Err(StartupFault::refused(channel, report)),
        }
    }

    /// PostgreSQL 17 clients may start with the handshake; ALPN is then a must.
    async fn direct_tls(&self, stream: Stream) -> Result<Stream, StartupFault> {
        let (Stream::Tcp(tcp), Some(identity)) = (&stream, &self.identity) else { return Ok(stream) };
        let mut first = [0];
        if tcp.peek(&mut first).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        if first != [TLS_HANDSHAKE] {
            return Ok(stream);
        }
        let stream = accept_tls(stream, Arc::clone(identity)).await?;
        match &stream {
            Stream::TlsServer(tls) if tls.get_ref().1.alpn_protocol() == Some(ALPN) => Ok(stream),
            _ => Err(StartupFault::NoAlpn),
        }
    }

    async fn answer_tls(&self, mut channel: Channel) -> Result<Channel, StartupFault> {
        let identity = match (&self.identity, &channel.stream) {
            (Some(identity), Stream::Tcp(_)) if self.tls != ClientTls::Off => identity,
            _ => {
                channel.output.space().push(b'N');
                channel.flush().await?;
                return Ok(channel);
            }
        };
        if !channel.input.is_empty() {
            // Bytes sent in the clear before the handshake could be smuggled into the encrypted session.
            let report =
                Report::new(sqlstate::PROTOCOL_VIOLATION, "received unencrypted data after SSL request");
            return Err(StartupFault::refused(channel, report));
        }
        channel.output.space().push(b'S');
        channel.flush().await?;
        Ok(Channel::new(accept_tls(channel.stream, Arc::clone(identity)).await?))
    }

    /// Reads one length-counted packet. Only its own bytes and what came with them are taken.
    async fn read_packet(&self, channel: &mut Channel) -> io::Result<Result<Packet, StartupError>> {
        channel.fill(4).await?;
        let length = channel.input.bytes().first_chunk::<4>().map_or(0, |field| u32::from_be_bytes(*field));
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length < 8 || length > self.max_startup_bytes {
            return Ok(Err(StartupError::Layout("invalid length of startup packet")));
        }
        channel.fill(length).await?;
        let packet = parse(channel.input.bytes().get(4..length).unwrap_or_default());
        channel.input.consume(length);
        Ok(packet)
    }
}

async fn accept_tls(stream: Stream, identity: Arc<ServerConfig>) -> io::Result<Stream> {
    match stream {
        Stream::Tcp(tcp) => Ok(Stream::TlsServer(Box::new(TlsAcceptor::from(identity).accept(tcp).await?))),
        other => Ok(other),
    }
}

fn malformed(error: &StartupError) -> Report {
    match error {
        StartupError::Layout(_) => Report::new(sqlstate::PROTOCOL_VIOLATION, error.to_string()),
        StartupError::Version { .. } => Report::new(sqlstate::FEATURE_NOT_SUPPORTED, error.to_string()),
    }
}
