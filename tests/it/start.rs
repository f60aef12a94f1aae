//! The time between the first instruction and "ready": signals that come then.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use tokio::net::TcpListener;
use tokio::time::{Duration, Instant};

use crate::support::proxy::{Starting, Written};
use crate::support::{Cluster, eventually, within};

/// Waits until the process reads its configuration, which is a pipe, and sends it a signal; then the configuration is
/// written, and `file` is an ordinary one from then on.
async fn signalled_while_it_reads(starting: &Starting, signal: &str, later: &str) {
    let (path, text) = (starting.file(), starting.text());
    let opened = path.clone();
    // Opening a pipe for writing ends when somebody reads it.
    let open = tokio::task::spawn_blocking(move || fs::File::options().write(true).open(opened).unwrap());
    let mut pipe = within("the process to read its configuration", open).await.unwrap();
    starting.signal(signal);
    replace(&path, later);
    pipe.write_all(text.as_bytes()).unwrap();
}

fn replace(path: &Path, text: &str) {
    fs::remove_file(path).unwrap();
    fs::write(path, text).unwrap();
}

#[tokio::test]
async fn a_hangup_before_ready_is_a_reload_behind_it() {
    let cluster = Cluster::start().await;
    let starting = Starting::new(&cluster, Written::ToPipe, |_| {});
    let later = starting.text_with(|config| config.add_user("late", "tenant", "acme"));
    signalled_while_it_reads(&starting, "HUP", &later).await;
    let proxy = starting.comes_up().await;
    proxy.logged("configuration reloaded").await;
    assert_eq!(proxy.link("late").await.query("SELECT 1").await.value(), "1");
}

#[tokio::test]
async fn an_end_before_ready_is_an_end_in_good_order() {
    let cluster = Cluster::start().await;
    for signal in ["TERM", "INT"] {
        let mut starting = Starting::new(&cluster, Written::ToPipe, |_| {});
        let text = starting.text();
        signalled_while_it_reads(&starting, signal, &text).await;
        assert_eq!(starting.exits().await.code(), Some(0), "{signal}: {}", starting.log());
    }
}

#[tokio::test]
async fn a_start_that_waits_for_postgresql_reloads_later_and_ends_at_once() {
    let cluster = Cluster::start().await;
    // Accepts, and says nothing.
    let nowhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut starting = Starting::new(&cluster, Written::ToFile, |config| {
        config.set("upstream.main.hosts", vec![nowhere.local_addr().unwrap().to_string()]);
        config.set("upstream.main.connect_timeout", "1h");
    });
    eventually("the metrics", || async { (starting.http("/healthz").await.0 == 200).then_some(()) }).await;
    assert_eq!(starting.http("/readyz").await.0, 503);
    starting.signal("HUP");
    assert_eq!(starting.http("/healthz").await.0, 200, "it goes on");
    let told = Instant::now();
    starting.signal("TERM");
    assert_eq!(starting.exits().await.code(), Some(0), "{}", starting.log());
    assert!(told.elapsed() < Duration::from_secs(5), "{:?}", told.elapsed());
}
