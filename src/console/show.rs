//! What each SHOW tells, gathered from the live parts when it is asked.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use super::Console;
use super::command::{Command, Show};
use super::table::ColumnType::{Number, Text};
use super::table::{CellValue, ColumnType, Table};
use crate::clients::{Activity, ClientView};
use crate::directory::{ChoiceSpan, Grant, PoolMode};

type Columns = &'static [(&'static str, ColumnType)];

const CLIENTS: Columns = &[
    ("type", Text),
    ("user", Text),
    ("database", Text),
    ("state", Text),
    ("addr", Text),
    ("port", Number),
    ("local_addr", Text),
    ("local_port", Number),
    ("connect_time", Text),
    ("request_time", Text),
    ("wait", Number),
    ("wait_us", Number),
    ("close_needed", Number),
    ("ptr", Text),
    ("link", Text),
    ("remote_pid", Number),
    ("tls", Text),
    ("application_name", Text),
    ("prepared_statements", Number),
    ("tenant", Text),
];
const POOLS: Columns = &[
    ("database", Text),
    ("user", Text),
    ("cl_active", Number),
    ("cl_waiting", Number),
    ("cl_active_cancel_req", Number),
    ("cl_waiting_cancel_req", Number),
    ("sv_active", Number),
    ("sv_active_cancel", Number),
    ("sv_being_canceled", Number),
    ("sv_idle", Number),
    ("sv_used", Number),
    ("sv_tested", Number),
    ("sv_login", Number),
    ("maxwait", Number),
    ("maxwait_us", Number),
    ("pool_mode", Text),
];
const DATABASES: Columns = &[
    ("name", Text),
    ("host", Text),
    ("port", Number),
    ("database", Text),
    ("force_user", Text),
    ("pool_size", Number),
    ("min_pool_size", Number),
    ("reserve_pool", Number),
    ("pool_mode", Text),
    ("max_connections", Number),
    ("current_connections", Number),
    ("paused", Number),
    ("disabled", Number),
];
const STATS: Columns = &[
    ("database", Text),
    ("total_xact_count", Number),
    ("total_query_count", Number),
    ("total_received", Number),
    ("total_sent", Number),
    ("total_xact_time", Number),
    ("total_query_time", Number),
    ("total_wait_time", Number),
    ("avg_xact_count", Number),
    ("avg_query_count", Number),
    ("avg_recv", Number),
    ("avg_sent", Number),
    ("avg_xact_time", Number),
    ("avg_query_time", Number),
    ("avg_wait_time", Number),
];
const TENANTS: Columns = &[
    ("tenant", Text),
    ("upstream", Text),
    ("isolation", Text),
    ("status", Text),
    ("clients", Number),
    ("pins", Number),
    ("max_clients", Number),
    ("max_servers", Number),
    ("max_pins", Number),
];
const PINS: Columns = &[
    ("client", Number),
    ("user", Text),
    ("tenant", Text),
    ("reason", Text),
    ("statement", Text),
    ("since", Text),
];
const USERS: Columns =
    &[("name", Text), ("pool_mode", Text), ("grant", Text), ("roles", Text), ("choice", Text)];
const LISTS: Columns = &[("list", Text), ("items", Number)];
const CONFIG: Columns = &[("key", Text), ("value", Text), ("default", Text), ("changeable", Text)];
const REFUSALS: Columns = &[("tenant", Text), ("rule", Text), ("count", Number)];
const HELP: Columns = &[("command", Text), ("does", Text)];
const VERSION: Columns = &[("version", Text)];

impl Show {
    /// The columns of its table.
    pub(super) const fn columns(self) -> Columns {
        match self {
            Self::Help => HELP,
            Self::Version => VERSION,
            Self::Clients | Self::Servers => CLIENTS,
            Self::Config => CONFIG,
            Self::Databases => DATABASES,
            Self::Lists => LISTS,
            Self::Pins => PINS,
            Self::Pools => POOLS,
            Self::Refusals => REFUSALS,
            Self::Stats => STATS,
            Self::Tenants => TENANTS,
            Self::Users => USERS,
        }
    }
}

impl Console {
    pub(super) fn show(&self, show: Show) -> Table {
        let rows = match show {
            Show::Help => help(),
            Show::Version => vec![vec![concat!("pgtenant ", env!("CARGO_PKG_VERSION")).into()]],
            Show::Clients => self.clients().iter().map(client).collect(),
            Show::Config => self.settings(),
            Show::Databases => self.databases(),
            Show::Lists => self.lists(),
            Show::Pins => self.clients().iter().filter_map(pin).collect(),
            Show::Pools => self.pools(),
            Show::Refusals => self.refusals(),
            Show::Servers => self.servers(),
            Show::Stats => vec![self.stats.row(&self.exporter)],
            Show::Tenants => self.tenants(),
            Show::Users => self.users(),
        };
        Table { columns: show.columns(), rows }
    }

