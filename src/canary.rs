//! The canary: two probe tenants walk the way of all clients, all the time, and tell what they see.
//! Promise: a probe that sees anything of another tenant trips the breaker; a probe that sees nothing at all
//! is a warning, for the way may be blocked without being open. It knows no way to a server of its own.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;
use rand::distr::Alphanumeric;
use tokio::net::UnixStream;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::config::verifier_of;
use crate::directory::{Canary, ChoiceSpan, Directory, Grant, Pinning, PoolMode, User};
use crate::names::{TenantId, UserName};
use crate::net::stream::Stream;
use crate::observability::metrics::{canary_down, canary_tripped, canary_up};
use crate::secret::Secret;
use crate::serve::{self, Shared};

/// The longest that one walk may take.
const WALK_LIMIT: Duration = Duration::from_secs(10);

/// Characters of a probe's name and password: nobody can guess or happen to choose them.
const RANDOM_CHARACTERS: usize = 32;

/// The two probes and the users that they log in as.
#[derive(Debug)]
pub struct Probes {
    settings: Canary,
    logins: [Login; 2],
}

/// A user that exists in this process only.
#[derive(Debug)]
struct Login {
    user: Arc<User>,
    password: Secret<String>,
}

/// What a probe saw in one transaction.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    /// The tenant's setting at the beginning and at the end.
    settings: Vec<String>,
    /// The first column of each row of the query; none if there is no query.
    rows: Option<Vec<String>>,
}

/// Why a walk is not the proof that it should be.
#[derive(Debug, PartialEq, Eq)]
enum Doubt {
    /// Something of another tenant, or no tenant at all, was seen.
    Mismatch(String),
    /// Nothing was seen.
    Blind(String),
}

impl Probes {
    /// With users made up for this process.
    pub fn new(settings: Canary) -> Option<Self> {
        let login = |tenant: &TenantId| {
            let password = random_word();
            let user = User {
                name: UserName::parse(&format!("canary-{}", random_word())).ok()?,
                verifier: Some(verifier_of(&password)?),
                certificate: None,
                token: None,
                tenant_comment: false,
                grant: Grant::Tenant(tenant.clone()),
                allow: Vec::new(),
                roles: Vec::new(),
                choice: ChoiceSpan::default(),
                pool_mode: PoolMode::default(),
                pinning: Pinning::default(),
            };
            Some(Login { user: Arc::new(user), password: Secret::new(password) })
        };
        let logins = [login(&settings.tenants[0])?, login(&settings.tenants[1])?];
        Some(Self { settings, logins })
    }

    /// Lets the probes log in; to be done with every directory that goes live.
    pub fn enlist(&self, directory: &mut Directory) {
        for login in &self.logins {
            directory.users.insert(login.user.name.clone(), Arc::clone(&login.user));
        }
    }

    /// Walks until a mismatch trips the breaker.
    pub async fn walk(&self, shared: &Arc<Shared>, setting: &str) {
        let mut walkers = [None, None];
        let mut known = None;
        let mut ticks = interval(self.settings.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let outcome = timeout(WALK_LIMIT, self.both(shared, setting, &mut walkers)).await;
            let outcome = outcome.unwrap_or_else(|_| Err(Doubt::Blind("a walk took too long".to_owned())));
            match &outcome {
                Ok(()) => canary_up(),
                Err(doubt) => {
                    canary_down();
                    if let Doubt::Mismatch(what) = doubt {
                        return trip(shared, what);
                    }
                    walkers = [None, None];
                }
            }
            // A state is told once, not at every tick.
            if known.as_ref() != Some(&outcome) {
                tell(&outcome);
                known = Some(outcome);
            }
        }
    }

    /// Both at one time, so that their transactions meet in the pool.
    async fn both(
        &self,
        shared: &Arc<Shared>,
        setting: &str,
        [first, second]: &mut [Option<Client>; 2],
    ) -> Result<(), Doubt> {
        let query = self.settings.query.as_deref();
        let [one, other] = &self.logins;
        let walks = tokio::join!(
            one.look(shared, first, (setting, query)),
            other.look(shared, second, (setting, query))
        );
        let verdicts = [(walks.0, &self.settings.tenants[0]), (walks.1, &self.settings.tenants[1])]
            .map(|(seen, tenant)| seen.and_then(|seen| judge(tenant, &seen)));
        // A mismatch of one weighs more than the other's blindness.
        let [one, other] = verdicts;
        match (&one, &other) {
            (_, Err(Doubt::Mismatch(_))) | (Ok(()), _) => other,
            _ => one,
        }
    }
}

