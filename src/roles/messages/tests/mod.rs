//! The deliverer and the router, in front of a mailbox that a test holds in its hands.

mod deliveries;
mod former;
mod restore;
mod router;
mod scripted;
