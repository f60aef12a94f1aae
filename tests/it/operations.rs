//! It is operated: metrics by their contract, health, reload, drain, the check command, and secrets that
//! stay secret.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::config::Config;
use crate::support::metrics::Metrics;
use crate::support::proxy::run;
use crate::support::{Cluster, Link, Proxy, eventually, message};

const ONE: &str = "T(?column?) D(1) C(SELECT 1) Z(I)";

// === metrics ===

#[tokio::test]
async fn every_metric_of_the_contract_is_there_under_its_name_and_labels() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    let mut link = proxy.link("acme_app").await;
    link.query("SELECT 1").await;
    link.query("SELECT 1/0").await;
    link.query("SET app.tenant_id = 'globex'").await;
    drop(proxy.login_as("acme_app", "wrong", &[]).await);
    let metrics = proxy.metrics().await;
    let wanted: [(&str, &[&str]); 16] = [
        ("pgtenant_query_duration_seconds_bucket", &["tenant=\"acme\"", "le=\"+Inf\""]),
        ("pgtenant_query_duration_seconds_sum", &["tenant=\"acme\""]),
        ("pgtenant_query_duration_seconds_count", &["tenant=\"acme\""]),
        ("pgtenant_transaction_duration_seconds_count", &["tenant=\"acme\""]),
        ("pgtenant_queue_wait_seconds_count", &["tenant=\"acme\""]),
        ("pgtenant_queries_total", &["tenant=\"acme\""]),
        ("pgtenant_errors_total", &["tenant=\"acme\"", "class=\"22\""]),
        ("pgtenant_client_bytes_total", &["tenant=\"acme\"", "direction=\""]),
        ("pgtenant_clients", &["tenant=\"acme\""]),
        ("pgtenant_servers", &["upstream=\"main\"", "state=\"idle\""]),
        ("pgtenant_guard_refusals_total", &["tenant=\"acme\"", "rule=\""]),
        ("pgtenant_logins_total", &["outcome=\""]),
        ("pgtenant_context_switches_total", &[]),
        ("pgtenant_build_info", &["version=\""]),
        ("pgtenant_isolation_findings", &["severity=\"critical\""]),
        ("pgtenant_clients", &["tenant=\"acme\""]),
    ];
    for (name, labels) in wanted {
        let found = metrics.0.keys().any(|series| {
            series.split('{').next() == Some(name) && labels.iter().all(|label| series.contains(label))
        });
        assert!(found, "{name} {labels:?} is not among {:#?}", metrics.0.keys().collect::<Vec<_>>());
    }
    let (_, text) = proxy.http("/metrics").await;
    for name in ["pgtenant_query_duration_seconds", "pgtenant_clients", "pgtenant_logins_total"] {
        assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
        assert!(text.contains(&format!("# TYPE {name} ")), "{name} has no type");
    }
}

#[tokio::test]
async fn the_metrics_count_what_happened() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    let mut acme = proxy.link("acme_app").await;
    let mut globex = proxy.link("globex_app").await;
    for _ in 0..5 {
        acme.query("SELECT 1").await;
        globex.extended("SELECT 1", &[]).await;
    }
    acme.query("SELECT 1/0").await;
    acme.query("SELECT no").await;
    acme.query("SELECT pg_sleep(0.3)").await;
    drop(proxy.login_as("acme_app", "wrong", &[]).await);
    let metrics = proxy.metrics().await;
    let tenant = |name: &str, tenant: &str| metrics.sum(name, &[("tenant", tenant)]);
    assert_eq!(tenant("pgtenant_queries_total", "acme"), 8.0);
    assert_eq!(tenant("pgtenant_queries_total", "globex"), 5.0);
    assert_eq!(tenant("pgtenant_query_duration_seconds_count", "acme"), 8.0);
    assert_eq!(tenant("pgtenant_query_duration_seconds_count", "globex"), 5.0);
    let slow = tenant("pgtenant_query_duration_seconds_sum", "acme");
    assert!((0.3..3.0).contains(&slow), "{slow}");
    assert!(tenant("pgtenant_query_duration_seconds_sum", "globex") < 0.3);
    assert_eq!(metrics.sum("pgtenant_errors_total", &[("tenant", "acme"), ("class", "22")]), 1.0);
    assert_eq!(metrics.sum("pgtenant_errors_total", &[("tenant", "acme"), ("class", "42")]), 1.0);
    assert_eq!(metrics.sum("pgtenant_errors_total", &[("tenant", "globex")]), 0.0);
    assert_eq!(tenant("pgtenant_clients", "acme"), 1.0);
    assert!(metrics.sum("pgtenant_logins_total", &[]) >= 3.0);
    assert!(metrics.sum("pgtenant_context_switches_total", &[]) >= 9.0, "turns on one server");
    assert!(tenant("pgtenant_client_bytes_total", "acme") > 100.0);
    acme.leave().await;
    proxy.measures("pgtenant_clients", &[("tenant", "acme")], 0.0).await;
}

