//! Towards PostgreSQL: every way to log in, TLS by the operator's wish, the first host that accepts
//! writes, and start-up parameters that are the proxy's alone.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::support::certificate::Certificate;
use crate::support::config::Config;
use crate::support::{Cluster, Proxy, message};

const ONE: &str = "T(?column?) D(1) C(SELECT 1) Z(I)";

/// What a client's first statement comes to: served, or the SQLSTATE of its refusal.
async fn outcome(proxy: &Proxy) -> String {
    match proxy.login("acme_app", &[]).await {
        Err(fault) => fault.code,
        Ok(mut link) => link.query("SELECT 1").await.code().unwrap_or_else(|| "served".to_owned()),
    }
}

fn host(config: &mut Config, cluster: &Cluster, name: &str) {
    config.set("upstream.main.hosts", vec![format!("{name}:{}", cluster.port())]);
}

#[tokio::test]
async fn the_proxy_logs_in_by_scram_md5_and_cleartext_over_tls() {
    let certificate = Certificate::for_name("localhost");
    let cluster = Cluster::start_with_tls(&certificate).await;
    let roles = "SET password_encryption = 'md5'; CREATE ROLE app_md5 LOGIN PASSWORD 'md5-secret';
                 SET password_encryption = 'scram-sha-256'; CREATE ROLE app_clear LOGIN PASSWORD 'clear-secret';
                 GRANT app TO app_md5, app_clear";
    cluster.execute(roles).await;
    for (role, password, tls, wanted) in [
        ("app", "app-secret", "off", "served"),
        ("app_md5", "md5-secret", "off", "served"),
        ("app_clear", "clear-secret", "require", "served"),
        ("app_clear", "clear-secret", "off", "refused"),
        ("app", "wrong", "off", "refused"),
    ] {
        let proxy = Proxy::start(&cluster, |config| {
            config.set("upstream.main.user", role);
            config.set("upstream.main.password", password);
            config.set("upstream.main.tls", tls);
        })
        .await;
        let outcome = outcome(&proxy).await;
        if wanted == "served" {
            assert_eq!(outcome, "served", "{role} {tls}: {}", proxy.log());
        } else {
            assert!(
                outcome.starts_with("08"),
                "{role} {tls}: {outcome}, in the class of the upstream's faults"
            );
            assert!(!proxy.log().contains(password), "the log holds the password");
        }
    }
}

#[tokio::test]
async fn the_proxy_uses_tls_as_strictly_as_told() {
    let certificate = Certificate::for_name("localhost");
    let stranger = Certificate::for_name("localhost");
    let cluster = Cluster::start_with_tls(&certificate).await;
    let files = tempfile::tempdir().unwrap();
    let strangers = tempfile::tempdir().unwrap();
    let ours = certificate.write_authority(files.path()).display().to_string();
    let theirs = stranger.write_authority(strangers.path()).display().to_string();
    for (mode, ca, name, wanted) in [
        ("off", None, "127.0.0.1", Some("false")),
        ("prefer", None, "127.0.0.1", Some("true")),
        ("require", None, "127.0.0.1", Some("true")),
        ("verify-ca", Some(&ours), "127.0.0.1", Some("true")),
        ("verify-ca", Some(&theirs), "127.0.0.1", None),
        ("verify-full", Some(&ours), "localhost", Some("true")),
        ("verify-full", Some(&ours), "127.0.0.1", None),
        ("verify-full", Some(&theirs), "localhost", None),
        ("verify-full", None, "localhost", None),
    ] {
        let proxy = Proxy::start(&cluster, |config| {
            config.lenient();
            host(config, &cluster, name);
            config.set("upstream.main.tls", mode);
            if let Some(ca) = ca {
                config.set("upstream.main.ca", ca.clone());
            }
        })
        .await;
        if let Some(encrypted) = wanted {
            let mut link = proxy.link("acme_app").await;
            let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
            assert_eq!(link.query(sql).await.value(), &encrypted[..1], "{mode} {ca:?} {name}");
        } else {
            let outcome = outcome(&proxy).await;
            assert!(outcome.starts_with("08"), "{mode} {ca:?} {name}: {outcome}");
        }
    }
}

#[tokio::test]
async fn a_server_without_tls_is_used_if_preferred_and_refused_if_required() {
    let cluster = Cluster::start().await;
    for (mode, served) in [("prefer", true), ("require", false)] {
        let proxy = Proxy::start(&cluster, |config| config.set("upstream.main.tls", mode)).await;
        let outcome = outcome(&proxy).await;
        assert_eq!(outcome == "served", served, "{mode}: {outcome}");
    }
}

