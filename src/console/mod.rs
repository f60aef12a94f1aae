//! The admin console, `psql -d pgtenant`: operators see what happens and decide about tenants. Speaks through pgwire's
//! query handlers, on streams that our own login has opened. Every deed is in the audit log: target `audit`.

mod command;
mod handlers;
mod moving;
mod show;
mod stats;
mod table;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::BytesMut;
use futures::StreamExt as _;
use pgwire::api::{ClientInfo as _, DefaultClient, NoopHandler, PgWireConnectionState};
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::PgWireFrontendMessage;
use pgwire::tokio::server::{PgWireMessageServerCodec, process_error, process_message};
use tokio::sync::{mpsc, oneshot};
use tokio_util::codec::{Framed, FramedParts};

use crate::auth;
use crate::clients::{Order, TenantStatus};
use crate::config::Config;
use crate::directory::Tenant;
use crate::names::{TenantId, UserName};
use crate::net::stream::Stream;
use crate::observability::metrics::Exporter;
use crate::registry::Mover;
use crate::serve::{OperatorSession, Operators, Shared};
use crate::session::{End, shutdown};
use crate::wire::encode;
use command::{Command, Deed};
use handlers::{ParsedCommand, refusal};
use stats::Stats;

/// What drivers ask of a server at login.
const GREETING: [(&str, &str); 7] = [
    ("server_version", concat!(env!("CARGO_PKG_VERSION"), "/pgtenant")),
    ("server_encoding", "UTF8"),
    ("client_encoding", "UTF8"),
    ("standard_conforming_strings", "on"),
    ("DateStyle", "ISO, MDY"),
    ("TimeZone", "UTC"),
    ("integer_datetimes", "on"),
];
/// The longest message of an operator, in bytes.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// How long PAUSE waits for transactions to end.
const PAUSE_LIMIT: Duration = Duration::from_secs(60);

/// Request of the console that only the process as a whole can fulfil.
#[derive(Debug)]
pub enum ProcessRequest {
    /// Read the configuration again.
    Reload(Reply),
    /// Take this one, which was read just now, in the place of the other, unless that is no more in force.
    Install(Box<Config>, Arc<Config>, Reply),
    /// Drain and end.
    Shutdown,
}

/// Why a configuration was not taken.
pub type Refused = String;

/// Tells whether it was taken.
pub type Reply = oneshot::Sender<Result<(), Refused>>;

/// A setting in force: key, value, whether a reload changes it.
pub type Setting = (String, String, bool);

/// The console's view of the process.
pub struct Console {
    shared: Arc<Shared>,
    exporter: Exporter,
    requests: mpsc::Sender<ProcessRequest>,
    sources: Sources,
    stats: Stats,
}

/// Where what is in force comes from.
pub struct Sources {
    /// Settings in force.
    pub settings: Arc<ArcSwap<Vec<Setting>>>,
    /// The configuration file.
    pub path: PathBuf,
    /// As it was read last.
    pub file: Arc<ArcSwap<Config>>,
    /// Moves tenants that are in tables.
    pub mover: Option<Mover>,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sources({})", self.path.display())
    }
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Console")
    }
}

/// One operator at the console.
struct Operator {
    console: Arc<Console>,
    /// Login name and address, for the audit log.
    who: String,
}

impl Console {
    /// Sees and decides about what is shared.
    pub fn new(
        shared: Arc<Shared>,
        exporter: Exporter,
        requests: mpsc::Sender<ProcessRequest>,
        sources: Sources,
    ) -> Self {
        Self { shared, exporter, requests, sources, stats: Stats::new() }
    }

