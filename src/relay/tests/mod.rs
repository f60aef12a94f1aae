//! Tables of (frames in, frames out) against the conversation, with neither a socket nor a PostgreSQL.
//!
//! A script is a list of steps. `> …` are frames of the client, and what comes behind it is what the server gets for
//! them; `< …` are frames of the server, and what comes behind it is what the client gets. Frames are separated by ` | `
//! and begin with their tag: `Q text`, `P name text`, `B portal statement`, `D S name`, `D P name`, `E portal`,
//! `C S name`, `C P name`, `S`, `H`, `d rows`, `c`, `f`, `F`, `X`; `1`, `2`, `3`, `n`, `t oid`, `T a:23`, `D value`,
//! `C tag`, `I`, `s`, `Z I`, `E sqlstate`, `E sqlstate@position`, `N sqlstate`, `G`, `H`, `S name=value`, `V`.
//! `~ …` are frames of a client that holds no server: what is answered without one comes back, and the rest goes on as
//! with `>`. What the proxy puts in front is printed as `hand-over`, `assert` and `apart` (an assertion in a transaction of
//! its own), and `< hand-over`, `< assert` and `< apart` are the answers to them. `(I)`, `(T)`, `(E)` at the end: the
//! segment was answered, and this is the transaction's status.

#[cfg(test)]
mod boundaries;
#[cfg(test)]
mod copying;
#[cfg(test)]
mod dropping;
#[cfg(test)]
mod errors;
#[cfg(test)]
mod extended;
#[cfg(test)]
mod failed_blocks;
mod frames;
#[cfg(test)]
mod handing_over;
mod model;
#[cfg(test)]
mod naming;
pub(super) mod random;
#[cfg(test)]
mod refusing;
#[cfg(test)]
mod simple;
#[cfg(test)]
mod skipping;
#[cfg(test)]
mod states;
#[cfg(test)]
mod turning;
#[cfg(test)]
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use crate::directory::{ContextMode, GuardLevel, Limits, PoolMode, SealKey, Tenancy};
use crate::fault::{Report, sqlstate};
use crate::guard::{Rules, Verdicts};
use crate::names::{TenantId, UpstreamName};
use crate::net::buffer::{ReadBuffer, WriteBuffer};
use crate::net::settings::ServerTls;
use crate::observability::metrics::{ContextSwitches, TenantLabels};
use crate::relay::core::session_state::Policy;
use crate::relay::core::tenant_choice::{Acting, Chooser, no_tenant};
use crate::relay::{Absorbed, Beginning, ClientSide, Conversation, LongTexts, Pumped, Relay, RelayFault};
use crate::upstream::settings::UpstreamSettings;
use crate::upstream::{
    Access, BackendIdentity, Context, Contexts, PoolTarget, ServerSide, ServerState, SessionParameters,
    Share, UpstreamFault, Upstreams,
};
use frames::{Direction, encode_all, print_all};

/// The user under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bound,
    /// Of all tenants, without one so far.
    Gateway,
}

/// The context of the client under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Plain,
    Sealed,
    /// A maintenance user.
    Bare,
}

/// A server without a socket.
struct FakeServer {
    state: ServerState,
    output: WriteBuffer,
    context: Context,
    max_prepared: usize,
}

impl ServerSide for FakeServer {
    fn state(&mut self) -> &mut ServerState {
        &mut self.state
    }

    fn parts(&mut self) -> (&mut ServerState, &mut Vec<u8>, &Context) {
        (&mut self.state, self.output.space(), &self.context)
    }

    fn context(&self) -> &Context {
        &self.context
    }

    fn adopt(&mut self, access: &Access, _: Share) -> Result<(), UpstreamFault> {
        self.context = access.context().clone();
        self.state.stamp = None;
        Ok(())
    }

    fn max_prepared(&self) -> usize {
        self.max_prepared
    }

