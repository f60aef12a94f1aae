//! One running `pgtenant`: started, reloaded, terminated and looked at from outside only.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

use tempfile::TempDir;

use super::cluster::Cluster;
use super::config::Config;
use super::link::{Fault, Link};
use super::metrics::{self, Metrics};
use super::{eventually, message, process, within};

/// The binary under test; another build of it may be named by the environment.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("PGTENANT_BINARY")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_pgtenant")), PathBuf::from)
}

/// One running proxy; killed on drop.
pub(crate) struct Proxy {
    child: Child,
    directory: TempDir,
    port: u16,
    metrics_port: u16,
    config: Config,
}

/// A process that may not be ready yet; killed on drop.
pub(crate) struct Starting(Proxy);

/// How a process gets its configuration.
#[derive(Clone, Copy)]
pub(crate) enum Written {
    /// It is there.
    ToFile,
    /// The test writes it into a pipe.
    ToPipe,
}

// === impl Starting ===

impl Starting {
    /// Starts the process.
    pub(crate) fn new(cluster: &Cluster, written: Written, change: impl Fn(&mut Config)) -> Self {
        let mut config = Config::new(cluster);
        let (port, metrics_port) = (process::free_port(), process::free_port());
        config.set("listen.address", format!("127.0.0.1:{port}"));
        config.set("metrics.address", format!("127.0.0.1:{metrics_port}"));
        change(&mut config);
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(FILE);
        match written {
            Written::ToFile => drop(write(&directory, &config)),
            Written::ToPipe => drop(process::pipe(&file)),
        }
        let child = serve(&[], &file, &directory.path().join("log"));
        Self(Proxy { child, directory, port, metrics_port, config })
    }

    /// Its configuration's path.
    pub(crate) fn file(&self) -> PathBuf {
        self.0.directory.path().join(FILE)
    }

    /// Its configuration.
    pub(crate) fn text(&self) -> String {
        self.0.config.text()
    }

    /// Another configuration.
    pub(crate) fn text_with(&self, change: impl FnOnce(&mut Config)) -> String {
        let mut config = self.0.config.clone();
        change(&mut config);
        config.text()
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        process::signal(self.0.child.id(), name);
    }

    /// Waits until it accepts clients.
    pub(crate) async fn comes_up(mut self) -> Proxy {
        assert!(self.0.came_up().await, "pgtenant does not start: {}", self.0.log());
        self.0
    }

    /// Waits for the process to end by itself.
    pub(crate) async fn exits(&mut self) -> ExitStatus {
        self.0.exits().await
    }

    /// Everything it has logged.
    pub(crate) fn log(&self) -> String {
        self.0.log()
    }

    /// Status and body of a path on the metrics address; 0 if nobody listens.
    pub(crate) async fn http(&self, path: &str) -> (u16, String) {
        self.0.http(path).await
    }
}

// === impl Proxy: its life ===

impl Proxy {
    /// Starts a proxy in front of the cluster, its configuration changed by `change`.
    pub(crate) async fn start(cluster: &Cluster, change: impl Fn(&mut Config)) -> Self {
        Self::start_logging_to(cluster, change, |_| ()).await.0
    }

    /// The same, its log going into a pipe that nobody reads as long as the file that comes back is left alone, and
    /// that has no other end once it is dropped.
    pub(crate) async fn start_unheard(cluster: &Cluster, change: impl Fn(&mut Config)) -> (Self, fs::File) {
        Self::start_logging_to(cluster, change, process::pipe).await
    }

    /// The same in a process that may open so many files: the soft limit and the hard one.
    pub(crate) async fn start_with_descriptors(
        cluster: &Cluster,
        (soft, hard): (u32, u32),
        change: impl Fn(&mut Config),
    ) -> Self {
        let limited = ["prlimit".to_owned(), format!("--nofile={soft}:{hard}")];
        Self::start_wrapped(cluster, &limited, change, |_| ()).await.0
    }

    /// The most files that the process may open: its soft limit.
    pub(crate) fn max_descriptors(&self) -> u64 {
        process::max_descriptors(self.child.id())
    }

    async fn start_logging_to<T>(
        cluster: &Cluster,
        change: impl Fn(&mut Config),
        prepare: impl Fn(&Path) -> T,
    ) -> (Self, T) {
        Self::start_wrapped(cluster, &[], change, prepare).await
    }

