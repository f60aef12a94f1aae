//! A private `PostgreSQL` in a directory of its own, on the loopback address, with a password.
//! It is fast and forgetful on purpose: nothing in it is worth a flush to disk.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Child;

use super::error::{DemoError, during};
use super::process::{self, Starting, SystemAccount};
use super::sample::{connect, login};

const INITDB_LIMIT: Duration = Duration::from_secs(90);
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// A running `PostgreSQL`.
pub(super) struct Cluster {
    postmaster: Child,
    log: PathBuf,
    port: u16,
    version: String,
}

impl Cluster {
    /// Makes a cluster in `directory` and starts it; `password` is the superuser's.
    pub(super) async fn launch(directory: &Path, port: u16, password: &str) -> Result<Self, DemoError> {
        let programs = find_programs()?;
        let account = SystemAccount::for_postgres(directory)?;
        let home = make_home(directory, account, password)?;
        let data = home.join("data");

        let mut initdb = process::command(&programs.join("initdb"), account, "KILL")?;
        initdb.current_dir(&home).arg("--pgdata").arg(&data).arg("--pwfile").arg(home.join("password"));
        initdb.args([
            "--username=postgres",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ]);
        process::finish(initdb, "initdb", INITDB_LIMIT).await?;

        let server = programs.join("postgres");
        let mut version = process::command(&server, account, "KILL")?;
        version.current_dir(&home).arg("--version");
        let version = process::finish(version, "postgres", START_LIMIT).await?.trim().to_owned();

        // SIGINT is PostgreSQL's "fast" shutdown: it rolls back and leaves without waiting for clients.
        let mut postgres = process::command(&server, account, "INT")?;
        postgres.current_dir(&home).arg("-D").arg(&data).args(["-p", &port.to_string()]);
        for setting in
            ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", "max_connections=50"]
        {
            postgres.args(["-c", setting]);
        }
        let log = directory.join("postgresql.log");
        let postmaster = process::spawn(postgres, "PostgreSQL", &log)?;
        Ok(Self { postmaster, log, port, version })
    }

    /// Waits until the superuser can log in: it listens before that.
    pub(super) async fn ready(&mut self, password: &str) -> Result<(), DemoError> {
        let login = login(self.port, "postgres", password, "postgres");
        let mut starting = Starting {
            child: &mut self.postmaster,
            program: "PostgreSQL",
            log: &self.log,
            limit: START_LIMIT,
        };
        starting.until(async || connect(&login, "logging in to PostgreSQL").await.is_ok()).await
    }

    /// What it calls itself, with the version.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Shuts it down.
    pub(super) async fn stop(self) -> Result<(), DemoError> {
        process::stop(self.postmaster, "PostgreSQL", "INT", STOP_LIMIT).await
    }
}

/// The directory that holds `initdb` and `postgres`: on PATH, or the newest where Debian and its kin put it.
fn find_programs() -> Result<PathBuf, DemoError> {
    let has_both =
        |directory: &PathBuf| directory.join("initdb").is_file() && directory.join("postgres").is_file();
    let on_path = std::env::var_os("PATH").and_then(|path| std::env::split_paths(&path).find(has_both));
    if let Some(directory) = on_path {
        return Ok(directory);
    }
    let versions = fs::read_dir("/usr/lib/postgresql").map_err(|_| DemoError::NoPostgres)?;
    versions
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, directory)| has_both(directory))
        .max()
        .map(|(_, directory)| directory)
        .ok_or(DemoError::NoPostgres)
}

/// A directory that only `account` may enter, with the superuser's password in a file.
fn make_home(directory: &Path, account: SystemAccount, password: &str) -> Result<PathBuf, DemoError> {
    let home = directory.join("postgresql");
    let file = home.join("password");
    let make = || {
        fs::create_dir(&home)?;
        fs::set_permissions(&home, fs::Permissions::from_mode(0o700))?;
        fs::write(&file, password)?;
        let SystemAccount::Postgres { uid, gid } = account else { return Ok(()) };
        chown(&file, Some(uid), Some(gid))?;
        chown(&home, Some(uid), Some(gid))?;
        // The other account has to pass through ours to its own; it can list and read nothing there.
        fs::set_permissions(directory, fs::Permissions::from_mode(0o711))
    };
    make().map_err(during("making PostgreSQL's directory"))?;
    Ok(home)
}