impl Login {
    /// One transaction, as a client would make it.
    async fn look(
        &self,
        shared: &Arc<Shared>,
        walker: &mut Option<Client>,
        (setting, query): (&str, Option<&str>),
    ) -> Result<Seen, Doubt> {
        let client = match walker.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => self.log_in(shared).await?,
        };
        let seen = transaction(walker.insert(client), setting, query).await;
        seen.map_err(|error| blind(&error))
    }

    /// A connection like any other, but for the socket, which has both ends in this process.
    async fn log_in(&self, shared: &Arc<Shared>) -> Result<Client, Doubt> {
        let (ours, theirs) = UnixStream::pair().map_err(|error| Doubt::Blind(error.to_string()))?;
        serve::accept(shared, Stream::Unix(theirs));
        // Any that the proxy has.
        let database = shared.upstreams.first().and_then(|upstream| shared.upstreams.database_of(upstream));
        let mut login = tokio_postgres::Config::new();
        login.user(self.user.name.as_str()).password(self.password.expose());
        login.dbname(database.map_or("", String::as_str));
        let (client, connection) = login.connect_raw(ours, NoTls).await.map_err(|error| blind(&error))?;
        tokio::spawn(async move { drop(connection.await) });
        Ok(client)
    }
}

/// The setting twice, by the simple and by the extended protocol, and the rows in between.
async fn transaction(
    client: &Client,
    setting: &str,
    query: Option<&str>,
) -> Result<Seen, tokio_postgres::Error> {
    let sql = format!("SELECT pg_catalog.current_setting('{setting}', true)");
    let mut seen = Seen { settings: first_column(client.simple_query(&sql).await?), rows: None };
    client.batch_execute("BEGIN").await?;
    if let Some(query) = query {
        seen.rows = Some(first_column(client.simple_query(query).await?));
    }
    for row in client.query_typed(&sql, &[]).await? {
        seen.settings.push(row.try_get::<_, Option<String>>(0)?.unwrap_or_default());
    }
    client.batch_execute("COMMIT").await?;
    Ok(seen)
}

/// The first column of every row; NULL is nobody's.
fn first_column(messages: Vec<SimpleQueryMessage>) -> Vec<String> {
    let first = |message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
        _ => None,
    };
    messages.into_iter().filter_map(first).collect()
}

/// Whether a probe saw its own tenant, all of the time, and nobody else.
fn judge(tenant: &TenantId, seen: &Seen) -> Result<(), Doubt> {
    let tenant = tenant.as_str();
    if let Some(other) = seen.settings.iter().find(|value| *value != tenant) {
        return Err(Doubt::Mismatch(format!("the probe of {tenant:?} ran as {other:?}")));
    }
    if seen.settings.len() != 2 {
        return Err(Doubt::Blind("the setting was not answered".to_owned()));
    }
    match seen.rows.as_deref() {
        None => Ok(()),
        Some([]) => Err(Doubt::Blind(format!("canary.query shows no row to {tenant:?}"))),
        Some(rows) => match rows.iter().find(|value| *value != tenant) {
            Some(other) => Err(Doubt::Mismatch(format!("the probe of {tenant:?} saw a row of {other:?}"))),
            None => Ok(()),
        },
    }
}

fn tell(outcome: &Result<(), Doubt>) {
    if let Err(doubt) = outcome {
        tracing::warn!(%doubt, "canary: the probes do not see what they should see");
    } else {
        tracing::info!("canary: both probes see their own tenant only");
    }
}

/// Nothing of any tenant runs from here on.
fn trip(shared: &Shared, what: &str) {
    shared.breaker.trip();
    canary_tripped();
    let ended = shared.clients.wake();
    tracing::error!(
        what,
        clients = ended,
        "ISOLATION IS IN DOUBT: the canary saw another tenant. All statements of all tenants are refused until this process is restarted"
    );
}

fn blind(error: &tokio_postgres::Error) -> Doubt {
    Doubt::Blind(error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string))
}

fn random_word() -> String {
    rand::rng().sample_iter(&Alphanumeric).take(RANDOM_CHARACTERS).map(char::from).collect()
}

// === impl Doubt ===

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Mismatch(what) | Self::Blind(what)) = self;
        f.write_str(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(settings: &[&str], rows: Option<&[&str]>) -> Result<(), Doubt> {
        let texts = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let seen = Seen { settings: texts(settings), rows: rows.map(texts) };
        judge(&TenantId::parse("a").unwrap(), &seen)
    }

    #[test]
    fn only_the_own_tenant_all_of_the_time_is_a_proof() {
        assert_eq!(judged(&["a", "a"], None), Ok(()));
        assert_eq!(judged(&["a", "a"], Some(&["a", "a", "a"])), Ok(()));
        for (settings, rows) in [
            (["a", "b"], None),
            (["", "a"], None),
            (["a", "a"], Some(&["a", "b"][..])),
            (["a", "a"], Some(&[""][..])),
        ] {
            assert!(matches!(judged(&settings, rows), Err(Doubt::Mismatch(_))), "{settings:?} {rows:?}");
        }
    }

    #[test]
    fn a_probe_that_sees_nothing_proves_nothing_and_trips_nothing() {
        assert!(matches!(judged(&["a", "a"], Some(&[])), Err(Doubt::Blind(_))));
        assert!(matches!(judged(&["a"], None), Err(Doubt::Blind(_))));
    }
}
