//! Users: how they prove themselves, and the one grant of each.

use super::*;
use crate::directory::ChoiceSpan;

#[test]
fn only_gateway_users_name_a_tenant_in_comments() {
    let text = format!(
        "{UPSTREAM}[[user]]\nname = 'ann'\npassword = '{VERIFIER}'\ntenants = ['*']\ntenant_comment = true\n"
    );
    assert!(read(&text).unwrap().directory.users["ann"].tenant_comment);
}

#[test]
fn only_gateway_users_say_for_how_long_a_choice_holds() {
    let user = |lines: &str| {
        let text = format!(
            "{UPSTREAM}[[tenant]]\nid = 'acme'\n[[user]]\nname = 'ann'\npassword = '{VERIFIER}'\n{lines}\n"
        );
        read(&text).map(|config| config.directory.users["ann"].choice)
    };
    assert_eq!(user("tenants = ['*']").unwrap(), ChoiceSpan::Session);
    assert_eq!(user("tenants = ['*']\nchoice = 'session'").unwrap(), ChoiceSpan::Session);
    assert_eq!(user("tenants = ['*']\nchoice = 'transaction'").unwrap(), ChoiceSpan::Transaction);
    for refused in [
        "tenants = ['*']\nchoice = 'statement'",
        "tenants = ['*']\nchoice = 'transaction'\npool_mode = 'session'",
        "tenant = 'acme'\nchoice = 'session'",
        "operator = true\nchoice = 'transaction'",
    ] {
        assert!(user(refused).is_err(), "{refused}");
    }
}

#[test]
fn users_with_tenants_list_the_roles_that_they_may_set() {
    let user = |lines: &str| {
        let text = format!(
            "{UPSTREAM}[[tenant]]\nid = 'acme'\n[[user]]\nname = 'ann'\npassword = '{VERIFIER}'\n{lines}\n"
        );
        read(&text).map(|config| config.directory.users["ann"].roles.clone())
    };
    let many = |count: usize| {
        let names: Vec<String> = (0..count).map(|n| format!("'r{n}'")).collect();
        format!("tenant = 'acme'\nroles = [{}]", names.join(", "))
    };
    assert_eq!(user("tenant = 'acme'").unwrap(), Vec::<String>::new());
    assert_eq!(user("tenants = ['*']\nroles = ['anon', 'Web \"User\"']").unwrap(), ["anon", "Web \"User\""]);
    assert_eq!(user(&many(64)).unwrap().len(), 64);
    assert_eq!(user(&format!("tenant = 'acme'\nroles = ['{}']", "r".repeat(63))).unwrap().len(), 1);
    for refused in [
        &*many(65),
        &format!("tenant = 'acme'\nroles = ['{}']", "r".repeat(64)),
        "tenant = 'acme'\nroles = []",
        "tenant = 'acme'\nroles = ['']",
        "tenant = 'acme'\nroles = ['anon', 'anon']",
        "tenant = 'acme'\nroles = ['none']",
        "tenant = 'acme'\nroles = ['public']",
        "tenant = 'acme'\nroles = ['pg_read_all_data']",
        "tenant = 'acme'\nroles = ['pgtenant_register']",
        "tenant = 'acme'\nroles = ['r\u{e4}ume']",
        "operator = true\nroles = ['anon']",
        "maintenance = { server_user = 'owner' }\nroles = ['anon']",
    ] {
        assert!(user(refused).is_err(), "{refused}");
    }
}

