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
