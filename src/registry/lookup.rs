//! `[auth_query]`: users whom neither the file nor the tables know, asked for by name when they log in, and remembered.
//! Promise: an answer makes a user of one tenant and nothing more; no answer makes none.

use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::{Fault, told};
use crate::config::{Config, stored_verifier};
use crate::control;
use crate::directory::{AuthQuery, ChoiceSpan, Grant, Pinning, PoolMode, User};
use crate::names::{TenantId, UserName};
use crate::serve::{Finder, Found};
use crate::upstream::settings::UpstreamSettings;

/// The longest that one question may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Questions at one time; who comes behind them waits.
const AT_ONCE: usize = 8;
/// After a failure nobody asks for so long.
const RETRY: Duration = Duration::from_secs(1);

/// Asks, and remembers. Names that somebody has and names that nobody has do not push each other out.
pub struct Lookup {
    settings: AuthQuery,
    upstream: UpstreamSettings,
    known: Cache<UserName, (Arc<User>, Instant)>,
    unknown: Cache<UserName, Instant>,
    connection: Mutex<Connection>,
    questions: Semaphore,
}

#[derive(Default)]
struct Connection {
    client: Option<Arc<Client>>,
    failed: Option<Instant>,
}

impl std::fmt::Debug for Lookup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lookup({})", self.settings.login.user)
    }
}

impl Lookup {
    /// None: the file has no section `[auth_query]`.
    pub fn new(config: &Config) -> Option<Self> {
        let settings = config.auth_query.clone()?;
        let upstream = config.upstreams.get(&settings.login.upstream)?;
        let upstream = upstream.in_database(settings.login.database.as_deref());
        Some(Self {
            known: Cache::new(settings.max_entries),
            unknown: Cache::new(settings.max_entries),
            connection: Mutex::default(),
            questions: Semaphore::new(AT_ONCE),
            settings,
            upstream,
        })
    }

    async fn user(&self, name: &UserName) -> Option<Arc<User>> {
        let remembered = self.known.get(name);
        if let Some((user, since)) = &remembered
            && since.elapsed() < self.settings.ttl
        {
            return Some(Arc::clone(user));
        }
        if self.unknown.get(name).is_some_and(|since| since.elapsed() < self.settings.negative_ttl) {
            return None;
        }
        match self.ask(name).await {
            Ok(Some(user)) => {
                let user = Arc::new(user);
                self.unknown.remove(name);
                self.known.insert(name.clone(), (Arc::clone(&user), Instant::now()));
                Some(user)
            }
            Ok(None) => {
                self.known.remove(name);
                self.unknown.insert(name.clone(), Instant::now());
                None
            }
            Err(fault @ Fault::Answer(_)) => {
                tracing::warn!(%fault, user = %name, "a user's look-up has no clear answer: refused");
                self.known.remove(name);
                None
            }
            Err(fault) => {
                tracing::warn!(%fault, user = %name, "a user could not be looked up: what was known last holds");
                remembered.map(|(user, _)| user)
            }
        }
    }

    async fn ask(&self, name: &UserName) -> Result<Option<User>, Fault> {
        let _one = self.questions.acquire().await.map_err(|_| Fault::Ending)?;
        let client = self.client().await?;
        let name_text = name.as_str();
        let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&name_text, Type::TEXT)];
        let question = client.query_typed(&self.settings.query, &parameters);
        let Ok(rows) = timeout(ANSWER_LIMIT, question).await else {
            // What it still does there is not waited for.
            self.connection.lock().await.client = None;
            return Err(Fault::Timeout);
        };
        let rows = rows.map_err(answered)?;
        let [row] = &rows[..] else {
            return if rows.is_empty() {
                Ok(None)
            } else {
                Err(Fault::Answer("more than one row".to_owned()))
            };
        };
        let text = |column: &str| {
            row.try_get::<_, Option<String>>(column).map_err(|error| Fault::Answer(error.to_string()))
        };
        let (Some(verifier), Some(tenant)) = (text("verifier")?, text("tenant")?) else { return Ok(None) };
        let verifier =
            stored_verifier(&verifier).map_err(|what| Fault::Answer(format!("its verifier {what}")))?;
        let tenant =
            TenantId::parse(&tenant).map_err(|error| Fault::Answer(format!("its tenant: {error}")))?;
        Ok(Some(bound(name.clone(), verifier, tenant)))
    }

    async fn client(&self) -> Result<Arc<Client>, Fault> {
        let mut connection = self.connection.lock().await;
        if let Some(client) = connection.client.as_ref().filter(|client| !client.is_closed()) {
            return Ok(Arc::clone(client));
        }
        if connection.failed.is_some_and(|failed| failed.elapsed() < RETRY) {
            return Err(Fault::Closed);
        }
        let login = &self.settings.login;
        let attempt = control::connect(&self.upstream, &login.user, login.password.as_ref());
        let connected = async {
            let client = attempt.await?;
            // Names that somebody else may have made are found by their schema only.
            client.batch_execute("SET search_path = pg_catalog, pg_temp").await?;
            Ok::<_, Fault>(client)
        };
        match timeout(ANSWER_LIMIT, connected).await.unwrap_or(Err(Fault::Timeout)) {
            Ok(client) => {
                let client = Arc::new(client);
                *connection = Connection { client: Some(Arc::clone(&client)), failed: None };
                Ok(client)
            }
            Err(fault) => {
                *connection = Connection { client: None, failed: Some(Instant::now()) };
                Err(fault)
            }
        }
    }
}

impl Finder for Lookup {
    fn find<'f>(&'f self, name: &'f UserName) -> Found<'f> {
        Box::pin(self.user(name))
    }

    fn forget(&self) {
        self.known.clear();
        self.unknown.clear();
    }
}

/// A database that answers with an error is there: whatever it knew of the user before holds no more. Only one that is
/// going away, is full or is lost has not answered.
fn answered(error: tokio_postgres::Error) -> Fault {
    let is_away = |code: &str| ["08", "53", "57"].iter().any(|class| code.starts_with(class));
    match error.as_db_error() {
        Some(db) if !is_away(db.code().code()) => Fault::Answer(told(&error)),
        Some(_) | None => error.into(),
    }
}

fn bound(name: UserName, verifier: crate::directory::Verifier, tenant: TenantId) -> User {
    User {
        name,
        verifier: Some(verifier),
        certificate: None,
        token: None,
        grant: Grant::Tenant(tenant),
        allow: Vec::new(),
        roles: Vec::new(),
        tenant_comment: false,
        choice: ChoiceSpan::default(),
        pool_mode: PoolMode::default(),
        pinning: Pinning::default(),
    }
}
