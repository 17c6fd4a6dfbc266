//! One function per operation and direction, named as in the protocol's definitions (YAML files of `hazelcast-client-protocol`).
//!
//! - `builder`: requests out of parameters
//! - `types`: parameters out of received frames
//! - `error`: what a member answers in place of a response

mod builder;
mod error;
mod types;
