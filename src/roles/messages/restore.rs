//! [`Delivered`]: the delivered messages, as a list that is rebuilt from the log where the mailbox lost it.

use anyhow::ensure;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{self, StreamExt, TryStreamExt};

use crate::engine::{self, Batch, Mailbox};
use crate::message::Message;
use crate::roles::deadline::within;
use crate::roles::repair::{Identifiers, Side};

/// Messages that are stored at a time.
const PIPELINE: usize = 128;

/// The delivered messages.
pub(super) struct Delivered {
    /// Id of the instance in whose name they are put back.
    pub(super) own: String,
}

impl Side for Delivered {
    type Engine = dyn Mailbox;

    const LIST: &'static str = "the delivered messages";

    /// What waits, and then what was delivered: in this order, since messages go from there to here, and are stored before
    /// they are taken out. The other way round, one that is delivered in between is seen in neither.
    fn known<'a>(&'a mut self, mailbox: &'a dyn Mailbox) -> BoxFuture<'a, anyhow::Result<Identifiers>> {
        async move {
            let mut known = Identifiers::default();
            let looked = within(mailbox, mailbox.look()).await??;
            ensure!(
                looked.is_all,
                "more waits in the mailbox than it shows at once; that goes on once enough of it is delivered"
            );
            let batches = looked.items.iter().filter_map(|item| item.content.as_ref().ok());
            for message in batches.flat_map(|batch| &batch.messages) {
                known.insert(&message.identifier);
            }
            drop(looked);
            let mut pages = mailbox.all();
            while let Some(page) = within(mailbox, pages.next()).await?.transpose()? {
                for delivered in page.messages {
                    known.insert(&delivered.message.identifier);
                }
            }
            Ok(known)
        }
        .boxed()
    }

    /// Each as a batch of its own under its identifier: whoever else puts it back stores the same, once.
    fn put_back<'a>(
        &'a mut self,
        mailbox: &'a dyn Mailbox,
        missing: Vec<Message>,
    ) -> BoxFuture<'a, anyhow::Result<u64>> {
        let stored = missing
            .into_iter()
            .map(|message| store(mailbox, message, &self.own).boxed());
        let stored: Vec<BoxFuture<'a, engine::Result<u64>>> = stored.collect();
        async move {
            let stored = stream::iter(stored).buffer_unordered(PIPELINE);
            let count = stored.try_fold(0_u64, async |count, one| Ok(count.saturating_add(one)));
            Ok(count.await?)
        }
        .boxed()
    }
}

async fn store(mailbox: &dyn Mailbox, message: Message, by: &str) -> engine::Result<u64> {
    let batch = Batch {
        id: message.identifier.clone(),
        messages: vec![message],
    };
    within(mailbox, mailbox.store(&batch, by)).await??;
    Ok(1)
}
