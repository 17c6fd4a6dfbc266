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

/// Makes each of these functions, which take a `support::place::Kind`, a test on both.
macro_rules! on_both_engines {
    ($($name:ident),+ $(,)?) => {
        mod servers {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    super::$name($crate::support::place::Kind::Servers).await;
                }
            )+
        }

        mod folder {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    super::$name($crate::support::place::Kind::Folder).await;
                }
            )+
        }
    };
}

mod conformance;
mod consul;
mod contract;
mod embedded;
mod engines;
mod facade;
mod hazelcast;
mod health;
mod help;
mod http;
mod local;
mod logging;
mod logging_lifecycle;
mod mailbox;
mod messages;
mod mixed;
mod poison;
mod populate_kv;
mod registration;
mod registry;
mod settings;
mod start_order;
mod status;
mod story;
mod up;
