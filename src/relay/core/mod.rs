//! The parts of a conversation's state. Each value is changed by its own methods only, and knows no socket, clock or pool.

pub mod block;
pub mod copy;
pub mod description;
pub mod framing;
pub mod portals;
pub mod replies;
pub mod segment;
pub mod session_state;
pub mod statements;
pub mod tenant_choice;
pub mod wish;
