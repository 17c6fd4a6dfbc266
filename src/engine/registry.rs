//! [`Registry`]: who is there.

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use super::Result;

/// What an instance says of itself when it registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The service it is an instance of: `logging-service`.
    pub service: String,
    /// Host name or address that others call it by: letters, digits and `. - _ :`, an IPv6 address without brackets.
    pub host: String,
    /// Its HTTP port.
    pub port: u16,
    /// The version of this executable: what tells our instances from those of another origin.
    pub version: String,
}

impl Registration {
    /// The instance's id, the same at each of its starts: `<service>@<host>:<port>`.
    pub fn id(&self) -> String {
        format!("{}@{}:{}", self.service, self.host, self.port)
    }
}

/// A live instance, as others see it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Instance {
    /// Unique in the registry.
    pub id: String,
    /// Host name or address to call, an IPv6 address without brackets.
    pub host: String,
    /// HTTP port to call.
    pub port: u16,
    /// The version of `svc` that it runs; `None` where it is of another origin, and may know less than ours.
    pub version: Option<String>,
}

/// The registry that all instances share. Every call has a deadline of its own, a few seconds.
pub trait Registry: Send + Sync {
    /// Which engine this is, and where, for people: `Consul at http://127.0.0.1:8500`.
    fn describe(&self) -> String;

    /// Registers an instance as one that can take requests now, in the place of whatever stood under its id.
    fn register<'a>(&'a self, registration: &'a Registration) -> BoxFuture<'a, Result<()>>;

    /// Whether an instance of this id is registered.
    fn is_registered<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<bool>>;

    /// Takes an instance out. It is no error if there is none of this id.
    fn deregister<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>>;

    /// The live instances of a service, in the order of their ids: at once, then whenever they change, and every few
    /// seconds as they are, which tells that they are known. An error is one failed attempt to learn of them, and says
    /// nothing of the instances; the stream goes on, paced by the adapter, and never ends.
    fn watch<'a>(&'a self, service: &'a str) -> BoxStream<'a, Result<Vec<Instance>>>;
}
