//! From a proven identity to the tenant it acts for.
//! Promise: whoever holds a `Tenant` got it from the directory by a proven identity.

pub mod resolver;

pub use crate::directory::{
    Directory, Grant, Isolation, Limits, Maintenance, Tenancy, Tenant, User, Verifier,
};
pub use resolver::{ResolveFault, Standing, resolve};
