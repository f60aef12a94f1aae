//! Who somebody is by a token: as a password and by SASL OAUTHBEARER. Each way a token can be wrong is refused in the
//! words of a wrong password; the issuer's keys come from a file or over HTTPS, and may change at any time.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::KeyPair;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::certificate::Certificate;
use crate::support::config::Config;
use crate::support::{Cluster, Fault, Link, Proxy, eventually, message};

const ISSUER: &str = "https://id.example.com";

/// An issuer of tokens with one key.
struct Issuer {
    key: KeyPair,
    id: String,
}

impl Issuer {
    fn new(id: &str) -> Self {
        Self { key: KeyPair::generate().unwrap(), id: id.to_owned() }
    }

    fn jwk(&self) -> Value {
        let point = self.key.public_key_raw();
        let part = |range| URL_SAFE_NO_PAD.encode(&point[range]);
        json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.id,
                "x": part(1..33), "y": part(33..65) })
    }

    fn sign(&self, header: &Header, claims: &Value) -> String {
        encode(header, claims, &EncodingKey::from_ec_der(&self.key.serialize_der())).unwrap()
    }

    fn header(&self) -> Header {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.id.clone());
        header
    }

    /// A token for a user and a tenant, some claims replaced; `null` takes one away.
    fn token(&self, user: &str, tenant: &str, change: Value) -> String {
        self.sign(&self.header(), &claims(user, tenant, change))
    }
}

fn claims(user: &str, tenant: &str, change: Value) -> Value {
    let mut claims = json!({ "iss": ISSUER, "aud": "pgtenant", "exp": now() + 600, "sub": user,
        "app": { "tenant": tenant } });
    let Value::Object(change) = change else { panic!("no claims: {change}") };
    for (name, value) in change {
        let all = claims.as_object_mut().unwrap();
        if value.is_null() {
            all.remove(&name)
        } else {
            all.insert(name, value)
        };
    }
    claims
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn write_keys(path: &Path, keys: &[Value]) {
    // A key for encryption and one of a new kind stand in the set as well.
    let others = [
        json!({ "kty": "RSA", "use": "enc", "kid": "enc", "n": "AQAB", "e": "AQAB" }),
        json!({ "kty": "AKP", "alg": "ML-DSA-44", "kid": "new", "pub": "AQAB" }),
    ];
    let keys = [&others[..], keys].concat();
    std::fs::write(path, json!({ "keys": keys }).to_string()).unwrap();
}

/// A proxy that believes one issuer.
struct World {
    cluster: Cluster,
    certificate: Certificate,
    files: tempfile::TempDir,
    issuer: Issuer,
}

impl World {
    async fn new() -> Self {
        let issuer = Issuer::new("first");
        let files = tempfile::tempdir().unwrap();
        write_keys(&files.path().join("jwks.json"), &[issuer.jwk()]);
        Self {
            cluster: Cluster::start().await,
            certificate: Certificate::for_name("localhost"),
            files,
            issuer,
        }
    }

    fn keys_path(&self) -> PathBuf {
        self.files.path().join("jwks.json")
    }

    async fn proxy(&self, change: impl Fn(&mut Config)) -> Proxy {
        let (chain, key) = self.certificate.write(self.files.path());
        let keys = self.keys_path().display().to_string();
        Proxy::start(&self.cluster, |config| {
            config.set("listen.tls", "prefer");
            config.set("listen.certificate", chain.display().to_string());
            config.set("listen.private_key", key.display().to_string());
            config.set("token.issuer", ISSUER);
            config.set("token.audience", "pgtenant");
            config.set("token.algorithms", vec!["ES256", "RS256"]);
            config.set("token.jwks", keys.clone());
            config.set("token.tenant_claim", "/app/tenant");
            config.set("token.user_claim", "sub");
            config.set("token.leeway", "0s");
            for (name, how) in [("web", "password"), ("phone", "oauthbearer")] {
                config.add_user(name, "tenants", vec!["acme", "globex"]);
                config.unset_user(name, "password");
                config.set_user(name, "token", how);
            }
            config.add_user("one", "tenant", "acme");
            config.unset_user("one", "password");
            config.set_user("one", "token", "password");
            change(config);
        })
        .await
    }

    async fn tls(&self, proxy: &Proxy) -> Link {
        let mut link = proxy.raw().await;
        assert_eq!(link.request(message::SSL_REQUEST).await, 'S');
        link.tls(self.certificate.client(&[]), "localhost").await.unwrap()
    }

    /// Logs in with a token, in the way that the user is asked for.
    async fn login(&self, proxy: &Proxy, user: &str, token: &str) -> Result<Link, Fault> {
        let mut link = self.tls(proxy).await;
        link.startup(&[("user", user), ("database", "app")]).await;
        if user.starts_with("phone") {
            assert_eq!(link.offered_mechanisms().await, ["OAUTHBEARER"]);
            link.send(bearer(&format!("n,,\x01auth=Bearer {token}\x01\x01"))).await;
        }
        link.authenticate(token).await?;
        Ok(link)
    }
}

fn bearer(data: &str) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap().to_be_bytes();
    message::raw(b'p', &[b"OAUTHBEARER\0", &length[..], data.as_bytes()].concat())
}

