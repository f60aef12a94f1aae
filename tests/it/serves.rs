//! It serves: every way in, every refusal at the door, and every limit on both its sides.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use tokio::time::Instant;

use crate::support::certificate::Certificate;
use crate::support::link::Answer;
use crate::support::{Cluster, Fault, Link, Proxy, eventually, message};

const ONE: &str = "T(?column?) D(1) C(SELECT 1) Z(I)";

/// A proxy with a certificate for `localhost`.
async fn with_tls(cluster: &Cluster, mode: &str) -> (Proxy, Certificate, tempfile::TempDir) {
    let certificate = Certificate::for_name("localhost");
    let directory = tempfile::tempdir().unwrap();
    let (chain, key) = certificate.write(directory.path());
    let proxy = Proxy::start(cluster, |config| {
        config.set("listen.tls", mode);
        config.set("listen.certificate", chain.display().to_string());
        config.set("listen.private_key", key.display().to_string());
    })
    .await;
    (proxy, certificate, directory)
}

async fn log_in(mut link: Link) -> Result<Link, Fault> {
    link.startup(&[("user", "acme_app"), ("database", "app")]).await;
    link.authenticate("acme_app-secret").await.map(|()| link)
}

// === the ways in ===

#[tokio::test]
async fn a_client_logs_in_and_asks() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    let mut link = proxy.link("acme_app").await;
    assert_eq!(link.query("SELECT 1").await, ONE);
    assert_eq!(link.parameters["server_encoding"], "UTF8");
    assert_eq!(link.parameters["client_encoding"], "UTF8");
    assert_eq!(link.parameters["integer_datetimes"], "on");
    assert!(link.parameters["server_version"].starts_with("15."), "{:?}", link.parameters);
    assert!(link.process_id > 0 && i32::try_from(link.process_id).is_ok(), "a process id fits 31 bits");
    link.leave().await;
}

#[tokio::test]
async fn psql_and_tokio_postgres_log_in() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    assert_eq!(proxy.psql("acme_app", "disable", "SELECT count(*) FROM notes").await.0, "10");
    let row = proxy.client("globex_app").await.query_one("SELECT count(*) FROM notes", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 10);
}

#[tokio::test]
async fn without_tls_a_request_for_it_is_declined_and_the_client_may_go_on() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    let mut link = proxy.raw().await;
    assert_eq!(link.request(message::SSL_REQUEST).await, 'N');
    assert_eq!(log_in(link).await.unwrap().query("SELECT 1").await, ONE);
    assert_eq!(proxy.psql("acme_app", "prefer", "SELECT 1").await.0, "1");
}

#[tokio::test]
async fn gss_encryption_is_declined_and_the_client_may_go_on() {
    let cluster = Cluster::start().await;
    let (proxy, certificate, _files) = with_tls(&cluster, "prefer").await;
    let mut link = proxy.raw().await;
    assert_eq!(link.request(message::GSSENC_REQUEST).await, 'N');
    assert_eq!(link.request(message::SSL_REQUEST).await, 'S');
    let link = link.tls(certificate.client(&[]), "localhost").await.unwrap();
    assert_eq!(log_in(link).await.unwrap().query("SELECT 1").await, ONE);

    let mut link = proxy.raw().await;
    assert_eq!(link.request(message::GSSENC_REQUEST).await, 'N');
    assert_eq!(log_in(link).await.unwrap().query("SELECT 1").await, ONE);
}

#[tokio::test]
async fn where_tls_is_preferred_both_kinds_of_client_are_served() {
    let cluster = Cluster::start().await;
    let (proxy, certificate, _files) = with_tls(&cluster, "prefer").await;
    let mut link = proxy.raw().await;
    assert_eq!(link.request(message::SSL_REQUEST).await, 'S');
    let link = link.tls(certificate.client(&[]), "localhost").await.unwrap();
    assert_eq!(log_in(link).await.unwrap().query("SELECT 1").await, ONE);
    assert_eq!(proxy.link("acme_app").await.query("SELECT 1").await, ONE);
    assert_eq!(proxy.psql("acme_app", "require", "SELECT 1").await.0, "1");
    assert_eq!(proxy.psql("acme_app", "disable", "SELECT 1").await.0, "1");
}

#[tokio::test]
async fn where_tls_is_required_plain_clients_are_refused_before_a_password() {
    let cluster = Cluster::start().await;
    let (proxy, _certificate, _files) = with_tls(&cluster, "require").await;
    let mut link = proxy.raw().await;
    link.startup(&[("user", "acme_app"), ("database", "app")]).await;
    assert_eq!(link.closes().await, "E(28000)", "refused without being asked for a password");
    assert_eq!(proxy.psql("acme_app", "require", "SELECT 1").await.0, "1");
}

