//! What a run comes to, for people and as JSON.

use std::io::{self, Write};
use std::num::NonZeroU32;
use std::time::Duration;

use serde::Serialize;

use crate::options::Options;
use crate::record::{Counts, Ledger, Reasons, Record};
use crate::verify::{Faults, Verified};
use crate::windows::Windows;

/// All of it.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    run: String,
    facades: Vec<OfFacade>,
    windows: Vec<Window>,
    totals: Totals,
}

#[derive(Debug, Serialize)]
struct OfFacade {
    url: String,
    #[serde(flatten)]
    posts: Sums,
    reasons: Vec<Reason>,
    #[serde(flatten)]
    usual: Usual,
}

#[derive(Debug, Serialize)]
struct Reason {
    reason: String,
    count: u64,
}

#[derive(Debug, Serialize)]
struct Window {
    name: String,
    seconds: f64,
    #[serde(flatten)]
    posts: Sums,
    per_second: f64,
    #[serde(flatten)]
    usual: Usual,
    facades: Vec<OfFacadeInWindow>,
}

#[derive(Debug, Serialize)]
struct OfFacadeInWindow {
    url: String,
    #[serde(flatten)]
    posts: Sums,
}

/// The sums and the verdict.
#[derive(Debug, Serialize)]
struct Totals {
    seconds: f64,
    #[serde(flatten)]
    posts: Sums,
    per_second: f64,
    #[serde(flatten)]
    usual: Usual,
    verify_seconds: f64,
    verify_failure: Option<String>,
    #[serde(flatten)]
    faults: Option<Faults>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Sums {
    posted: u64,
    acknowledged: u64,
    failed: u64,
    longest_ms: Option<f64>,
}

impl From<Counts> for Sums {
    fn from(counts: Counts) -> Sums {
        Sums {
            posted: counts.acknowledged + counts.failed,
            acknowledged: counts.acknowledged,
            failed: counts.failed,
            longest_ms: counts.longest.map(|longest| rounded(longest.as_secs_f64() * 1000.0)),
        }
    }
}

/// How long acknowledged posts took.
#[derive(Debug, PartialEq, Serialize)]
struct Usual {
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
}

impl Usual {
    fn of(mut micros: Vec<NonZeroU32>) -> Usual {
        micros.sort_unstable();
        let share = |percent: usize| {
            let rank = (micros.len() * percent).div_ceil(100);
            let micros = micros.get(rank.checked_sub(1)?)?;
            Some(rounded(f64::from(micros.get()) / 1000.0))
        };
        Usual {
            p50_ms: share(50),
            p99_ms: share(99),
        }
    }
}

/// With two decimals.
fn rounded(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

fn per_second(counts: Counts, took: Duration) -> f64 {
    rounded(counts.acknowledged as f64 / took.as_secs_f64().max(f64::MIN_POSITIVE))
}

fn sum<'a>(counts: impl IntoIterator<Item = &'a Counts>) -> Counts {
    counts.into_iter().copied().fold(Counts::default(), Counts::and)
}

fn micros<'a>(records: impl Iterator<Item = &'a Record>) -> Vec<NonZeroU32> {
    records
        .flat_map(|record| record.posts.iter().flatten().copied())
        .collect()
}

impl Report {
    /// What the clients did, and what the lists showed of it.
    pub(crate) fn of(options: &Options, windows: &Windows, ledger: &Ledger, verified: Verified) -> Report {
        let records = &ledger.records;
        let facades = || {
            let facades = options.facades.iter().map(ToString::to_string).enumerate();
            facades.map(|(number, url)| (url, records.iter().filter(move |record| record.facade == number)))
        };
        let window = |(number, (name, took)): (usize, (&str, Duration))| {
            let counts = sum(records.iter().filter_map(|record| record.windows.get(number)));
            let micros = records.iter().flat_map(|record| record.posts_in(number));
            Window {
                name: name.to_owned(),
                seconds: rounded(took.as_secs_f64()),
                posts: counts.into(),
                per_second: per_second(counts, took),
                usual: Usual::of(micros.flatten().copied().collect()),
                facades: facades()
                    .map(|(url, records)| OfFacadeInWindow {
                        url,
                        posts: sum(records.filter_map(|record| record.windows.get(number))).into(),
                    })
                    .collect(),
            }
        };
        Report {
            run: ledger.texts.prefix().to_owned(),
            facades: facades()
                .map(|(url, records)| OfFacade {
                    url,
                    posts: sum(records.clone().flat_map(|record| &record.windows)).into(),
                    reasons: reasons(records.clone()),
                    usual: Usual::of(micros(records)),
                })
                .collect(),
            windows: windows.iter().enumerate().map(window).collect(),
            totals: Totals::of(windows.took(), records, verified),
        }
    }

