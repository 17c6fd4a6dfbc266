//! [`Scan`]: pages of a map that knows no order, read by looking at all of it.

use anyhow::anyhow;
use tokio::time::{Duration, Instant, timeout_at};

use crate::batch::{Batcher, Entry, Limits, NoOutcome};
use crate::engine::PageRange;
use crate::engine::page::Lowest;
use crate::hazelcast;

/// How long a page may take to be found.
const TIMEOUT: Duration = Duration::from_millis(4200);

/// Pages of one pass. What is found of each is kept until its end: 2 MiB at most, where texts have the largest size.
const PAGES_OF_A_PASS: usize = 32;

/// One pass at a time takes what the machine has; one that hangs holds nobody up for long.
const LIMITS: Limits = Limits {
    batch_items: PAGES_OF_A_PASS,
    batch_bytes: usize::MAX,
    items: 8 * PAGES_OF_A_PASS,
    bytes: usize::MAX,
    flights: 1,
    slow_after: Duration::from_secs(3),
    most_flights: 2,
};

/// Finds what is on a page by a pass over a whole map. Pages that are asked for while a pass is under way are found together, by
/// the next one: many at once take the time of two.
#[derive(Debug)]
pub(super) struct Scan<T>(Batcher<PageRange, Result<Lowest<T>, String>>);

impl<T: Send + 'static> Scan<T> {
    /// Finds pages by `pass`, which puts all that there is on each page.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub(super) fn by<F>(pass: impl Fn(Vec<Lowest<T>>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = hazelcast::Result<Vec<Lowest<T>>>> + Send + 'static,
    {
        Self(Batcher::start(LIMITS, move |asked: Vec<Entry<PageRange, _>>| {
            let end = asked.iter().map(|entry| entry.ticket.deadline).max();
            let (pages, tickets): (Vec<_>, Vec<_>) = asked
                .into_iter()
                .map(|entry| (Lowest::of(entry.item), entry.ticket))
                .unzip();
            let passed = pass(pages);
            async move {
                // Who waits hears by itself that it is too late.
                let Ok(passed) = timeout_at(end.unwrap_or_else(Instant::now), passed).await else {
                    return;
                };
                match passed {
                    Ok(pages) => pages
                        .into_iter()
                        .zip(tickets)
                        .for_each(|(page, ticket)| ticket.answer(Ok(page))),
                    Err(error) => {
                        let cause = format!("{:#}", anyhow!(error));
                        tickets.into_iter().for_each(|ticket| ticket.answer(Err(cause.clone())));
                    }
                }
            }
        }))
    }

    /// What is on the page.
    ///
    /// # Errors
    /// Where the map cannot be looked at, or not in time.
    pub(super) async fn page(&self, range: &PageRange) -> anyhow::Result<Lowest<T>> {
        let found = self.0.submit(range.clone(), 0, Instant::now() + TIMEOUT).await;
        let found = found.map_err(|why| match why {
            NoOutcome::Full => anyhow!("too many pages are asked for at once"),
            NoOutcome::Late => anyhow!("not all entries could be looked at within {TIMEOUT:?}"),
            NoOutcome::Lost => anyhow!("to look at all entries met a fault in this program"),
        })?;
        found.map_err(|cause| anyhow!(cause))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use futures_util::future::{join_all, try_join_all};
    use tokio::sync::Semaphore;

    use super::*;
    use crate::hazelcast::Data;

    fn range(limit: usize) -> PageRange {
        PageRange { after: None, limit }
    }

    fn put_all(mut pages: Vec<Lowest<()>>) -> Vec<Lowest<()>> {
        for page in &mut pages {
            for identifier in ["c", "a", "b"] {
                page.put(identifier, 0, "", ());
            }
        }
        pages
    }

    #[tokio::test(start_paused = true)]
    async fn pages_that_are_asked_for_while_a_pass_is_under_way_are_found_by_one_more() {
        let (passes, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let (counter, opened) = (passes.clone(), gate.clone());
        let scan = Scan::by(move |pages| {
            counter.fetch_add(1, Ordering::Relaxed);
            let opened = opened.clone();
            async move {
                opened.acquire().await.unwrap().forget();
                Ok(put_all(pages))
            }
        });
        let ranges = [1, 2, 3, 1, 2].map(range);
        let under_way = async {
            while passes.load(Ordering::Relaxed) == 0 {
                tokio::task::yield_now().await;
            }
        };
        let later = async {
            under_way.await;
            let asked = try_join_all(ranges[1..].iter().map(|range| scan.page(range)));
            let open = async { gate.add_permits(2) };
            tokio::join!(asked, open).0
        };
        let (first, later) = tokio::join!(scan.page(&ranges[0]), later);
        let found = std::iter::once(first.unwrap()).chain(later.unwrap());
        let found: Vec<_> = found.map(Lowest::into_identifiers).collect();
        for (range, (identifiers, next)) in ranges.iter().zip(found) {
            assert_eq!(identifiers, ["a", "b", "c"][..range.limit]);
            assert_eq!(next.as_deref(), [Some("a"), Some("b"), None][range.limit - 1]);
        }
        assert_eq!(passes.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pass_that_fails_or_hangs_is_an_error_of_each_page_in_time() {
        let failing = Scan::<()>::by(|_| async { Err(Data::from_bytes(Bytes::new()).unwrap_err()) });
        let hanging = Scan::<()>::by(|_| std::future::pending());
        for (scan, expected) in [(failing, "fewer than its header"), (hanging, "within 4.2s")] {
            let began = Instant::now();
            for outcome in join_all([1, 2].map(range).iter().map(|range| scan.page(range))).await {
                let error = outcome.unwrap_err().to_string();
                assert!(error.contains(expected), "{error}");
            }
            assert!(began.elapsed() < Duration::from_millis(4400));
        }
    }
}