async fn tenant(link: &mut Link) -> String {
    link.query("SELECT current_setting('app.tenant_id')").await.value()
}

#[tokio::test]
async fn a_token_proves_user_and_tenant_in_both_ways() {
    let world = World::new().await;
    let proxy = world.proxy(|_| ()).await;
    for user in ["web", "phone"] {
        for named in ["acme", "globex"] {
            let token = world.issuer.token(user, named, json!({}));
            let mut link = world.login(&proxy, user, &token).await.unwrap();
            assert_eq!(tenant(&mut link).await, named, "{user}");
            let refused = link.query("SET app.tenant_id = 'initech'").await;
            assert_eq!(refused.code().as_deref(), Some("28000"), "{user}");
        }
        // A token for several tenants leaves the choice; its audience may be one of many.
        let token = world.issuer.token(
            user,
            "",
            json!({ "app": { "tenant": ["acme", "globex"] }, "aud": ["x", "pgtenant"] }),
        );
        let mut link = world.login(&proxy, &format!("{user}.globex"), &token).await.unwrap();
        assert_eq!(tenant(&mut link).await, "globex");
        assert_eq!(link.query("SET app.tenant_id = 'acme'").await, "C(SET) Z(I)");
        let granted = world.issuer.token(user, "initech", json!({}));
        assert_eq!(world.login(&proxy, user, &granted).await.err().unwrap().code, "28000", "not granted");
        let stated = world.issuer.token(user, "acme", json!({}));
        assert_eq!(
            world.login(&proxy, &format!("{user}.globex"), &stated).await.err().unwrap().code,
            "28000"
        );
    }
    let own = world.issuer.token("one", "acme", json!({}));
    assert_eq!(tenant(&mut world.login(&proxy, "one", &own).await.unwrap()).await, "acme");
    let other = world.issuer.token("one", "globex", json!({}));
    assert_eq!(world.login(&proxy, "one", &other).await.err().unwrap().code, "28000");
}

/// What is wrong with a token, what the log says of it, and the token.
type WrongToken = (&'static str, &'static str, String);

