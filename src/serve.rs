//! One connection from its first byte to its last: the flow, on a page.
//!
//! ```text
//! accept -> startup::negotiate -> auth::authenticate -> tenant::resolve -> Session::run
//!                  |
//!            clients::cancel
//! ```

mod acting;
mod database;
pub mod logins;
mod replication;
mod shared;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::sync::{OwnedSemaphorePermit, TryAcquireError};
use tokio::time::{Instant, timeout};
use tracing::Instrument as _;

use crate::auth::{self, Identity};
use crate::clients::{Clients, Membership, Order};
use crate::directory::{Directory, Grant, User};
use crate::fault::{Fault, Report, sqlstate};
use crate::guard::Rules;
use crate::names::UserName;
use crate::net::Channel;
use crate::net::stream::Stream;
use crate::observability::metrics::{LoginOutcome, early_error, login};
use crate::relay::core::session_state::Policy;
use crate::relay::core::tenant_choice::{Acting, Chooser};
use crate::relay::{Beginning, Conversation};
use crate::session::{Alarm, Collecting, End, Inspecting, Session, shutdown};
use crate::startup::{Claim, Opening, StartupFault, StartupParameters};
use crate::tenant::{ResolveFault, Standing, resolve};
use crate::upstream::{Greeting, SessionParameters, Share};
use crate::wire::encode::{self, Severity};
use logins::{Crowded, Eviction, LoginSlot};
pub use shared::{Finder, Found, Live, OperatorSession, Operators, Shared};

/// The database that is the console.
pub const CONSOLE: &str = "pgtenant";

/// How long a refusal may take to be read.
const LAST_WORD: Duration = Duration::from_secs(2);

/// Operators that may use the console while all seats are taken.
pub const OPERATOR_SEATS: usize = 8;

/// Connections at one time that are told that there is no place; others are closed without a word.
pub const TURNED_AWAY: usize = 16;

/// A login that is about to become a session.
struct Admitted {
    user: UserName,
    session: Session,
}

/// What a connection became.
enum Welcome {
    /// It was a cancel request.
    Cancelled,
    Session(Box<Admitted>, OwnedSemaphorePermit),
    Replication(Box<(replication::Admitted, Channel, Identity)>, OwnedSemaphorePermit),
    Operator(Box<OperatorSession>, OwnedSemaphorePermit),
}

/// Why a connection did not become a session.
enum Rejected {
    /// Nobody is there to be told.
    Gone(String),
    /// The client is told.
    Told(Box<Channel>, Denial),
}

/// Refusal of a login: what the client reads, and what only the log says of it.
struct Denial {
    report: Report,
    reason: Option<Box<str>>,
}

impl From<Report> for Denial {
    fn from(report: Report) -> Self {
        Self { report, reason: None }
    }
}

/// Serves one connection in a task of its own. It has its place among those who log in at once, so that connections are as
/// old as the order in which they were accepted says, whichever worker runs their tasks.
pub fn accept(shared: &Arc<Shared>, stream: Stream) {
    let address = stream.peer().map(|address| address.ip());
    let shared = Arc::clone(shared);
    match shared.logins.enter(address, Instant::now()) {
        Ok((slot, eviction)) => {
            tokio::spawn(connection(shared, stream, slot, eviction));
        }
        Err(Crowded) => {
            tokio::spawn(async move { turn_away(&shared, stream).await });
        }
    }
}

async fn connection(shared: Arc<Shared>, stream: Stream, slot: LoginSlot, eviction: Eviction) {
    let address = stream.peer().map(|address| address.ip());
    let admitted = tokio::select! {
        admitted = timeout(shared.login_timeout, log_in(&shared, stream, slot)) => admitted,
        () = eviction.happens() => {
            login(LoginOutcome::Failed);
            tracing::info!(address = address.map(tracing::field::display), "a connection that did not log in gave way to another");
            return;
        }
    };
    match admitted {
        Err(_) => {
            login(LoginOutcome::Failed);
            tracing::info!("a client did not log in within login_timeout");
        }
        Ok(Ok(Welcome::Cancelled)) => {}
        Ok(Ok(Welcome::Session(admitted, seat))) => {
            login(LoginOutcome::Ok);
            // A task of its own: the login's is larger and would stay allocated for the whole session.
            tokio::spawn(run(admitted, seat));
        }
        Ok(Ok(Welcome::Replication(admitted, _seat))) => {
            login(LoginOutcome::Ok);
            let (admitted, channel, identity) = *admitted;
            let end = replication::run(admitted, channel, &identity).await;
            tracing::info!(?end, "replication connection ended");
        }
        Ok(Ok(Welcome::Operator(session, _seat))) => {
            login(LoginOutcome::Ok);
            if let Some(operators) = shared.operators.get() {
                let end = Arc::clone(operators).run(*session).await;
                tracing::debug!(?end, "operator left");
            }
        }
        Ok(Err(Rejected::Gone(reason))) => {
            login(LoginOutcome::Failed);
            tracing::debug!(reason, "a connection ended before login");
        }
        Ok(Err(Rejected::Told(channel, denial))) => {
            login(LoginOutcome::Refused);
            denial.log(address);
            tell(*channel, &denial.report).await;
        }
    }
}

