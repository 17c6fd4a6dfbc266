//! A native Hazelcast client: the Open Binary Client Protocol on tokio.
//!
//! It knows nothing of the rest of this crate. From the wire up:
//!
//! | module | what it holds |
//! |---|---|
//! | `frame`, `message`, `data`, `partition`, `codec` | bytes: messages, serialized values, one function pair per operation; no sockets |
//! | `connection`, `inbox`, `outbox`, `handshake` | one connection to one member, what waits on either side of it, and how it comes about |
//! | `pending` | calls on their way, and the backups that confirm them |
//! | `cluster`, `attempts`, `dial`, `astray`, `supervisor` | the view of the cluster, when to connect, by which addresses, which of those are wrong, and the task that keeps the view and the connections |
//! | `invocation`, `deadline` | one call, with its retries, and when it is over |
//! | `client`, `map`, `queue`, `listener` | what a user holds |
//! | `wire` | some messages as bytes, for benches |

mod astray;
mod attempts;
mod client;
mod cluster;
mod codec;
mod config;
mod connection;
mod data;
mod deadline;
mod dial;
mod error;
mod frame;
mod handshake;
mod inbox;
mod invocation;
mod listener;
mod map;
mod message;
mod outbox;
mod partition;
mod pending;
mod queue;
mod supervisor;
#[doc(hidden)]
pub mod wire;

pub use client::{Client, PartitionLost};
pub use cluster::Member;
pub use config::{Config, Routing};
pub use data::{Data, Json, ToData, Value};
pub use error::{Error, Kind, Result};
pub use listener::{Listener, Notice};
pub use map::{Map, MapPartitionLost, Stored};
pub use partition::in_partition;
pub use queue::{ItemEvent, Queue};