#[tokio::test]
async fn what_alerts_look_at_is_there_at_zero_before_anything_happens() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    let is_zero = |metrics: &Metrics, name: &str, labels: &[(&str, &str)]| {
        let found: Vec<f64> = metrics.series(name, labels).map(|(_, value)| value).collect();
        assert_eq!(found, [0.0], "{name} {labels:?}");
    };
    let before = proxy.metrics().await;
    for outcome in ["ok", "refused", "failed"] {
        is_zero(&before, "pgtenant_logins_total", &[("outcome", outcome)]);
    }
    let mut link = proxy.link("acme_app").await;
    let watched = |metrics: &Metrics, tenant: &str| {
        for rule in ["connection-check", "context-change", "opaque-name", "own-objects", "role-change"] {
            is_zero(metrics, "pgtenant_guard_refusals_total", &[("tenant", tenant), ("rule", rule)]);
        }
        for class in ["08", "53"] {
            is_zero(metrics, "pgtenant_errors_total", &[("tenant", tenant), ("class", class)]);
        }
    };
    let metrics = proxy.metrics().await;
    for tenant in ["acme", "_none", "_other"] {
        watched(&metrics, tenant);
    }
    for _ in 0..3 {
        assert_eq!(link.query("SET ROLE app_owner").await.fault().code, "42501");
    }
    let labels = [("tenant", "acme"), ("rule", "role-change")];
    assert_eq!(proxy.metrics().await.sum("pgtenant_guard_refusals_total", &labels), 3.0);
}

#[tokio::test]
async fn tenants_beyond_the_bound_share_one_series_and_the_totals_stay_exact() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        config.set("metrics.max_tenants", 3);
        for number in 0..20 {
            config.add_tenant(&format!("t{number}"));
        }
    })
    .await;
    for number in 0..20 {
        let mut link = proxy.link_with(&format!("any.t{number}"), &[]).await;
        assert_eq!(link.query("SELECT 1").await, ONE);
        link.leave().await;
    }
    let metrics = proxy.metrics().await;
    let labels: BTreeSet<&str> = metrics
        .0
        .keys()
        .filter(|series| series.starts_with("pgtenant_"))
        .filter_map(|series| series.split("tenant=\"").nth(1)?.split('"').next())
        .collect();
    let own = labels.iter().filter(|label| !label.starts_with('_')).count();
    assert!(own <= 3 && labels.contains("_other"), "{labels:?}");
    assert_eq!(metrics.sum("pgtenant_queries_total", &[]), 20.0);
    assert_eq!(metrics.sum("pgtenant_query_duration_seconds_count", &[]), 20.0);
}

#[tokio::test]
async fn an_odd_tenant_name_is_escaped_wherever_it_goes() {
    let cluster = Cluster::start().await;
    let odd = "o'hara \"&\\ söhne";
    let proxy = Proxy::start(&cluster, |config| {
        config.add_tenant(odd);
        config.add_user("odd", "tenant", odd);
    })
    .await;
    let mut link = proxy.link("odd").await;
    for _ in 0..2 {
        assert_eq!(link.query("SELECT current_setting('app.tenant_id')").await.value(), odd);
        assert_eq!(link.extended("SELECT current_setting('app.tenant_id')", &[]).await.value(), odd);
    }
    assert_eq!(link.query("INSERT INTO notes (body) VALUES ('x') RETURNING tenant_id").await.value(), odd);
    let (_, text) = proxy.http("/metrics").await;
    assert!(text.contains(r#"tenant="o'hara \"&\\ söhne""#), "{text}");
}

#[tokio::test]
async fn health_and_readiness_are_told_apart_from_each_other_and_from_nonsense() {
    let mut cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    proxy.link("acme_app").await.query("SELECT 1").await;
    assert_eq!(proxy.http("/healthz").await.0, 200);
    assert_eq!(proxy.http("/readyz").await.0, 200);
    assert_eq!(proxy.http("/nonsense").await.0, 404);
    cluster.crash();
    assert_eq!(proxy.http("/healthz").await.0, 200, "the process is well, whatever its upstream is");
}

// === logs ===

#[tokio::test]
async fn secrets_are_never_logged_and_the_span_names_user_and_tenant() {
    let cluster = Cluster::start().await;
    let mut proxy = Proxy::start(&cluster, |config| config.set("log.level", "trace")).await;
    let mut link = proxy.link("acme_app").await;
    link.query("SELECT 1").await;
    drop(proxy.login_as("globex_app", "mistyped-secret", &[]).await);
    proxy.link("migrate").await.query("SELECT 1").await;
    link.leave().await;
    proxy.reload(|config| config.add_user("late", "tenant", "acme")).await;
    proxy.terminate();
    proxy.exits().await;
    let log = proxy.log();
    for secret in ["-secret", "SCRAM-SHA-256$"] {
        let told = log.lines().find(|line| line.contains(secret));
        assert_eq!(told, None, "'{secret}' was logged");
    }
    assert!(log.lines().any(|line| line.contains("acme_app") && line.contains("acme")), "{log}");
}

#[tokio::test]
async fn json_logs_are_one_object_a_line() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        config.set("log.format", "json");
        config.set("log.level", "debug");
    })
    .await;
    proxy.link("acme_app").await.leave().await;
    proxy.measures("pgtenant_clients", &[], 0.0).await;
    proxy.logged("acme_app").await;
    for line in proxy.log().lines() {
        assert!(line.starts_with('{') && line.ends_with('}') && line.contains("\"level\""), "{line}");
    }
}

