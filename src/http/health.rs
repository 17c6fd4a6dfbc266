//! [`Health`]: whether the process can take requests.

use std::sync::Arc;

use hyper::StatusCode;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::reply::{self, Reply};

/// Where a process stands between its start and its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It cannot take requests yet. The text says what it waits for: `waiting for Consul at http://127.0.0.1:8500`.
    Starting(String),
    /// It takes requests, whether or not each engine is there.
    Ready,
    /// It still takes requests, and asks to be sent no more.
    Draining,
}

/// Shared by the role, which sets the state, and by the server, which answers `GET /health` from it.
#[derive(Debug)]
pub struct Health {
    role: &'static str,
    state: watch::Sender<State>,
}

impl Health {
    /// The health of a process of this role that is starting.
    pub fn starting(role: &'static str, reason: impl Into<String>) -> Arc<Health> {
        Arc::new(Health {
            role,
            state: watch::Sender::new(State::Starting(reason.into())),
        })
    }

    /// Still starting, now for this reason. Nothing changes once the process is ready or draining.
    pub fn waiting(&self, reason: impl Into<String>) {
        self.state.send_if_modified(|state| match state {
            State::Starting(old) => {
                *old = reason.into();
                true
            }
            State::Ready | State::Draining => false,
        });
    }

    /// The process takes requests from now on. A process that drains already goes on draining.
    pub fn ready(&self) {
        self.state.send_if_modified(|state| {
            let starts = matches!(state, State::Starting(_));
            if starts {
                *state = State::Ready;
            }
            starts
        });
    }

    /// The process wants no more requests. Those that come are still served, each the last of its connection.
    pub fn draining(&self) {
        self.state.send_replace(State::Draining);
    }

    /// Where the process stands now.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Follows the state.
    pub fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// The answer to `GET /health`: 200 while the process can take requests, 503 with the reason otherwise.
    /// `details` are the role's own, such as how its engines do.
    pub(super) fn reply(&self, details: Map<String, Value>) -> Reply {
        let (status, word, reason) = match self.state() {
            State::Ready => (StatusCode::OK, "ready", None),
            State::Starting(reason) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "starting",
                Some(format!("starting: {reason}")),
            ),
            State::Draining => (
                StatusCode::SERVICE_UNAVAILABLE,
                "draining",
                Some("draining: this instance is about to stop; ask another one".to_owned()),
            ),
        };
        let mut body = Map::new();
        body.insert("status".to_owned(), word.into());
        body.insert("role".to_owned(), self.role.into());
        body.insert("version".to_owned(), env!("CARGO_PKG_VERSION").into());
        if let Some(reason) = &reason {
            body.insert("error".to_owned(), json!({ "code": word, "message": reason }));
        }
        body.extend(details);
        let mut answer = reply::json(status, &body);
        if reason.is_some() {
            reply::ask_again(&mut answer);
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_drains_does_not_become_ready_again() {
        let health = Health::starting("logging", "waiting for settings");
        health.draining();
        health.ready();
        health.waiting("something else");
        assert_eq!(health.state(), State::Draining);
    }

    #[test]
    fn a_starting_process_names_what_it_waits_for_last() {
        let health = Health::starting("logging", "waiting for settings");
        health.waiting("waiting for the log store");
        assert_eq!(health.state(), State::Starting("waiting for the log store".to_owned()));
        assert_eq!(health.reply(Map::new()).status(), StatusCode::SERVICE_UNAVAILABLE);
        health.ready();
        assert_eq!(health.reply(Map::new()).status(), StatusCode::OK);
    }
}
