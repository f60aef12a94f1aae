//! Who somebody is, and for which tenant: by TLS server name, by client certificate, alone and together. Each way is
//! tried right, wrong, expired, for another tenant, for an unknown one, and with a stranger's key.

use rcgen::{CertificateParams, SanType};

use crate::support::certificate::{Certificate, ClientCertificate, REVOKED};
use crate::support::config::Config;
use crate::support::{Cluster, Fault, Link, Proxy, message};

/// The server names that stand for tenants.
const SERVER_NAMES: &str = "{tenant}.db.example.com";

/// Files of one proxy, and who signed what is in them.
struct Pki {
    server: Certificate,
    files: tempfile::TempDir,
}

impl Pki {
    fn new() -> Self {
        let server = Certificate::for_names(&["localhost", "db.example.com", "*.db.example.com"]);
        Self { server, files: tempfile::tempdir().unwrap() }
    }

    /// A proxy with TLS that takes certificates of this authority.
    async fn proxy(&self, cluster: &Cluster, change: impl Fn(&mut Config)) -> Proxy {
        let (chain, key) = self.server.write(self.files.path());
        let authority = self.server.write_authority(self.files.path());
        let revoked = self.server.write_revocations(self.files.path());
        Proxy::start(cluster, |config| {
            config.set("listen.tls", "prefer");
            config.set("listen.certificate", chain.display().to_string());
            config.set("listen.private_key", key.display().to_string());
            config.set("listen.client_ca", authority.display().to_string());
            config.set("listen.client_crl", revoked.display().to_string());
            config.set("tenancy.server_name", SERVER_NAMES);
            change(config);
        })
        .await
    }

    async fn tls(&self, proxy: &Proxy, name: &str, own: Option<&ClientCertificate>) -> Link {
        let mut link = proxy.raw().await;
        assert_eq!(link.request(message::SSL_REQUEST).await, 'S');
        link.tls(self.server.client_showing(&[], own), name).await.unwrap()
    }

    /// Logs in over TLS; `user` may carry a password behind a slash.
    async fn login(
        &self,
        proxy: &Proxy,
        (name, own): (&str, Option<&ClientCertificate>),
        user: &str,
        parameters: &[(&str, &str)],
    ) -> Result<Link, Fault> {
        let mut link = self.tls(proxy, name, own).await;
        let default = format!("{}-secret", user.split(['.', '/']).next().unwrap());
        let (user, password) = user.split_once('/').unwrap_or((user, &default));
        link.startup(&[&[("user", user), ("database", "app")], parameters].concat()).await;
        link.authenticate(password).await?;
        Ok(link)
    }
}

async fn tenant(link: &mut Link) -> String {
    link.query("SELECT current_setting('app.tenant_id')").await.value()
}

fn code(outcome: Result<Link, Fault>) -> String {
    match outcome {
        Ok(_) => "let in".to_owned(),
        Err(fault) => fault.code,
    }
}

#[tokio::test]
async fn a_tls_server_name_chooses_the_tenant_and_only_ever_narrows() {
    let cluster = Cluster::start().await;
    let pki = Pki::new();
    let proxy = pki.proxy(&cluster, |_| ()).await;
    let login = |name, user, parameters| pki.login(&proxy, (name, None), user, parameters);
    let acme = "acme.db.example.com";
    for (name, user) in [(acme, "any"), (acme, "api"), (acme, "acme_app"), ("ACME.db.example.com", "any")] {
        assert_eq!(tenant(&mut login(name, user, &[]).await.unwrap()).await, "acme", "{name} {user}");
    }
    let same = login(acme, "any", &[("app.tenant_id", "acme")]).await;
    assert_eq!(tenant(&mut same.unwrap()).await, "acme");
    // Another tenant than the user's own, than the one it names, and than those it is granted.
    assert_eq!(code(login(acme, "globex_app", &[]).await), "28000");
    assert_eq!(code(login(acme, "any", &[("app.tenant_id", "globex")]).await), "28000");
    assert_eq!(code(login(acme, "any.globex", &[]).await), "28000");
    assert_eq!(code(login("initech.db.example.com", "api", &[]).await), "28000");
    assert_eq!(code(login(acme, "migrate", &[]).await), "28000", "no tenant stands for all of them");
    // A tenant that does not exist is told as a wrong password.
    let unknown = login("nobody.db.example.com", "any", &[]).await.err().unwrap();
    let wrong = login(acme, "any/wrong", &[]).await.err().unwrap();
    assert_eq!((&unknown.code, &unknown.message), (&wrong.code, &wrong.message));
    assert_eq!(unknown.code, "28P01");
    // A name that fits no pattern says nothing.
    for name in ["db.example.com", "localhost"] {
        let mut link = login(name, "any.globex", &[]).await.unwrap();
        assert_eq!(tenant(&mut link).await, "globex", "{name}");
    }
    // What is narrowed at login stays so.
    let mut link = login(acme, "any", &[]).await.unwrap();
    let refused = link.query("SET app.tenant_id = 'globex'").await;
    assert_eq!(refused.code().as_deref(), Some("28000"), "{refused}");
    assert_eq!(tenant(&mut link).await, "acme");
    let mut free = login("localhost", "any.acme", &[]).await.unwrap();
    assert_eq!(free.query("SET app.tenant_id = 'globex'").await, "C(SET) Z(I)");
}

