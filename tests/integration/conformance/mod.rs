//! What the ports promise, whichever engine is behind them: each case is one function, and runs on each engine.

mod log;
mod mailbox;
mod registry;
mod settings;

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use svc::engine::{Engine, Engines, Result};
use uuid::Uuid;

use crate::support::agent::{Agent, Folder};
use crate::support::ports;

/// Longer than anything here takes on a busy machine; Consul keeps a query for 10 s where nothing changes.
const SOON: Duration = Duration::from_secs(30);

/// One agent for all cases: what they use is their own.
static AGENT: LazyLock<Agent> = LazyLock::new(Agent::start);

/// Makes a test of each case for each engine: `folder::a_case` and so on. `Own` has a constructor of each engine's name.
macro_rules! cases {
    ($($engine:ident)+: $cases:tt) => {
        $(cases!(@on $engine $cases);)+
    };
    (@on $engine:ident { $($case:ident),+ $(,)? }) => {
        mod $engine {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $case() {
                    super::$case(super::Own::$engine().await).await;
                }
            )+
        }
    };
}
use cases;

/// A name that no other case has.
fn unique() -> String {
    format!("test-{}", Uuid::new_v4())
}

/// Waits until the engine can be reached.
async fn ready<E: Engine + ?Sized>(engine: &E) {
    patiently(async || engine.ready().await).await;
}

/// What a call comes to in the end that may be made again: on a busy machine, an engine may be late.
async fn patiently<T>(call: impl AsyncFn() -> Result<T>) -> T {
    let end = Instant::now() + SOON;
    loop {
        match call().await {
            Ok(done) => break done,
            Err(error) => assert!(Instant::now() < end, "not within {SOON:?}: {error}"),
        }
    }
}

/// The embedded engines in a folder, as one more process has them.
fn engines_in(folder: &Folder) -> Engines {
    ports::folder(&folder.path.join("data"))
}
