//! Reads SQL text as far as a proxy has to: tokens exactly by `PostgreSQL`'s rules, and the kind of each
//! statement by its first words. Reads no grammar and knows no catalogue; what a text *may* do is for
//! [`crate::guard`]. The entry is [`survey`].
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::string_slice
)]

pub mod steps;

mod scan;

pub(crate) mod words;

pub mod lexer;

pub mod block;

pub mod keyword;

pub mod kind;

pub mod statement;

pub mod transaction;

mod commenter;

mod deallocate;

mod resets;

pub use commenter::{Said, commented};
pub use deallocate::deallocated;
pub use kind::{SessionEffect, StatementKind};
pub use resets::{Reset, ResetStatement, may_reset, resets};
pub use scan::contains;
pub use statement::{Count, Survey, survey};
pub use transaction::Course;
