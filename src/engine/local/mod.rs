//! Adapters: the embedded engines, which keep all in a folder that the processes of one machine share.

mod log;
mod mailbox;
mod store;

pub(super) use log::LocalLog;
pub(super) use mailbox::LocalMailbox;
pub(super) use store::Store;
