//! Asks `GET /health` of all instances all the time: it is answered within a second, whatever else happens.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::fleet::{Fleet, ask_at};

/// Within this `GET /health` is answered.
const WITHIN: Duration = Duration::from_secs(1);

/// Between two questions to an instance.
const PAUSE: Duration = Duration::from_millis(50);

/// Ends with this value.
pub(crate) struct Probe {
    tasks: JoinSet<(usize, Duration)>,
    stop: Arc<AtomicBool>,
}

impl Probe {
    pub(crate) fn start(fleet: &Fleet) -> Self {
        let (mut tasks, stop) = (JoinSet::new(), Arc::new(AtomicBool::new(false)));
        for svc in fleet.facades.iter().chain(&fleet.logging).chain(&fleet.messages) {
            tasks.spawn(ask(svc.address(), stop.clone()));
        }
        Self { tasks, stop }
    }

    /// How often all of them were asked, and how long the longest answer took. Each was 200, and in time.
    pub(crate) async fn end(mut self) -> (usize, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = (0, Duration::ZERO);
        while let Some(asked) = self.tasks.join_next().await {
            let (answers, longest) = asked.unwrap();
            all = (all.0 + answers, all.1.max(longest));
        }
        all
    }
}

async fn ask(address: SocketAddr, stop: Arc<AtomicBool>) -> (usize, Duration) {
    let (mut answers, mut longest) = (0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let answer = timeout(WITHIN, ask_at(address, "GET", "/health", "", "")).await;
        let answer = answer.unwrap_or_else(|_| panic!("{address}: no answer to GET /health within {WITHIN:?}"));
        assert_eq!(
            answer.status,
            200,
            "{address}: {}",
            String::from_utf8_lossy(&answer.body)
        );
        longest = longest.max(begun.elapsed());
        answers += 1;
        sleep(PAUSE).await;
    }
    (answers, longest)
}
