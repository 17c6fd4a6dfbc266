//! What integration tests share: real engines, real `svc` processes, a way to ask them.
#![allow(dead_code, reason = "each test binary uses its own part of this")]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "what only tests call may end the test"
)]

pub(crate) mod agent;
pub(crate) mod command;
pub(crate) mod engines;
pub(crate) mod fake;
pub(crate) mod fleet;
pub(crate) mod hold;
pub(crate) mod http;
pub(crate) mod member;
pub(crate) mod messages;
pub(crate) mod place;
pub(crate) mod ports;
pub(crate) mod probe;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod python;
pub(crate) mod raw;
pub(crate) mod table;
pub(crate) mod texts;
pub(crate) mod up;
pub(crate) mod wait;
pub(crate) mod ways;
pub(crate) mod wire;
