//! The proxy under demonstration: this same program with `serve`, on a configuration file written here.

use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postgres_protocol::password::scram_sha_256;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::time::timeout;

use super::error::{DemoError, during};
use super::process::{self, Account, Starting};
use super::sample::{DATABASE, Sample, SampleTenant};

const START_LIMIT: Duration = Duration::from_secs(20);
/// Longer than the drain that the configuration allows.
const STOP_LIMIT: Duration = Duration::from_secs(10);
const HTTP_LIMIT: Duration = Duration::from_secs(5);

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
    /// Writes the configuration and starts the proxy on it.
    pub(super) fn launch(directory: &Path, ports: Ports, sample: &Sample) -> Result<Self, DemoError> {
        let file = directory.join("pgtenant.toml");
        write_privately(&file, &configuration(ports, sample)).map_err(during("writing the configuration"))?;
        let program = std::env::current_exe().map_err(during("looking for our own program"))?;
        let mut serve = process::command(&program, Account::Own, "TERM")?;
        serve.arg("serve").arg("--config").arg(&file);
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

/// One upstream, one server connection, two tenants and a user bound to each.
fn configuration(ports: Ports, sample: &Sample) -> String {
    let Ports { server, clients, metrics } = ports;
    let app = &sample.app;
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
context = "plain"
{tenants}"#
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