#[tokio::test]
async fn over_tls_a_client_may_bind_its_proof_to_the_channel() {
    let cluster = Cluster::start().await;
    let (proxy, certificate, _files) = with_tls(&cluster, "prefer").await;
    let mut link = proxy.raw().await;
    link.request(message::SSL_REQUEST).await;
    let mut link = link.tls(certificate.client(&[]), "localhost").await.unwrap();
    link.startup(&[("user", "acme_app"), ("database", "app")]).await;
    assert_eq!(link.offered_mechanisms().await, ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]);
    let (rows, error) = proxy.psql("acme_app", "require channel_binding=require", "SELECT 1").await;
    assert_eq!((rows.as_str(), error.as_str()), ("1", ""));

    let mut plain = proxy.raw().await;
    plain.startup(&[("user", "acme_app"), ("database", "app")]).await;
    assert_eq!(plain.offered_mechanisms().await, ["SCRAM-SHA-256"], "there is no channel to bind to");
}

#[tokio::test]
async fn tls_may_start_at_the_first_byte_if_the_client_names_the_protocol() {
    let cluster = Cluster::start().await;
    let (proxy, certificate, _files) = with_tls(&cluster, "require").await;
    let link = proxy.raw().await.tls(certificate.client(&["postgresql"]), "localhost").await.unwrap();
    assert_eq!(log_in(link).await.unwrap().query("SELECT 1").await, ONE);
    for alpn in [&[][..], &["h2"][..]] {
        let refused = proxy.raw().await.tls(certificate.client(alpn), "localhost").await;
        if let Ok(mut link) = refused {
            drop(link.try_send(message::packet(message::SSL_REQUEST, &[])).await);
            assert_eq!(link.closes().await, "", "direct TLS with ALPN {alpn:?} must not be served");
        }
    }
}

#[tokio::test]
async fn where_tls_is_off_it_is_off_in_either_way_even_with_a_certificate() {
    let cluster = Cluster::start().await;
    let (proxy, certificate, _files) = with_tls(&cluster, "off").await;
    assert_eq!(proxy.raw().await.request(message::SSL_REQUEST).await, 'N');
    assert!(proxy.raw().await.tls(certificate.client(&["postgresql"]), "localhost").await.is_err());
    assert_eq!(proxy.link("acme_app").await.query("SELECT 1").await, ONE);
}

#[tokio::test]
async fn bytes_that_follow_a_tls_request_in_the_clear_are_never_read() {
    let cluster = Cluster::start().await;
    let (proxy, certificate, _files) = with_tls(&cluster, "prefer").await;
    let mut link = proxy.raw().await;
    let startup = message::startup_parameters(&[("user", "acme_app"), ("database", "app")]);
    let stuffed =
        [message::packet(message::SSL_REQUEST, &[]), message::packet(message::VERSION_3_0, &startup)]
            .concat();
    link.send(stuffed).await;
    let handshake = link.tls(certificate.client(&[]), "localhost").await;
    assert!(handshake.is_err(), "the connection must have been dropped");
}

#[tokio::test]
async fn a_unix_socket_serves_too() {
    let cluster = Cluster::start().await;
    let directory = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&cluster, |config| {
        config.set("listen.socket_dir", directory.path().display().to_string());
    })
    .await;
    let socket = directory.path().join(format!(".s.PGSQL.{}", proxy.port()));
    eventually("the unix socket", || async { socket.exists().then_some(()) }).await;
    let mut link = log_in(Link::unix(&socket).await).await.unwrap();
    assert_eq!(link.query("SELECT 1").await, ONE);
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o777, "as PostgreSQL's: the password decides, not the account");
}

// === refusals at the door ===

#[tokio::test]
async fn a_packet_that_is_no_startup_packet_is_refused_and_harms_nobody() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    let unterminated = b"user\0acme_app".to_vec();
    let cases: [(&str, Vec<u8>, &[&str]); 9] = [
        ("a length below the shortest packet", vec![0, 0, 0, 4, 0, 3, 0, 0], &["", "E(08P01)"]),
        ("a length of zero", vec![0; 8], &["", "E(08P01)"]),
        ("a negative length", vec![0xff; 8], &["", "E(08P01)"]),
        (
            "a length of two gigabytes",
            [&[0x7f, 0xff, 0xff, 0xff][..], &[0, 3, 0, 0]].concat(),
            &["", "E(08P01)"],
        ),
        ("a web browser", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), &["", "E(08P01)"]),
        ("protocol 2.0", message::packet(2 << 16, &[0]), &["E(0A000)", "E(08P01)"]),
        ("a name without end", message::packet(message::VERSION_3_0, &unterminated), &["E(08P01)"]),
        (
            "bytes behind the end",
            message::packet(message::VERSION_3_0, b"user\0acme_app\0\0rest\0"),
            &["E(08P01)"],
        ),
        ("no user", message::packet(message::VERSION_3_0, b"database\0app\0\0"), &["E(28000)", "E(08P01)"]),
    ];
    for (what, bytes, allowed) in cases {
        let mut link = proxy.raw().await;
        drop(link.try_send(bytes).await);
        let answer = link.closes().await.to_string();
        assert!(allowed.contains(&answer.as_str()), "{what}: {answer}");
    }
    assert_eq!(proxy.link("acme_app").await.query("SELECT 1").await, ONE);
}