    fn clients(&self) -> Vec<ClientView> {
        let mut all = self.shared.clients.view();
        all.sort_by_key(|client| client.since);
        all
    }

    fn pools(&self) -> Vec<Vec<CellValue>> {
        let row = |pool: &crate::upstream::PoolView| {
            let zero = || CellValue::Number(0);
            vec![
                pool.upstream.clone().into(),
                pool.user.clone().into(),
                pool.used.into(),
                pool.waiting.into(),
                zero(),
                zero(),
                pool.used.into(),
                zero(),
                zero(),
                pool.idle.into(),
                zero(),
                zero(),
                zero(),
                seconds(pool.longest_wait),
                CellValue::from(i64::from(pool.longest_wait.subsec_micros())),
                "transaction".into(),
            ]
        };
        self.shared.upstreams.view().iter().map(row).collect()
    }

    fn servers(&self) -> Vec<Vec<CellValue>> {
        let mut rows = Vec::new();
        for pool in self.shared.upstreams.view() {
            let row = |(process_id, client, is_used): &(u32, Option<u32>, bool)| {
                let link = client.filter(|_| *is_used).map(|client| client.to_string());
                let known: [(&str, CellValue); 8] = [
                    ("type", "S".into()),
                    ("user", pool.user.clone().into()),
                    ("database", pool.upstream.clone().into()),
                    ("state", if *is_used { "active" } else { "idle" }.into()),
                    ("wait", CellValue::Number(0)),
                    ("wait_us", CellValue::Number(0)),
                    ("link", link.into()),
                    ("remote_pid", (*process_id).into()),
                ];
                let cell = |(name, _): &(&str, ColumnType)| {
                    known
                        .iter()
                        .find(|(column, _)| column == name)
                        .map_or(CellValue::Null, |(_, value)| value.clone())
                };
                CLIENTS.iter().map(cell).collect()
            };
            rows.extend(pool.servers.iter().map(row));
        }
        rows
    }

    fn databases(&self) -> Vec<Vec<CellValue>> {
        let pools = self.shared.upstreams.view();
        let paused = i64::from(self.shared.upstreams.is_paused());
        let row = |settings: &&crate::upstream::settings::UpstreamSettings| {
            use crate::upstream::settings::ServerAddress;
            let (host, port) = match settings.hosts.first() {
                Some(ServerAddress::Tcp { host, port }) => (host.clone(), i64::from(*port)),
                Some(ServerAddress::Unix(path)) => (path.display().to_string(), 0),
                None => (String::new(), 0),
            };
            let name = settings.name.as_str();
            let open = pools.iter().filter(|pool| pool.upstream == name).map(|pool| pool.idle + pool.used);
            vec![
                name.into(),
                host.into(),
                port.into(),
                settings.database.clone().into(),
                settings.user.clone().into(),
                settings.pool_size.into(),
                CellValue::Number(0),
                CellValue::Number(0),
                "transaction".into(),
                settings.pool_size.into(),
                open.sum::<usize>().into(),
                paused.into(),
                CellValue::Number(0),
            ]
        };
        self.shared.upstreams.settings().iter().map(row).collect()
    }

    fn lists(&self) -> Vec<Vec<CellValue>> {
        let live = self.shared.live.load();
        let pools = self.shared.upstreams.view();
        let clients = self.shared.clients.view();
        let active = clients.iter().filter(|client| client.activity != Activity::Idle).count();
        let rows: [(&str, usize); 9] = [
            ("databases", self.shared.upstreams.settings().len()),
            ("users", live.directory.users.len()),
            ("tenants", live.directory.tenants.len()),
            ("pools", pools.len()),
            ("free_clients", clients.len() - active),
            ("used_clients", active),
            ("free_servers", pools.iter().map(|pool| pool.idle).sum()),
            ("used_servers", pools.iter().map(|pool| pool.used).sum()),
            ("pinned_clients", clients.iter().filter(|client| client.pin.is_some()).count()),
        ];
        rows.into_iter().map(|(list, items)| vec![list.into(), items.into()]).collect()
    }

    fn tenants(&self) -> Vec<Vec<CellValue>> {
        let live = self.shared.live.load();
        let mut all: Vec<_> = live.directory.tenants.values().collect();
        all.sort_by_key(|tenant| &tenant.id);
        let row = |tenant: &&std::sync::Arc<crate::directory::Tenant>| {
            let (status, clients, pins) = self.shared.clients.view_tenant(&tenant.id);
            vec![
                tenant.id.as_str().into(),
                tenant.upstream.as_str().into(),
                tenant.isolation.label().into(),
                status.label().into(),
                clients.into(),
                pins.into(),
                tenant.limits.max_clients.into(),
                tenant.limits.max_servers.into(),
                tenant.limits.max_pins.into(),
            ]
        };
        all.iter().map(row).collect()
    }