    /// Behind the words of a command that runs the rest of its own.
    async fn start_wrapped<T>(
        cluster: &Cluster,
        wrapper: &[String],
        change: impl Fn(&mut Config),
        prepare: impl Fn(&Path) -> T,
    ) -> (Self, T) {
        for _ in 0..5 {
            let mut config = Config::new(cluster);
            let (port, metrics_port) = (process::free_port(), process::free_port());
            config.set("listen.address", format!("127.0.0.1:{port}"));
            config.set("metrics.address", format!("127.0.0.1:{metrics_port}"));
            change(&mut config);
            let directory = tempfile::tempdir().unwrap();
            let file = write(&directory, &config);
            let log = directory.path().join("log");
            let prepared = prepare(&log);
            let child = serve(wrapper, &file, &log);
            let mut proxy = Self { child, directory, port, metrics_port, config };
            if proxy.came_up().await {
                return (proxy, prepared);
            }
            let log = proxy.log();
            assert!(log.to_lowercase().contains("in use"), "pgtenant does not start: {log}");
        }
        panic!("no free port for pgtenant");
    }

    async fn came_up(&mut self) -> bool {
        let (process_id, port) = (self.child.id(), self.port);
        eventually("pgtenant to listen", || {
            let exited = self.child.try_wait().unwrap().is_some();
            // A connection would be a client, and would be counted as a failed login.
            async move {
                if exited {
                    return Some(false);
                }
                process::listens(process_id, port).then_some(true)
            }
        })
        .await
    }

    /// Rewrites the configuration and has it read again; returns what was logged about it.
    pub(crate) async fn reload(&mut self, change: impl FnOnce(&mut Config)) -> String {
        change(&mut self.config);
        let text = self.config.text();
        self.reload_text(&text).await
    }

    /// Writes the file; the proxy does not hear of it.
    pub(crate) fn write(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config);
        write(&self.directory, &self.config);
    }

    /// Has any text read as the configuration; returns what was logged about it.
    pub(crate) async fn reload_text(&mut self, text: &str) -> String {
        let before = self.log().len();
        fs::write(self.directory.path().join(FILE), text).unwrap();
        process::signal(self.child.id(), "HUP");
        eventually("a log line about the reload", || async {
            let log = self.log().split_off(before);
            log.lines()
                .any(|line| line.to_lowercase().contains("reload") && log.ends_with('\n'))
                .then_some(log)
        })
        .await
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        process::signal(self.child.id(), "TERM");
    }

    /// Waits for the process to end by itself.
    pub(crate) async fn exits(&mut self) -> ExitStatus {
        eventually("pgtenant to exit", || {
            let status = self.child.try_wait().unwrap();
            async move { status }
        })
        .await
    }

    /// Everything it has logged.
    pub(crate) fn log(&self) -> String {
        let log = self.directory.path().join("log");
        // Whoever reads a pipe waits for its end.
        if log.is_file() { fs::read_to_string(log).unwrap_or_default() } else { String::new() }
    }

    /// Waits until the log holds a text.
    pub(crate) async fn logged(&self, text: &str) {
        eventually(&format!("'{text}' in the log"), || async { self.log().contains(text).then_some(()) })
            .await;
    }

    /// Waits for the first line that holds a text and is not among the first bytes of the log.
    pub(crate) async fn line_behind(&self, bytes: usize, text: &str) -> String {
        eventually(&format!("a line with '{text}' in the log"), || async {
            let log = self.log();
            let line = log[bytes..].split_inclusive('\n').find(|line| line.contains(text));
            line.filter(|line| line.ends_with('\n')).map(str::to_owned)
        })
        .await
    }

    /// Resident memory in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        process::resident_kib(self.child.id())
    }
}

// === impl Proxy: its clients ===

impl Proxy {
    /// The TCP port.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// A TCP connection on which nothing has been said.
    pub(crate) async fn raw(&self) -> Link {
        Link::tcp(self.port).await
    }

    /// A frame client, logged in.
    pub(crate) async fn link(&self, user: &str) -> Link {
        self.link_with(user, &[]).await
    }

    /// A frame client, logged in with startup parameters of its own.
    pub(crate) async fn link_with(&self, user: &str, parameters: &[(&str, &str)]) -> Link {
        match self.login(user, parameters).await {
            Ok(link) => link,
            Err(fault) => panic!("{user} cannot log in: {fault:?}; {}", self.log()),
        }
    }

    /// Tries to log in.
    pub(crate) async fn login(&self, user: &str, parameters: &[(&str, &str)]) -> Result<Link, Fault> {
        let password = format!("{}-secret", user.split('.').next().unwrap());
        self.login_as(user, &password, parameters).await
    }

