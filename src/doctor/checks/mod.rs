//! Every check of the catalogs, in the order of the report. A new check is a new row in one of these files
//! and a row in docs/doctor.md.

mod code;
mod policies;
mod privileges;
mod register;
mod role;
mod server;
mod tables;

use super::check::Check;
pub(super) use role::SETTABLE;

/// Those of the login role itself, which say nothing of a role that its sessions may set.
const OF_LOGIN: [&str; 6] = ["D01", "D02", "D03", "D28", "D47", SETTABLE];

/// Those of a role that sessions of the login role may set.
pub(super) fn of_settable() -> impl Iterator<Item = &'static Check> {
    all().filter(|check| !OF_LOGIN.contains(&check.id))
}

/// All of them.
pub(super) fn all() -> impl Iterator<Item = &'static Check> {
    [
        role::CHECKS,
        tables::CHECKS,
        policies::CHECKS,
        register::CHECKS,
        code::CHECKS,
        privileges::CHECKS,
        server::CHECKS,
    ]
    .into_iter()
    .flatten()
}
