//! HTTP as every role speaks it.
//!
//! - [`server`]: accepts connections, bounds them in number, size and time, and drains them.
//! - [`request`]: what a client asks for, parsed strictly.
//! - [`reply`]: what it is answered, and the one place that turns errors into a status and JSON.
//! - [`body`]: the body of an answer: whole, or a list that is streamed in bounded memory.
//! - [`elements`]: a list that another instance streams, read as it comes.
//! - [`link`]: where the next page of a list is.
//! - [`health`]: whether the process can take requests, for `GET /health`.
//! - [`client`]: calls from one instance to another.
//! - [`throttle`]: keeps what happens with every request from flooding the log.
//!
//! What is refused before a handler sees it, mostly by hyper, has the bare status: 400, 414 (a target over 65,534 bytes),
//! 431 (more than 100 headers, or more than 262,144 bytes of them).

use std::any::Any;

pub mod body;
pub mod client;
mod connection;
pub mod elements;
pub mod health;
pub mod link;
pub mod reply;
pub mod request;
#[cfg(test)]
pub(crate) mod scripted;
pub mod server;
mod service;
pub mod throttle;

/// What a panic says.
fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("(no message)")
}
