//! The roles of the executable, one file or folder each, read from top to bottom.

pub mod logging;
pub mod populate_kv;