    fn has_room(&mut self) -> bool {
        !self.output.is_full()
    }
}

/// Which tenants the user may choose: all of them, or none.
#[derive(Debug)]
struct Grant {
    upstreams: Upstreams,
    contexts: Contexts,
    is_gateway: bool,
}

impl Grant {
    fn acting(&self, context: Context) -> Arc<Acting> {
        let upstream = UpstreamName::parse("main").unwrap();
        let metrics = TenantLabels::new(1).of(None);
        let gauge = metrics.client();
        let access = self.upstreams.access(&upstream, PoolTarget::default(), context).unwrap();
        Arc::new(Acting { access, unseated: limits(), seat: None, metrics, gauge })
    }
}

impl Chooser for Grant {
    fn choose(&self, tenant: &str) -> Result<Arc<Acting>, Report> {
        if !self.is_gateway {
            return Err(Report::new(sqlstate::INSUFFICIENT_PRIVILEGE, "the tenant of this user is fixed"));
        }
        let tenant = TenantId::parse(tenant).map_err(|_| no_tenant())?;
        Ok(self.acting(self.contexts.tenant(&tenant)))
    }

    fn again(&self, _: &Acting) -> Result<Arc<Acting>, Report> {
        Err(no_tenant())
    }

    fn is_gateway(&self) -> bool {
        self.is_gateway
    }

    fn requires_tenant(&self) -> bool {
        true
    }
}

/// A client, its conversation and a server.
pub(super) struct Talk {
    conversation: Conversation,
    server: FakeServer,
    client_input: Vec<u8>,
    server_input: Vec<u8>,
}

impl Talk {
    fn new(mode: Mode) -> Self {
        Self::with(mode, &[], Kind::Bound)
    }

    /// A gateway user without a tenant.
    fn gateway(mode: Mode) -> Self {
        Self::with(mode, &[], Kind::Gateway)
    }

    /// A client of the session mode, which keeps its server between transactions.
    fn keeping_its_server(mode: Mode) -> Self {
        let policy = Policy { pool_mode: PoolMode::Session, ..Policy::default() };
        Self::with_policy(mode, &[], Kind::Bound, policy)
    }

    fn with(mode: Mode, startup: &[(&str, &str)], kind: Kind) -> Self {
        Self::with_policy(mode, startup, kind, Policy::default())
    }

    fn with_policy(mode: Mode, startup: &[(&str, &str)], kind: Kind, policy: Policy) -> Self {
        let is_gateway = kind == Kind::Gateway;
        let contexts = Contexts::new(&tenancy(mode));
        let upstreams = Upstreams::new([upstream()], 10);
        let chooser = Grant { upstreams, contexts: contexts.clone(), is_gateway };
        let context = match mode {
            Mode::Bare => Context::none(),
            _ if is_gateway => contexts.nobody(),
            Mode::Plain | Mode::Sealed => contexts.tenant(&TenantId::parse("a").unwrap()),
        };
        let level = if mode == Mode::Bare { GuardLevel::Off } else { GuardLevel::Strict };
        let acting = chooser.acting(context.clone());
        let beginning = Beginning {
            rules: Arc::new(Rules::new("app.tenant_id", level, &[])),
            policy,
            acting,
            chooser: (mode != Mode::Bare).then(|| Arc::new(chooser) as Arc<dyn Chooser>),
            client: 7,
            parameters: SessionParameters::new(
                startup.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
            ),
            greeting: Arc::new(
                [("TimeZone", "UTC"), ("client_encoding", "UTF8")]
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .into(),
            ),
        };
        let relay = Relay {
            verdicts: Verdicts::new(1 << 16),
            interner: Arc::default(),
            max_message_bytes: 10_000,
            max_prepared_bytes: 1_000,
            max_client_memory: 0,
            memory: Arc::new(crate::memory::Budget::new(crate::memory::Whose::Process, 0)),
            switches: ContextSwitches::default(),
        };
        let mut state = ServerState::new(BackendIdentity::for_tests(), crate::upstream::Sender::for_tests());
        for (name, value) in [("standard_conforming_strings", "on"), ("client_encoding", "UTF8")] {
            state.parameters.insert(name.to_owned(), value.to_owned());
        }
        let server = FakeServer { state, output: WriteBuffer::default(), context, max_prepared: 3 };
        Self {
            conversation: Conversation::new(Arc::new(relay), beginning),
            server,
            client_input: Vec::new(),
            server_input: Vec::new(),
        }
    }

