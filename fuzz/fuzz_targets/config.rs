//! Any text is a configuration or a list of problems, each of which says what it is, never a panic; the same text
//! says the same again.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use pgtenant::config::parse;

fuzz_target!(|text: &str| {
    // Names of files are looked for where there are none; an absolute one might be a device without an end.
    if text.contains('/') {
        return;
    }
    let read = || parse(text, Path::new("/nonexistent"), &|name| Some(name.to_owned()));
    match read() {
        Ok(config) => assert_eq!(read(), Ok(config)),
        Err(problems) => assert!(problems.0.iter().all(|problem| !problem.what.is_empty()) && !problems.0.is_empty()),
    }
});
