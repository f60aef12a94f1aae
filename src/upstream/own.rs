//! Statements of the proxy's own, run to their end while no client uses the server.

use std::time::Duration;

use tokio::time::timeout;

use crate::upstream::context;
use crate::upstream::pool::login;
use crate::upstream::pool::server::{Server, Stamp, Temporary, Wear};
use crate::upstream::question::WAITS_FOR_NO_OTHER;
use crate::upstream::{
    Answer, ClientKey, Nonce, Question, SessionParameters, Span, TenantServer, UpstreamFault,
};
use crate::wire::{backend, encode};

/// Longest time that such a statement may take, for example the reset.
const OWN_STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest answer to such a statement: all settings that are carried, at their longest.
const MAX_MESSAGE_BYTES: usize = 2 * 1024 * 1024;
/// Most notifications that may come while such a statement runs.
const MAX_NOTIFICATIONS: usize = 1000;

impl TenantServer {
    /// Asks what a transaction left. Of state that this role may not look at, all is said to be there.
    pub async fn ask(&mut self, question: &Question) -> Result<Answer, UpstreamFault> {
        match self.ask_once(question).await {
            Err(UpstreamFault::Parameters { .. }) if !question.states.is_empty() => {
                let settings = question.about_settings();
                let answer =
                    if settings.is_empty() { Answer::default() } else { self.ask_once(&settings).await? };
                Ok(Answer { states: question.states, ..answer })
            }
            outcome => outcome,
        }
    }

    async fn ask_once(&mut self, question: &Question) -> Result<Answer, UpstreamFault> {
        let stamp = self.lease.server().state.stamp.as_ref();
        if stamp.is_some_and(|stamp| stamp.tenant.as_ref() != self.context.tenant_id()) {
            return Err(UpstreamFault::Doubt("a question about the session of another tenant"));
        }
        let nonce = Nonce::new();
        let sql = question.sql(self.lease.pool().connector().user(), &nonce);
        self.lease.server().state.unnamed = None;
        let row = self.run_own(sql.as_bytes()).await?;
        let row = row.ok_or(UpstreamFault::Doubt("a question was not answered"))?;
        question.read(&row, &nonce).ok_or(UpstreamFault::Shifted)
    }

    /// Puts a client's application name back, with its tenant in it, behind a transaction that changed it.
    pub async fn put_back(&mut self, parameters: &SessionParameters) -> Result<(), UpstreamFault> {
        self.lease.server().state.unnamed = None;
        let name = self.context.name(parameters);
        let applied = context::statement::apply(parameters, name.as_deref(), Span::Session);
        self.run_own(format!("{WAITS_FOR_NO_OTHER}{}", applied.join(";")).as_bytes()).await.map(drop)
    }

    /// Whether this client's next transaction can begin on it. Without a context, a reset is waited for before that.
    pub fn serves(&mut self, client: ClientKey) -> bool {
        let is_of = |stamp: &Stamp| stamp.client == client;
        self.context.enters() || self.lease.server().state.stamp.as_ref().is_some_and(is_of)
    }

    /// Prepares the server for a maintenance user, whose transactions begin without a context: a reset that would fail
    /// could not stop its statements, so the reset is waited for. A server that does not come through it, because of a time
    /// limit that was left on it, say, is replaced: nothing of the client has run.
    pub(super) async fn prepare(
        &mut self,
        client: ClientKey,
        parameters: &SessionParameters,
    ) -> Result<(), UpstreamFault> {
        match self.reset_if_needed(client, parameters).await {
            Err(fault) if is_of_this_server(&fault) => {
                tracing::info!(%fault, "the server is replaced before the client's statement has run");
                self.lease.replace().await?;
                self.reset_if_needed(client, parameters).await
            }
            outcome => outcome,
        }
    }

    async fn reset_if_needed(
        &mut self,
        client: ClientKey,
        parameters: &SessionParameters,
    ) -> Result<(), UpstreamFault> {
        let server = self.lease.server();
        let is_unused = matches!(server.state.wear, Wear::Unused | Wear::Reset) && parameters.is_empty();
        if !is_unused && !self.context.is_in_force(&server.state, client, parameters) {
            self.reset_for(parameters).await?;
        }
        let context = self.context.clone();
        let state = &mut self.lease.server().state;
        if state.wear == Wear::Reset {
            state.wear = Wear::Clean;
        }
        context.take_over(state, client, parameters);
        Ok(())
    }

