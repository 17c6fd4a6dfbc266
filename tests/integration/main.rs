//! Integration tests, in one binary: real engines, real processes, one file per topic.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "clippy.toml allows these in tests only inside of test functions"
)]

#[path = "../support/mod.rs"]
mod support;

mod consul;
mod contract;
mod engines;
mod facade;
mod hazelcast;
mod health;
mod help;
mod http;
mod logging;
mod logging_lifecycle;
mod mailbox;
mod messages;
mod mixed;
mod poison;
mod populate_kv;
mod registry;
mod settings;
mod start_order;
mod status;
mod story;
mod up;
