//! Asks `GET /health` of all instances all the time: it is answered within a second, whatever else happens.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::fleet::{Fleet, ask_at};

/// Within this `GET /health` is answered.
const WITHIN: Duration = Duration::from_secs(1);

/// So long is waited for an answer, to tell of one that is late how late it is.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two questions to an instance.
const PAUSE: Duration = Duration::from_millis(50);

/// Ends with this value.
pub(crate) struct Probe {
    tasks: JoinSet<Asked>,
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
        let (mut all, mut late) = ((0, Duration::ZERO), Vec::new());
        while let Some(asked) = self.tasks.join_next().await {
            let asked = asked.unwrap();
            all = (all.0 + asked.answers, all.1.max(asked.longest));
            late.extend(asked.late);
        }
        assert!(late.is_empty(), "no answer to GET /health within {WITHIN:?}: {late:?}");
        all
    }
}

/// What an instance answered.
#[derive(Default)]
struct Asked {
    answers: usize,
    longest: Duration,
    /// Which answers came too late, if at all.
    late: Vec<String>,
}

async fn ask(address: SocketAddr, stop: Arc<AtomicBool>) -> Asked {
    let mut asked = Asked::default();
    while !stop.load(Ordering::Relaxed) {
        let (begun, time) = (Instant::now(), time_of_day());
        let answer = timeout(PATIENCE, ask_at(address, "GET", "/health", "", "")).await;
        let took = begun.elapsed();
        if took >= WITHIN {
            asked.late.push(format!("{address} at {time}: after {took:?}"));
        }
        if let Ok(answer) = answer {
            let body = String::from_utf8_lossy(&answer.body);
            assert_eq!(answer.status, 200, "{address}: {body}");
        }
        asked.longest = asked.longest.max(took);
        asked.answers += 1;
        sleep(PAUSE).await;
    }
    asked
}

/// In UTC, as the logs of instances have it.
fn time_of_day() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seconds = now.as_secs();
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{:03}", seconds % 60, now.subsec_millis())
}