/// Tokens of the issuer whose claims are wrong.
fn with_wrong_claims(issuer: &Issuer, user: &str) -> Vec<WrongToken> {
    let token = |change| issuer.token(user, "acme", change);
    vec![
        ("expired", "it has expired (exp)", token(json!({ "exp": now() - 1 }))),
        ("of the future", "not valid yet (nbf)", token(json!({ "nbf": now() + 100 }))),
        ("without end", "claim exp is missing", token(json!({ "exp": null }))),
        ("another audience", "(aud) is not token.audience", token(json!({ "aud": "other" }))),
        ("no audience", "claim aud is missing", token(json!({ "aud": null }))),
        ("another issuer", "(iss) is not token.issuer", token(json!({ "iss": "https://id.example.org" }))),
        ("no issuer", "claim iss is missing", token(json!({ "iss": null }))),
        ("another user", "it is of another user", issuer.token("else", "acme", json!({}))),
        ("no user", "sub", token(json!({ "sub": null }))),
        ("no tenant", "/app/tenant", token(json!({ "app": null }))),
        ("a tenant that is no name", "or no name", token(json!({ "app": { "tenant": {} } }))),
        ("an unknown tenant", "there is no tenant", issuer.token(user, "nobody", json!({}))),
    ]
}

/// Texts that are no token of the issuer.
fn not_of_the_issuer(issuer: &Issuer, user: &str) -> Vec<WrongToken> {
    const FORGED: &str = "not by a key of the issuer";
    const NO_TOKEN: &str = "no JSON Web Token|holds no bearer token";
    let fine = issuer.token(user, "acme", json!({}));
    let [header, payload, signature] = fine.split('.').collect::<Vec<_>>()[..] else { panic!("{fine}") };
    let unsigned = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
    let shared = {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some("first".into());
        let secret = EncodingKey::from_secret(issuer.key.public_key_pem().as_bytes());
        encode(&header, &claims(user, "acme", json!({})), &secret).unwrap()
    };
    let critical = {
        let mut header = issuer.header();
        header.crit = Some(vec!["b64".into()]);
        issuer.sign(&header, &claims(user, "acme", json!({})))
    };
    let changed = URL_SAFE_NO_PAD.encode(claims(user, "globex", json!({})).to_string());
    let of = |stranger: &Issuer| stranger.token(user, "acme", json!({}));
    vec![
        ("garbage", NO_TOKEN, "no token".to_owned()),
        ("empty", NO_TOKEN, String::new()),
        ("a stranger's key of the same id", FORGED, of(&Issuer::new("first"))),
        ("a stranger's key", "no key of the issuer fits", of(&Issuer::new("second"))),
        ("unsigned", NO_TOKEN, format!("{unsigned}.{payload}.")),
        ("its signature taken away", FORGED, format!("{header}.{payload}.")),
        ("the public key as a shared secret", "not among token.algorithms", shared),
        ("a header that must be understood", "extensions", critical),
        ("changed", FORGED, format!("{header}.{changed}.{signature}")),
    ]
}

#[tokio::test]
async fn a_wrong_token_looks_like_a_wrong_password_and_the_log_says_why() {
    let world = World::new().await;
    let proxy = world.proxy(|_| ()).await;
    let issuer = &world.issuer;
    for user in ["web", "phone"] {
        let fine = issuer.token(user, "acme", json!({}));
        let wrong = [with_wrong_claims(issuer, user), not_of_the_issuer(issuer, user)].concat();
        for (what, reason, token) in wrong {
            let before = proxy.log().len();
            let fault = world.login(&proxy, user, &token).await.err();
            let fault = fault.unwrap_or_else(|| panic!("{user} {what}: let in"));
            assert_eq!(fault.code, "28P01", "{user} {what}: {fault:?}");
            let message = format!("password authentication failed for user \"{user}\"");
            assert_eq!(fault.message, message, "{user} {what}");
            let line = proxy.line_behind(before, "login refused").await;
            assert!(reason.split('|').any(|reason| line.contains(reason)), "{user} {what}: {line}");
            // Neither the token nor its claims.
            let payload = token.split('.').nth(1).filter(|payload| !payload.is_empty());
            assert!(payload.is_none_or(|payload| !proxy.log().contains(payload)), "tokens are secrets");
        }
        assert!(world.login(&proxy, user, &fine).await.is_ok());
    }
}

