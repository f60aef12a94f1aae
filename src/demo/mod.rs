//! The demo: a private `PostgreSQL`, a sample schema with two tenants, the proxy in front of it, and the
//! main promise shown and checked step by step.
//! It leaves nothing behind: everything lives in one temporary directory and in two child processes.
//! A step that does not hold is an error, so `pgtenant demo --once` is also a test.

mod cluster;
mod error;
mod narrator;
mod process;
mod proxy;
mod sample;
mod story;

use tempfile::TempDir;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::cluster::Cluster;
use self::error::during;
use self::narrator::Narrator;
use self::proxy::Proxy;
use self::sample::Sample;

pub use self::error::DemoError;

/// What happens after the last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DemoMode {
    /// Leave at once.
    Once,
    /// Stay up for `psql` until Ctrl-C or SIGTERM.
    Stay,
}

/// Runs the demo to its end and takes everything down again, whatever the outcome.
pub async fn run(mode: DemoMode) -> Result<(), DemoError> {
    let mut interrupt = Interrupt::listen()?;
    let directory = TempDir::with_prefix("pgtenant-demo-").map_err(during("making a temporary directory"))?;
    let mut stage = Stage { narrator: Narrator::default(), directory, cluster: None, proxy: None };
    let outcome = tokio::select! {
        outcome = stage.play() => outcome,
        () = interrupt.received() => Err(DemoError::Interrupted),
    };
    if outcome.is_ok() && mode == DemoMode::Stay {
        stage.narrator.line("\nEverything stays up until Ctrl-C.")?;
        interrupt.received().await;
    }
    let struck = stage.strike().await;
    outcome.and(struck)
}

/// What the demo has set up so far and must take down again.
struct Stage {
    narrator: Narrator,
    directory: TempDir,
    cluster: Option<Cluster>,
    proxy: Option<Proxy>,
}

impl Stage {
    /// Every step, in order.
    async fn play(&mut self) -> Result<(), DemoError> {
        let [server_port, proxy_port, metrics_port] = process::free_ports()?;
        let sample = Sample::new();

        self.narrator.step("Starting a private PostgreSQL")?;
        let cluster = self
            .cluster
            .insert(Cluster::launch(self.directory.path(), server_port, &sample.superuser).await?);
        cluster.ready(&sample.superuser).await?;
        self.narrator.held(&format!("{} on 127.0.0.1:{server_port}", cluster.version()))?;

        self.narrator.step("Making a SaaS schema with two tenants, row-level security enabled and forced")?;
        sample.install(server_port).await?;
        self.narrator.held("tables customers and orders belong to app_owner; role app is a plain login")?;

        self.narrator.step("Protecting the tables, as their owner: pgtenant protect --apply")?;
        let ports = proxy::Ports { server: server_port, clients: proxy_port, metrics: metrics_port };
        proxy::configure(self.directory.path(), ports, &sample)?;
        proxy::protect(self.directory.path()).await?;
        self.narrator.held("policies ask for a proof of the tenant that only pgtenant can make")?;

        self.narrator.step("Starting pgtenant with one server connection for all tenants")?;
        let proxy = self.proxy.insert(Proxy::launch(self.directory.path(), ports)?);
        proxy.ready().await?;
        self.narrator
            .held(&format!("clients on 127.0.0.1:{proxy_port}, metrics on 127.0.0.1:{metrics_port}"))?;

        story::tell(&mut self.narrator, proxy, &sample).await?;
        story::say_how_to_go_on(&mut self.narrator, ports, &sample)
    }

    /// Takes everything down: the proxy first, so that it can drain.
    async fn strike(mut self) -> Result<(), DemoError> {
        let mut outcome = Ok(());
        if let Some(proxy) = self.proxy.take() {
            outcome = outcome.and(proxy.stop().await);
        }
        if let Some(cluster) = self.cluster.take() {
            outcome = outcome.and(cluster.stop().await);
        }
        let removed = self.directory.close().map_err(during("removing the temporary directory"));
        outcome.and(removed)?;
        self.narrator.line("\nStopped and removed; nothing is left behind.")
    }
}

/// Ctrl-C and SIGTERM, from the moment it is made.
struct Interrupt {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupt {
    fn listen() -> Result<Self, DemoError> {
        let listen = |kind| signal(kind).map_err(during("listening for signals"));
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
