//! [`Log`]: the log, as a list that is rebuilt from the delivered messages where the log store lost it.

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::StreamExt;

use super::cleared::{Cleared, ClearedAt};
use crate::engine::{IfPresent, LogStore};
use crate::message::Message;
use crate::roles::deadline::within;
use crate::roles::repair::{Identifiers, Side};

/// Messages that are appended together.
const PART: usize = 512;

/// The log.
pub(super) struct Log {
    cleared_at: ClearedAt,
    /// What was put back last, by what was known to be cleared then. If more was cleared meanwhile it may have to go again.
    unsure: Option<(Cleared, Vec<String>)>,
}

impl Log {
    pub(super) fn new(cleared_at: ClearedAt) -> Self {
        Self {
            cleared_at,
            unsure: None,
        }
    }

    /// Puts back what is not cleared. `DELETE /logs` notes its time before it clears, so either it is known before
    /// something is put back, or it is after that, and what should not have been put back is taken out again, or it is
    /// noted later and clears that, too.
    async fn put_back_part(&mut self, store: &dyn LogStore, mut part: Vec<Message>) -> anyhow::Result<u64> {
        let cleared = self.cleared_at.read().await?;
        part.retain(|message| !cleared.has(&message.identifier));
        if part.is_empty() {
            return Ok(0);
        }
        let identifiers = part.iter().map(|message| message.identifier.clone()).collect();
        self.unsure = Some((cleared, identifiers));
        for outcome in within(store, store.append(&part, IfPresent::Keep)).await? {
            // Another text under the identifier was logged since, and stays.
            outcome?;
        }
        self.settle(store).await?;
        Ok(u64::try_from(part.len()).unwrap_or(u64::MAX))
    }

    /// Takes out again what was put back and had been cleared meanwhile.
    async fn settle(&mut self, store: &dyn LogStore) -> anyhow::Result<()> {
        let Some((then, identifiers)) = &self.unsure else {
            return Ok(());
        };
        let cleared = self.cleared_at.read().await?;
        if cleared != *then {
            let gone = identifiers.iter().filter(|identifier| cleared.has(identifier));
            let gone: Vec<String> = gone.cloned().collect();
            within(store, store.remove(&gone)).await??;
        }
        self.unsure = None;
        Ok(())
    }
}

impl Side for Log {
    type Engine = dyn LogStore;

    const LIST: &'static str = "the log";

    fn known<'a>(&'a mut self, store: &'a dyn LogStore) -> BoxFuture<'a, anyhow::Result<Identifiers>> {
        async move {
            // What a try before this one had left behind.
            self.settle(store).await?;
            let mut known = Identifiers::default();
            let mut pages = store.all();
            while let Some(page) = within(store, pages.next()).await?.transpose()? {
                for message in page.messages {
                    known.insert(&message.identifier);
                }
            }
            Ok(known)
        }
        .boxed()
    }

    fn put_back<'a>(
        &'a mut self,
        store: &'a dyn LogStore,
        missing: Vec<Message>,
    ) -> BoxFuture<'a, anyhow::Result<u64>> {
        async move {
            let mut put_back = 0_u64;
            let mut missing = missing.into_iter();
            loop {
                let part: Vec<Message> = missing.by_ref().take(PART).collect();
                if part.is_empty() {
                    return Ok(put_back);
                }
                put_back = put_back.saturating_add(self.put_back_part(store, part).await?);
            }
        }
        .boxed()
    }
}