#[tokio::test]
async fn a_log_that_nobody_takes_stops_no_connection() {
    // What fits into a pipe and into the queue behind it, and then some.
    const LINES: usize = 18_000;
    let cluster = Cluster::start().await;
    let sockets = tempfile::tempdir().unwrap();
    let (mut proxy, mut pipe) = Proxy::start_unheard(&cluster, |config| {
        config.set("listen.socket_dir", sockets.path().display().to_string());
    })
    .await;
    let socket = sockets.path().join(format!(".s.PGSQL.{}", proxy.port()));
    eventually("the unix socket", || async { socket.exists().then_some(()) }).await;
    let mut crowd = JoinSet::new();
    for _ in 0..20 {
        let socket = socket.clone();
        crowd.spawn(async move {
            for _ in 0..LINES / 20 {
                let mut link = Link::unix(&socket).await;
                link.send([0; 4]).await;
                link.closes().await;
            }
        });
    }
    crowd.join_all().await;
    assert_eq!(proxy.link("acme_app").await.query("SELECT 1").await, ONE);
    proxy.terminate();
    assert_eq!(proxy.exits().await.code(), Some(0));
    let mut taken = vec![0; 60_000];
    std::io::Read::read_exact(&mut pipe, &mut taken).unwrap();
    assert!(String::from_utf8_lossy(&taken).matches("login refused").count() > 100, "the pipe was full");
}

#[tokio::test]
async fn a_log_whose_reader_is_gone_stops_no_connection() {
    let cluster = Cluster::start().await;
    let (mut proxy, pipe) = Proxy::start_unheard(&cluster, |config| config.set("log.level", "debug")).await;
    drop(pipe);
    for _ in 0..5 {
        assert_eq!(proxy.link("acme_app").await.query("SELECT 1").await, ONE);
        assert_eq!(proxy.login_as("acme_app", "wrong", &[]).await.err().unwrap().code, "28P01");
    }
    proxy.terminate();
    assert_eq!(proxy.exits().await.code(), Some(0));
}

// === reload ===

#[tokio::test]
async fn a_reload_lets_new_users_in_and_puts_removed_ones_out() {
    let cluster = Cluster::start().await;
    let mut proxy = Proxy::start(&cluster, |_| {}).await;
    let mut stays = proxy.link("acme_app").await;
    let mut goes = proxy.link("globex_app").await;
    let mut works = proxy.link("globex_app").await;
    assert_eq!(works.query("BEGIN").await, "C(BEGIN) Z(T)");
    proxy
        .reload(|config| {
            config.remove_user("globex_app");
            config.add_tenant("hooli");
            config.add_user("hooli_app", "tenant", "hooli");
        })
        .await;
    let mut new = proxy.link("hooli_app").await;
    assert_eq!(new.query("SELECT current_setting('app.tenant_id')").await.value(), "hooli");
    assert_eq!(proxy.login("globex_app", &[]).await.err().unwrap().code, "28P01");
    assert_eq!(goes.until(b'E').await, "E(57P01)", "told to go");
    assert_eq!(goes.closes().await, "");
    assert_eq!(stays.query("SELECT 1").await, ONE, "others are not touched");
    // A transaction under way may be finished or ended; it may not be followed by another.
    drop(works.try_send([message::query("COMMIT"), message::query("BEGIN")].concat()).await);
    let last = works.closes().await;
    assert_eq!(last.fault().code, "57P01", "{last}");
}

