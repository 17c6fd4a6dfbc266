//! Repair: what an engine lost is put back from the other list.
//!
//! The log and the delivered messages hold the same messages, on two engines, so each list is the other's backup. An engine
//! that keeps its data in the memory of its processes may lose it, all of it where the last of them died, or a part. It
//! [tells](Engine::standing) when that may be so: nobody has vouched for what is there, or some who held it are gone. Then
//! one instance compares the two lists, puts back what is missing, and vouches for it.
//!
//! Nothing depends on who compares, nor how often: what is put back goes under its identifier, where nothing is.

mod comparison;
mod identifiers;
mod keeper;
mod other;
mod status;

use std::sync::Arc;

use futures_util::future::FutureExt;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::keeper::Keeper;
use super::followed::Named;
use crate::engine::Registry;

pub(super) use self::comparison::Side;
pub(super) use self::identifiers::{Identifiers, posted_at};
pub(super) use self::other::OtherList;
pub(super) use self::status::Status;

/// A running repair. It ends when this is dropped, also half-way, which loses nothing.
pub(super) struct Repair {
    _task: JoinSet<()>,
}

/// The instances that repair the same list.
#[derive(Clone)]
pub(super) struct Peers {
    pub(super) registry: Arc<dyn Registry>,
    pub(super) service: &'static str,
    /// Id of this instance.
    pub(super) own: String,
}

impl Peers {
    /// How many come before this one, as far as the registry knows.
    async fn before(self) -> u32 {
        let discovery = other::follow(&self.registry, self.service).await;
        let instances = discovery.instances();
        let ours = instances.iter().filter(|instance| instance.version.is_some());
        let before = ours.filter(|instance| instance.id < self.own).count();
        u32::try_from(before).unwrap_or(u32::MAX)
    }
}

impl Repair {
    /// Begins to keep the list of the engine that is `named` whole, by the `other` one. One of the `peers` does it at a time.
    pub(super) fn start<S: Side>(
        named: watch::Receiver<Named<S::Engine>>,
        side: S,
        other: OtherList,
        peers: Peers,
        status: Arc<Status>,
    ) -> Self {
        let pages = Box::new(move || other.clone().pages());
        let before = Box::new(move || peers.clone().before().boxed());
        let keeper = Keeper::new(side, pages, before, status);
        let mut task = JoinSet::new();
        task.spawn(keeper.run(named));
        Self { _task: task }
    }
}

#[cfg(test)]
mod tests;