impl Denial {
    /// One line for each refused login.
    fn log(&self, address: Option<IpAddr>) {
        let Report { sqlstate, message, .. } = &self.report;
        let reason = self.reason.as_ref().map(|reason| format!("{message}: {reason}"));
        tracing::info!(
            address = address.map(tracing::field::display),
            sqlstate = sqlstate.0,
            reason = reason.as_ref().unwrap_or(message),
            "login refused"
        );
    }
}

/// Too many have not logged in yet.
async fn turn_away(shared: &Shared, stream: Stream) {
    login(LoginOutcome::Refused);
    if let Ok(_one) = shared.turned_away.try_acquire() {
        tell(Channel::new(stream), &full()).await;
    }
}

fn full() -> Report {
    Report::new(sqlstate::TOO_MANY_CONNECTIONS, "sorry, too many clients already")
}

/// A seat for a proven user.
fn take_seat(shared: &Shared, user: &User) -> Result<OwnedSemaphorePermit, Report> {
    let seat = match Arc::clone(&shared.seats).try_acquire_owned() {
        Err(TryAcquireError::NoPermits) if user.grant == Grant::Operator => {
            Arc::clone(&shared.operator_seats).try_acquire_owned()
        }
        seat => seat,
    };
    seat.map_err(|error| match error {
        TryAcquireError::NoPermits => full(),
        TryAcquireError::Closed => shutdown(),
    })
}

async fn run(mut admitted: Box<Admitted>, seat: OwnedSemaphorePermit) {
    let started = Instant::now();
    let span = tracing::info_span!(
        "client",
        process_id = admitted.session.membership.client().process_id(),
        tenant = admitted.session.conversation.session_acting().tenant().map(tracing::field::display),
        user = %admitted.user,
    );
    async {
        tracing::debug!("client logged in");
        let end = admitted.session.run().await;
        let seconds = started.elapsed().as_secs();
        match end {
            End::Goodbye | End::Torn => tracing::debug!(seconds, "client left"),
            End::Lost(error) => tracing::debug!(seconds, %error, "client lost"),
            End::Told(report) => {
                tracing::info!(
                    seconds,
                    sqlstate = report.sqlstate.0,
                    reason = report.message,
                    "client told to leave"
                );
            }
        }
    }
    .instrument(span)
    .await;
    drop(seat);
}

/// Tells a client why it is turned away, and waits a moment for it to read that.
async fn tell(mut channel: Channel, report: &Report) {
    early_error(report.sqlstate);
    encode::error_response(channel.output.space(), Severity::Fatal, report);
    if !matches!(timeout(LAST_WORD, channel.flush()).await, Ok(Ok(()))) {
        tracing::debug!("a refused client did not take the last message");
    }
}

