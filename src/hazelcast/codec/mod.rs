//! One function per operation and direction, named as in the protocol's definitions (YAML files of `hazelcast-client-protocol`).
//!
//! - [`client`], [`map`], [`queue`]: the operations
//! - `builder`: requests out of parameters
//! - [`types`]: parameters out of received frames
//! - `error`: what a member answers in place of a response

mod builder;
pub(crate) mod client;
mod error;
pub(crate) mod map;
pub(crate) mod queue;
pub(crate) mod types;

use super::error::{Error, Result};
use super::message::{Incoming, Retry, Route};
use builder::RequestBuilder;
use types::Parameters;

/// An operation of the protocol's definitions.
struct Operation {
    name: &'static str,
    message_type: i32,
    retry: Retry,
}

impl Operation {
    /// `message_type` is the request's: service id << 16 | method id << 8.
    const fn new(name: &'static str, message_type: i32, retry: Retry) -> Self {
        Self {
            name,
            message_type,
            retry,
        }
    }

    fn request(&self, route: Route) -> RequestBuilder {
        RequestBuilder::new(self.name, self.message_type, route, self.retry)
    }

    /// Reads this operation's response.
    fn decode<T>(&self, incoming: &Incoming, read: impl FnOnce(&mut Parameters<'_>) -> Result<T>) -> Result<T> {
        decode(
            &format_args!("the answer to {}", self.name),
            self.message_type.saturating_add(1),
            incoming,
            read,
        )
    }
}

/// Reads an event of type `message_type`.
fn decode_event<T>(
    name: &str,
    message_type: i32,
    incoming: &Incoming,
    read: impl FnOnce(&mut Parameters<'_>) -> Result<T>,
) -> Result<T> {
    decode(&format_args!("the event {name}"), message_type, incoming, read)
}

fn decode<T>(
    what: &std::fmt::Arguments<'_>,
    message_type: i32,
    incoming: &Incoming,
    read: impl FnOnce(&mut Parameters<'_>) -> Result<T>,
) -> Result<T> {
    if incoming.message_type() != message_type {
        return Err(Error::protocol(format!(
            "{what} was due, and a message of type 0x{:06X} came",
            incoming.message_type()
        )));
    }
    read(&mut Parameters::of(incoming))
        .map_err(|error| Error::protocol(format!("{what} cannot be read")).caused_by(error))
}
