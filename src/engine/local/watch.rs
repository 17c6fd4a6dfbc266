//! [`Lookout`]: a thread that looks at files again and again, and tells what it sees where that is something else.

use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::CALL_DEADLINE;

/// How often what stands is told as it is: that it is known.
pub(super) const CONFIRM: Duration = Duration::from_secs(3);

/// How long it pauses after a look that failed.
const ERROR_PAUSE: Duration = Duration::from_secs(1);

/// What a look saw; the cause is told once.
type Seen<T> = Option<anyhow::Result<T>>;

/// A thread that looks until this is dropped.
///
/// A look waits for the disk, which may hang, and there are several each second in every process of an idle system: a thread
/// that sleeps costs least, and holds up nobody.
#[derive(Debug)]
pub(super) struct Lookout<T> {
    // Dropped before the thread is woken, which then sees that nobody listens.
    seen: watch::Receiver<Seen<T>>,
    _woken_at_end: Woken,
}

impl<T: Clone + PartialEq + Send + Sync + 'static> Lookout<T> {
    /// Looks at once, and then as often as `every`.
    ///
    /// # Errors
    /// Where the system has no room for another thread.
    pub(super) fn start(
        every: Duration,
        mut look: impl FnMut() -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (tell, seen) = watch::channel(None);
        let run = move || {
            let mut told: Option<(T, Instant)> = None;
            while !tell.is_closed() {
                let pause = match look() {
                    Ok(seen) => {
                        let is_told = |(last, at): &(T, Instant)| *last == seen && at.elapsed() < CONFIRM;
                        if !told.as_ref().is_some_and(is_told) {
                            told = Some((seen.clone(), Instant::now()));
                            tell.send_replace(Some(Ok(seen)));
                        }
                        every
                    }
                    Err(error) => {
                        told = None;
                        tell.send_replace(Some(Err(error)));
                        ERROR_PAUSE
                    }
                };
                thread::park_timeout(pause);
            }
        };
        let thread = thread::Builder::new().name("lookout".to_owned()).spawn(run);
        let thread = thread.context("the thread that watches the folder cannot be started")?;
        Ok(Self {
            seen,
            _woken_at_end: Woken(thread.thread().clone()),
        })
    }

    /// What is seen: at once, whenever it is something else, and every few seconds as it is.
    ///
    /// # Errors
    /// Where a look failed, or takes too long.
    pub(super) async fn next(&mut self) -> anyhow::Result<T> {
        match timeout(CONFIRM + CALL_DEADLINE, self.seen.changed()).await {
            Ok(Ok(())) => match &*self.seen.borrow_and_update() {
                Some(Ok(seen)) => Ok(seen.clone()),
                Some(Err(error)) => Err(anyhow!("{error:#}")),
                None => Err(anyhow!("nothing was seen yet")),
            },
            Ok(Err(_)) => {
                sleep(CONFIRM).await;
                Err(anyhow!(
                    "the thread that watches the folder met a fault in this program"
                ))
            }
            Err(_) => Err(anyhow!("the disk did not answer within {:?}", CONFIRM + CALL_DEADLINE)),
        }
    }
}

/// Wakes the thread when dropped. One that waits for a disk that hangs is not waited for.
#[derive(Debug)]
struct Woken(Thread);

impl Drop for Woken {
    fn drop(&mut self) {
        self.0.unpark();
    }
}
