//! The proxy under demonstration: this same program with `serve`, on a configuration file written here.

use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postgres_protocol::password::scram_sha_256;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::error::{DemoError, during};
use super::process::{self, Starting, SystemAccount};
use super::sample::{DATABASE, Sample, SampleTenant};

const START_LIMIT: Duration = Duration::from_secs(20);
/// Longer than the drain that the configuration allows.
const STOP_LIMIT: Duration = Duration::from_secs(10);
const HTTP_LIMIT: Duration = Duration::from_secs(5);

/// The configuration's file in the demo's directory.
const FILE: &str = "pgtenant.toml";

/// Who listens where, all on the loopback address.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    /// `PostgreSQL`.
    pub(super) server: u16,
    /// pgtenant, for clients.
    pub(super) clients: u16,
    /// pgtenant, for Prometheus.
    pub(super) metrics: u16,
}

/// A running `pgtenant serve`.
pub(super) struct Proxy {
    child: Child,
    log: PathBuf,
    ports: Ports,
}

impl Proxy {
    /// Starts the proxy on the configuration that was written.
    pub(super) fn launch(directory: &Path, ports: Ports) -> Result<Self, DemoError> {
        let serve = ourselves("serve", directory)?;
        let log = directory.join("pgtenant.log");
        let child = process::spawn(serve, "pgtenant serve", &log)?;
        Ok(Self { child, log, ports })
    }

    /// Waits until it says that it is ready and takes clients.
    pub(super) async fn ready(&mut self) -> Result<(), DemoError> {
        let ports = self.ports;
        let mut starting = Starting {
            child: &mut self.child,
            program: "pgtenant serve",
            log: &self.log,
            limit: START_LIMIT,
        };
        starting
            .until(async || {
                let is_ready = fetch(ports.metrics, "/readyz").await.is_ok();
                is_ready && TcpStream::connect(("127.0.0.1", ports.clients)).await.is_ok()
            })
            .await
    }

    /// The port that clients connect to.
    pub(super) fn port(&self) -> u16 {
        self.ports.clients
    }

    /// What Prometheus would read.
    pub(super) async fn metrics(&self) -> Result<String, DemoError> {
        fetch(self.ports.metrics, "/metrics").await
    }

    /// Lets it drain, as an orchestrator does.
    pub(super) async fn stop(self) -> Result<(), DemoError> {
        process::stop(self.child, "pgtenant serve", "TERM", STOP_LIMIT).await
    }
}

/// Writes the configuration that `protect` and `serve` are run with.
pub(super) fn configure(directory: &Path, ports: Ports, sample: &Sample) -> Result<(), DemoError> {
    let written = write_privately(&directory.join(FILE), &configuration(ports, sample));
    written.map_err(during("writing the configuration"))
}

/// Installs in the database what the sealed context needs.
pub(super) async fn protect(directory: &Path) -> Result<(), DemoError> {
    let mut protect = ourselves("protect", directory)?;
    protect.arg("--apply");
    process::finish(protect, "pgtenant protect", START_LIMIT).await.map(drop)
}

/// This same program, on that configuration.
fn ourselves(command: &str, directory: &Path) -> Result<Command, DemoError> {
    let program = std::env::current_exe().map_err(during("looking for our own program"))?;
    let mut ourselves = process::command(&program, SystemAccount::Own, "TERM")?;
    ourselves.arg(command).arg("--config").arg(directory.join(FILE));
    Ok(ourselves)
}

/// One upstream, one server connection, two tenants and a user bound to each, and one for the tables' owner.
fn configuration(ports: Ports, sample: &Sample) -> String {
    let Ports { server, clients, metrics } = ports;
    let Sample { app, owner, seal_key, .. } = sample;
    let verifier = scram_sha_256(owner.as_bytes());
    let tenants = sample.tenants.each_ref().map(tenant_section).concat();
    format!(
        r#"[listen]
address = "127.0.0.1:{clients}"
tls = "off"
drain_timeout = "2s"

[metrics]
address = "127.0.0.1:{metrics}"

[upstream.main]
hosts = ["127.0.0.1:{server}"]
database = "{DATABASE}"
user = "app"
password = "{app}"
tls = "off"
pool_size = 1

[tenancy]
setting = "app.tenant_id"
context = "sealed"
seal_key = "{seal_key}"
{tenants}
[[user]]
name = "migrate"
password = "{verifier}"
maintenance = {{ server_user = "app_owner", server_password = "{owner}" }}
"#
    )
}

fn tenant_section(tenant: &SampleTenant) -> String {
    let verifier = scram_sha_256(tenant.password.as_bytes());
    let (id, user) = (tenant.id, tenant.user);
    format!(
        r#"
[[tenant]]
id = "{id}"
upstream = "main"
isolation = "row"

[[user]]
name = "{user}"
password = "{verifier}"
tenant = "{id}"
"#
    )
}

/// The file holds a password: nobody else may read it.
fn write_privately(file: &Path, text: &str) -> std::io::Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut handle = options.write(true).create_new(true).mode(0o600).open(file)?;
    std::io::Write::write_all(&mut handle, text.as_bytes())
}

/// Gets a page from the metrics address; anything but 200 is an error.
async fn fetch(port: u16, path: &str) -> Result<String, DemoError> {
    let asking = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    let answer = timeout(HTTP_LIMIT, asking)
        .await
        .map_err(|_| DemoError::Timeout { what: "an answer from the metrics address", limit: HTTP_LIMIT })?
        .map_err(during(&format!("asking for {path}")))?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.split(' ').nth(1) == Some("200") => Ok(body.to_owned()),
        Some((head, _)) => Err(DemoError::DidNotHold(format!("{path} answers 200, but: {head}"))),
        None => Err(DemoError::DidNotHold(format!("{path} answers in HTTP"))),
    }
}
