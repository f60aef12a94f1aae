//! The configuration of one test's proxy: a TOML tree that starts out sensible and is changed by path.

use tempfile::TempDir;
use toml::{Table, Value};

use super::cluster::{APP_PASSWORD, Cluster, OWNER_PASSWORD};

/// The tenants that the template's rows belong to.
pub(crate) const TENANTS: [&str; 3] = ["acme", "globex", "initech"];

/// The configuration as a tree.
#[derive(Debug, Clone)]
pub(crate) struct Config(pub(crate) Table);

impl Config {
    /// One upstream, three tenants, and a user of each kind: `acme_app`, `globex_app`, `initech_app` are
    /// bound, `api` may act for acme and globex, `any` for all, `migrate` runs as `app_owner`.
    /// Every password is the user's name followed by `-secret`.
    pub(crate) fn new(cluster: &Cluster) -> Self {
        let mut config = Self(Table::new());
        config.set("listen.tls", "off");
        config.set("listen.allow_plain_passwords", true);
        config.set("upstream.main.hosts", vec![format!("127.0.0.1:{}", cluster.port())]);
        config.set("upstream.main.database", "app");
        config.set("upstream.main.user", "app");
        config.set("upstream.main.password", APP_PASSWORD);
        config.set("upstream.main.tls", "off");
        config.set("upstream.main.pool_size", 4);
        config.set("tenancy.setting", "app.tenant_id");
        config.set("tenancy.context", "plain");
        config.set("log.format", "text");
        for tenant in TENANTS {
            config.add_tenant(tenant);
            config.add_user(&format!("{tenant}_app"), "tenant", tenant);
        }
        config.add_user("api", "tenants", vec!["acme", "globex"]);
        config.add_user("any", "tenants", vec!["*"]);
        let mut maintenance = Table::new();
        maintenance.insert("upstream".to_owned(), "main".into());
        maintenance.insert("server_user".to_owned(), "app_owner".into());
        maintenance.insert("server_password".to_owned(), OWNER_PASSWORD.into());
        config.add_user("migrate", "maintenance", maintenance);
        config
    }

    /// Sets the value at a dotted path.
    pub(crate) fn set(&mut self, path: &str, value: impl Into<Value>) {
        let mut steps: Vec<&str> = path.split('.').collect();
        let last = steps.pop().unwrap();
        self.table(&steps).insert(last.to_owned(), value.into());
    }

    /// Takes away the value at a dotted path.
    pub(crate) fn unset(&mut self, path: &str) {
        let mut steps: Vec<&str> = path.split('.').collect();
        let last = steps.pop().unwrap();
        self.table(&steps).remove(last);
    }

    /// One server connection in all, so that everybody shares it.
    pub(crate) fn one_server(&mut self) {
        self.set("upstream.main.pool_size", 1);
    }

    /// Only the direct routes to the context are closed, so that a test can do what strict would refuse.
    pub(crate) fn lenient(&mut self) {
        self.set("tenancy.guard", "context");
    }

    /// Adds a tenant on the one upstream.
    pub(crate) fn add_tenant(&mut self, id: &str) {
        let mut tenant = Table::new();
        tenant.insert("id".to_owned(), id.into());
        tenant.insert("upstream".to_owned(), "main".into());
        tenant.insert("isolation".to_owned(), "row".into());
        self.list("tenant").push(tenant.into());
    }

    /// Takes a tenant away, and adds it as it was in the beginning.
    pub(crate) fn renew_tenant(&mut self, id: &str) {
        self.list("tenant").retain(|tenant| tenant["id"].as_str() != Some(id));
        self.add_tenant(id);
    }

    /// Sets a key of a tenant.
    pub(crate) fn set_tenant(&mut self, id: &str, key: &str, value: impl Into<Value>) {
        let tenant = self.list("tenant").iter_mut().find(|tenant| tenant["id"].as_str() == Some(id)).unwrap();
        tenant.as_table_mut().unwrap().insert(key.to_owned(), value.into());
    }

    /// Adds a user with its grant; the password is `<name>-secret`.
    pub(crate) fn add_user(&mut self, name: &str, grant: &str, to: impl Into<Value>) {
        let mut user = Table::new();
        user.insert("name".to_owned(), name.into());
        user.insert("password".to_owned(), format!("{name}-secret").into());
        user.insert(grant.to_owned(), to.into());
        self.list("user").push(user.into());
    }

    /// Sets a key of a user.
    pub(crate) fn set_user(&mut self, name: &str, key: &str, value: impl Into<Value>) {
        let user = self.list("user").iter_mut().find(|user| user["name"].as_str() == Some(name)).unwrap();
        user.as_table_mut().unwrap().insert(key.to_owned(), value.into());
    }

    /// Takes a key of a user away.
    pub(crate) fn unset_user(&mut self, name: &str, key: &str) {
        let user = self.list("user").iter_mut().find(|user| user["name"].as_str() == Some(name)).unwrap();
        user.as_table_mut().unwrap().remove(key);
    }

    /// Takes a user away.
    pub(crate) fn remove_user(&mut self, name: &str) {
        self.list("user").retain(|user| user["name"].as_str() != Some(name));
    }

    /// As a file: the directory, which is removed on drop, and the file's path.
    pub(crate) fn to_file(&self) -> (TempDir, String) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgtenant.toml");
        std::fs::write(&path, self.text()).unwrap();
        let path = path.display().to_string();
        (directory, path)
    }

    /// The file's text.
    pub(crate) fn text(&self) -> String {
        toml::to_string(&self.0).unwrap()
    }

    fn list(&mut self, name: &str) -> &mut Vec<Value> {
        self.0.entry(name).or_insert_with(|| Value::Array(Vec::new())).as_array_mut().unwrap()
    }

    fn table(&mut self, steps: &[&str]) -> &mut Table {
        steps.iter().fold(&mut self.0, |table, step| {
            table.entry(*step).or_insert_with(|| Value::Table(Table::new())).as_table_mut().unwrap()
        })
    }
}
