//! From a proven identity to the tenant it acts for.
//! Promise: whoever holds a `Tenant` got it from the directory by a proven identity.

pub mod resolver;

pub use crate::directory::{
    Canary, ContextMode, Directory, Grant, GuardLevel, Isolation, Limits, Maintenance, Pinning, Place,
    PoolMode, SealKey, Tenancy, Tenant, User, Verifier,
};
pub use resolver::{ResolveFault, Standing, resolve};
