//! Children that cannot outlive their test: each asks the kernel for a signal when its parent dies.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rand::Rng;

/// Starts `program`, as the OS user `as_user` if we are root, its output going to `log`.
pub(crate) fn spawn(
    program: &Path,
    arguments: &[String],
    as_user: Option<&str>,
    on_death: &str,
    log: &Path,
) -> Child {
    let output = File::options().create(true).append(true).open(log).unwrap();
    let mut command = wrapped(program, as_user, Some(on_death));
    command.args(arguments).stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
    command.spawn().unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()))
}

/// Runs `program` to its end and fails the test if it fails.
pub(crate) fn run(program: &Path, arguments: &[String], as_user: Option<&str>) {
    let output = wrapped(program, as_user, None).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{} {arguments:?} failed: {}{}",
        program.display(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn wrapped(program: &Path, as_user: Option<&str>, on_death: Option<&str>) -> Command {
    let mut command = Command::new("setpriv");
    if let Some(signal) = on_death {
        command.args(["--pdeathsig", signal]);
    }
    if let Some(user) = as_user {
        command.args([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()]);
    }
    command.arg("--").arg(program).current_dir("/").env_remove("PGOPTIONS");
    command
}

/// Makes a pipe with a name, and holds both of its ends.
pub(crate) fn pipe(path: &Path) -> File {
    run(Path::new("mkfifo"), &[path.display().to_string()], None);
    File::options().read(true).write(true).open(path).unwrap()
}

/// Sends a signal by name to one process.
pub(crate) fn signal(process_id: u32, name: &str) {
    let status = Command::new("kill").args([format!("-{name}"), process_id.to_string()]).status().unwrap();
    assert!(status.success(), "kill -{name} {process_id}: {status}");
}

/// The OS user that must run `PostgreSQL`, which refuses to run as root.
pub(crate) fn postgres_user() -> Option<&'static str> {
    let id = Command::new("id").arg("-u").output().unwrap().stdout;
    (id.trim_ascii() == b"0").then_some("postgres")
}

/// A port nobody listens on, from below the range that the kernel hands out by itself.
pub(crate) fn free_port() -> u16 {
    loop {
        let port = rand::rng().random_range(10_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Resident memory of a process in KiB.
pub(crate) fn resident_kib(process_id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process_id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The most files that a process may open.
pub(crate) fn max_descriptors(process_id: u32) -> u64 {
    let limits = std::fs::read_to_string(format!("/proc/{process_id}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Whether a process listens on this TCP port of 127.0.0.1, as the kernel says: nobody connects to find out. The sockets
/// that listen are the first in its list; behind them there can be tens of thousands, whose reading takes longer than a
/// test waits.
pub(crate) fn listens(process_id: u32, port: u16) -> bool {
    let sockets = BufReader::new(File::open("/proc/net/tcp").unwrap());
    let address = format!("0100007F:{port:04X}");
    // Columns: slot, local address, remote address, state (0A: listening), …, and the tenth is the inode.
    let listening = sockets
        .lines()
        .skip(1)
        .map(|line| line.unwrap().split_whitespace().map(ToOwned::to_owned).collect::<Vec<String>>())
        .take_while(|columns| columns.get(3).is_some_and(|state| state == "0A"))
        .find_map(|columns| (columns[1] == address).then(|| format!("socket:[{}]", columns[9])));
    let Some(socket) = listening else { return false };
    let Ok(files) = std::fs::read_dir(format!("/proc/{process_id}/fd")) else { return false };
    files
        .flatten()
        .any(|file| std::fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == socket.as_str()))
}
