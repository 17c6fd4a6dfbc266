//! The roles of the executable, one file or folder each, read from top to bottom.

mod deadline;
pub mod facade;
mod followed;
pub mod health;
mod instance;
mod listing;
pub mod logging;
pub mod messages;
mod page;
pub mod populate_kv;
mod repair;
pub mod status;
mod table;
pub mod up;

/// The services that instances register as, by role.
const FACADE_SERVICE: &str = "facade-service";
const LOGGING_SERVICE: &str = "logging-service";
const MESSAGES_SERVICE: &str = "messages-service";