#[tokio::test]
async fn no_token_is_asked_for_in_the_clear_and_the_refusal_names_no_user() {
    let world = World::new().await;
    let proxy = world.proxy(|_| ()).await;
    let fine = world.issuer.token("web", "acme", json!({}));
    let fault = proxy.login_as("web", &fine, &[]).await.err().unwrap();
    let message = "password authentication failed for user \"web\"";
    assert_eq!((&*fault.code, &*fault.message), ("28P01", message));
    proxy.logged("needs TLS").await;
    for name in 0..8 {
        let fault = proxy.login_as(&format!("nobody{name}"), &fine, &[]).await.err().unwrap();
        assert_eq!(fault.code, "28P01");
    }
}

#[tokio::test]
async fn names_that_nobody_has_are_asked_for_what_users_are_asked_for() {
    let world = World::new().await;
    let proxy = world.proxy(|_| ()).await;
    let mut asked = std::collections::BTreeSet::new();
    for number in 0..40 {
        let mut first = None;
        for _ in 0..2 {
            let mut link = world.tls(&proxy).await;
            link.startup(&[("user", &format!("nobody{number}"))]).await;
            let request = link.frame("the request").await.body;
            assert_eq!(*first.get_or_insert_with(|| request.clone()), request, "nobody{number}");
            asked.insert(request);
        }
    }
    assert_eq!(asked.len(), 3, "SCRAM, a password, OAUTHBEARER: {asked:?}");
}

#[tokio::test]
async fn an_oauthbearer_client_without_a_token_is_told_where_to_get_one() {
    let world = World::new().await;
    let proxy = world.proxy(|config| config.set("token.scope", "openid db")).await;
    let mut link = world.tls(&proxy).await;
    link.startup(&[("user", "phone")]).await;
    assert_eq!(link.offered_mechanisms().await, ["OAUTHBEARER"]);
    let told = {
        link.send(bearer("n,,\x01auth=\x01\x01")).await;
        link.frame("the server's challenge").await.body
    };
    assert_eq!(told[..4], 11_u32.to_be_bytes());
    let told: Value = serde_json::from_slice(&told[4..]).unwrap();
    assert_eq!(told["openid-configuration"], format!("{ISSUER}/.well-known/openid-configuration"));
    assert_eq!((&told["scope"], &told["status"]), (&json!("openid db"), &json!("invalid_token")));
    link.send(message::raw(b'p', b"\x01")).await;
    let end = link.closes().await;
    assert_eq!(end.code().as_deref(), Some("28P01"), "{end}");
    for malformed in [
        "",
        "n,,",
        "p=x,,\x01auth=Bearer x\x01\x01",
        "n,,\x01auth=Basic x\x01\x01",
        "n,a=y,\x01auth=Bearer x\x01\x01",
    ] {
        let mut link = world.tls(&proxy).await;
        link.startup(&[("user", "phone")]).await;
        link.offered_mechanisms().await;
        link.send(bearer(malformed)).await;
        let end = link.closes().await;
        assert!(matches!(end.code().as_deref(), Some("28P01" | "08P01")), "{malformed:?}: {end}");
    }
}

#[tokio::test]
async fn keys_change_without_a_restart_and_stay_when_their_source_is_gone() {
    let world = World::new().await;
    let proxy = world.proxy(|config| config.set("token.jwks_interval", "1s")).await;
    let old = world.issuer.token("web", "acme", json!({}));
    assert!(world.login(&proxy, "web", &old).await.is_ok());
    let next = Issuer::new("second");
    write_keys(&world.keys_path(), &[next.jwk()]);
    let new = next.token("web", "acme", json!({}));
    eventually("the new key", || async { world.login(&proxy, "web", &new).await.ok() }).await;
    assert_eq!(world.login(&proxy, "web", &old).await.err().unwrap().code, "28P01", "the old key is gone");
    for broken in ["", "{}", r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","k":"c2VjcmV0","kid":"second"}]}"#] {
        std::fs::write(world.keys_path(), broken).unwrap();
        let before = proxy.log().matches("keys cannot be read").count();
        eventually("the failed reading", || async {
            (proxy.log().matches("keys cannot be read").count() > before).then_some(())
        })
        .await;
        assert!(world.login(&proxy, "web", &new).await.is_ok(), "{broken}");
    }
}

