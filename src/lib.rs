//! pgtenant: a tenant-aware proxy for `PostgreSQL`.

pub mod names;
pub mod observability;
pub mod secret;

pub mod net;
pub mod sql;

pub mod tenant;
pub mod guard;
pub mod upstream;

pub mod config;
pub mod demo;
