//! The promises of pgtenant, proven from outside: a real `PostgreSQL`, the real binary, real bytes.
//! One file per promise; each test is named as the sentence it proves. `support` holds the vocabulary:
//! `Cluster`, `Proxy`, `Link`.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]
#![expect(clippy::float_cmp, reason = "metrics that count are whole numbers")]
#![expect(clippy::doc_markdown, reason = "the protocol's message names read better bare")]
#![expect(clippy::redundant_closure_for_method_calls, reason = "changes of a configuration look alike")]
#![expect(clippy::print_stdout, reason = "a failing test shows its seed and the proxy's log")]

mod support;

mod before_login;
mod blocks;
mod budgets;
mod canary;
mod cancel;
mod chaos;
mod choosers;
mod choosing;
mod choosing_in_vain;
mod claims;
mod console;
mod copy;
mod crowd;
mod database_names;
mod copy_frames;
mod departures;
mod directory;
mod doctor;
mod guard;
mod guard_fuzz;
mod hand_over_faults;
mod identity;
mod idle_servers;
mod isolation;
mod keeping;
mod moving;
mod operations;
mod placement;
mod prepared;
mod protect;
mod protocol;
mod register;
mod role_findings;
mod role_placement;
mod roles;
mod replication;
mod same_as_direct;
mod serves;
mod session_state;
mod start;
mod tenant;
mod token;
mod unknown_outcome;
mod upstream;
mod waiting;
mod wire_fuzz;