#[tokio::test]
async fn a_startup_packet_may_be_as_long_as_the_limit_and_no_longer() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.set("listen.max_startup_bytes", 2000)).await;
    let padded = |total: usize| {
        let without = message::startup_parameters(&[
            ("user", "acme_app"),
            ("database", "app"),
            ("application_name", ""),
        ]);
        let name = "x".repeat(total - 8 - without.len());
        message::packet(
            message::VERSION_3_0,
            &message::startup_parameters(&[
                ("user", "acme_app"),
                ("database", "app"),
                ("application_name", &name),
            ]),
        )
    };
    let mut link = proxy.raw().await;
    link.send(padded(2000)).await;
    link.authenticate("acme_app-secret").await.unwrap();

    // Four bytes of tolerance: whether the length counts itself is not promised.
    let mut link = proxy.raw().await;
    link.send(padded(2005)).await;
    let refusal = link.closes().await.to_string();
    assert!(["", "E(08P01)", "E(54000)"].contains(&refusal.as_str()), "{refusal}");
}

#[tokio::test]
async fn whoever_does_not_log_in_in_time_is_put_out() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.set("listen.login_timeout", "2s")).await;
    let begun = Instant::now();
    let mut silent = proxy.raw().await;
    let mut half_way = proxy.raw().await;
    half_way.startup(&[("user", "acme_app"), ("database", "app")]).await;
    let mut dripping = proxy.raw().await;
    for byte in message::packet(message::VERSION_3_0, &[b'x'; 400]).into_iter().take(400) {
        if dripping.try_send([byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    dripping.closes().await;
    silent.closes().await;
    half_way.closes().await;
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(1900) && took < Duration::from_secs(10), "{took:?}");
    assert_eq!(proxy.link("acme_app").await.query("SELECT 1").await, ONE);
}

#[tokio::test]
async fn a_huge_message_before_the_login_is_not_waited_for() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    let mut link = proxy.raw().await;
    link.startup(&[("user", "acme_app"), ("database", "app")]).await;
    link.frame("the authentication request").await;
    let before = Instant::now();
    drop(link.try_send([&[b'p'][..], &0x4000_0000_u32.to_be_bytes()].concat()).await);
    link.closes().await;
    assert!(before.elapsed() < Duration::from_secs(5), "refused by its length alone: {:?}", before.elapsed());
}

#[tokio::test]
async fn one_client_more_than_allowed_is_refused_until_another_leaves() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.set("listen.max_clients", 2)).await;
    let first = proxy.link("acme_app").await;
    let mut second = proxy.link("globex_app").await;
    let refused = proxy.login("initech_app", &[]).await.err().unwrap();
    assert_eq!((refused.code.as_str(), refused.severity.as_str()), ("53300", "FATAL"));
    assert_eq!(second.query("SELECT 1").await, ONE, "those inside are not disturbed");
    first.leave().await;
    eventually("a place to be free", || async { proxy.login("initech_app", &[]).await.ok() }).await;
}

#[tokio::test]
async fn a_tenants_client_limit_is_its_own() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| config.set("defaults.max_clients", 2)).await;
    let _first = proxy.link("acme_app").await;
    let _second = proxy.link_with("api", &[("app.tenant_id", "acme")]).await;
    let refused = proxy.login("acme_app", &[]).await.err().unwrap();
    assert_eq!(refused.code, "53300");
    proxy.link("globex_app").await;
}

// === who may not know what ===