#[tokio::test]
async fn the_log_says_why_a_login_is_refused_and_the_client_does_not() {
    let cluster = Cluster::start().await;
    let pki = Pki::new();
    let proxy = pki.proxy(&cluster, with_certificates).await;
    let robot2 = pki.server.issue("robot2", |_| ());
    for (user, own, reason) in [
        ("nobody/none-of-these", None, "has this name"),
        ("nobody.acme/none-of-these", None, "has this name"),
        ("acme_app/none-of-these", None, "the password is wrong"),
        ("any.nowhere", None, "there is no tenant \\\"nowhere\\\""),
        ("robot/none-of-these", None, "the client showed no certificate"),
        ("robot/none-of-these", Some(&robot2), "does not hold the name in user.certificate"),
    ] {
        let before = proxy.log().len();
        let fault = pki.login(&proxy, ("localhost", own), user, &[]).await.err().unwrap();
        let name = user.split('/').next().unwrap();
        let told = format!("password authentication failed for user \"{name}\"");
        assert_eq!((&*fault.code, &*fault.message), ("28P01", &*told), "{user}");
        let line = proxy.line_behind(before, "login refused").await;
        assert!(line.contains(reason) && line.contains("address=127.0.0.1"), "{user}: {line}");
    }
    assert_eq!(proxy.log().matches("login refused").count(), 6, "one line for one login");
    assert!(!proxy.log().contains("none-of-these"), "passwords are secrets");
}

fn with_certificates(config: &mut Config) {
    config.add_user("robot", "tenant", "acme");
    config.set_user("robot", "certificate", "cn:{user}");
    config.unset_user("robot", "password");
    config.add_user("both", "tenant", "acme");
    config.set_user("both", "certificate", "dns:both.example.com");
    config.add_user("fleet", "tenants", vec!["acme", "globex"]);
    config.set_user("fleet", "certificate", "uri:spiffe://example.com/{tenant}/api");
    config.unset_user("fleet", "password");
}

fn uri(name: &'static str) -> impl FnOnce(&mut CertificateParams) {
    move |params| params.subject_alt_names.push(SanType::URI(name.try_into().unwrap()))
}

#[tokio::test]
async fn a_certificate_proves_a_user_alone_or_with_its_password() {
    let cluster = Cluster::start().await;
    let pki = Pki::new();
    let proxy = pki.proxy(&cluster, with_certificates).await;
    let robot = pki.server.issue("robot", |_| ());
    let mut link = pki.login(&proxy, ("localhost", Some(&robot)), "robot", &[]).await.unwrap();
    assert!(link.greeting.iter().all(|frame| frame.tag != b'R' || frame.body[..] == [0, 0, 0, 0]), "asked");
    assert_eq!(tenant(&mut link).await, "acme");
    let other = pki.server.issue("robot2", |_| ());
    let unknown = pki.login(&proxy, ("localhost", None), "nobody", &[]).await.err().unwrap();
    for own in [None, Some(&other)] {
        let refused = pki.login(&proxy, ("localhost", own), "robot", &[]).await.err().unwrap();
        assert_eq!(
            (&refused.code, refused.message.replace("robot", "nobody")),
            (&unknown.code, unknown.message.clone())
        );
    }
    assert_eq!(code(proxy.login("robot", &[]).await), "28P01", "nothing is shown without TLS");
    assert_eq!(code(pki.login(&proxy, ("localhost", Some(&robot)), "fleet", &[]).await), "28P01");
    assert_eq!(code(pki.login(&proxy, ("localhost", Some(&robot)), "acme_app", &[]).await), "let in");
    // A certificate and a password.
    let both = pki.server.issue("any", |params| {
        params.subject_alt_names.push(SanType::DnsName("Both.example.com".try_into().unwrap()));
    });
    assert_eq!(code(pki.login(&proxy, ("localhost", Some(&both)), "both", &[]).await), "let in");
    assert_eq!(code(pki.login(&proxy, ("localhost", Some(&both)), "both/wrong", &[]).await), "28P01");
    assert_eq!(code(pki.login(&proxy, ("localhost", None), "both", &[]).await), "28P01");
}