    /// Whether every acknowledged text is in both lists, once.
    pub(crate) fn all_is_well(&self) -> bool {
        self.totals.faults == Some(Faults::default())
    }

    /// Writes it.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub(crate) fn print(&self, options: &Options, out: &mut impl Write) -> io::Result<()> {
        if options.json {
            serde_json::to_writer(&mut *out, self)?;
            return writeln!(out);
        }
        for facade in &self.facades {
            writeln!(out, "{}: {}", facade.url, in_words(&facade.posts, Some(&facade.usual)))?;
            for Reason { reason, count } in &facade.reasons {
                writeln!(out, "    {count} times: {reason}")?;
            }
        }
        if options.stdin {
            for window in &self.windows {
                writeln!(out, "{:?}, {} s:", window.name, window.seconds)?;
                for facade in &window.facades {
                    writeln!(out, "    {}: {}", facade.url, in_words(&facade.posts, None))?;
                }
            }
        }
        self.totals.print(out)
    }
}

fn reasons<'a>(records: impl Iterator<Item = &'a Record>) -> Vec<Reason> {
    let mut all = Reasons::default();
    records.for_each(|record| all.merge(&record.reasons));
    let others = (all.others > 0).then(|| ("others".to_owned(), all.others));
    let reasons = all.told_apart.into_iter().chain(others);
    reasons.map(|(reason, count)| Reason { reason, count }).collect()
}

/// One line of sums.
fn in_words(posts: &Sums, usual: Option<&Usual>) -> String {
    let mut words = format!(
        "{} posted, {} acknowledged, {} failed",
        posts.posted, posts.acknowledged, posts.failed
    );
    let usual = usual.map_or([None, None], |usual| [usual.p50_ms, usual.p99_ms]);
    let [p50, p99] = usual;
    for (name, ms) in [("p50", p50), ("p99", p99), ("longest", posts.longest_ms)] {
        if let Some(ms) = ms {
            words.push_str(&format!(", {name} {ms} ms"));
        }
    }
    words
}

impl Totals {
    fn of(took: Duration, records: &[Record], verified: Verified) -> Totals {
        let counts = sum(records.iter().flat_map(|record| &record.windows));
        let (faults, verify_failure) = match verified.outcome {
            Ok(faults) => (Some(faults), None),
            Err(failure) => (None, Some(failure)),
        };
        Totals {
            seconds: rounded(took.as_secs_f64()),
            per_second: per_second(counts, took),
            posts: counts.into(),
            usual: Usual::of(micros(records.iter())),
            verify_seconds: rounded(verified.took.as_secs_f64()),
            verify_failure,
            faults,
        }
    }

    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let words = in_words(&self.posts, Some(&self.usual));
        write!(
            out,
            "all, {} s: {words}, {} acknowledged a second; ",
            self.seconds, self.per_second
        )?;
        match &self.faults {
            Some(faults) => writeln!(
                out,
                "missing {} from the logs, {} from the messages; twice {} in the logs, {} in the messages",
                faults.missing_from_logs, faults.missing_from_messages, faults.twice_in_logs, faults.twice_in_messages
            ),
            None => {
                let failure = self.verify_failure.as_deref().unwrap_or_default();
                writeln!(out, "not verified: {failure}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_posts_took_at_most_p50_and_all_but_a_hundredth_at_most_p99() {
        let of = |micros: Vec<u32>| Usual::of(micros.into_iter().filter_map(NonZeroU32::new).collect());
        let usual = |p50_ms, p99_ms| Usual { p50_ms, p99_ms };
        assert_eq!(of(vec![]), usual(None, None));
        assert_eq!(of(vec![1500]), usual(Some(1.5), Some(1.5)));
        assert_eq!(of(vec![4000, 1000, 3000, 2000]), usual(Some(2.0), Some(4.0)));
        assert_eq!(
            of((1..=200).rev().map(|n| n * 1000).collect()),
            usual(Some(100.0), Some(198.0))
        );
    }
}
