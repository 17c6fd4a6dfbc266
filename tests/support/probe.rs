//! Asks `GET /health` of all instances all the time: it is answered within a second, whatever else happens.
//!
//! Time in which this process did not run either, as on a machine that stands still, is nobody's fault and does not count.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
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

/// Pause of the thread that sees whether this process runs, and what more than that is no chance.
const TICK: Duration = Duration::from_millis(10);
const STOOD: Duration = Duration::from_millis(100);

/// Where it stood still for longer than this in all, what was asked says nothing.
const MOST_STOOD: Duration = Duration::from_secs(10);

/// Ends with this value.
pub(crate) struct Probe {
    tasks: JoinSet<Asked>,
    stop: Arc<AtomicBool>,
    begun: Instant,
    stood: Arc<Stood>,
}

/// When this process did not run, as its thread for that saw.
#[derive(Default)]
struct Stood(Mutex<Vec<Range<Instant>>>);

impl Stood {
    /// Watches for as long as anybody has it.
    fn watch() -> Arc<Self> {
        let stood = Arc::new(Self::default());
        let watched = Arc::downgrade(&stood);
        std::thread::spawn(move || {
            while let Some(stood) = watched.upgrade() {
                let begun = Instant::now();
                // It is no thread of a runtime.
                #[allow(clippy::disallowed_methods)]
                std::thread::sleep(TICK);
                let ended = Instant::now();
                if ended - begun > STOOD {
                    stood.0.lock().unwrap().push(begun + TICK..ended);
                }
            }
        });
        stood
    }

    /// How much of the time since `begun` that was.
    fn since(&self, begun: Instant) -> Duration {
        let stood = self.0.lock().unwrap();
        stood
            .iter()
            .map(|one| one.end.saturating_duration_since(begun.max(one.start)))
            .sum()
    }
}

impl Probe {
    pub(crate) fn start(fleet: &Fleet) -> Self {
        let (mut tasks, stop) = (JoinSet::new(), Arc::new(AtomicBool::new(false)));
        let (begun, stood) = (Instant::now(), Stood::watch());
        for svc in fleet.facades.iter().chain(&fleet.logging).chain(&fleet.messages) {
            tasks.spawn(ask(svc.address(), stop.clone(), stood.clone()));
        }
        Self {
            tasks,
            stop,
            begun,
            stood,
        }
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
        let stood = self.stood.since(self.begun);
        assert!(stood < MOST_STOOD, "this process stood still for {stood:?}");
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

async fn ask(address: SocketAddr, stop: Arc<AtomicBool>, stood: Arc<Stood>) -> Asked {
    let mut asked = Asked::default();
    while !stop.load(Ordering::Relaxed) {
        let (begun, time) = (Instant::now(), time_of_day());
        let answer = timeout(PATIENCE, ask_at(address, "GET", "/health", "", "")).await;
        let took = begun.elapsed();
        if took >= WITHIN {
            // Until that was seen.
            sleep(2 * TICK).await;
        }
        let stood = stood.since(begun);
        let took = took.saturating_sub(stood);
        if took >= WITHIN {
            let late = format!("{address} at {time}: after {took:?}, not to count {stood:?}");
            asked.late.push(late);
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
