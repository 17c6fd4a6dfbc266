//! Integration tests, one binary: a file per part of the system, beside what they share.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends by a panic that names the line"
)]

mod http;
mod logging;
mod raw;