    /// Frames of the client; what the server gets for them.
    fn client(&mut self, frames: &str) -> String {
        self.bytes_of_client(&encode_all(frames, Direction::Client, ""))
    }

    fn bytes_of_client(&mut self, bytes: &[u8]) -> String {
        self.client_input.extend_from_slice(bytes);
        self.run()
    }

    /// Frames of a client that holds no server, as the session takes them.
    fn without_server(&mut self, frames: &str) -> String {
        self.client_input.extend_from_slice(&encode_all(frames, Direction::Client, ""));
        let mut output = WriteBuffer::default();
        let mut input = ReadBuffer::of(&std::mem::take(&mut self.client_input));
        let mut refused = String::new();
        while !input.is_empty() {
            let long = LongTexts::AreRead(&|| false);
            let mut client = ClientSide { input: &mut input, output: &mut output, long };
            match self.conversation.answer_without_server(&mut client) {
                Some(Ok(())) => {}
                Some(Err(report)) => {
                    refused = format!("refused {}", report.sqlstate.0);
                    self.conversation.fail_block();
                    break;
                }
                None => break,
            }
        }
        let rest = input.bytes().to_vec();
        let answered = print_all(output.space(), Direction::Server);
        self.client_input = if refused.is_empty() { rest } else { Vec::new() };
        let sent = if self.client_input.is_empty() { String::new() } else { self.run() };
        [answered, refused, sent].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" / ")
    }

    /// Frames of the server; what the client gets for them.
    fn server(&mut self, frames: &str) -> String {
        let nonce = frames::nonce_of(&self.server.output_log());
        self.server_input.extend_from_slice(&encode_all(frames, Direction::Server, &nonce));
        self.run()
    }

    /// Frames of the server as bytes.
    fn answers(&mut self, frames: &str) -> Vec<u8> {
        encode_all(frames, Direction::Server, &frames::nonce_of(&self.server.output_log()))
    }

    /// Bytes of the server; the bytes that the client gets for them, also parts of frames.
    fn raw_of_server(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.server_input.extend_from_slice(bytes);
        let (_, got, status) = self.turn();
        assert!(!status.contains(':'), "{status}");
        got
    }

    /// Moves everything that can be moved, and prints it.
    fn run(&mut self) -> String {
        let (sent, got, status) = self.turn();
        let parts = [print_all(&sent, Direction::Client), print_all(&got, Direction::Server), status];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    }

    /// Moves everything that can be moved, as the session does: what the server gets, what the client gets, and how it
    /// ended.
    fn turn(&mut self) -> (Vec<u8>, Vec<u8>, String) {
        let mut status = String::new();
        let mut output = WriteBuffer::default();
        let mut input = ReadBuffer::of(&std::mem::take(&mut self.client_input));
        let mut answers = ReadBuffer::of(&std::mem::take(&mut self.server_input));
        let sent_before = self.server.output.space().len();
        loop {
            let before = (input.len(), answers.len());
            let mut client =
                ClientSide { input: &mut input, output: &mut output, long: LongTexts::AreRead(&|| false) };
            match self.conversation.pump(&mut client, &mut self.server) {
                Ok(Pumped::All) => {}
                Ok(Pumped::Long) => status = "long".to_owned(),
                Ok(Pumped::Goodbye) => status = "goodbye".to_owned(),
                Ok(Pumped::Ready(ready)) => status = format!("({})", char::from(ready.byte())),
                Err(fault) => status = format!("ends: {}", name(&fault)),
            }
            match self.conversation.absorb(&mut client, &mut answers, &mut self.server) {
                Ok(Absorbed::All { .. }) => {}
                Ok(Absorbed::Ready(ready)) => status = format!("({})", char::from(ready.byte())),
                Err(fault) => status = format!("server lost: {}", name(&fault)),
            }
            if (input.len(), answers.len()) == before || status.contains(':') {
                break;
            }
        }
        self.client_input = input.bytes().to_vec();
        self.server_input = answers.bytes().to_vec();
        let sent = self.server.output.space().get(sent_before..).unwrap_or_default().to_vec();
        (sent, output.space().clone(), status)
    }

    /// Runs a script.
    fn script(&mut self, steps: &[(&str, &str)]) -> &mut Self {
        for (place, (step, expected)) in steps.iter().enumerate() {
            let got = match step.split_once(' ') {
                Some((">", frames)) => self.client(frames),
                Some(("~", frames)) => self.without_server(frames),
                Some(("<", frames)) => self.server(frames),
                _ => panic!("a step begins with >, ~ or <: {step}"),
            };
            assert_eq!(got, *expected, "step {}: {step}", place + 1);
        }
        self
    }
}