    fn users(&self) -> Vec<Vec<CellValue>> {
        let live = self.shared.live.load();
        let mut all: Vec<_> = live.directory.users.values().collect();
        all.sort_by_key(|user| &user.name);
        let row = |user: &&std::sync::Arc<crate::directory::User>| {
            let grant = match &user.grant {
                Grant::Tenant(tenant) => format!("tenant {tenant}"),
                Grant::Tenants(tenants) => format!("{} tenants", tenants.len()),
                Grant::AnyTenant => "any tenant".to_owned(),
                Grant::Maintenance(maintenance) => format!("maintenance as {}", maintenance.server_user),
                Grant::Operator => "operator".to_owned(),
            };
            let mode = match user.pool_mode {
                PoolMode::Transaction => "transaction",
                PoolMode::Session => "session",
            };
            let choice = match user.choice {
                ChoiceSpan::Session => "session",
                ChoiceSpan::Transaction => "transaction",
            };
            let choice = user.grant.is_gateway().then(|| choice.to_owned());
            let roles = (!user.roles.is_empty()).then(|| user.roles.join(", "));
            vec![user.name.as_str().into(), mode.into(), grant.into(), roles.into(), choice.into()]
        };
        all.iter().map(row).collect()
    }

    fn refusals(&self) -> Vec<Vec<CellValue>> {
        let samples = self.exporter.samples();
        // Some counters are there before anything was refused.
        let refusals =
            samples.iter().filter(|(name, _, count)| name == "pgtenant_guard_refusals_total" && *count > 0.0);
        let row = |labels: &str, value: f64| {
            let label = |name: &str| {
                let behind = labels.split_once(&format!("{name}=\""))?.1;
                Some(behind.split_once('"')?.0.to_owned())
            };
            vec![label("tenant").into(), label("rule").into(), CellValue::Number(rounded(value))]
        };
        refusals.map(|(_, labels, value)| row(labels, *value)).collect()
    }

    fn settings(&self) -> Vec<Vec<CellValue>> {
        let row = |(key, value, is_live): &(String, String, bool)| {
            let changeable = if *is_live { "yes" } else { "no" };
            vec![key.as_str().into(), value.as_str().into(), CellValue::Null, changeable.into()]
        };
        self.sources.settings.load().iter().map(row).collect()
    }
}

fn help() -> Vec<Vec<CellValue>> {
    let shows = Show::ALL.iter().map(|(name, _, does)| vec![format!("SHOW {name}").into(), (*does).into()]);
    let others = Command::OTHERS.iter().map(|(name, does)| vec![(*name).into(), (*does).into()]);
    shows.chain(others).collect()
}

fn client(client: &ClientView) -> Vec<CellValue> {
    let state = match client.activity {
        Activity::Idle => "idle",
        Activity::Waiting => "waiting",
        Activity::Active => "active",
    };
    let (address, port) = place(client.address);
    vec![
        "C".into(),
        client.user.as_str().into(),
        client.tenant.as_ref().map(ToString::to_string).into(),
        state.into(),
        address.into(),
        port,
        CellValue::Null,
        CellValue::Null,
        time(client.since).into(),
        CellValue::Null,
        CellValue::Number(0),
        CellValue::Number(0),
        CellValue::Number(0),
        client.process_id.to_string().into(),
        CellValue::Null,
        client.process_id.into(),
        CellValue::Null,
        CellValue::Null,
        CellValue::Null,
        client.tenant.as_ref().map(ToString::to_string).into(),
    ]
}

fn pin(client: &ClientView) -> Option<Vec<CellValue>> {
    let pin = client.pin.as_ref()?;
    Some(vec![
        client.process_id.into(),
        client.user.as_str().into(),
        client.tenant.as_ref().map(ToString::to_string).into(),
        pin.reasons.clone().into(),
        pin.statement.to_string().into(),
        time(pin.since).into(),
    ])
}

fn place(address: Option<SocketAddr>) -> (String, CellValue) {
    match address {
        Some(address) => (address.ip().to_string(), i64::from(address.port()).into()),
        None => ("unix".to_owned(), CellValue::Number(0)),
    }
}

fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()
}

fn seconds(duration: Duration) -> CellValue {
    CellValue::Number(i64::try_from(duration.as_secs()).unwrap_or(i64::MAX))
}

#[expect(clippy::cast_possible_truncation, reason = "counters stay far below")]
pub(super) fn rounded(value: f64) -> i64 {
    value.round() as i64
}
