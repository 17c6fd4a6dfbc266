//! A native Hazelcast client: the Open Binary Client Protocol on tokio.
//!
//! It knows nothing of the rest of this crate.

mod error;

pub use error::{Error, Kind, Result};