#[tokio::test]
async fn the_first_host_that_accepts_writes_is_used() {
    let reader = Cluster::start().await;
    reader.execute("ALTER SYSTEM SET default_transaction_read_only = on").await;
    reader.execute("SELECT pg_reload_conf()").await;
    let writer = Cluster::start().await;
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = Proxy::start(&reader, |config| {
        let hosts = [unused.port(), reader.port(), writer.port()].map(|port| format!("127.0.0.1:{port}"));
        config.set("upstream.main.hosts", hosts.to_vec());
    })
    .await;
    let mut link = proxy.link("acme_app").await;
    assert_eq!(link.query("INSERT INTO notes (body) VALUES ('written')").await, "C(INSERT 0 1) Z(I)");
    assert_eq!(writer.value("SELECT count(*) FROM notes WHERE body = 'written'").await, "1");
}

#[tokio::test]
async fn a_unix_socket_leads_to_the_server_too() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        let socket =
            cluster.socket_directory().join(format!(".s.PGSQL.{}", cluster.port())).display().to_string();
        config.set("upstream.main.hosts", vec![socket]);
        config.unset("upstream.main.password");
    })
    .await;
    let mut link = proxy.link("acme_app").await;
    let address = "SELECT coalesce(inet_client_addr()::text, 'unix')";
    assert_eq!(link.query(address).await.value(), "unix");
}

#[tokio::test]
async fn settings_stored_for_the_role_do_not_decide_how_statements_are_read() {
    let cluster = Cluster::start().await;
    let planted =
        "ALTER ROLE app SET standard_conforming_strings = off; ALTER ROLE app SET row_security = off;
                   ALTER ROLE app SET client_encoding = 'SJIS'; ALTER ROLE app SET app.tenant_id = 'globex'";
    cluster.execute(planted).await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    let mut link = proxy.link("acme_app").await;
    for (name, value) in [
        ("standard_conforming_strings", "on"),
        ("row_security", "on"),
        ("client_encoding", "UTF8"),
        ("app.tenant_id", "acme"),
    ] {
        assert_eq!(link.query(&format!("SHOW {name}")).await.value(), value);
        assert_eq!(link.query("RESET ALL").await.code(), None);
        assert_eq!(link.query(&format!("SHOW {name}")).await.value(), value, "after RESET ALL");
    }
    assert_eq!(link.query("SELECT 1").await, ONE);
}

#[tokio::test]
async fn everything_works_on_postgresql_18_too() {
    let cluster = Cluster::postgres18().await;
    let proxy = Proxy::start(&cluster, |config| config.one_server()).await;
    let mut acme = proxy.link("acme_app").await;
    let mut globex = proxy.link("globex_app").await;
    let who = "SELECT string_agg(DISTINCT tenant_id, ',') FROM notes";
    for _ in 0..3 {
        for (tenant, link) in [("acme", &mut acme), ("globex", &mut globex)] {
            assert_eq!(link.query(who).await.value(), tenant);
            assert_eq!(link.extended(who, &[]).await.value(), tenant);
            assert_eq!(link.query(&format!("{who}; {who}")).await.column(), [tenant, tenant]);
            assert_eq!(link.query("BEGIN").await, "C(BEGIN) Z(T)");
            assert_eq!(link.query(who).await.value(), tenant);
            assert_eq!(link.query("SELECT 1/0").await.without(b"T"), "E(22012) Z(E)");
            assert_eq!(link.query("ROLLBACK").await, "C(ROLLBACK) Z(I)");
            assert_eq!(link.query("").await, "I Z(I)");
        }
    }
}

#[tokio::test]
async fn a_server_that_cannot_watch_its_connections_is_used_without() {
    let cluster = Cluster::start().await;
    let watch = "SHOW client_connection_check_interval";
    for sqlstate in ["22023", "42704", "08P01"] {
        let blind = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = blind.local_addr().unwrap().port();
        let serves = tokio::spawn(cannot_watch(blind, cluster.port(), sqlstate));
        let proxy = Proxy::start(&cluster, |config| {
            config.set("upstream.main.hosts", vec![format!("127.0.0.1:{port}")]);
        })
        .await;
        assert_eq!(proxy.link("acme_app").await.query(watch).await.value(), "0", "{sqlstate}");
        serves.abort();
    }
    let proxy = Proxy::start(&cluster, |_| {}).await;
    assert_eq!(proxy.link("acme_app").await.query(watch).await.value(), "2s");
}

/// Leads to a PostgreSQL that refuses `client_connection_check_interval`, as on Windows, where it must be 0.
async fn cannot_watch(listener: TcpListener, port: u16, sqlstate: &'static str) {
    loop {
        let (mut client, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let mut packet = vec![0; 4];
            client.read_exact(&mut packet).await.unwrap();
            let length = u32::from_be_bytes(packet[..].try_into().unwrap()) as usize;
            packet.resize(length, 0);
            client.read_exact(&mut packet[4..]).await.unwrap();
            if packet.windows(24).any(|part| part == b"client_connection_check_") {
                let refusal = format!("SFATAL\0C{sqlstate}\0Mno such parameter\0\0");
                client.write_all(&message::raw(b'E', refusal.as_bytes())).await.unwrap();
                return;
            }
            let mut server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            server.write_all(&packet).await.unwrap();
            // Either side may go at any time.
            drop(copy_bidirectional(&mut client, &mut server).await);
        });
    }
}