    /// Resets the server and applies these parameters. Whose it is now is for the caller to say.
    pub(super) async fn reset_for(&mut self, parameters: &SessionParameters) -> Result<(), UpstreamFault> {
        let state = &mut self.lease.server().state;
        state.stamp = None;
        let nonce = Nonce::new();
        let answered = context::statement::Answered::InReset(&nonce);
        let reset = context::statement::reset(answered, parameters, None, state).statements.commit();
        let (outcome, status) = self.run_to_ready(reset.sql.as_bytes()).await?;
        if status != backend::Status::Idle {
            // It failed in its transaction.
            self.run_own(b"ROLLBACK").await?;
        }
        let row = outcome?.ok_or(UpstreamFault::Doubt("a reset was not answered"))?;
        if backend::column(&row, 0) != Some(nonce.as_str()) {
            return Err(UpstreamFault::Shifted);
        }
        let state = &mut self.lease.server().state;
        state.clear_prepared();
        // They were meant for whoever listened before.
        state.notifications = Vec::new();
        state.wear = if parameters.is_empty() { Wear::Reset } else { Wear::Clean };
        Ok(())
    }

    /// Rolls back what its client had begun. A session that may hold something of it is reset.
    pub(super) async fn clean(&mut self) -> Result<(), UpstreamFault> {
        if self.lease.server().state.temporary == Temporary::Maybe {
            return Err(UpstreamFault::Doubt("its client made temporary objects"));
        }
        self.run_own(b"ROLLBACK").await?;
        if self.lease.server().state.wear == Wear::Dirty {
            self.reset_for(&SessionParameters::default()).await?;
        }
        Ok(())
    }

    /// Runs a statement of our own to its ReadyForQuery, which must say idle; its last row, if there is one.
    pub(super) async fn run_own(&mut self, sql: &[u8]) -> Result<Option<Vec<u8>>, UpstreamFault> {
        match self.run_to_ready(sql).await? {
            (outcome, backend::Status::Idle) => outcome,
            _ => Err(UpstreamFault::Doubt("not idle after a statement of the proxy")),
        }
    }

    /// The same, with the status of the transaction behind it.
    async fn run_to_ready(&mut self, sql: &[u8]) -> Result<(Outcome, backend::Status), UpstreamFault> {
        let server = self.lease.server();
        encode::query(server.channel.output.space(), sql);
        timeout(OWN_STATEMENT_TIMEOUT, finish_own(server))
            .await
            .map_err(|_| UpstreamFault::Doubt("a statement of the proxy took too long"))?
    }
}

/// Whether a reset that failed so may succeed on a new server. What PostgreSQL says of a value that the client has set is
/// the client's; an answer to another statement is to be told.
fn is_of_this_server(fault: &UpstreamFault) -> bool {
    match fault {
        UpstreamFault::Connect(_) | UpstreamFault::Lost(_) => true,
        UpstreamFault::Parameters { sqlstate, .. } => sqlstate.starts_with("57"),
        UpstreamFault::QueueTimeout
        | UpstreamFault::TenantFull
        | UpstreamFault::Doubt(_)
        | UpstreamFault::Shifted
        | UpstreamFault::Elsewhere
        | UpstreamFault::Context(_) => false,
    }
}

/// The last row of a statement, or its error.
type Outcome = Result<Option<Vec<u8>>, UpstreamFault>;

async fn finish_own(server: &mut Server) -> Result<(Outcome, backend::Status), UpstreamFault> {
    server.channel.flush().await.map_err(UpstreamFault::Lost)?;
    let (mut failure, mut row) = (None, None);
    loop {
        let (tag, body) = login::read_message_within(&mut server.channel, MAX_MESSAGE_BYTES).await?;
        match tag {
            b'S' => {
                if let Some((name, value)) = backend::parameter_status(&body) {
                    server.state.parameters.insert(name.to_owned(), value.to_owned());
                }
            }
            b'A' if server.state.notifications.len() >= MAX_NOTIFICATIONS => {
                return Err(UpstreamFault::Doubt("too many notifications"));
            }
            b'A' => server.state.notifications.push(body),
            b'D' => row = Some(body),
            b'E' => {
                let field = |code| backend::error_field(&body, code).unwrap_or_default().to_owned();
                failure = Some(UpstreamFault::Parameters { sqlstate: field(b'C'), message: field(b'M') });
            }
            b'Z' => {
                let status = backend::ready_for_query(&body);
                let status = status.ok_or(UpstreamFault::Doubt("a malformed ReadyForQuery"))?;
                return Ok((failure.map_or(Ok(row), Err), status));
            }
            _ => {}
        }
    }
}
