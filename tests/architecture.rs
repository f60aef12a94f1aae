//! The repository keeps its own order: modules import only what is declared above them in `lib.rs`, walls
//! stand, packages have homes, files are short and say first what they promise.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Longest file, in lines before its tests.
const MAX_LINES: usize = 500;

/// What a module may import of this crate, where that is less than the order allows.
const WALLS: &[(&str, &[&str])] = &[
    ("fault", &[]),
    ("names", &[]),
    ("secret", &[]),
    ("wire", &["fault"]),
    ("sql", &[]),
    ("net", &["fault", "observability"]),
    ("guard", &["sql", "directory"]),
];

/// Where a package may be named, besides tests.
const HOMES: &[(&str, &[&str])] = &[
    ("metrics", &["observability"]),
    ("metrics_exporter_prometheus", &["observability"]),
    ("axum", &["observability"]),
    ("clap", &["cli"]),
    ("memchr", &["wire", "sql"]),
    ("toml", &["config"]),
    ("pgwire", &["auth", "console"]),
    ("tokio_postgres", &["control", "registry", "protect", "doctor", "canary", "demo"]),
    ("postgres_protocol", &["upstream", "config", "demo", "cli"]),
    ("rustix", &["app", "net"]),
    ("rustls", &["net", "startup", "upstream"]),
    ("jsonwebtoken", &["auth"]),
    ("hyper_util", &["auth"]),
    ("hyper_rustls", &["auth"]),
    ("x509_parser", &["auth"]),
    ("dashmap", &["upstream", "relay", "clients", "guard", "serve", "app"]),
];

fn sources() -> Vec<(PathBuf, String)> {
    fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    collect(&root, &mut paths);
    paths.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        (path.strip_prefix(&root).unwrap().to_owned(), text)
    };
    paths.into_iter().map(read).collect()
}

/// The first part of the path: `wire/frame.rs` → `wire`, `serve.rs` → `serve`.
fn module(path: &Path) -> String {
    let first = path.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// A file's text up to its inline tests; files of tests have none of it.
fn without_tests<'a>(path: &Path, text: &'a str) -> &'a str {
    let is_of_tests =
        |part: std::path::Component<'_>| ["tests", "tests.rs"].iter().any(|name| part.as_os_str() == *name);
    if path.components().any(is_of_tests) {
        return "";
    }
    text.split("#[cfg(test)]").next().unwrap()
}

/// The names behind each `prefix`, for example `crate::`, outside comments.
fn named(text: &str, prefix: &str) -> BTreeSet<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut names = BTreeSet::new();
    for line in code {
        for (at, _) in line.match_indices(prefix) {
            let name: String =
                line[at + prefix.len()..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            names.insert(name);
        }
    }
    names
}

#[test]
fn a_module_imports_only_what_is_declared_above_it() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let order: Vec<&str> =
        lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let place = |name: &str| order.iter().position(|known| *known == name);
    assert!(order.len() > 15, "lib.rs was read: {order:?}");
    for (path, text) in sources() {
        let own = module(&path);
        let Some(at) = place(&own) else { continue };
        for used in named(without_tests(&path, &text), "crate::") {
            if let Some(there) = place(&used) {
                assert!(there <= at, "{} uses {used}, which stands below {own} in lib.rs", path.display());
            }
        }
    }
}

#[test]
fn walls_stand() {
    for (path, text) in sources() {
        let own = module(&path);
        let Some((_, allowed)) = WALLS.iter().find(|(walled, _)| *walled == own) else { continue };
        for used in named(without_tests(&path, &text), "crate::") {
            let is_fine = used == own || used.is_empty() || allowed.contains(&used.as_str());
            assert!(is_fine, "{} uses {used}; {own} may use {allowed:?} only", path.display());
        }
    }
}

#[test]
fn packages_stay_in_their_homes() {
    for (path, text) in sources() {
        let own = module(&path);
        let text = without_tests(&path, &text);
        for (package, homes) in HOMES {
            let is_used = text.lines().any(|line| {
                let line = line.trim_start();
                line.starts_with(&format!("use {package}::")) || line.contains(&format!(" {package}::"))
            });
            assert!(
                !is_used || homes.contains(&own.as_str()),
                "{} uses the package {package}",
                path.display()
            );
        }
    }
}

#[test]
fn each_file_is_short_and_says_first_what_it_promises() {
    for (path, text) in sources() {
        assert!(text.starts_with("//!"), "{} does not begin with //!", path.display());
        let lines = without_tests(&path, &text).lines().count();
        assert!(lines <= MAX_LINES, "{} has {lines} lines before its tests", path.display());
    }
}

#[test]
fn each_public_type_name_has_one_meaning() {
    let mut homes: BTreeMap<String, PathBuf> = BTreeMap::new();
    for (path, text) in sources() {
        for line in text.lines().map(str::trim_start).filter(|line| line.starts_with("pub")) {
            let mut words = line.split_whitespace().skip_while(|word| word.starts_with("pub"));
            let is_type = matches!(words.next(), Some("struct" | "enum" | "trait"));
            let Some(name) = words.next().filter(|_| is_type) else { continue };
            let name: String = name.chars().take_while(|c| c.is_alphanumeric()).collect();
            if let Some(other) = homes.insert(name.clone(), path.clone()) {
                panic!("{name} is a type in {} and in {}", other.display(), path.display());
            }
        }
    }
    assert!(homes.len() > 200, "types were read: {}", homes.len());
}
