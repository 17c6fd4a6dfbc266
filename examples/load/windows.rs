//! Windows of time: what failed after which mark.

use std::io::{BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

/// The name of the window before the first mark.
const FIRST: &str = "start";

/// The longest name of a mark, in bytes.
const LONGEST_NAME: u64 = 200;

/// The windows of a run, in their order.
#[derive(Debug)]
pub(crate) struct Windows {
    /// Name and beginning.
    begun: Vec<(String, Instant)>,
    /// When the last post had ended.
    ended: Option<Instant>,
    current: Current,
}

/// The number of the window that is open now, for those who have to know it all the time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Current(Arc<AtomicUsize>);

impl Current {
    pub(crate) fn number(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

impl Windows {
    /// The first one begins now.
    pub(crate) fn begin() -> Windows {
        Windows {
            begun: vec![(FIRST.to_owned(), Instant::now())],
            ended: None,
            current: Current::default(),
        }
    }

    /// The next one begins now: what ends from here on belongs to it.
    pub(crate) fn mark(&mut self, name: &str) {
        self.begun.push((name.to_owned(), Instant::now()));
        self.current.0.store(self.begun.len() - 1, Ordering::Release);
    }

    /// The last one ends now.
    pub(crate) fn end(&mut self) {
        self.ended = Some(Instant::now());
    }

    pub(crate) fn current(&self) -> Current {
        self.current.clone()
    }

    /// How long all of them took, until now where they have not ended.
    pub(crate) fn took(&self) -> Duration {
        self.iter().map(|(_, took)| took).sum()
    }

    /// Name and length of each.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, Duration)> {
        let ended = self.ended.unwrap_or_else(Instant::now);
        let ends = self.begun.iter().skip(1).map(|(_, began)| *began).chain([ended]);
        self.begun
            .iter()
            .zip(ends)
            .map(|((name, began), end)| (name.as_str(), end - *began))
    }
}

/// The marks that come on standard input, until that ends.
pub(crate) fn read_marks() -> mpsc::Receiver<String> {
    let (marks, received) = mpsc::channel(16);
    // Lives until standard input ends, or the process does: nothing can call it back from a read.
    tokio::task::spawn_blocking(move || pass_marks(&mut std::io::stdin().lock(), &marks));
    received
}

/// Passes each line on that says something. What cannot be read has ended.
fn pass_marks(input: &mut impl BufRead, marks: &mpsc::Sender<String>) {
    let mut line = Vec::new();
    while let Ok(1..) = input.take(LONGEST_NAME).read_until(b'\n', &mut line) {
        let name = String::from_utf8_lossy(&line).trim().to_owned();
        line.clear();
        if !name.is_empty() && marks.blocking_send(name).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_that_says_something_is_a_mark_also_the_last_one_without_its_end() {
        let (marks, mut received) = mpsc::channel(16);
        pass_marks(&mut &b"kill logging-1\n\n  \r\nagain \r\nlast"[..], &marks);
        drop(marks);
        let names: Vec<String> = std::iter::from_fn(|| received.blocking_recv()).collect();
        assert_eq!(names, ["kill logging-1", "again", "last"]);
    }

    #[test]
    fn a_line_without_end_is_read_in_pieces() {
        let (marks, mut received) = mpsc::channel(16);
        pass_marks(&mut "a".repeat(450).as_bytes(), &marks);
        drop(marks);
        let lengths: Vec<usize> = std::iter::from_fn(|| received.blocking_recv())
            .map(|name| name.len())
            .collect();
        assert_eq!(lengths, [200, 200, 50]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_mark_ends_a_window_and_begins_the_next() {
        let mut windows = Windows::begin();
        let current = windows.current();
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(current.number(), 0);
        windows.mark("kill");
        assert_eq!(current.number(), 1);
        tokio::time::advance(Duration::from_secs(2)).await;
        windows.end();
        tokio::time::advance(Duration::from_secs(1)).await;
        let (three, two) = (Duration::from_secs(3), Duration::from_secs(2));
        assert_eq!(windows.iter().collect::<Vec<_>>(), [("start", three), ("kill", two)]);
        assert_eq!(windows.took(), three + two);
    }
}