#[tokio::test]
async fn a_client_whose_idle_transaction_the_server_ends_is_told_at_once() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    for how in ["timeout", "terminated"] {
        let mut link = proxy.link("acme_app").await;
        assert_eq!(link.query("BEGIN").await.code(), None);
        let expected = if how == "timeout" {
            assert_eq!(link.query("SET LOCAL idle_in_transaction_session_timeout = 50").await.code(), None);
            "FATAL 25P03 terminating connection due to idle-in-transaction timeout"
        } else {
            let process = link.query("SELECT pg_backend_pid()").await.value();
            cluster.execute(&format!("SELECT pg_terminate_backend({process})")).await;
            "FATAL 57P01 terminating connection due to administrator command"
        };
        let last = link.closes().await.fault();
        assert_eq!(format!("{} {} {}", last.severity, last.code, last.message), expected);
        // Everybody else goes on.
        assert_eq!(proxy.link("acme_app").await.query("SELECT 1").await.value(), "1");
    }
    proxy.comes_to_rest().await;
}

#[tokio::test]
async fn changed_defaults_of_servers_are_told_and_not_mixed() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.add_user("ops", "operator", true)).await;
    let mut first = proxy.link("acme_app").await;
    let mut own = proxy.link_with("acme_app", &[("DateStyle", "German")]).await;
    assert_eq!(first.parameters["DateStyle"], "ISO, MDY");
    assert_eq!(first.query("BEGIN; SELECT '2026-02-01'::date").await.value(), "2026-02-01");
    cluster.execute("ALTER ROLE app SET DateStyle = 'SQL, DMY'").await;
    // The first transaction has its server still; the next one needs a new one, which begins otherwise.
    let mut second = proxy.link("globex_app").await;
    let date = "SELECT '2026-02-01'::date";
    assert_eq!(second.query(date).await.value(), "01/02/2026");
    assert_eq!(second.parameters["DateStyle"], "SQL, DMY", "told before the answer");
    assert_eq!(first.query(date).await.value(), "2026-02-01", "one server, one value");
    assert_eq!(first.query("COMMIT").await.code(), None);
    for _ in 0..3 {
        assert_eq!(first.query(date).await.value(), "01/02/2026");
        assert_eq!(first.parameters["DateStyle"], "SQL, DMY");
        assert_eq!(own.query(date).await.value(), "01.02.2026", "what a client asked for stays");
    }
    let mut third = proxy.link("acme_app").await;
    assert_eq!(third.parameters["DateStyle"], "SQL, DMY", "new clients are told at login");
    assert_eq!(third.query(date).await.value(), "01/02/2026");
    // RECONNECT is enough as well.
    cluster.execute("ALTER ROLE app SET DateStyle = 'ISO, YMD'").await;
    let mut ops = proxy.link_with("ops", &[("database", "pgtenant")]).await;
    assert_eq!(ops.query("RECONNECT").await.code(), None);
    let mut fourth = proxy.link("acme_app").await;
    assert_eq!(fourth.parameters["DateStyle"], "ISO, YMD");
    assert_eq!(fourth.query(date).await.value(), "2026-02-01");
    cluster.execute("ALTER ROLE app RESET DateStyle").await;
}

#[tokio::test]
async fn a_database_without_an_encoding_is_read_as_directly() {
    let cluster = Cluster::start().await;
    cluster
        .execute("CREATE DATABASE bytes TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'")
        .await;
    let owner = cluster.superuser_of("bytes").await;
    // No encoding of PostgreSQL's: PostgreSQL would refuse to send it as UTF-8.
    owner
        .batch_execute(
            "SET client_encoding = 'SQL_ASCII';
             CREATE TABLE said (body text); GRANT SELECT, INSERT ON said TO app;
             INSERT INTO said SELECT convert_from('\\x6dfc6c6c6572'::bytea, 'SQL_ASCII')",
        )
        .await
        .unwrap();
    let proxy = Proxy::start(&cluster, |config| {
        config.set("upstream.main.database", "bytes");
        config.set("tenancy.allow_unsafe", true);
    })
    .await;
    let mut direct = cluster.link_to("bytes", "acme").await;
    let mut link = proxy.link_with("acme_app", &[("database", "bytes")]).await;
    assert_eq!(direct.parameters["client_encoding"], "SQL_ASCII");
    assert_eq!(link.parameters["client_encoding"], "SQL_ASCII");
    for text in ["SELECT body FROM said", "SHOW client_encoding"] {
        let (wanted, got) = (direct.query(text).await, link.query(text).await);
        assert_eq!(got.bytes(), wanted.bytes(), "{text}");
        assert_eq!(got.code(), None, "{text}");
    }
    let mut own = proxy.link_with("acme_app", &[("database", "bytes"), ("client_encoding", "UTF8")]).await;
    assert_eq!(own.query("SHOW client_encoding").await.value(), "UTF8", "what a client asked for stays");
    assert_eq!(own.query("SELECT body FROM said").await.code(), Some("22021".to_owned()), "as directly");
}