    /// Tries to log in with a password.
    pub(crate) async fn login_as(
        &self,
        user: &str,
        password: &str,
        parameters: &[(&str, &str)],
    ) -> Result<Link, Fault> {
        let mut link = self.raw().await;
        let all = [&[("user", user), ("database", "app")], parameters].concat();
        link.startup_as(message::VERSION_3_0, &all).await;
        link.authenticate(password).await?;
        Ok(link)
    }

    /// A client by tokio-postgres.
    pub(crate) async fn client(&self, user: &str) -> tokio_postgres::Client {
        self.client_of(user, "app").await
    }

    /// The same, to a database of that name.
    pub(crate) async fn client_of(&self, user: &str, database: &str) -> tokio_postgres::Client {
        let mut config = tokio_postgres::Config::new();
        config
            .host("127.0.0.1")
            .port(self.port)
            .user(user)
            .password(format!("{user}-secret"))
            .dbname(database);
        let (client, connection) =
            within("a login by tokio-postgres", config.connect(tokio_postgres::NoTls)).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// Runs SQL through psql; returns standard output and standard error.
    pub(crate) async fn psql(&self, user: &str, sslmode: &str, sql: &str) -> (String, String) {
        let destination = format!(
            "host=127.0.0.1 port={} user={user} dbname=app sslmode={sslmode} connect_timeout=10",
            self.port
        );
        let mut command = Command::new("psql");
        command.args(["-X", "-A", "-t", "-v", "VERBOSITY=verbose", "-d", &destination, "-c", sql]);
        command.env("PGPASSWORD", format!("{user}-secret"));
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        (text(&output.stdout), text(&output.stderr))
    }
}

// === impl Proxy: its metrics ===

impl Proxy {
    /// What `/metrics` says now.
    pub(crate) async fn metrics(&self) -> Metrics {
        let (status, body) = self.http("/metrics").await;
        assert_eq!(status, 200);
        Metrics::parse(&body)
    }

    /// The port of the metrics address.
    pub(crate) const fn metrics_port(&self) -> u16 {
        self.metrics_port
    }

    /// Status and body of a path on the metrics address; 0 if nobody listens.
    pub(crate) async fn http(&self, path: &str) -> (u16, String) {
        metrics::get(self.metrics_port, path).await.unwrap_or_default()
    }

    /// Waits until the sum of a metric is as wished.
    pub(crate) async fn measures(&self, name: &str, labels: &[(&str, &str)], wanted: f64) {
        let mut last = f64::NAN;
        let asked = async {
            loop {
                last = self.metrics().await.sum(name, labels);
                if (last - wanted).abs() < 0.5 {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        let outcome = tokio::time::timeout(super::DEADLINE, asked).await;
        assert!(outcome.is_ok(), "{name}{labels:?}: wanted {wanted}, got {last}; {}", self.log());
    }

    /// Waits until nobody is connected and every server is idle.
    pub(crate) async fn comes_to_rest(&self) {
        self.measures("pgtenant_clients", &[], 0.0).await;
        let busy = || async {
            let metrics = self.metrics().await;
            let busy: Vec<String> = metrics
                .series("pgtenant_servers", &[])
                .filter(|(series, value)| !series.contains("state=\"idle\"") && *value != 0.0)
                .map(|(series, value)| format!("{series} {value}"))
                .collect();
            busy.is_empty().then_some(())
        };
        eventually("every server to be idle", busy).await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            println!("--- the last lines of pgtenant's log ---");
            for line in &lines[lines.len().saturating_sub(40)..] {
                println!("{line}");
            }
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs the binary to its end; returns exit code and both outputs.
pub(crate) fn run(arguments: &[&str]) -> (i32, String) {
    let output = Command::new(binary()).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}

/// The configuration's name in its directory.
const FILE: &str = "pgtenant.toml";

fn serve(wrapper: &[String], file: &Path, log: &Path) -> Child {
    let own = [binary().display().to_string(), "serve".to_owned(), "--config".to_owned()];
    let words = [wrapper, &own, &[file.display().to_string()]].concat();
    process::spawn(Path::new(&words[0]), &words[1..], None, "KILL", log)
}

fn write(directory: &TempDir, config: &Config) -> PathBuf {
    let file = directory.path().join(FILE);
    fs::write(&file, config.text()).unwrap();
    file
}
