//! The roles of the executable, one file or folder each, read from top to bottom.

pub mod facade;
mod instance;
pub mod logging;
pub mod populate_kv;
