//! What is flushed is held by the test until it says how it ends.

use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::*;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

const LIMITS: Limits = Limits {
    batch_items: 4,
    batch_bytes: 100,
    items: 20,
    bytes: 1000,
    flights: 1,
    slow_after: Duration::from_millis(50),
    most_flights: 3,
};

type Flight = Vec<Entry<u32, u32>>;

/// A batcher, and the batches that it has sent on their way.
struct Setting {
    batcher: Arc<Batcher<u32, u32>>,
    flights: mpsc::Receiver<(Flight, oneshot::Sender<()>)>,
}

/// A batch on its way. It is back when this is dropped.
struct Travelling {
    entries: Flight,
    end: oneshot::Sender<()>,
}

impl Travelling {
    fn items(&self) -> Vec<u32> {
        self.entries.iter().map(|entry| entry.item).collect()
    }

    /// Each item's outcome is ten times it.
    fn arrive(self) {
        for entry in self.entries {
            entry.ticket.answer(entry.item * 10);
        }
    }
}

impl Setting {
    fn new(limits: Limits) -> Self {
        let (sender, flights) = mpsc::channel(100);
        let flush = move |entries| {
            let sender = sender.clone();
            async move {
                let (end, ended) = oneshot::channel();
                sender.send((entries, end)).await.unwrap();
                let _ = ended.await;
            }
        };
        Self {
            batcher: Arc::new(Batcher::start(limits, flush)),
            flights,
        }
    }

    fn submit_sized(&self, item: u32, bytes: usize) -> JoinHandle<Result<u32, NoOutcome>> {
        let batcher = self.batcher.clone();
        tokio::spawn(async move { batcher.submit(item, bytes, Instant::now() + SECOND).await })
    }

    fn submit(&self, item: u32) -> JoinHandle<Result<u32, NoOutcome>> {
        self.submit_sized(item, 1)
    }

    /// The next batch that leaves, without any time going by.
    async fn left(&mut self) -> Travelling {
        let now = Instant::now();
        let (entries, end) = self.flights.recv().await.unwrap();
        assert_eq!(Instant::now(), now, "it waited for something");
        Travelling { entries, end }
    }