#[test]
fn a_user_proves_itself_by_a_password_a_certificate_or_a_token() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("pem"), "x").unwrap();
    let tls = "certificate = 'pem'\nprivate_key = 'pem'\ntls = 'off'\n";
    let claims = "tenant_claim = 'tenant'\n";
    let found = |listen: &str, token: &str, user: &str| -> Vec<String> {
        let token = match token {
            "" => String::new(),
            more => format!("[token]\nissuer = 'i'\naudience = 'a'\njwks = 'pem'\n{more}\n"),
        };
        let text = format!(
            "{UPSTREAM}[listen]\n{listen}{token}[[tenant]]\nid = 'acme'\n[[user]]\nname = 'ann'\n{user}\n"
        );
        let text = text.replace("'V'", &format!("'{VERIFIER}'"));
        match parse(&text, dir.path(), &|_| None) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.0.iter().map(|problem| problem.what.clone()).collect(),
        }
    };
    let with_ca = format!("{tls}client_ca = 'pem'\n");
    let none = Vec::<String>::new();
    for user in [
        "certificate = 'cn:{user}'\ntenant = 'acme'",
        "certificate = 'uri:spiffe://x/{tenant}'\npassword = 'V'\ntenants = ['*']",
    ] {
        assert_eq!(found(&with_ca, "", user), none, "{user}");
        assert_eq!(found(tls, "", user), ["needs listen.client_ca"], "{user}");
    }
    for wrong in ["ann", "cn:", "x:ann", "dns:{tenant}.{tenant}", "uri:{x}"] {
        let user = format!("certificate = '{wrong}'\ntenant = 'acme'");
        assert_eq!(found(&with_ca, "", &user).len(), 1, "{wrong}");
    }
    assert_eq!(found(tls, "", "tenant = 'acme'"), ["is missing"]);
    assert_eq!(found("client_ca = 'pem'\n", "", "password = 'V'\ntenant = 'acme'"), ["needs TLS"]);
    assert_eq!(found("client_crl = 'pem'\n", "", "password = 'V'\ntenant = 'acme'"), ["needs client_ca"]);
    let token = "token = 'oauthbearer'\n";
    assert_eq!(found(tls, claims, &format!("{token}tenant = 'acme'")), none);
    assert_eq!(found(tls, claims, "token = 'password'\ntenants = ['*']"), none);
    assert_eq!(found(tls, "user_claim = 'sub'", &format!("{token}operator = true")), none);
    for (listen, section, user, problem) in [
        (tls, claims, "password = 'V'\ntenant = 'acme'", "and password are both there"),
        ("", claims, "tenant = 'acme'", "needs TLS"),
        (tls, "", "tenant = 'acme'", "needs a section [token]"),
        (tls, "scope = 'x'", "tenant = 'acme'", "needs token.user_claim or token.tenant_claim"),
        (tls, claims, "operator = true", "needs token.user_claim for a user without a tenant"),
    ] {
        assert_eq!(found(listen, section, &format!("{token}{user}")), [problem], "{listen} {section} {user}");
    }
    assert_eq!(found(tls, claims, "token = 'saml'\ntenant = 'acme'").len(), 1);
}

#[test]
fn a_verifier_is_read_as_postgresql_writes_it() {
    let user = |password: &str| refused("user", &format!("password = '{password}'"));
    assert!(user(VERIFIER).is_empty());
    assert!(user(&VERIFIER.replace("4096", "1")).is_empty());
    assert!(user(&VERIFIER.replace("4096", "10000000")).is_empty());
    let wrong = [
        VERIFIER.replace("4096", "0"),
        VERIFIER.replace("4096", "10000001"),
        VERIFIER.replace("4096", "x"),
        VERIFIER.replace("c2FsdHNhbHRzYWx0c2FsdA==", ""),
        VERIFIER.replace("c2FsdHNhbHRzYWx0c2FsdA==", "not base64"),
        VERIFIER.replace("AAAA=", "A="),
        VERIFIER.replace("AAAAAAAA", ""),
        "SCRAM-SHA-256$".into(),
        format!("md5{}", "0".repeat(32)),
        "plain".into(),
    ];
    for password in wrong {
        assert_eq!(user(&password).len(), 1, "{password}");
    }
}

