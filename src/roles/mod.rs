//! The roles of the executable, one file or folder each, read from top to bottom.

mod deadline;
pub mod facade;
mod instance;
mod listing;
pub mod logging;
mod mailbox;
pub mod messages;
pub mod populate_kv;
