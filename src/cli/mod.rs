//! The command line. Exit codes: 0 fine, 1 found problems, 2 usage or configuration.

mod doctor;
mod protect;

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::app::{self, AppError};
use crate::config;
use crate::demo::{self, DemoMode};

/// Longest password that `scram` takes, in bytes.
const MAX_PASSWORD_BYTES: u64 = 1024;

/// A tenant-aware proxy for PostgreSQL.
#[derive(Debug, Parser)]
#[command(name = "pgtenant", version, about, long_about = None)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve clients until SIGTERM; SIGHUP reloads users, tenants, limits and certificates.
    Serve {
        /// The configuration file (see config.example.toml).
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Check a configuration file and show all of its problems at once.
    Check {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Look whether the databases really isolate tenants; 0 if there is nothing but advice.
    Doctor {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Print the findings as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show what a database lacks to keep tenants apart under the configured context; with --apply install it.
    Protect(protect::Arguments),
    /// Read a password from standard input and print its SCRAM verifier, for `[[user]] password`.
    Scram,
    /// Start a private PostgreSQL and the proxy, show two tenants apart and an attack failing.
    Demo {
        /// Exit after the last step, with 0 only if every step held.
        #[arg(long)]
        once: bool,
    },
}

/// Runs the command line.
pub fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors; clap knows where each is to be printed.
            let code = if error.use_stderr() { 2 } else { 0 };
            return error.print().map_or(ExitCode::FAILURE, |()| ExitCode::from(code));
        }
    };
    match arguments.command {
        Command::Serve { config } => match app::serve(&config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error @ (AppError::Config(_) | AppError::Tls(_))) => complain(&error.to_string(), 2),
            Err(error) => complain(&error.to_string(), 1),
        },
        Command::Check { config } => match config::load(&config) {
            Ok(config) => say(&format!(
                "{} upstreams, {} tenants, {} users: no problems\n",
                config.upstreams.len(),
                config.directory.tenants.len(),
                config.directory.users.len()
            )),
            Err(problems) => complain(&problems.to_string(), 2),
        },
        Command::Doctor { config, json } => {
            doctor::run(&config, if json { doctor::Format::Json } else { doctor::Format::Text })
        }
        Command::Protect(arguments) => protect::run(&arguments),
        Command::Scram => scram(),
        Command::Demo { once } => {
            let mode = if once { DemoMode::Once } else { DemoMode::Stay };
            on_runtime(async move {
                match demo::run(mode).await {
                    Ok(()) => ExitCode::SUCCESS,
                    Err(error) => complain(&error.to_string(), 1),
                }
            })
        }
    }
}

fn on_runtime(work: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => complain(&error.to_string(), 1),
    }
}

fn scram() -> ExitCode {
    let mut password = Vec::new();
    if let Err(error) = std::io::stdin().take(MAX_PASSWORD_BYTES + 1).read_to_end(&mut password) {
        return complain(&error.to_string(), 2);
    }
    while password.last().is_some_and(|last| matches!(last, b'\n' | b'\r')) {
        password.pop();
    }
    if password.is_empty() || password.len() as u64 > MAX_PASSWORD_BYTES || password.contains(&0) {
        return complain("the password must have 1 to 1024 bytes and no NUL", 2);
    }
    say(&format!("{}\n", postgres_protocol::password::scram_sha_256(&password)))
}

fn say(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn complain(text: &str, code: u8) -> ExitCode {
    // If even standard error is closed, the exit code is all that is left to say.
    let written = writeln!(std::io::stderr(), "pgtenant: {text}");
    written.map_or(ExitCode::FAILURE, |()| ExitCode::from(code))
}
