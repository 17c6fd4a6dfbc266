//! A native Hazelcast client: the Open Binary Client Protocol on tokio.
//!
//! It knows nothing of the rest of this crate.

mod codec;
mod data;
mod error;
mod frame;
mod message;
mod partition;

pub use data::{Data, Json, ToData, Value};
pub use error::{Error, Kind, Result};
