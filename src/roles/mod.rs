//! The roles of the executable, one file each, read from top to bottom.

#[allow(dead_code, reason = "roles move onto it one by one")]
mod instance;
pub mod logging;
pub mod populate_kv;