#[tokio::test]
async fn a_reload_changes_passwords_grants_and_limits() {
    let cluster = Cluster::start().await;
    let mut proxy = Proxy::start(&cluster, |_| {}).await;
    proxy
        .reload(|config| {
            config.set_user("acme_app", "password", "another-password");
            config.set_user("api", "tenants", vec!["initech"]);
            config.set_tenant("globex", "max_clients", 1);
        })
        .await;
    assert_eq!(proxy.login("acme_app", &[]).await.err().unwrap().code, "28P01");
    assert!(proxy.login_as("acme_app", "another-password", &[]).await.is_ok());
    assert_eq!(proxy.login("api.acme", &[]).await.err().unwrap().code, "28000");
    assert!(proxy.login("api.initech", &[]).await.is_ok());
    let _first = proxy.link("globex_app").await;
    assert_eq!(proxy.login("globex_app", &[]).await.err().unwrap().code, "53300");
}

#[tokio::test]
async fn a_bad_file_leaves_the_old_one_running() {
    let cluster = Cluster::start().await;
    let mut proxy = Proxy::start(&cluster, |_| {}).await;
    let mut link = proxy.link("acme_app").await;
    let mut nonsense = Config::new(&cluster);
    nonsense.set("listen.no_such_key", 1);
    nonsense.remove_user("acme_app");
    for text in ["this is [ not toml".to_owned(), String::new(), nonsense.text()] {
        proxy.reload_text(&text).await;
        assert_eq!(link.query("SELECT 1").await, ONE);
        assert_eq!(proxy.link("acme_app").await.query("SELECT 1").await, ONE);
    }
    proxy.reload(|config| config.remove_user("acme_app")).await;
    assert_eq!(proxy.login("acme_app", &[]).await.err().unwrap().code, "28P01", "a good one is taken again");
}

// === drain ===

#[tokio::test]
async fn sigterm_lets_running_transactions_finish_and_nobody_in() {
    let cluster = Cluster::start().await;
    let mut proxy = Proxy::start(&cluster, |config| config.set("listen.drain_timeout", "15s")).await;
    let mut idle = proxy.link("acme_app").await;
    let mut working = proxy.link("acme_app").await;
    let mut running = proxy.link("globex_app").await;
    working.hold().await;
    working.query("INSERT INTO notes (body) VALUES ('finished')").await;
    running.send(message::query("SELECT pg_sleep(1), 'done' AS done")).await;
    cluster.settles("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'", "1").await;
    proxy.terminate();
    assert_eq!(idle.closes().await, "E(57P01)", "whoever does nothing goes at once");
    refuses_logins(&proxy).await;
    assert_eq!(proxy.http("/readyz").await.0, 503, "the load balancer is told");
    assert_eq!(running.answer().await.code(), None, "a running statement finishes");
    running.closes().await;
    assert_eq!(working.query("SELECT 1").await.value(), "1", "a transaction goes on");
    assert_eq!(working.query("COMMIT").await, "C(COMMIT) Z(I)");
    assert_eq!(working.closes().await, "E(57P01)");
    assert_eq!(proxy.exits().await.code(), Some(0));
    assert_eq!(cluster.value("SELECT count(*) FROM notes WHERE body = 'finished'").await, "1");
    cluster.settles("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'", "0").await;
}

#[tokio::test]
async fn after_the_drain_timeout_the_rest_gets_57p01() {
    let cluster = Cluster::start().await;
    let mut proxy = Proxy::start(&cluster, |config| config.set("listen.drain_timeout", "600ms")).await;
    let mut open = proxy.link("acme_app").await;
    open.hold().await;
    open.query("INSERT INTO notes (body) VALUES ('unfinished')").await;
    let mut long = proxy.link("globex_app").await;
    long.send(message::query("SELECT pg_sleep(60)")).await;
    cluster.settles("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'", "1").await;
    let before = Instant::now();
    proxy.terminate();
    assert_eq!(open.until(b'E').await.code().as_deref(), Some("57P01"));
    let took = before.elapsed();
    assert!(took >= Duration::from_millis(500), "not before its time: {took:?}");
    assert_eq!(long.until(b'E').await.code().as_deref(), Some("57P01"));
    proxy.exits().await;
    assert!(before.elapsed() < Duration::from_secs(8), "{:?}", before.elapsed());
    cluster.settles("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'", "0").await;
    assert_eq!(cluster.value("SELECT count(*) FROM notes WHERE body = 'unfinished'").await, "0");
}

