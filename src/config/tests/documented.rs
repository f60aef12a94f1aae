//! The example and the documentation name every key and every default.

use super::*;

#[test]
fn the_example_parses_and_says_the_defaults() {
    let example = read(EXAMPLE).unwrap();
    let short = read(UPSTREAM).unwrap();
    assert_eq!(
        (&example.listen, &example.metrics, &example.log),
        (&short.listen, &short.metrics, &short.log)
    );
    assert_eq!(
        (&example.upstreams, &example.directory.tenancy),
        (&short.upstreams, &short.directory.tenancy)
    );
    let tenants = &example.directory.tenants;
    assert_eq!(tenants["acme"].limits, tenants["globex"].limits);
    let without: String =
        EXAMPLE.lines().filter(|line| !is_limit(line)).fold(String::new(), |all, line| all + line + "\n");
    assert_eq!(read(&without).unwrap(), example, "a limit in the example is not the default");
}

fn is_limit(line: &str) -> bool {
    keys::DEFAULTS.names().any(|name| line.starts_with(&format!("{name} = ")))
}

#[test]
fn every_key_is_in_the_example_and_in_the_documentation() {
    let mut section = "";
    let mut shown = BTreeSet::new();
    for line in EXAMPLE.lines().map(|line| line.trim_start_matches("# ")) {
        let head = line.split('#').next().unwrap().trim();
        if head.starts_with('[') {
            section = head.trim_matches(['[', ']']);
        } else if let Some((key, _)) = line.split_once(" = ") {
            shown.insert(format!("{}.{key}", section.replace("upstream.main", "upstream.*")));
        }
    }
    shown.insert("user.maintenance".to_owned());
    let mut rows = BTreeSet::new();
    for (keys, key) in SECTIONS.iter().flat_map(|keys| keys.keys.iter().map(move |key| (keys, key))) {
        let name = format!("{}.{}", keys.section, key.name);
        let reload = if key.reload == Reload::Live { "live" } else { "restart" };
        let row = DOCS.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
        let row = row.unwrap_or_else(|| panic!("docs/configuration.md lacks {name}"));
        assert!(row.ends_with(&format!(" {reload} |")), "docs/configuration.md: {name} is {reload}");
        assert!(shown.contains(&name), "config.example.toml lacks {name}");
        rows.insert(row);
    }
    let extra =
        DOCS.lines().filter(|line| line.starts_with("| `") && !rows.contains(line)).collect::<Vec<_>>();
    assert_eq!(extra, Vec::<&str>::new(), "documented, but not a key");
}

#[test]
fn every_known_key_is_read_and_no_other() {
    for keys in SECTIONS {
        for name in keys.names() {
            // No setting is a date, so whoever reads the key must complain.
            let found = refused(keys.section, &format!("{name} = 1979-05-27"));
            assert!(found.iter().any(|one| one.contains(&format!(".{name} (line"))), "{name}: {found:?}");
        }
        let found = refused(keys.section, "surprise = 1");
        assert_eq!(found.len(), 1, "{}: {found:?}", keys.section);
        assert!(found[0].contains(".surprise (line"), "{found:?}");
    }
}