#[tokio::test]
async fn a_certificate_names_the_tenant_of_a_gateway_user() {
    let cluster = Cluster::start().await;
    let pki = Pki::new();
    let proxy = pki.proxy(&cluster, with_certificates).await;
    let of = |name| pki.server.issue("fleet", uri(name));
    let acme = of("spiffe://example.com/acme/api");
    let mut link = pki.login(&proxy, ("localhost", Some(&acme)), "fleet", &[]).await.unwrap();
    assert_eq!(tenant(&mut link).await, "acme");
    let refused = link.query("SET app.tenant_id = 'globex'").await;
    assert_eq!(refused.code().as_deref(), Some("28000"), "{refused}");
    for (name, server, expected) in [
        ("spiffe://example.com/globex/api", "localhost", "let in"),
        ("spiffe://example.com/initech/api", "localhost", "28000"),
        ("spiffe://example.com/nobody/api", "localhost", "28P01"),
        ("spiffe://example.org/acme/api", "localhost", "28P01"),
        ("spiffe://example.com/acme/api", "acme.db.example.com", "let in"),
        ("spiffe://example.com/acme/api", "globex.db.example.com", "28000"),
    ] {
        let own = of(name);
        assert_eq!(
            code(pki.login(&proxy, (server, Some(&own)), "fleet", &[]).await),
            expected,
            "{name} {server}"
        );
    }
    let two = pki.server.issue("fleet", |params| {
        uri("spiffe://example.com/acme/api")(params);
        uri("spiffe://example.com/globex/api")(params);
    });
    let mut link = pki.login(&proxy, ("localhost", Some(&two)), "fleet.globex", &[]).await.unwrap();
    assert_eq!(tenant(&mut link).await, "globex");
    assert_eq!(link.query("SET app.tenant_id = 'acme'").await, "C(SET) Z(I)");
}