    /// Nothing leaves for so long.
    async fn nothing_leaves(&mut self, time: Duration) {
        let left = timeout(time, self.flights.recv()).await;
        assert!(left.is_err(), "{left:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_item_alone_leaves_at_once() {
    let mut setting = Setting::new(LIMITS);
    for item in 1..4 {
        let answer = setting.submit(item);
        let flight = setting.left().await;
        assert_eq!(flight.items(), [item]);
        flight.arrive();
        assert_eq!(answer.await.unwrap(), Ok(item * 10));
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_while_a_batch_travels_gathers_and_leaves_when_it_is_back_in_its_order() {
    let mut setting = Setting::new(LIMITS);
    let first = setting.submit(1);
    let flight = setting.left().await;
    let others = [2, 3, 4].map(|item| setting.submit(item));
    setting.nothing_leaves(49 * MS).await;
    flight.arrive();
    assert_eq!(first.await.unwrap(), Ok(10));
    let flight = setting.left().await;
    assert_eq!(flight.items(), [2, 3, 4]);
    flight.arrive();
    for (answer, item) in others.into_iter().zip([2, 3, 4]) {
        assert_eq!(answer.await.unwrap(), Ok(item * 10));
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_has_at_most_so_many_items() {
    let mut setting = Setting::new(LIMITS);
    let mut answers = vec![setting.submit(0)];
    let first = setting.left().await;
    answers.extend((1..10).map(|item| setting.submit(item)));
    setting.nothing_leaves(MS).await;
    first.arrive();
    for items in [&[1, 2, 3, 4][..], &[5, 6, 7, 8], &[9]] {
        let flight = setting.left().await;
        assert_eq!(flight.items(), items);
        flight.arrive();
    }
    for answer in answers {
        assert!(answer.await.unwrap().is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_has_at_most_so_many_bytes_and_a_larger_item_is_one_of_its_own() {
    let mut setting = Setting::new(LIMITS);
    let mut answers = vec![setting.submit(0)];
    let first = setting.left().await;
    for (item, bytes) in [(1, 50), (2, 50), (3, 1), (4, 101), (5, 100), (6, 1), (7, 1)] {
        answers.push(setting.submit_sized(item, bytes));
    }
    setting.nothing_leaves(MS).await;
    first.arrive();
    for items in [&[1, 2][..], &[3], &[4], &[5], &[6, 7]] {
        let flight = setting.left().await;
        assert_eq!(flight.items(), items);
        flight.arrive();
    }
    for answer in answers {
        assert!(answer.await.unwrap().is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn so_many_batches_travel_at_a_time() {
    let mut setting = Setting::new(Limits { flights: 2, ..LIMITS });
    let mut answers = vec![setting.submit(1)];
    let first = setting.left().await;
    answers.push(setting.submit(2));
    let second = setting.left().await;
    answers.push(setting.submit(3));
    setting.nothing_leaves(MS).await;
    answers.push(setting.submit(4));
    // Whichever is back first makes room.
    second.arrive();
    let third = setting.left().await;
    assert_eq!(third.items(), [3, 4]);
    first.arrive();
    third.arrive();
    for answer in answers {
        assert!(answer.await.unwrap().is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_hangs_holds_up_those_behind_it_only_until_it_is_slow() {
    let mut setting = Setting::new(LIMITS);
    let hung = setting.submit(1);
    let _stuck = setting.left().await;
    let behind = setting.submit(2);
    setting.nothing_leaves(49 * MS).await;
    sleep(MS).await;
    let flight = setting.left().await;
    assert_eq!(flight.items(), [2]);
    flight.arrive();
    assert_eq!(behind.await.unwrap(), Ok(20));
    // With that one back there is room at once.
    let next = setting.submit(3);
    setting.left().await.arrive();
    assert_eq!(next.await.unwrap(), Ok(30));
    assert_eq!(hung.await.unwrap(), Err(NoOutcome::Late));
}

#[tokio::test(start_paused = true)]
async fn slow_batches_are_bounded_too() {
    let mut setting = Setting::new(LIMITS);
    let mut stuck = Vec::new();
    for item in 1..4 {
        setting.submit(item);
        sleep(50 * MS).await;
        stuck.push(setting.left().await);
    }
    let last = setting.submit(4);
    setting.nothing_leaves(500 * MS).await;
    stuck.remove(1).arrive();
    setting.left().await.arrive();
    assert_eq!(last.await.unwrap(), Ok(40));
}

#[tokio::test(start_paused = true)]
async fn each_caller_gets_the_outcome_of_its_own_item_when_there_is_one() {
    let mut setting = Setting::new(LIMITS);
    setting.submit(0);
    let first = setting.left().await;
    let [good, lost, late] = [1, 2, 3].map(|item| setting.submit(item));
    setting.nothing_leaves(MS).await;
    first.arrive();
    let mut flight = setting.left().await;
    flight.entries.remove(0).ticket.answer(7);
    assert_eq!(good.await.unwrap(), Ok(7));
    drop(flight.entries.remove(0));
    assert_eq!(lost.await.unwrap(), Err(NoOutcome::Lost));
    assert_eq!(late.await.unwrap(), Err(NoOutcome::Late));
}

#[tokio::test(start_paused = true)]
async fn an_item_waits_for_its_outcome_until_its_own_deadline_and_the_grace() {
    let mut setting = Setting::new(LIMITS);
    let start = Instant::now();
    let short = setting.batcher.submit(1, 1, start + 10 * MS);
    assert_eq!(short.await, Err(NoOutcome::Late));
    assert_eq!(start.elapsed(), 10 * MS + GRACE);
    assert_eq!(setting.left().await.entries[0].ticket.deadline, start + 10 * MS);
}

#[tokio::test(start_paused = true)]
async fn what_waits_past_its_deadline_does_not_leave() {
    let limits = Limits {
        slow_after: 10 * SECOND,
        ..LIMITS
    };
    let mut setting = Setting::new(limits);
    setting.submit(1);
    let first = setting.left().await;
    let late = setting.submit(2);
    sleep(SECOND / 2).await;
    let in_time = setting.submit(3);
    sleep(SECOND / 2).await;
    first.arrive();
    let flight = setting.left().await;
    assert_eq!(flight.items(), [3]);
    flight.arrive();
    assert_eq!(
        (late.await.unwrap(), in_time.await.unwrap()),
        (Err(NoOutcome::Late), Ok(30))
    );
}

#[tokio::test(start_paused = true)]
async fn past_the_bound_an_item_is_refused_at_once_until_others_have_their_outcomes() {
    let limits = Limits { items: 3, ..LIMITS };
    let mut setting = Setting::new(limits);
    setting.submit(1);
    let first = setting.left().await;
    let waiting = [2, 3].map(|item| setting.submit(item));
    setting.nothing_leaves(MS).await;
    let now = Instant::now();
    assert_eq!(setting.submit(4).await.unwrap(), Err(NoOutcome::Full));
    assert_eq!(Instant::now(), now);
    first.arrive();
    setting.left().await.arrive();
    let taken = setting.submit(5);
    setting.left().await.arrive();
    assert_eq!(taken.await.unwrap(), Ok(50));
    for answer in waiting {
        assert!(answer.await.unwrap().is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn past_the_bound_of_bytes_only_what_fits_is_taken() {
    let mut setting = Setting::new(Limits { bytes: 100, ..LIMITS });
    let first = setting.submit_sized(1, 60);
    let flight = setting.left().await;
    assert_eq!(setting.submit_sized(2, 41).await.unwrap(), Err(NoOutcome::Full));
    let fits = setting.submit_sized(3, 40);
    setting.nothing_leaves(MS).await;
    flight.arrive();
    setting.left().await.arrive();
    assert_eq!((first.await.unwrap(), fits.await.unwrap()), (Ok(10), Ok(30)));
    // Nothing of what was refused is left.
    let whole = setting.submit_sized(4, 100);
    setting.left().await.arrive();
    assert_eq!(whole.await.unwrap(), Ok(40));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_changes_nothing_for_the_others() {
    let mut setting = Setting::new(LIMITS);
    setting.submit(0);
    let first = setting.left().await;
    let [stays, leaves, stays_too] = [1, 2, 3].map(|item| setting.submit(item));
    setting.nothing_leaves(MS).await;
    leaves.abort();
    assert!(leaves.await.unwrap_err().is_cancelled());
    first.arrive();
    let flight = setting.left().await;
    assert_eq!(flight.items(), [1, 2, 3]);
    flight.arrive();
    assert_eq!((stays.await.unwrap(), stays_too.await.unwrap()), (Ok(10), Ok(30)));
}

#[tokio::test(start_paused = true)]
async fn a_fault_in_a_batch_costs_that_batch_alone() {
    let flush = |entries: Flight| async move {
        for entry in entries {
            assert_ne!(entry.item, 1, "a fault");
            entry.ticket.answer(entry.item);
        }
    };
    let batcher = Batcher::start(LIMITS, flush);
    let deadline = Instant::now() + SECOND;
    assert_eq!(batcher.submit(1, 1, deadline).await, Err(NoOutcome::Lost));
    assert_eq!(batcher.submit(2, 1, deadline).await, Ok(2));
}

#[tokio::test(start_paused = true)]
async fn at_its_end_nothing_of_it_goes_on() {
    let mut setting = Setting::new(LIMITS);
    setting.submit(1);
    let flight = setting.left().await;
    let waiting = setting.submit(2);
    setting.nothing_leaves(MS).await;
    waiting.abort();
    let _ = waiting.await;
    // The only other one that holds it is the first caller.
    sleep(2 * SECOND).await;
    assert_eq!(Arc::strong_count(&setting.batcher), 1);
    let Setting { batcher, mut flights } = setting;
    drop(batcher);
    let ended = async { while flights.recv().await.is_some() {} };
    timeout(SECOND, ended).await.expect("a task lives on");
    assert!(flight.end.is_closed(), "a batch travels on");
}