/// The place is left once it is proven who the client is; a seat is taken then.
async fn log_in(shared: &Arc<Shared>, stream: Stream, slot: LoginSlot) -> Result<Welcome, Rejected> {
    let live = shared.live.load_full();
    let (mut channel, mut claim) = match live.negotiator.negotiate(stream).await {
        Ok(Opening::Session(channel, claim)) => (channel, claim),
        Ok(Opening::Cancel { process_id, key, mut channel }) => {
            shared.clients.cancel(process_id, &key);
            if let Err(error) = channel.stream.shutdown().await {
                tracing::debug!(%error, "the sender of a cancel request did not wait");
            }
            return Ok(Welcome::Cancelled);
        }
        Err(StartupFault::Refused(channel, report)) => return Err(Rejected::Told(channel, report.into())),
        Err(fault) => return Err(Rejected::Gone(fault.to_string())),
    };
    slot.is_heard();
    // Nobody has to prove anything for nothing; but who that is, an operator has to prove.
    if shared.seats.available_permits() == 0 && claim.database != CONSOLE {
        let report = if shared.seats.is_closed() { shutdown() } else { full() };
        return Err(Rejected::Told(channel, report.into()));
    }
    let found = find(shared, &live.directory, &claim.user).await;
    let identity = match live.authenticator.authenticate(&mut channel, &claim, &live.directory, found).await {
        Ok(identity) => identity,
        Err(auth::AuthFault::Lost(error)) => return Err(Rejected::Gone(error.to_string())),
        Err(fault) => {
            let denial = Denial { report: fault.report(), reason: fault.reason() };
            return Err(Rejected::Told(channel, denial));
        }
    };
    let seat = match take_seat(shared, identity.user()) {
        Ok(seat) => seat,
        Err(report) => return Err(Rejected::Told(channel, report.into())),
    };
    drop(slot);
    if identity.user().grant == Grant::Operator {
        return operator(shared, *channel, identity, &claim)
            .map(|session| Welcome::Operator(Box::new(session), seat));
    }
    if let Some(kind) = claim.replication {
        return match replication::admit(shared, (&identity, channel.stream.peer()), &claim, kind).await {
            Ok(admitted) => Ok(Welcome::Replication(Box::new((admitted, *channel, identity)), seat)),
            Err(report) => Err(Rejected::Told(channel, report.into())),
        };
    }
    match admit(shared, &live, (&identity, channel.stream.peer()), &mut claim).await {
        Ok(admission) => {
            let admitted = welcome(shared, *channel, &identity, &claim, admission).await;
            admitted
                .map(|admitted| Welcome::Session(Box::new(admitted), seat))
                .map_err(|error| Rejected::Gone(error.to_string()))
        }
        Err(denial) => Err(Rejected::Told(channel, denial)),
    }
}

/// Whom the directory does not have.
async fn find(shared: &Shared, directory: &Directory, name: &str) -> Option<Arc<User>> {
    let finder = shared.finder.as_ref().filter(|_| !auth::is_known(directory, name))?;
    finder.find(&UserName::parse(name).ok()?).await
}

/// An operator may use the console and nothing else.
fn operator(
    shared: &Shared,
    channel: Channel,
    identity: Identity,
    claim: &Claim,
) -> Result<OperatorSession, Rejected> {
    if identity.reach().is_narrow() {
        let report = Report::new(sqlstate::INVALID_AUTHORIZATION, "what proves a tenant proves no operator");
        return Err(Rejected::Told(Box::new(channel), report.into()));
    }
    if claim.database != CONSOLE || claim.replication.is_some() {
        let report = Report::new(sqlstate::INVALID_AUTHORIZATION, "operators may use the console only")
            .hint("Connect to the database \"pgtenant\": psql -d pgtenant.");
        return Err(Rejected::Told(Box::new(channel), report.into()));
    }
    let key_bytes = if claim.minor >= 2 { 32 } else { 4 };
    let user = identity.user().name.clone();
    let membership =
        shared.clients.register(user, None, key_bytes, (channel.stream.peer(), identity.expires()));
    Ok(OperatorSession { channel, membership, identity })
}

/// What a proven identity gets.
struct Admission {
    membership: Membership,
    acting: Arc<Acting>,
    chooser: Option<Arc<dyn Chooser>>,
    rules: Arc<Rules>,
    parameters: SessionParameters,
    greeting: Greeting,
}

async fn admit(
    shared: &Arc<Shared>,
    live: &Arc<Live>,
    (identity, address): (&Identity, Option<SocketAddr>),
    claim: &mut Claim,
) -> Result<Admission, Denial> {
    let database = database::chosen(shared, live, identity.user(), claim)?;
    let denial = |fault: ResolveFault| Denial { report: fault.report(), reason: fault.reason() };
    let (standing, reach) = resolve(identity, claim, &live.directory).map_err(denial)?;
    let key_bytes = if claim.minor >= 2 { 32 } else { 4 };
    let user = identity.user().name.clone();
    let membership =
        shared.clients.register(user, standing.tenant().cloned(), key_bytes, (address, identity.expires()));
    // Registered, it hears of every later reload; one in between is caught here.
    if !Arc::ptr_eq(live, &shared.live.load())
        && !still_stands((&live.directory, &shared.live.load().directory), identity, &standing)
    {
        return Err(shutdown().into());
    }
    let rules = acting::rules(shared, live, identity.user());
    check_parameters(&rules, &claim.parameters)?;
    let parameters = SessionParameters::new(claim.parameters.drain(..));
    let acting = acting::act(shared, &identity.user().name, standing, database)?;
    let client = u64::from(membership.client().process_id());
    let share = Share::of(&acting.limits());
    let greeting = acting.access.greeting(client, &parameters, share).await.map_err(|fault| {
        tracing::warn!(%fault, "a login could not be greeted");
        database::told(&fault, identity.user(), claim)
    })?;
    let chooser = acting::chooser(shared, identity.user(), reach);
    Ok(Admission { membership, acting, chooser, rules, parameters, greeting })
}