#[tokio::test]
async fn a_strangers_certificate_an_expired_and_a_revoked_one_end_the_handshake() {
    let cluster = Cluster::start().await;
    let pki = Pki::new();
    let proxy = pki.proxy(&cluster, with_certificates).await;
    let expired = pki.server.issue("robot", |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let revoked = pki.server.issue("robot", |params| params.serial_number = Some(REVOKED.into()));
    let stranger = Certificate::for_name("localhost").issue("robot", |_| ());
    for (what, own) in [("expired", expired), ("revoked", revoked), ("stranger", stranger)] {
        // In TLS 1.3 the client has finished before it hears of it.
        let mut link = pki.tls(&proxy, "localhost", Some(&own)).await;
        let startup = message::startup_parameters(&[("user", "robot"), ("database", "app")]);
        let sent = link.try_send(message::packet(message::VERSION_3_0, &startup)).await;
        let told = link.closes().await;
        assert!(told.0.is_empty(), "{what}: {told} {sent:?}");
    }
    let fine = pki.server.issue("robot", |_| ());
    assert_eq!(code(pki.login(&proxy, ("localhost", Some(&fine)), "robot", &[]).await), "let in");
}

#[tokio::test]
async fn psql_logs_in_with_its_certificate() {
    let cluster = Cluster::start().await;
    let pki = Pki::new();
    let proxy = pki.proxy(&cluster, with_certificates).await;
    let (certificate, key) = pki.server.issue("robot", |_| ()).write(pki.files.path());
    let psql = |user: &str, with: bool| {
        let shown = if with {
            format!("sslcert={} sslkey={}", certificate.display(), key.display())
        } else {
            String::new()
        };
        let destination = format!(
            "host=localhost port={} user={user} dbname=app sslmode=verify-full sslrootcert={} {shown}",
            proxy.port(),
            pki.files.path().join("authority.crt").display()
        );
        let sql = "SELECT current_setting('app.tenant_id')";
        let mut command = std::process::Command::new("psql");
        command.args(["-X", "-A", "-t", "-w", "-d", &destination, "-c", sql]);
        async move {
            let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned()
        }
    };
    assert_eq!(psql("robot", true).await, "acme");
    let refused = psql("robot", false).await;
    assert!(refused.contains("no password supplied"), "{refused}");
}

fn with_comments(config: &mut Config) {
    for user in ["any", "api"] {
        config.set_user(user, "tenant_comment", true);
    }
}

const WHO: &str = "SELECT string_agg(DISTINCT tenant_id, ',') FROM notes";

#[tokio::test]
async fn a_comment_names_the_tenant_of_its_transaction_where_that_is_allowed() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        with_comments(config);
        config.one_server();
        config.add_user("deaf", "tenants", vec!["*"]);
    })
    .await;
    let mut link = proxy.link("any").await;
    for tenant in ["acme", "globex", "acme"] {
        let text = format!("{WHO} /*action='x',tenant='{tenant}'*/");
        assert_eq!(link.query(&text).await.value(), tenant);
        assert_eq!(link.extended(&text, &[]).await.value(), tenant);
        assert_eq!(link.query(&format!("/*tenant='{tenant}'*/ {WHO}")).await.value(), tenant);
    }
    // Between transactions nothing is left of it, and the session's own tenant is back.
    assert_eq!(link.query(WHO).await.code().as_deref(), Some("28000"));
    let mut own = proxy.link("any.initech").await;
    assert_eq!(own.query(&format!("{WHO} /*tenant='acme'*/")).await.value(), "acme");
    assert_eq!(own.query(WHO).await.value(), "initech");
    // For a whole block: drivers send BEGIN without a comment.
    assert_eq!(link.query("BEGIN").await, "C(BEGIN) Z(T)");
    assert_eq!(link.query(&format!("{WHO} /*tenant='globex'*/")).await.value(), "globex");
    assert_eq!(link.query(WHO).await.value(), "globex");
    assert_eq!(link.query("COMMIT").await, "C(COMMIT) Z(I)");
    assert_eq!(link.query("BEGIN /*tenant='acme'*/").await, "C(BEGIN) Z(T)");
    assert_eq!(link.query(WHO).await.value(), "acme");
    assert_eq!(link.query("ROLLBACK").await, "C(ROLLBACK) Z(I)");
    // A statement prepared once names its tenant each time that it runs.
    let named = format!("{WHO} /*tenant='globex'*/");
    let first = [message::parse("s", &named), message::rerun("s", &[]), message::sync()].concat();
    assert_eq!(link.ask(first).await.value(), "globex");
    assert_eq!(link.query(&format!("{WHO} /*tenant='acme'*/")).await.value(), "acme");
    assert_eq!(link.ask([message::rerun("s", &[]), message::sync()].concat()).await.value(), "globex");
    // What is sent ahead is looked at one by one.
    let ahead: Vec<u8> = ["acme", "globex"]
        .iter()
        .flat_map(|tenant| message::query(&format!("{WHO} /*tenant='{tenant}'*/")))
        .collect();
    assert_eq!(link.ask(ahead).await.value(), "acme");
    assert_eq!(link.answer().await.value(), "globex");
    // Not granted, not there, two at a time; and where comments mean nothing.
    let mut api = proxy.link("api").await;
    for comment in ["/*tenant='initech'*/", "/*tenant='nobody'*/", "/*tenant='acme',tenant='globex'*/"] {
        assert_eq!(
            api.query(&format!("{WHO} {comment}")).await.code().as_deref(),
            Some("28000"),
            "{comment}"
        );
    }
    let mut deaf = proxy.link("deaf.acme").await;
    assert_eq!(deaf.query(&format!("{WHO} /*tenant='globex'*/")).await.value(), "acme");
    let mut bound = proxy.link("acme_app").await;
    assert_eq!(bound.query(&format!("{WHO} /*tenant='globex'*/")).await.value(), "acme");
}

#[tokio::test]
async fn metrics_and_limits_follow_the_tenant_in_the_comment() {
    let cluster = Cluster::start().await;
    let proxy = Proxy::start(&cluster, |config| {
        with_comments(config);
        config.set_tenant("globex", "statement_timeout", "200ms");
    })
    .await;
    let mut link = proxy.link("any.acme").await;
    assert_eq!(link.query("SELECT pg_sleep(0.5)").await.code(), None);
    let stopped = link.query("SELECT pg_sleep(5) /*tenant='globex'*/").await;
    assert_eq!(stopped.code().as_deref(), Some("57014"));
    proxy.measures("pgtenant_queries_total", &[("tenant", "acme")], 1.0).await;
    proxy.measures("pgtenant_queries_total", &[("tenant", "globex")], 1.0).await;
    // State on a server is its tenant's: a pinned client stays with it.
    assert_eq!(link.query("CREATE TEMP TABLE t (a int)").await.code(), None);
    let refused = link.query("SELECT 1 /*tenant='globex'*/").await;
    assert_eq!(refused.code().as_deref(), Some("0A000"), "{refused}");
    assert_eq!(link.query("SELECT count(*) FROM t").await.value(), "0");
}
