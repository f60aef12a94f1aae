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
pub mod memory;

// mechanics: no tenants here
pub mod net;
pub mod wire;
pub mod sql;

// stages: in the order a connection passes them
pub mod directory;
pub mod seal;
pub mod startup;
pub mod auth;
pub mod tenant;
pub mod guard;
pub mod upstream;
pub mod control;
pub mod clients;
pub mod relay;

// those who run the stages
pub mod breaker;
pub mod session;
pub mod serve;

// the operator's side
pub mod config;
pub mod registry;
pub mod protect;
pub mod canary;
pub mod doctor;
pub mod console;
pub mod demo;
pub mod app;
pub mod cli;
