//! The settings in force, for operators to read. No secret is among them.

use std::time::Duration;

use super::Config;
use super::keys::{Reload, SECTIONS};
use crate::directory::{ContextMode, GuardLevel};

impl Config {
    /// Key, value, and whether a reload changes it.
    pub fn shown(&self) -> Vec<(String, String, bool)> {
        let mut rows = Vec::new();
        let mut row = |key: &str, value: String| rows.push((key.to_owned(), value, is_live(key)));
        let listen = &self.listen;
        row("listen.address", listen.address.clone());
        row("listen.tls", format!("{:?}", listen.tls).to_lowercase());
        row("listen.databases", listen.databases.join(", "));
        row("listen.workers", listen.workers.to_string());
        row("listen.max_clients", listen.max_clients.to_string());
        row("listen.max_logins", listen.max_logins.to_string());
        row("listen.max_logins_per_address", listen.max_logins_per_address.to_string());
        row("listen.max_server_connections", listen.max_server_connections.to_string());
        row("listen.login_timeout", time(listen.login_timeout));
        row("listen.drain_timeout", time(listen.drain_timeout));
        row("listen.max_startup_bytes", listen.max_startup_bytes.to_string());
        row("listen.max_message_bytes", listen.max_message_bytes.to_string());
        row("listen.message_timeout", time(listen.message_timeout));
        row("listen.max_prepared_bytes", listen.max_prepared_bytes.to_string());
        row("listen.max_client_memory", listen.max_client_memory.to_string());
        row("listen.max_tenant_memory", listen.max_tenant_memory.to_string());
        row("listen.max_memory", listen.max_memory.to_string());
        row("metrics.address", self.metrics.address.clone());
        row("metrics.max_tenants", self.metrics.max_tenants.to_string());
        let tenancy = &self.directory.tenancy;
        row("tenancy.setting", tenancy.setting.clone());
        let context = match tenancy.context {
            ContextMode::Plain => "plain",
            ContextMode::Sealed(_) => "sealed",
        };
        row("tenancy.context", context.to_owned());
        let guard = match tenancy.guard {
            GuardLevel::Off => "off",
            GuardLevel::Context => "context",
            GuardLevel::Strict => "strict",
        };
        row("tenancy.guard", guard.to_owned());
        row("tenancy.application_name", tenancy.application_name.clone());
        row("tenancy.require_tenant", tenancy.require_tenant.to_string());
        row("tenancy.allow_unsafe", tenancy.allow_unsafe.to_string());
        row("tenancy.doctor_interval", time(tenancy.doctor_interval));
        let choosers = tenancy.choosers.iter().map(|one| format!("{}.{}(text)", one.schema, one.name));
        let claims = tenancy.claims.as_ref();
        row("tenancy.claims_setting", claims.map(|claims| claims.setting.clone()).unwrap_or_default());
        row("tenancy.claims_pointer", claims.map(|claims| claims.pointer.clone()).unwrap_or_default());
        row("tenancy.chooser", choosers.collect::<Vec<_>>().join(", "));
        for (name, upstream) in &self.upstreams {
            let mut row = |key: &str, value: String| {
                rows.push((format!("upstream.{name}.{key}"), value, is_live(&format!("upstream.*.{key}"))));
            };
            row("database", upstream.database.clone());
            row("user", upstream.user.clone());
            row("pool_size", upstream.pool_size.to_string());
            row("tenant_pool_size", upstream.tenant_pool_size.to_string());
            row("tenant_idle_timeout", time(upstream.tenant_idle_timeout));
            row("max_connections", upstream.max_connections.to_string());
            row("connect_timeout", time(upstream.connect_timeout));
            row("max_prepared", upstream.max_prepared.to_string());
        }
        self.show_readers(&mut rows);
        rows
    }

    /// What the proxy asks others about who there is.
    fn show_readers(&self, rows: &mut Vec<(String, String, bool)>) {
        let mut row = |key: &str, value: String| rows.push((key.to_owned(), value, is_live(key)));
        if let Some(token) = &self.token {
            row("token.issuer", token.issuer.clone());
            row("token.audience", token.audience.clone());
            row("token.jwks_interval", time(token.jwks_interval));
            row("token.leeway", time(token.leeway));
            row("token.end_sessions", token.end_sessions.to_string());
        }
        if let Some(tables) = &self.tables {
            row("directory.upstream", tables.login.upstream.to_string());
            row("directory.user", tables.login.user.clone());
            row("directory.interval", time(tables.interval));
            row("directory.max_rows", tables.max_rows.to_string());
        }
        if let Some(query) = &self.auth_query {
            row("auth_query.upstream", query.login.upstream.to_string());
            row("auth_query.user", query.login.user.clone());
            row("auth_query.ttl", time(query.ttl));
            row("auth_query.negative_ttl", time(query.negative_ttl));
            row("auth_query.max_entries", query.max_entries.to_string());
        }
    }
}

fn is_live(key: &str) -> bool {
    let mut all = SECTIONS.iter().flat_map(|keys| keys.keys.iter().map(move |one| (keys.section, one)));
    all.any(|(section, one)| key == format!("{section}.{}", one.name) && one.reload == Reload::Live)
}

fn time(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_that_is_shown_is_a_key() {
        let all = SECTIONS
            .iter()
            .flat_map(|keys| keys.keys.iter().map(move |one| format!("{}.{}", keys.section, one.name)));
        let all: Vec<String> = all.collect();
        let text = "[upstream.main]\ndatabase = 'app'\nuser = 'app'\npassword = 'very-secret'\n[[tenant]]\nid = 'a'\n\
            [token]\nissuer = 'i'\naudience = 'a'\njwks = 'https://id/keys'\n\
            [directory]\nuser = 'r'\npassword = 'very-secret'\n[auth_query]\nuser = 'r'\npassword = 'very-secret'\nquery = 'SELECT $1'\n";
        let config = super::super::parse(text, std::path::Path::new("."), &|_| None).unwrap();
        for (key, value, _) in config.shown() {
            assert!(all.contains(&key.replace("upstream.main", "upstream.*")), "{key}");
            assert!(!value.contains("very-secret"), "{key}");
        }
    }
}