#[tokio::test]
async fn wrong_password_unknown_user_and_unknown_tenant_cannot_be_told_apart() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    let tenant = |id: &'static str| vec![("app.tenant_id", id)];
    let cases = [
        ("wrong password", "acme_app", "wrong", vec![]),
        ("unknown user", "nobody", "acme_app-secret", vec![]),
        ("unknown tenant in the name", "any.nosuch", "any-secret", vec![]),
        ("unknown tenant in the packet", "any", "any-secret", tenant("nosuch")),
        ("unknown user with a tenant", "nobody.acme", "any-secret", vec![]),
        ("wrong password with a tenant not granted", "api", "wrong", tenant("initech")),
        ("empty password", "acme_app", "", vec![]),
    ];
    for (what, user, password, parameters) in cases {
        let mut link = proxy.raw().await;
        link.startup(&[&[("user", user), ("database", "app")], &parameters[..]].concat()).await;
        let fault = link.authenticate(password).await.unwrap_err();
        let text = fault.message.replace(user, "USER");
        assert_eq!(fault.code, "28P01", "{what}: {fault:?}");
        assert_eq!(text, "password authentication failed for user \"USER\"", "{what}");
        assert_eq!((fault.detail, fault.hint), (None, None), "{what}");
        let tags: String = Answer(link.greeting.clone()).to_string();
        assert_eq!(tags, "R(10) R(11) E(28P01)", "{what}: the same steps");
        assert_eq!(link.closes().await, "", "{what}");
    }
}

#[tokio::test]
async fn an_unknown_user_is_shown_the_same_salt_each_time_as_a_known_one_is() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    let mut seen = Vec::new();
    for user in ["nobody", "nobody", "acme_app", "acme_app", "somebody"] {
        let mut link = proxy.raw().await;
        link.startup(&[("user", user), ("database", "app")]).await;
        link.authenticate("wrong").await.unwrap_err();
        let first = String::from_utf8_lossy(&link.greeting[1].body[4..]).into_owned();
        let parts: Vec<&str> = first.split(',').skip(1).collect();
        seen.push((parts[0].to_owned(), parts[1].to_owned()));
    }
    assert_eq!(seen[0], seen[1], "a salt that changes tells that the user does not exist");
    assert_eq!(seen[2], seen[3]);
    assert_ne!(seen[0].0, seen[4].0, "one salt for all unknown users tells them too");
    assert_eq!(
        (seen[0].0.len(), &seen[0].1),
        (seen[2].0.len(), &seen[2].1),
        "length and iterations tell nothing"
    );
}

// === protocol versions ===

#[tokio::test]
async fn unknown_versions_and_options_are_negotiated_as_postgresql_18_does() {
    let cluster = Cluster::postgres18().await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    let cases: [(u32, &[(&str, &str)]); 4] = [
        (3 << 16 | 9, &[]),
        (message::VERSION_3_0, &[("_pq_.future", "1")]),
        (message::VERSION_3_2, &[("_pq_.future", "1"), ("_pq_.other", "x")]),
        (3 << 16 | 9, &[("_pq_.future", "1")]),
    ];
    for (version, options) in cases {
        let user = [("user", "acme_app"), ("database", "app")];
        let mut ours = proxy.raw().await;
        ours.startup_as(version, &[&user, options].concat()).await;
        ours.authenticate("acme_app-secret").await.unwrap();
        let mut direct = Link::tcp(cluster.port()).await;
        direct.startup_as(version, &[&[("user", "app"), ("database", "app")], options].concat()).await;
        direct.authenticate("app-secret").await.unwrap();
        let negotiation = |link: &Link| {
            link.greeting.iter().find(|frame| frame.tag == b'v').map(|frame| frame.body.clone())
        };
        assert!(negotiation(&direct).is_some());
        assert_eq!(negotiation(&ours), negotiation(&direct), "{version:#x} {options:?}");
        assert_eq!(ours.cancel_key.len(), direct.cancel_key.len(), "{version:#x} {options:?}");
        assert_eq!(ours.query("SELECT 1").await, ONE);
    }
}

#[tokio::test]
async fn protocol_3_2_gets_a_long_cancel_key_and_3_0_a_short_one() {
    let cluster = Cluster::postgres18().await;
    let proxy = Proxy::start(&cluster, |_| {}).await;
    for (version, length) in [(message::VERSION_3_0, 4), (message::VERSION_3_2, 32)] {
        let mut link = proxy.raw().await;
        link.startup_as(version, &[("user", "acme_app"), ("database", "app")]).await;
        link.authenticate("acme_app-secret").await.unwrap();
        assert!(!link.greeting.iter().any(|frame| frame.tag == b'v'), "a known version is not negotiated");
        assert_eq!(link.cancel_key.len(), length);
        link.send(message::query("SELECT pg_sleep(60)")).await;
        cluster.settles("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'", "1").await;
        link.cancel().await;
        assert_eq!(link.answer().await.code().as_deref(), Some("57014"));
    }
}
