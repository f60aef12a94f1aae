//! Child processes that never outlive the demo, and the ports that they listen on.
//! Three nets, since each has a hole: we stop them in order; the handle kills on drop; and where `setpriv` is
//! installed the kernel signals them when we die without a chance to do either.

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::error::{DemoError, during};

/// Lines of a program's output that an error shows.
const OUTPUT_LINES: usize = 25;
/// Between two looks at something that is starting.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The operating system's account that a program runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SystemAccount {
    /// Ours.
    Own,
    /// `postgres`, because we are root and `PostgreSQL` refuses to be.
    Postgres {
        /// Its user id.
        uid: u32,
        /// Its group id.
        gid: u32,
    },
}

impl SystemAccount {
    /// The account to run `PostgreSQL` as; `ours` is any file that we just made.
    pub(super) fn for_postgres(ours: &Path) -> Result<Self, DemoError> {
        let uid = fs::metadata(ours).map_err(during("looking at the temporary directory"))?.uid();
        if uid != 0 {
            return Ok(Self::Own);
        }
        let accounts = fs::read_to_string("/etc/passwd").map_err(during("reading /etc/passwd"))?;
        accounts.lines().find_map(postgres_account).ok_or(DemoError::NoAccount("the account `postgres`"))
    }
}

/// `name:password:uid:gid:…`
fn postgres_account(line: &str) -> Option<SystemAccount> {
    let mut fields = line.split(':');
    if fields.next() != Some("postgres") {
        return None;
    }
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(SystemAccount::Postgres { uid, gid })
}

/// A command for a program that ends with us; `farewell` is the signal that the kernel then sends it.
pub(super) fn command(program: &Path, account: SystemAccount, farewell: &str) -> Result<Command, DemoError> {
    let mut command = match (find_on_path("setpriv"), account) {
        (Some(setpriv), account) => {
            let mut command = Command::new(setpriv);
            command.arg(format!("--pdeathsig={farewell}"));
            if let SystemAccount::Postgres { uid, gid } = account {
                command.args([&format!("--reuid={uid}"), &format!("--regid={gid}"), "--clear-groups"]);
            }
            command.arg("--").arg(program);
            command
        }
        (None, SystemAccount::Own) => Command::new(program),
        (None, SystemAccount::Postgres { .. }) => return Err(DemoError::NoAccount("the program `setpriv`")),
    };
    // A process group of its own: the terminal's Ctrl-C is for us alone, and we then stop things in order.
    command.stdin(Stdio::null()).kill_on_drop(true).process_group(0);
    Ok(command)
}

/// Starts a command with its output in a file.
pub(super) fn spawn(mut command: Command, program: &'static str, log: &Path) -> Result<Child, DemoError> {
    let starting = format!("starting {program}");
    let out = fs::File::create(log).map_err(during(&starting))?;
    let err = out.try_clone().map_err(during(&starting))?;
    command.stdout(out).stderr(err).spawn().map_err(during(&starting))
}

/// Runs a command to its end; anything but success is an error that shows what it said.
pub(super) async fn finish(
    mut command: Command,
    program: &'static str,
    limit: Duration,
) -> Result<String, DemoError> {
    let ended = timeout(limit, command.output()).await;
    let output = ended
        .map_err(|_| DemoError::Timeout { what: program, limit })?
        .map_err(during(&format!("running {program}")))?;
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(said)
    } else {
        Err(DemoError::Program { program, output: last_lines(&said) })
    }
}

/// Sends a signal by the shell's own `kill`, which is there even where the program is not.
pub(super) async fn send_signal(child: &Child, signal: &str) -> Result<(), DemoError> {
    let Some(id) = child.id() else { return Ok(()) };
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &format!("kill -{signal} {id}")]);
    finish(command, "kill", Duration::from_secs(5)).await.map(drop)
}

/// Asks a child to leave by a signal and waits until it has; one that stays is killed and reported.
pub(super) async fn stop(
    mut child: Child,
    program: &'static str,
    signal: &str,
    limit: Duration,
) -> Result<(), DemoError> {
    send_signal(&child, signal).await?;
    match timeout(limit, child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => {
            Err(DemoError::DidNotHold(format!("{program} leaves cleanly when told to, but: {status}")))
        }
        Ok(Err(source)) => Err(DemoError::Io { what: format!("waiting for {program} to end"), source }),
        Err(_) => {
            child.kill().await.map_err(during(&format!("killing {program}")))?;
            Err(DemoError::Timeout { what: program, limit })
        }
    }
}

/// A program that is starting: its process, its name and where its output goes.
pub(super) struct Starting<'a> {
    pub(super) child: &'a mut Child,
    pub(super) program: &'static str,
    pub(super) log: &'a Path,
    pub(super) limit: Duration,
}

impl Starting<'_> {
    /// Waits until `is_up` says so; a process that ends before is an error that shows its output.
    pub(super) async fn until(&mut self, is_up: impl AsyncFn() -> bool) -> Result<(), DemoError> {
        let polling = async {
            while !is_up().await {
                if self.child.try_wait().map_err(during("waiting for a process"))?.is_some() {
                    return Err(DemoError::Program { program: self.program, output: said(self.log) });
                }
                sleep(POLL_INTERVAL).await;
            }
            Ok(())
        };
        let Ok(outcome) = timeout(self.limit, polling).await else {
            let output = format!("not ready within {:?}\n{}", self.limit, said(self.log));
            return Err(DemoError::Program { program: self.program, output });
        };
        outcome
    }
}

/// The end of a log file.
fn said(log: &Path) -> String {
    fs::read(log).map_or_else(|error| error.to_string(), |bytes| last_lines(&String::from_utf8_lossy(&bytes)))
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(OUTPUT_LINES)..].join("\n")
}

/// The first directory of PATH that holds a program, with the program's name added.
pub(super) fn find_on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    find_in(std::env::split_paths(&path), program)
}

fn find_in(directories: impl Iterator<Item = PathBuf>, program: impl AsRef<OsStr>) -> Option<PathBuf> {
    directories.map(|directory| directory.join(program.as_ref())).find(|file| file.is_file())
}

/// Different ports that nobody listens on now. Another program may take one before we do; then a start fails
/// and says so, which is good enough for a demo.
pub(super) fn free_ports<const N: usize>() -> Result<[u16; N], DemoError> {
    let bind =
        || TcpListener::bind(("127.0.0.1", 0)).and_then(|socket| Ok((socket.local_addr()?.port(), socket)));
    let held: Vec<(u16, TcpListener)> =
        (0..N).map(|_| bind()).collect::<Result<_, _>>().map_err(during("looking for free ports"))?;
    Ok(std::array::from_fn(|index| held[index].0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_postgres_account_is_read_from_its_own_line_only() {
        assert_eq!(postgres_account("root:x:0:0:root:/root:/bin/bash"), None);
        assert_eq!(postgres_account("postgresx:x:7:7::/:/bin/sh"), None);
        let line = "postgres:x:101:104:PostgreSQL administrator,,,:/var/lib/postgresql:/bin/bash";
        assert_eq!(postgres_account(line), Some(SystemAccount::Postgres { uid: 101, gid: 104 }));
    }

    #[test]
    fn free_ports_differ() {
        let [one, two, three] = free_ports().unwrap();
        assert!(one != two && two != three && one != three);
    }

    #[test]
    fn an_error_shows_the_end_of_a_long_output() {
        let long: String = (0..100).fold(String::new(), |text, line| text + &format!("line {line}\n"));
        assert!(last_lines(&long).ends_with("line 99"));
        assert_eq!(last_lines(&long).lines().count(), OUTPUT_LINES);
    }
}
