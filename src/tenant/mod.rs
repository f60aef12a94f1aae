//! From a proven identity to the tenant it acts for.
//! Promise: whoever holds a `Tenant` got it from the directory by a proven identity.

pub mod resolver;

pub use crate::directory::{
    AuthQuery, Canary, CertificateName, ContextMode, Directory, Fit, Grant, GuardLevel, Isolation, Limits,
    Maintenance, Pattern, Pinning, Place, PoolMode, ReaderLogin, SealKey, SubjectKind, Tables, Tenancy,
    Tenant, TokenUse, User, Verifier,
};
pub use resolver::{ResolveFault, Standing, reach, resolve};
