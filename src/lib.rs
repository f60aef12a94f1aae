//! pgtenant: a tenant-aware proxy for `PostgreSQL`.
//!
//! ```text
//! accept ─> startup ─> auth ─> tenant ─> session ──────────────────────────────────────┐
//!              │                            request ─> guard ─> upstream ─> relay ─> release
//!              └─> clients::cancel                              (checkout,
//!                                                                enter context)
//! ```
//!
//! Modules are declared in the order in which data meets them; each imports only what stands above it.

// words: what everything else speaks in
pub mod fault;
pub mod names;
pub mod observability;
pub mod secret;

// mechanics: no tenants here
pub mod net;
pub mod sql;
pub mod wire;

// stages: in the order a connection passes them
pub mod auth;
pub mod clients;
pub mod directory;
pub mod guard;
pub mod relay;
pub mod startup;
pub mod tenant;
pub mod upstream;

// those who run the stages
pub mod serve;
pub mod session;

// the operator's side
pub mod app;
pub mod cli;
pub mod config;
pub mod demo;
