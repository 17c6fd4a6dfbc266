//! The clients: each posts one text after the other to its facade, and keeps its own record.

use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep, timeout};

use crate::connection::{Caller, DEADLINE, Failure};
use crate::options::{Facade, Options};
use crate::record::Record;
use crate::texts::{Id, Texts};
use crate::windows::{Current, Windows};

/// How long a client waits after a failure without an answer.
const PAUSE: Duration = Duration::from_millis(10);

/// The clients that post.
#[derive(Debug)]
pub(crate) struct Clients {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<anyhow::Result<Record>>>,
}

impl Clients {
    /// Starts all of them.
    pub(crate) fn start(options: &Options, texts: &Texts, windows: &Windows) -> Clients {
        let (stop, stopped) = watch::channel(false);
        let dealt = options.facades.iter().enumerate().cycle().take(options.clients);
        let tasks = dealt.enumerate().map(|(number, (facade_number, facade))| {
            let client = Client {
                number,
                texts: texts.clone(),
                current: windows.current(),
                pace: options.rate.map(|rate| pace(rate, number, options.clients)),
                stopped: stopped.clone(),
                record: Record {
                    facade: facade_number,
                    ..Record::default()
                },
            };
            tokio::spawn(client.run(facade.clone()))
        });
        let tasks = tasks.collect();
        Clients { stop, tasks }
    }

    /// Lets each of them end the post that it is at, and returns their records, by client.
    ///
    /// # Errors
    /// Where a client did not come to its end.
    pub(crate) async fn stop(self) -> anyhow::Result<Vec<Record>> {
        self.stop.send_replace(true);
        let mut records = Vec::with_capacity(self.tasks.len());
        for task in self.tasks {
            records.push(task.await.context("a client broke down")??);
        }
        Ok(records)
    }
}

/// The turns of one of `clients`, which come one after the other and are `rate` in a second, all together.
fn pace(rate: u32, number: usize, clients: usize) -> Interval {
    let turns = |count: usize| Duration::from_secs(1).mul_f64(count as f64 / f64::from(rate));
    let mut interval = interval_at(Instant::now() + turns(number), turns(clients));
    // After an outage the rate is what it was before.
    interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
    interval
}

struct Client {
    number: usize,
    texts: Texts,
    current: Current,
    /// Without one it posts as fast as it is answered.
    pace: Option<Interval>,
    stopped: watch::Receiver<bool>,
    record: Record,
}

impl Client {
    async fn run(mut self, facade: Facade) -> anyhow::Result<Record> {
        let mut caller = Caller::new(facade)?;
        while self.is_next().await {
            let text = self.texts.text(Id {
                client: self.number,
                counter: self.record.posts.len(),
            });
            let began = Instant::now();
            let outcome = timeout(DEADLINE, caller.post(&text)).await;
            let failure = outcome.unwrap_or_else(|_| Err(Failure::late())).err();
            let took = began.elapsed();
            self.record.add(self.current.number(), took, failure.as_ref());
            if failure.is_some_and(|failure| !failure.answered) {
                sleep(PAUSE).await;
            }
        }
        Ok(self.record)
    }

    /// Waits for its turn; false where there is none any more.
    async fn is_next(&mut self) -> bool {
        if let Some(pace) = &mut self.pace {
            tokio::select! {
                _ = pace.tick() => {}
                // The sender is gone where nobody waits for this client any more.
                _ = self.stopped.wait_for(|stopped| *stopped) => {}
            }
        }
        !*self.stopped.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Counts;
    use crate::scripted::{self, last_answer};

    #[tokio::test]
    async fn each_client_stays_with_its_facade_and_posts_each_text_once() {
        let (good, posted) = scripted::facade(vec![last_answer(201, "{}"); 20]).await;
        let (bad, refused) = scripted::facade(vec![last_answer(503, "{}"); 20]).await;
        let (good_url, bad_url) = (good.to_string(), bad.to_string());
        let options = Options::of(["load", "--url", &good_url, "--url", &bad_url, "--clients", "4"]).unwrap();
        let mut windows = Windows::begin();
        windows.mark("only");
        let clients = Clients::start(&options, &Texts::new(40), &windows);
        let answered = timeout(Duration::from_secs(60), async {
            (posted.await.unwrap(), refused.await.unwrap())
        });
        let (posted, refused) = answered.await.unwrap();
        let records = clients.stop().await.unwrap();

        let facades: Vec<usize> = records.iter().map(|record| record.facade).collect();
        assert_eq!(facades, [0, 1, 0, 1]);
        let of = |facade| {
            let records = records.iter().filter(move |record| record.facade == facade);
            let windows = records.clone().flat_map(|record| &record.windows);
            assert!(
                records
                    .clone()
                    .all(|record| record.windows.first() == Some(&Counts::default()))
            );
            windows.copied().fold(Counts::default(), Counts::and)
        };
        // What comes after the 20 answers is refused.
        assert_eq!((of(0).acknowledged, of(1).acknowledged), (20, 0));
        assert!(of(1).failed >= 20, "{:?}", of(1));
        let reasons = &records[1].reasons.told_apart;
        assert!(reasons.iter().any(|(reason, _)| reason == "status 503"), "{reasons:?}");
        let mut bodies: Vec<&str> = posted
            .iter()
            .chain(&refused)
            .filter_map(|r| r.split("\r\n\r\n").nth(1))
            .collect();
        bodies.sort_unstable();
        bodies.dedup();
        assert_eq!(bodies.len(), 40);
    }

    #[tokio::test(start_paused = true)]
    async fn clients_take_turns_at_the_rate_and_make_up_for_nothing() {
        let start = Instant::now();
        let mut paces: Vec<Interval> = (0..4).map(|number| pace(8, number, 4)).collect();
        let mut first = Vec::new();
        for pace in &mut paces {
            pace.tick().await;
            first.push(start.elapsed().as_millis());
        }
        assert_eq!(first, [0, 125, 250, 375]);
        let mut pace = paces.swap_remove(0);
        tokio::time::advance(Duration::from_secs(10)).await;
        pace.tick().await;
        let late = Instant::now();
        pace.tick().await;
        pace.tick().await;
        assert!(late.elapsed() > Duration::from_millis(500), "{:?}", late.elapsed());
    }
}
