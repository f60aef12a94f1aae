//! Statements of the proxy's own, run to their end while no client uses the server.

use std::time::Duration;

use tokio::time::timeout;

use crate::upstream::context::{self, Context};
use crate::upstream::pool::login;
use crate::upstream::pool::server::{Server, Stamp, Wear};
use crate::upstream::{Answer, ClientKey, Question, SessionParameters, TenantServer, UpstreamFault};
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
        let sql = question.sql(self.lease.pool().connector().user());
        self.lease.server().unnamed = None;
        let row = self.run_own(sql.as_bytes()).await?;
        row.map(|row| question.read(&row)).ok_or(UpstreamFault::Doubt("a question was not answered"))
    }

    /// Puts a client's parameters back behind a transaction that reset all of them among others.
    pub async fn put_back(&mut self, parameters: &SessionParameters) -> Result<(), UpstreamFault> {
        self.lease.server().unnamed = None;
        let name = self.context.name(parameters);
        self.run_own(context::statement::apply(parameters, name.as_deref()).as_bytes()).await.map(drop)
    }

    pub(super) async fn reset_if_needed(
        &mut self,
        client: ClientKey,
        parameters: &SessionParameters,
    ) -> Result<(), UpstreamFault> {
        let context = Context::none();
        let server = self.lease.server();
        let needed = server.stamp.as_ref().map(|stamp| &stamp.tenant)
            != Some(&self.context.tenant_id().cloned())
            || context.needs_reset(server, client, parameters) == context::Reset::Needed;
        if !needed || (server.wear == Wear::Unused && parameters.is_empty()) {
            return Ok(());
        }
        let sql = context::statement::reset(None, parameters, None);
        self.run_own(sql.as_bytes()).await?;
        let server = self.lease.server();
        server.clear_prepared();
        server.wear = Wear::Clean;
        server.stamp = Some(Stamp {
            tenant: self.context.tenant_id().cloned(),
            client,
            parameters: parameters.fingerprint(),
        });
        Ok(())
    }

    /// Runs a statement of our own to its ReadyForQuery, which must say idle; its last row, if there is one.
    pub(super) async fn run_own(&mut self, sql: &[u8]) -> Result<Option<Vec<u8>>, UpstreamFault> {
        let server = self.lease.server();
        encode::query(server.channel.output.space(), sql);
        timeout(OWN_STATEMENT_TIMEOUT, finish_own(server))
            .await
            .map_err(|_| UpstreamFault::Doubt("a statement of the proxy took too long"))?
    }
}

async fn finish_own(server: &mut Server) -> Result<Option<Vec<u8>>, UpstreamFault> {
    server.channel.flush().await.map_err(UpstreamFault::Lost)?;
    let (mut failure, mut row) = (None, None);
    loop {
        let (tag, body) = login::read_message_within(&mut server.channel, MAX_MESSAGE_BYTES).await?;
        match tag {
            b'S' => {
                if let Some((name, value)) = backend::parameter_status(&body) {
                    server.parameters.insert(name.to_owned(), value.to_owned());
                }
            }
            b'A' if server.notifications.len() >= MAX_NOTIFICATIONS => {
                return Err(UpstreamFault::Doubt("too many notifications"));
            }
            b'A' => server.notifications.push(body),
            b'D' => row = Some(body),
            b'E' => {
                let field = |code| backend::error_field(&body, code).unwrap_or_default().to_owned();
                failure = Some(UpstreamFault::Parameters { sqlstate: field(b'C'), message: field(b'M') });
            }
            b'Z' if backend::ready_for_query(&body) == Some(backend::Status::Idle) => {
                return failure.map_or(Ok(row), Err);
            }
            b'Z' => return Err(UpstreamFault::Doubt("not idle after a statement of the proxy")),
            _ => {}
        }
    }
}
