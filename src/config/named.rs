//! Files that a configuration names: whether they open, and the secret in one.
//! A refusal names the path, never what the file holds.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::problem::{InvalidValue, refuse};

/// The longest secret accepted from a file.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// Opens a file that the configuration names.
pub(super) fn open(path: &Path) -> Result<File, InvalidValue> {
    let refused = |error: io::Error| {
        refuse(format!("{} cannot be read: {error}", path.display()), "check the path and its permissions")
    };
    let file = File::open(path).map_err(refused)?;
    if file.metadata().map_err(refused)?.is_dir() {
        return Err(refused(io::ErrorKind::IsADirectory.into()));
    }
    Ok(file)
}

/// The text of a secret's file, without the line ends at its end.
pub(super) fn read_secret(path: &Path) -> Result<String, InvalidValue> {
    let mut text = String::new();
    let read = open(path)?.take(MAX_SECRET_BYTES + 1).read_to_string(&mut text);
    if read.is_err() || text.len() as u64 > MAX_SECRET_BYTES {
        let what = format!("{} is not a text of at most {MAX_SECRET_BYTES} bytes", path.display());
        return Err(refuse(what, "the file holds the secret and nothing else"));
    }
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    Ok(text)
}