#[test]
fn a_plain_password_becomes_a_verifier_if_allowed() {
    let user = |password: &str| {
        let text = format!(
            "{UPSTREAM}[listen]\nallow_plain_passwords = true\n[[user]]\nname = 'ann'\npassword = '{password}'\noperator = true\n"
        );
        read(&text).map(|config| User::clone(&config.directory.users["ann"]))
    };
    let verifier = || user("pencil").unwrap().verifier.unwrap();
    let (first, second) = (verifier(), verifier());
    assert_eq!((first.iterations, first.salt.len()), (4096, 16));
    assert_ne!(first.salt, second.salt);
    let salted = pgwire::api::auth::sasl::scram::gen_salted_password("pencil", &first.salt, 4096);
    let derived =
        pgwire::api::auth::sasl::scram::ScramSecret::verifier_from_salted_password(first.salt, salted, 4096);
    let pgwire::api::auth::sasl::scram::ScramSecret::Verifier { stored_key, server_key, .. } = derived else {
        panic!("not a verifier")
    };
    assert_eq!((first.stored_key.expose(), first.server_key.expose()), (&stored_key, &server_key));
    assert!(user("SCRAM-SHA-256$broken").is_err(), "a broken verifier is not a password");
    assert!(user(&format!("md5{}", "a".repeat(32))).is_err(), "a hash is not a password");
}

/// Two tenants, acme and globex, and users by name and grant.
fn users(users: &[(&str, &str)]) -> Result<HashMap<UserName, Grant>, Vec<String>> {
    let mut text = format!("{UPSTREAM}[[tenant]]\nid = 'acme'\n[[tenant]]\nid = 'globex'\n");
    for (name, grant) in users {
        write!(text, "[[user]]\nname = '{name}'\npassword = '{VERIFIER}'\n{grant}\n").unwrap();
    }
    let config =
        read(&text).map_err(|problems| problems.0.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    Ok(config.directory.users.iter().map(|(name, user)| (name.clone(), user.grant.clone())).collect())
}

#[test]
fn a_user_has_exactly_one_grant() {
    let acme = || TenantId::parse("acme").unwrap();
    let grant = |text: &str| users(&[("ann", text)]).map(|users| users["ann"].clone());
    assert_eq!(grant("tenant = 'acme'"), Ok(Grant::Tenant(acme())));
    assert_eq!(grant("tenants = ['acme']"), Ok(Grant::Tenants(vec![acme()])));
    assert_eq!(grant("tenants = ['*']"), Ok(Grant::AnyTenant));
    assert_eq!(grant("operator = true"), Ok(Grant::Operator));
    assert_eq!(grant("tenant = 'acme'\noperator = false"), Ok(Grant::Tenant(acme())));
    let Ok(Grant::Maintenance(maintenance)) =
        grant("maintenance = { server_user = 'o', server_password = 'p' }")
    else {
        panic!("not a maintenance user")
    };
    assert_eq!((maintenance.upstream.as_str(), &*maintenance.server_user), ("main", "o"));
    let wrong = [
        "",
        "operator = false",
        "tenant = 'acme'\ntenants = ['*']",
        "tenant = 'acme'\noperator = true",
        "tenant = 'initech'",
        "tenants = ['acme', 'acme']",
        "tenants = ['acme', '*']",
        "tenants = ['initech']",
        "maintenance = { upstream = 'main' }",
    ];
    for text in wrong {
        assert_eq!(grant(text).unwrap_err().len(), 1, "{text}");
    }
}

#[test]
fn a_login_name_never_means_two_things() {
    let (bound, gateway) = ("tenant = 'acme'", "tenants = ['globex']");
    assert!(users(&[("api", gateway), ("api.other", bound)]).is_ok());
    assert!(users(&[("api", bound), ("api.acme", bound)]).is_ok());
    assert!(users(&[("api-eu", gateway), ("api", gateway)]).is_ok());
    assert!(users(&[("api.acme", bound), ("api", gateway)]).unwrap_err()[0].contains("\"api.acme\".name"));
    assert!(users(&[("a.b", gateway), ("a.b.acme", "operator = true")]).is_err());
    assert!(users(&[("api", gateway), ("api.eu", gateway)]).is_err());
    assert!(users(&[("api", bound), ("api", bound)]).unwrap_err()[0].contains("is there twice"));
}
