//! Files and secrets: where they are looked for, and that they are never printed.

use super::*;

#[test]
fn files_are_looked_for_beside_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["server.crt", "server.key", "roots.crt"] {
        fs::write(dir.path().join(name), "x").unwrap();
    }
    fs::write(dir.path().join("password"), "from-file\r\n").unwrap();
    let text = format!(
        "[listen]\ncertificate = 'server.crt'\nprivate_key = 'server.key'\n\
         {UPSTREAM}password = {{ file = 'password' }}\ntls = 'verify-full'\nca = 'roots.crt'\n"
    );
    fs::write(dir.path().join("c.toml"), &text).unwrap();
    let config = load(&dir.path().join("c.toml")).unwrap();
    assert_eq!(config.listen.tls, ClientTls::Prefer);
    assert_eq!(config.listen.certificate, Some(dir.path().join("server.crt")));
    let upstream = &config.upstreams["main"];
    assert_eq!(upstream.password.as_ref().unwrap().expose(), "from-file");
    assert_eq!(upstream.ca, Some(dir.path().join("roots.crt")));

    fs::write(dir.path().join("c.toml"), text.replace("verify-full", "require")).unwrap();
    assert!(load(&dir.path().join("c.toml")).unwrap_err().to_string().contains("main.ca"));
    fs::write(dir.path().join("c.toml"), text.replace("private_key = 'server.key'", "")).unwrap();
    assert!(load(&dir.path().join("c.toml")).unwrap_err().to_string().contains("needs private_key"));
    assert!(load(&PathBuf::from("/nonexistent.toml")).unwrap_err().to_string().contains("cannot be read"));
}

#[test]
fn secrets_come_from_text_environment_or_file() {
    let secret = |value: &str| {
        let config = read(&format!("{UPSTREAM}password = {value}\n"))?;
        Ok::<_, Problems>(config.upstreams["main"].password.clone().unwrap().expose().clone())
    };
    assert_eq!(secret("'text'").unwrap(), "text");
    assert_eq!(secret("{ env = 'SET' }").unwrap(), "from-environment");
    for refused in
        ["{ env = 'UNSET' }", "{ file = 'missing' }", "{ env = 'SET', file = 'x' }", "{}", "''", "5"]
    {
        assert!(secret(refused).is_err(), "{refused}");
    }
}

#[test]
fn secrets_are_never_printed() {
    let word = "hunter2";
    let wrong = [
        format!("{UPSTREAM}password = ['{word}']\n"),
        format!("{UPSTREAM}password = {{ text = '{word}' }}\n"),
        format!("{UPSTREAM}pasword = '{word}'\n"),
        format!("{UPSTREAM}hosts = ['postgres://app:{word}@db/app']\n"),
        format!("{UPSTREAM}[tenancy]\nseal_key = '{word}'\n"),
        format!("{UPSTREAM}[[user]]\nname = 'ann'\npassword = '{word}'\noperator = true\n"),
        format!(
            "{UPSTREAM}[[user]]\nname = 'ann'\npassword = 'SCRAM-SHA-256$4096:{word}$a:b'\noperator = true\n"
        ),
        format!("{UPSTREAM}[[user]]\nname = 'ann'\npassword = \"{word}\\u0000\"\noperator = true\n"),
    ];
    for text in wrong {
        let problems = read(&text).unwrap_err();
        assert!(!format!("{problems} {problems:?}").contains(word), "{problems}");
    }
    let right = read(&format!("{UPSTREAM}password = '{word}'\n")).unwrap();
    assert!(!format!("{right:?}").contains(word));
}
