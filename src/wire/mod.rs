//! The protocol's frames: where one ends, what the few that matter say, how ours are written.
//! Source: PostgreSQL documentation, "Frontend/Backend Protocol", "Message Formats".
//! It knows no tenants, pools or sockets; on the relay path nothing is decoded that need not be.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::string_slice
)]

pub mod backend;
pub mod encode;
pub mod frame;
pub mod frontend;
pub mod startup;