/// Settings that the user may not set cannot be asked for at startup either.
fn check_parameters(rules: &Rules, parameters: &StartupParameters) -> Result<(), Report> {
    for (name, value) in parameters {
        rules.check_parameter(name, value).map_err(|refused| {
            Report::new(
                sqlstate::INSUFFICIENT_PRIVILEGE,
                format!("parameter \"{name}\" cannot be set by a client"),
            )
            .detail(refused.detail)
            .hint(refused.hint)
        })?;
    }
    Ok(())
}

fn still_stands((before, now): (&Directory, &Directory), identity: &Identity, standing: &Standing) -> bool {
    let grant =
        |directory: &Directory| directory.users.get(&identity.user().name).map(|user| user.grant.clone());
    grant(before) == grant(now) && standing.tenant().is_none_or(|tenant| now.tenants.contains_key(tenant))
}

/// The login's last messages, and the session that begins with them.
async fn welcome(
    shared: &Arc<Shared>,
    mut channel: Channel,
    identity: &Identity,
    claim: &Claim,
    admission: Admission,
) -> std::io::Result<Admitted> {
    let client = admission.membership.client();
    let out = channel.output.space();
    auth::accept(identity, out);
    for (name, value) in admission.greeting.iter() {
        // What the server says about our role there is not what the client is.
        match name.as_str() {
            "session_authorization" => encode::parameter_status(out, name, &claim.user),
            _ => encode::parameter_status(out, name, value),
        }
    }
    encode::backend_key_data(out, client.process_id(), client.key());
    encode::ready_for_query(out, b'I');
    channel.flush().await?;
    let client_key = u64::from(client.process_id());
    let limits = admission.acting.limits();
    let user = identity.user();
    let comments = user.tenant_comment && user.grant.is_gateway();
    let policy = Policy { pool_mode: user.pool_mode, pinning: user.pinning, comments, choice: user.choice };
    tracing::debug!(user = %identity.user().name, "login accepted");
    Ok(Admitted {
        user: identity.user().name.clone(),
        session: Session {
            client: channel,
            conversation: Conversation::new(
                Arc::clone(&shared.relay),
                Beginning {
                    rules: admission.rules,
                    policy,
                    acting: admission.acting,
                    chooser: admission.chooser,
                    client: client_key,
                    parameters: admission.parameters,
                    greeting: admission.greeting,
                },
            ),
            membership: admission.membership,
            limits,
            breaker: Arc::clone(&shared.breaker),
            alarm: Alarm::default(),
            idle_since: Instant::now(),
            started: None,
            turn: None,
            bounds: Arc::clone(&shared.bounds),
            collecting: Collecting::default(),
            inspecting: Inspecting::default(),
        },
    })
}

/// Tells all clients to leave, waits for their transactions, then ends the rest. Returns how many were cut.
pub async fn drain(clients: &Arc<Clients>, limit: Duration) -> usize {
    clients.order(Order::Leave, |_, _| true);
    let deadline = Instant::now() + limit;
    while clients.count() > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
        clients.order(Order::Leave, |_, _| true);
    }
    let cut = clients.order(Order::LeaveNow, |_, _| true);
    let deadline = Instant::now() + LAST_WORD;
    while clients.count() > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    if cut > 0 {
        tracing::warn!(
            clients = cut,
            reason = shutdown().message,
            "drain_timeout is over: clients were cut off"
        );
    }
    cut
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_client_costs_little_memory() {
        fn task_bytes<F: Future>(_: impl FnOnce(Box<Admitted>, OwnedSemaphorePermit) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = task_bytes(run) + size_of::<Admitted>();
        assert!(bytes <= 2176, "the task of an idle client has {bytes} bytes");
    }
}