    /// Carries out what is not a SHOW; the tag of the answer.
    async fn act(&self, command: Command, who: &str) -> PgWireResult<&'static str> {
        if matches!(command, Command::Show(_) | Command::Set) {
            return Ok("SET");
        }
        if let Command::Tenant(deed, tenant) = &command {
            return self.decide(*deed, tenant, who).await;
        }
        tracing::info!(target: "audit", who, action = ?command, "console");
        match command {
            Command::Move(tenant, destination) => self.move_tenant(&tenant, &destination, who).await,
            Command::Reload => {
                self.request(ProcessRequest::Reload).await?;
                Ok("RELOAD")
            }
            Command::Shutdown => {
                self.requests.send(ProcessRequest::Shutdown).await.map_err(|_| ending())?;
                Ok("SHUTDOWN")
            }
            Command::Reconnect => {
                self.shared.upstreams.renew();
                Ok("RECONNECT")
            }
            Command::Resume => {
                self.shared.upstreams.resume();
                Ok("RESUME")
            }
            Command::Pause => self.pause().await,
            Command::Show(_) | Command::Set | Command::Tenant(..) => Ok("SET"),
        }
    }

    /// Has the process take a configuration.
    async fn request(&self, request: impl FnOnce(Reply) -> ProcessRequest) -> PgWireResult<()> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| ending())?;
        let taken = answer.await.map_err(|_| ending())?;
        taken.map_err(|problems| refusal("F0000", format!("the old configuration stays: {problems}")))
    }

    async fn pause(&self) -> PgWireResult<&'static str> {
        self.shared.upstreams.pause();
        let quiet = async {
            while self.shared.upstreams.view().iter().any(|pool| pool.used > 0) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match tokio::time::timeout(PAUSE_LIMIT, quiet).await {
            Ok(()) => Ok("PAUSE"),
            Err(_) => Err(refusal(
                "55000",
                "paused, but transactions are still under way; RESUME lets all go on".to_owned(),
            )),
        }
    }

    async fn decide(&self, deed: Deed, id: &TenantId, who: &str) -> PgWireResult<&'static str> {
        let tenant = self.tenant(id)?;
        let clients = &self.shared.clients;
        let status = match deed {
            Deed::Suspend => Some(TenantStatus::Suspended),
            Deed::Pause => Some(TenantStatus::Paused),
            Deed::Resume => Some(TenantStatus::Active),
            Deed::Drain => Some(TenantStatus::Draining),
            Deed::Kill => None,
        };
        if status.is_some_and(|status| !clients.set_status(&tenant, status)) {
            return Err(moving(id));
        }
        let of_tenant = |_: &UserName, acts_for: Option<&TenantId>| acts_for == Some(id);
        let told = match deed {
            Deed::Drain => clients.order(Order::Leave, of_tenant),
            Deed::Kill => clients.order(Order::LeaveNow, of_tenant),
            Deed::Suspend | Deed::Resume | Deed::Pause => 0,
        };
        tracing::info!(target: "audit", who, action = ?deed, tenant = %id, clients_told = told, "console");
        if deed == Deed::Pause && !clients.quiet(&tenant, PAUSE_LIMIT).await {
            return Err(refusal(
                "55000",
                "paused, but transactions are still under way; RESUME TENANT lets it go on".to_owned(),
            ));
        }
        Ok(match deed {
            Deed::Suspend => "SUSPEND",
            Deed::Resume => "RESUME",
            Deed::Pause => "PAUSE",
            Deed::Drain => "DRAIN",
            Deed::Kill => "KILL",
        })
    }

    fn tenant(&self, id: &TenantId) -> PgWireResult<Arc<Tenant>> {
        let live = self.shared.live.load();
        let tenant = live.directory.tenants.get(id);
        tenant.map(Arc::clone).ok_or_else(|| refusal("42704", format!("there is no tenant \"{id}\"")))
    }
}

fn ending() -> PgWireError {
    refusal("57P01", "the proxy is ending".to_owned())
}

fn moving(id: &TenantId) -> PgWireError {
    refusal("55006", format!("tenant \"{id}\" is being moved"))
}

impl Operators for Console {
    fn run(self: Arc<Self>, session: OperatorSession) -> Pin<Box<dyn Future<Output = End> + Send>> {
        Box::pin(converse(self, session))
    }
}

/// One operator's session, from the login's last messages to its end.
async fn converse(console: Arc<Console>, mut session: OperatorSession) -> End {
    let client = session.membership.client();
    let out = session.channel.output.space();
    auth::accept(&session.identity, out);
    for (name, value) in GREETING {
        encode::parameter_status(out, name, value);
    }
    encode::backend_key_data(out, client.process_id(), client.key());
    encode::ready_for_query(out, b'I');
    if let Err(error) = session.channel.flush().await {
        return End::Lost(error);
    }
    let address = client.address().map_or_else(|| "unix".to_owned(), |address| address.to_string());
    let operator = Arc::new(Operator { console, who: format!("{}@{address}", session.identity.user().name) });
    tracing::info!(target: "audit", who = operator.who, action = "login", "console");
    let mut framed = frame(session.channel);
    let noop = Arc::new(NoopHandler);
    loop {
        let next = tokio::select! {
            next = framed.next() => next,
            () = leaves(&session.membership) => return End::Told(shutdown()),
        };
        let message = match next {
            None | Some(Ok(PgWireFrontendMessage::Terminate(_))) => return End::Goodbye,
            Some(Err(error)) => return End::Lost(std::io::Error::other(error.to_string())),
            Some(Ok(message)) => message,
        };
        let waits_for_sync = message.is_extended_query();
        let (query, copy) = (Arc::clone(&operator), Arc::clone(&noop));
        let done = process_message(
            message,
            &mut framed,
            Arc::clone(&noop),
            Arc::clone(&query),
            query,
            copy,
            Arc::clone(&noop),
        );
        if let Err(error) = done.await
            && let Err(error) = process_error(&mut framed, error, waits_for_sync).await
        {
            return End::Lost(error);
        }
        if framed.read_buffer().len() > MAX_MESSAGE_BYTES {
            return End::Lost(std::io::Error::other("an operator's message is too long"));
        }
    }
}

type Wired = Framed<Stream, PgWireMessageServerCodec<ParsedCommand>>;

/// The stream in pgwire's hands, with what was read from it already.
fn frame(channel: crate::net::Channel) -> Wired {
    let unspecified = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    let mut client =
        DefaultClient::new(channel.stream.peer().unwrap_or(unspecified), channel.stream.is_tls());
    client.set_state(PgWireConnectionState::ReadyForQuery);
    let read = BytesMut::from(channel.input.bytes());
    let mut parts = FramedParts::new::<pgwire::messages::PgWireBackendMessage>(
        channel.stream,
        PgWireMessageServerCodec::new(client),
    );
    parts.read_buf = read;
    Framed::from_parts(parts)
}

/// Until the operator is told to leave.
async fn leaves(membership: &crate::clients::Membership) {
    std::future::poll_fn(|cx| {
        membership.client().listen(cx);
        if membership.client().order().is_some() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}
