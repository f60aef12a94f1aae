//! From an accepted stream to what the client says it is: TLS or not, refusals, the startup packet.
//! Promise: every read is bounded in size here and in time by the caller.

pub mod claim;
pub mod negotiation;

pub use claim::{Claim, Replication, StartupParameters};
pub use negotiation::{Negotiator, Opening, StartupFault};