impl FakeServer {
    fn output_log(&mut self) -> Vec<u8> {
        self.output.space().clone()
    }
}

/// A script with a server that is this client's already: nothing stands in front of a transaction but what asserts a
/// plain context.
fn in_force(mode: Mode) -> Talk {
    let mut talk = Talk::new(mode);
    enter(&mut talk);
    talk
}

fn enter(talk: &mut Talk) {
    let client = talk.conversation.client;
    let parameters = talk.conversation.parameters.clone();
    talk.server.context.take_over(&mut talk.server.state, client, &parameters);
}

fn name(fault: &RelayFault) -> String {
    match fault {
        RelayFault::Protocol(what) | RelayFault::Doubt(what) => (*what).to_owned(),
        RelayFault::TooLarge { .. } => "too large".to_owned(),
        RelayFault::Shifted => "shifted".to_owned(),
        RelayFault::Context(why) => format!("context {why}"),
        RelayFault::Farewell(report) => format!("farewell {}: {}", report.sqlstate.0, report.message),
        RelayFault::Ended(why) | RelayFault::Closed(why) => format!("ended {why}"),
    }
}

fn limits() -> Limits {
    Limits {
        max_clients: 1,
        max_servers: 1,
        max_pins: 1,
        queue_timeout: Duration::from_secs(1),
        statement_timeout: Duration::ZERO,
        idle_transaction_timeout: Duration::ZERO,
    }
}

fn tenancy(mode: Mode) -> Tenancy {
    let key = SealKey::new([7; 32]);
    Tenancy {
        setting: "app.tenant_id".to_owned(),
        application_name: "{application_name}".to_owned(),
        server_name: None,
        require_tenant: true,
        context: if mode == Mode::Sealed { ContextMode::Sealed(key) } else { ContextMode::Plain },
        guard: GuardLevel::Strict,
        allow_unsafe: false,
        doctor_interval: Duration::ZERO,
        choosers: Vec::new(),
        claims: None,
    }
}

fn upstream() -> UpstreamSettings {
    UpstreamSettings {
        name: UpstreamName::parse("main").unwrap(),
        hosts: Vec::new(),
        database: "app".to_owned(),
        user: "app".to_owned(),
        password: None,
        tls: ServerTls::Off,
        ca: None,
        pool_size: 1,
        tenant_pool_size: 1,
        tenant_idle_timeout: Duration::ZERO,
        max_connections: 1,
        connect_timeout: Duration::from_secs(1),
        max_prepared: 3,
    }
}