/// A login during a drain is refused with 57P01, or finds nobody listening.
async fn refuses_logins(proxy: &Proxy) {
    if tokio::net::TcpStream::connect(("127.0.0.1", proxy.port())).await.is_err() {
        return;
    }
    let mut link = proxy.raw().await;
    drop(link.try_send(message::packet(message::VERSION_3_0, b"user\0acme_app\0\0")).await);
    let answer = link.closes().await;
    assert!(answer == "E(57P01)" || answer == "", "{answer}");
}

// === the command line ===

#[tokio::test]
async fn check_finds_all_problems_at_once_and_says_so_by_its_exit_code() {
    let cluster = Cluster::start().await;
    let good = Config::new(&cluster);
    let (_directory, path) = good.to_file();
    let (code, output) = run(&["check", "--config", &path]);
    assert_eq!(code, 0, "{output}");

    let mut bad = good.clone();
    bad.set("listen.max_cleints", 5);
    bad.set("upstream.main.pool_size", 0);
    bad.set("upstream.main.tls", "sometimes");
    bad.set("listen.certificate", "/no/such/file.crt");
    bad.set_user("acme_app", "tenant", "no_such_tenant");
    let (_directory, path) = bad.to_file();
    for command in ["check", "serve"] {
        let (code, output) = run(&[command, "--config", &path]);
        assert_eq!(code, 2, "{command}: {output}");
        for word in ["max_cleints", "pool_size", "upstream.main.tls", "/no/such/file.crt", "no_such_tenant"] {
            assert!(output.contains(word), "{command} does not name {word}: {output}");
        }
        assert!(!output.contains("-secret"), "{command} prints a password: {output}");
    }
    assert_eq!(run(&["check", "--config", "/no/such/file.toml"]).0, 2);
    assert_eq!(run(&["check"]).0, 2);
    assert_eq!(run(&["no-such-command"]).0, 2);
}

#[tokio::test]
async fn a_plain_password_is_refused_unless_allowed_and_never_shown() {
    let cluster = Cluster::start().await;
    let mut config = Config::new(&cluster);
    config.unset("listen.allow_plain_passwords");
    let (_directory, path) = config.to_file();
    let (code, output) = run(&["check", "--config", &path]);
    assert_ne!(code, 0, "{output}");
    assert!(output.contains("acme_app") || output.contains("user"), "it says whose: {output}");
    assert!(!output.contains("acme_app-secret"), "{output}");
}

#[tokio::test]
async fn a_verifier_made_by_scram_lets_its_user_in() {
    use std::io::Write;
    let mut child = std::process::Command::new(crate::support::proxy::binary())
        .arg("scram")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"a good password\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let verifier = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    assert!(verifier.starts_with("SCRAM-SHA-256$4096:"), "{verifier}");
    let cluster = Cluster::start().await;
    let proxy =
        Proxy::start(&cluster, |config| config.set_user("acme_app", "password", verifier.clone())).await;
    assert!(proxy.login_as("acme_app", "a good password", &[]).await.is_ok());
    assert_eq!(proxy.login_as("acme_app", &verifier, &[]).await.err().unwrap().code, "28P01");
}

#[tokio::test]
async fn a_reload_brings_a_new_certificate() {
    use crate::support::certificate::Certificate;
    let cluster = Cluster::start().await;
    let (old, new) = (Certificate::for_name("localhost"), Certificate::for_name("localhost"));
    let files = tempfile::tempdir().unwrap();
    let (chain, key) = old.write(files.path());
    let mut proxy = Proxy::start(&cluster, |config| {
        config.set("listen.tls", "require");
        config.set("listen.certificate", chain.display().to_string());
        config.set("listen.private_key", key.display().to_string());
    })
    .await;
    let trusts = async |proxy: &Proxy, certificate: &Certificate| {
        let mut link = proxy.raw().await;
        assert_eq!(link.request(message::SSL_REQUEST).await, 'S');
        link.tls(certificate.client(&[]), "localhost").await.is_ok()
    };
    assert!(trusts(&proxy, &old).await && !trusts(&proxy, &new).await);
    new.write(files.path());
    proxy.reload(|_| {}).await;
    eventually("the new certificate", || async { trusts(&proxy, &new).await.then_some(()) }).await;
    assert!(!trusts(&proxy, &old).await);
}
