//! Tenants and users as the operator wrote them, kept as one snapshot that is swapped whole.
//! Promise: whoever holds a `Tenant` got it from the directory by a proven identity.

pub mod directory;

pub use directory::{Directory, Grant, Isolation, Limits, Maintenance, Tenancy, Tenant, User, Verifier};
