//! [`Progress`]: what a deliverer has done and how it does, for the log and for `GET /health`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::engine::Mailbox;

/// Items that cannot be read are worth one line in the log per this interval.
const SAY_EVERY: Duration = Duration::from_secs(1);

/// Shared by the deliverer, which counts, and by the handler, which tells.
#[derive(Debug, Default)]
pub(super) struct Progress {
    delivered: AtomicU64,
    rejected: AtomicU64,
    rejection_said: Mutex<Option<Instant>>,
    /// Those that are looked at, the longest named first.
    mailboxes: Mutex<Vec<Weak<Rounds>>>,
}

/// How the rounds on one mailbox go.
#[derive(Debug)]
pub(super) struct Rounds {
    engine: String,
    name: String,
    /// Since when the settings name another mailbox.
    former_since: OnceLock<Instant>,
    trouble: Mutex<Option<Trouble>>,
}

/// Why rounds fail, and since when.
#[derive(Debug)]
struct Trouble {
    since: Instant,
    reason: String,
}

impl Progress {
    /// One more mailbox is looked at, for as long as what is returned lives.
    pub(super) fn rounds(&self, mailbox: &dyn Mailbox) -> Arc<Rounds> {
        let rounds = Arc::new(Rounds {
            engine: mailbox.describe(),
            name: mailbox.object_name().to_owned(),
            former_since: OnceLock::new(),
            trouble: Mutex::default(),
        });
        let mut mailboxes = self.mailboxes.lock().unwrap_or_else(PoisonError::into_inner);
        mailboxes.retain(|rounds| rounds.strong_count() > 0);
        mailboxes.push(Arc::downgrade(&rounds));
        rounds
    }

    /// So many messages more were delivered, and taken out of the mailbox.
    pub(super) fn delivered(&self, messages: usize) {
        let messages = u64::try_from(messages).unwrap_or(u64::MAX);
        self.delivered.fetch_add(messages, Ordering::Relaxed);
    }

    /// One more item was set aside, for this reason, and taken out of the mailbox. Said at most once per [`SAY_EVERY`].
    pub(super) fn rejected(&self, reason: &str) {
        let rejected = self.rejected.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let mut said = self.rejection_said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_some_and(|at| at.elapsed() < SAY_EVERY) {
            debug!(reason, rejected, "set aside an item that cannot be read");
        } else {
            warn!(reason, rejected, "set aside an item that cannot be read");
            *said = Some(Instant::now());
        }
    }

    /// The state, for `GET /health`. Counts are since the start, of this instance alone.
    pub(super) fn details(&self) -> Value {
        let mailboxes = self.mailboxes.lock().unwrap_or_else(PoisonError::into_inner);
        let rounds: Vec<Arc<Rounds>> = mailboxes.iter().filter_map(Weak::upgrade).collect();
        let (former, named): (Vec<_>, Vec<_>) = rounds.iter().partition(|rounds| rounds.former_for().is_some());
        let trouble = named.first().and_then(|rounds| rounds.failing());
        let former: Vec<Value> = former.into_iter().map(|rounds| rounds.details()).collect();
        json!({
            "delivered_messages": self.delivered.load(Ordering::Relaxed),
            "rejected_items": self.rejected.load(Ordering::Relaxed),
            "failing_for_seconds": trouble.as_ref().map(|(seconds, _)| seconds),
            "reason": trouble.as_ref().map(|(_, reason)| reason),
            "former_mailboxes": former,
        })
    }
}

impl Rounds {
    /// The settings name another mailbox now. Said the first time.
    pub(super) fn is_former(&self) {
        if self.former_since.set(Instant::now()).is_ok() {
            info!(
                engine = self.engine,
                name = self.name,
                "this mailbox is no longer named; what still comes into it is delivered into the one that is"
            );
        }
    }

    /// It is looked at no more, since too many were named after it.
    pub(super) fn let_go(&self) {
        warn!(
            engine = self.engine,
            name = self.name,
            "too many mailboxes were named since: this one is not looked at any more, and what comes into it waits there"
        );
    }

    /// For how long the settings have named another mailbox; `None` where they name this one.
    pub(super) fn former_for(&self) -> Option<Duration> {
        self.former_since.get().map(Instant::elapsed)
    }

    /// A round has failed. Said when it is the first after one that went well.
    pub(super) fn failed(&self, reason: String) {
        let mut trouble = self.trouble();
        match trouble.as_mut() {
            Some(trouble) => trouble.reason = reason,
            None => {
                warn!(name = self.name, reason, "cannot deliver; trying again until it works");
                let since = Instant::now();
                *trouble = Some(Trouble { since, reason });
            }
        }
    }

    /// A round went well. Said when it is the first after one that failed.
    pub(super) fn went_well(&self) {
        if let Some(trouble) = self.trouble().take() {
            let after = format!("{:.1}s", trouble.since.elapsed().as_secs_f64());
            info!(name = self.name, after, "delivering again");
        }
    }

    /// For how many seconds rounds have failed, and why the last one did.
    fn failing(&self) -> Option<(u64, String)> {
        let trouble = self.trouble();
        let trouble = trouble.as_ref()?;
        Some((trouble.since.elapsed().as_secs(), trouble.reason.clone()))
    }

    fn details(&self) -> Value {
        let trouble = self.failing();
        json!({
            "engine": self.engine,
            "name": self.name,
            "former_for_seconds": self.former_for().map(|time| time.as_secs()),
            "failing_for_seconds": trouble.as_ref().map(|(seconds, _)| seconds),
            "reason": trouble.as_ref().map(|(_, reason)| reason),
        })
    }

    fn trouble(&self) -> MutexGuard<'_, Option<Trouble>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
