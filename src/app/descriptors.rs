//! File descriptors: the limit is raised as far as it may be, and shared out so that neither clients nor servers use up what
//! the metrics address, the console and cancel requests need.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;
use crate::observability::http::MAX_CONNECTIONS;
use crate::serve::{OPERATOR_SEATS, TURNED_AWAY};

/// For what belongs to no client: listeners, the log, the runtime, connections of the doctor, the directory and the canary,
/// and cancel requests on their way.
const OTHERS: usize = 64;

/// Connections of each kind, at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shares {
    /// That have logged in.
    pub(super) clients: usize,
    /// That have not; 0: no limit.
    pub(super) logins: usize,
    /// To PostgreSQL.
    pub(super) servers: usize,
}

impl Shares {
    /// What the configuration asks for, as far as the process may open that many.
    pub(super) fn of(config: &Config) -> Self {
        let listen = &config.listen;
        let pools: usize = config.upstreams.values().map(|upstream| upstream.max_connections).sum();
        let wanted = Self {
            clients: listen.max_clients,
            logins: listen.max_logins,
            servers: listen.max_server_connections.min(pools),
        };
        let Some(limit) = raised() else { return wanted };
        let shares = wanted.within(limit);
        if shares != wanted {
            tracing::warn!(
                limit,
                max_clients = shares.clients,
                max_logins = shares.logins,
                server_connections = shares.servers,
                "the limit of open files (ulimit -n) is too low for listen.max_clients, max_logins and the server connections: these hold instead"
            );
        }
        shares
    }

    /// The same if it fits into so many descriptors; else a third for servers, a sixth for those who have not logged in, and
    /// the rest for clients.
    fn within(self, limit: usize) -> Self {
        let reserve = OTHERS + MAX_CONNECTIONS + OPERATOR_SEATS + TURNED_AWAY;
        let free = limit.saturating_sub(reserve);
        let total = self.clients.saturating_add(self.logins).saturating_add(self.servers);
        if total <= free {
            return self;
        }
        let share = |wanted: usize, part: usize| wanted.min(part).max(1);
        let servers = share(self.servers, free / 3);
        let logins = share(if self.logins == 0 { usize::MAX } else { self.logins }, free / 6);
        let clients = share(self.clients, free.saturating_sub(servers + logins));
        Self { clients, logins, servers }
    }
}

/// The soft limit, as high as the hard one allows; none: there is none.
fn raised() -> Option<usize> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let mut now = current;
    if current != maximum {
        match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
            Ok(()) => now = maximum,
            Err(error) => tracing::warn!(%error, "the limit of open files cannot be raised"),
        }
    }
    now.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESERVE: usize = OTHERS + MAX_CONNECTIONS + OPERATOR_SEATS + TURNED_AWAY;

    #[test]
    fn what_fits_is_as_configured_and_one_descriptor_less_is_shared_out() {
        let wanted = Shares { clients: 100, logins: 20, servers: 30 };
        assert_eq!(wanted.within(RESERVE + 150), wanted);
        let less = wanted.within(RESERVE + 149);
        assert_eq!(less, Shares { clients: 99, logins: 20, servers: 30 });
    }

    #[test]
    fn shares_never_exceed_the_limit_and_nobody_is_left_without() {
        for limit in 0..2000 {
            for wanted in [
                Shares { clients: 10_000, logins: 1000, servers: 90 },
                Shares { clients: 10_000, logins: 0, servers: 1000 },
                Shares { clients: 1, logins: 1, servers: 1 },
            ] {
                let shares = wanted.within(limit);
                assert!(shares.clients >= 1 && shares.servers >= 1 && shares.clients <= wanted.clients);
                assert!(shares.servers <= wanted.servers, "{limit}");
                if limit >= RESERVE + 12 {
                    let sum = shares.clients + shares.logins + shares.servers;
                    assert!(sum + RESERVE <= limit, "{limit}: {shares:?}");
                }
            }
        }
    }
}