/// One answer over HTTPS, to whoever believes the certificate.
async fn answer(tls: tokio_rustls::TlsAcceptor, tcp: tokio::net::TcpStream, body: String) {
    let Ok(mut stream) = tls.accept(tcp).await else { return };
    let mut request = [0; 4096];
    let read = stream.read(&mut request).await.unwrap();
    assert!(request[..read].starts_with(b"GET /keys HTTP/1.1\r\n"));
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
}

#[tokio::test]
async fn keys_come_over_https_from_the_right_server_only() {
    let world = World::new().await;
    let web = Certificate::for_name("localhost");
    let authority = web.write_authority(world.files.path());
    let tls = tokio_rustls::TlsAcceptor::from(web.server());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://localhost:{}/keys", listener.local_addr().unwrap().port());
    let (keys, mut shown) = tokio::sync::watch::channel(json!({ "keys": [world.issuer.jwk()] }));
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (tls, body) = (tls.clone(), shown.borrow_and_update().to_string());
            tokio::spawn(answer(tls, tcp, body));
        }
    });
    let proxy = world
        .proxy(|config| {
            config.set("token.jwks", address.as_str());
            config.set("token.jwks_ca", authority.display().to_string());
        })
        .await;
    let token = world.issuer.token("web", "acme", json!({}));
    assert!(world.login(&proxy, "web", &token).await.is_ok(), "{}", proxy.log());
    // An unknown key has the set read again, long before the interval is over.
    let next = Issuer::new("second");
    keys.send_replace(json!({ "keys": [next.jwk()] }));
    let token = next.token("web", "acme", json!({}));
    eventually("the new key", || async { world.login(&proxy, "web", &token).await.ok() }).await;
    // The same address without the authority is not believed.
    let wary = world.proxy(|config| config.set("token.jwks", address.as_str())).await;
    assert_eq!(world.login(&wary, "web", &token).await.err().unwrap().code, "28P01");
    wary.logged("the token issuer's keys cannot be read").await;
}

#[tokio::test]
async fn a_session_ends_with_its_token_but_not_within_a_transaction() {
    let world = World::new().await;
    let proxy = world.proxy(|config| config.set("token.end_sessions", true)).await;
    let token = world.issuer.token("web", "acme", json!({ "exp": now() + 3 }));
    let mut idle = world.login(&proxy, "web", &token).await.unwrap();
    let mut busy = world.login(&proxy, "web", &token).await.unwrap();
    let mut lasting =
        world.login(&proxy, "web", &world.issuer.token("web", "acme", json!({}))).await.unwrap();
    busy.hold().await;
    let end = idle.closes().await;
    assert_eq!(end.code().as_deref(), Some("57P01"), "{end}");
    assert!(
        end.to_string().contains("token has expired") || end.0[0].fault().message.contains("token"),
        "{end}"
    );
    assert_eq!(busy.query("SELECT 1").await.value(), "1", "a transaction goes on");
    busy.send(message::query("COMMIT")).await;
    let end = busy.closes().await;
    assert!(end.to_string().starts_with("C(COMMIT)") && end.code().as_deref() == Some("57P01"), "{end}");
    assert_eq!(lasting.query("SELECT 1").await.value(), "1");
    // Without the setting a session outlives its token.
    let proxy = world.proxy(|_| ()).await;
    let mut link = world
        .login(&proxy, "web", &world.issuer.token("web", "acme", json!({ "exp": now() + 1 })))
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(link.query("SELECT 1").await.value(), "1");
}
