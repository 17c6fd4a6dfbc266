//! [`Tries`]: one instance after another, until one does what it is asked for or the time is up.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use serde_json::Value;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::budget::Budget;
use crate::discovery::{Discovery, Outcome, Pick};
use crate::engine::{Instance, Registry};
use crate::http::client::{Answer, CallError};
use crate::http::reply::HttpError;
use crate::http::throttle::Throttle;

/// How long the first try may take, twice that for the next, and so on: an instance that hangs costs little time, and
/// one that is slow, because all are, gets it in the end.
const FIRST_LIMIT: Duration = Duration::from_millis(1200);

/// How long the first trial of an instance that was ejected may take, twice that for the next, up to [`FIRST_LIMIT`].
/// Short, since others answer: who is sent there should not wait for it as the first one did.
const TRIAL_LIMIT: Duration = Duration::from_millis(300);

/// Pause before instances that failed are asked again. It doubles from round to round.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Longest error of an instance that is read, in bytes.
pub(super) const MOST_ERROR_BYTES: usize = 64 * 1024;

static FAILED: Throttle = Throttle::new();

/// A service that the facade calls.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) name: &'static str,
    pub(super) discovery: Discovery,
    pub(super) budget: Arc<Budget>,
    /// That of pages, which may fail without anything else failing.
    pub(super) page_budget: Arc<Budget>,
}

impl Service {
    /// The service of this name, with its instances as the registry has them.
    pub(super) fn follow(registry: Arc<dyn Registry>, name: &'static str) -> Self {
        Self {
            name,
            discovery: Discovery::follow(registry, name),
            budget: Arc::new(Budget::new()),
            page_budget: Arc::new(Budget::new()),
        }
    }

    /// Whether an instance of another origin is known.
    pub(super) fn has_others(&self) -> bool {
        self.discovery.instances().iter().any(|known| !is_ours(known))
    }
}

/// The tries of one request at the instances of one service. A clone goes on from there by itself.
#[derive(Clone)]
pub(super) struct Tries<'a> {
    service: &'a Service,
    deadline: Instant,
    others: Others,
    is_page: bool,
    /// Whether there was a try already.
    has_begun: bool,
    /// Ids of those that were tried in this round.
    tried: Vec<String>,
    limit: Duration,
    pause: Duration,
    /// Why the last try failed.
    last: Option<String>,
}

/// What of instances of another origin, which may not know all that is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Others {
    /// They are as good as ours.
    Alike,
    /// They come last in each round.
    Last,
    /// They are asked only where none of ours is known.
    Alone,
    /// They are not asked.
    Never,
}

/// One try: at this instance, within this time. Each clone counts as a request there.
#[derive(Clone)]
pub(super) struct Try {
    pub(super) instance: Pick,
    pub(super) limit: Duration,
    /// Whether that is less than an instance should have, because the request's time is up then.
    is_cut_short: bool,
    /// Whether it is asked for a page. It takes as long as its list is large, so one that is late or refused tells nothing of
    /// what else the instance can do.
    is_page: bool,
}

impl Try {
    /// Tells what the instance answered, or why there is no answer: who does not answer is ejected.
    pub(super) fn ended(&self, ended: Result<StatusCode, &CallError>) {
        let outcome = match ended {
            Ok(status) if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                if self.is_page {
                    return;
                }
                Outcome::Unable
            }
            Ok(_) => Outcome::Answered,
            Err(error) if error.is_late() && (self.is_cut_short || self.is_page) => return,
            Err(error) if error.is_too_long() => Outcome::Answered,
            Err(_) => Outcome::Failed,
        };
        self.instance.report(outcome);
    }

    pub(super) fn is_of_another_origin(&self) -> bool {
        !is_ours(&self.instance)
    }
}

fn is_ours(instance: &Instance) -> bool {
    instance.version.is_some()
}

impl<'a> Tries<'a> {
    pub(super) fn new(service: &'a Service, deadline: Instant) -> Tries<'a> {
        Tries {
            service,
            deadline,
            others: Others::Alike,
            is_page: false,
            has_begun: false,
            tried: Vec::new(),
            limit: FIRST_LIMIT,
            pause: FIRST_PAUSE,
            last: None,
        }
    }

    /// Tries instances of another origin after all of ours.
    pub(super) fn ours_first(mut self) -> Tries<'a> {
        self.others = Others::Last;
        self
    }

    /// Leaves instances of another origin out where any of ours is known.
    pub(super) fn ours_only(mut self) -> Tries<'a> {
        self.others = Others::Alone;
        self
    }

    /// Those of a page: the first may take so long, in place of [`FIRST_LIMIT`], and instances of another origin, which know no
    /// pages, are left out.
    pub(super) fn for_page(mut self, first_limit: Duration) -> Tries<'a> {
        self.others = Others::Never;
        self.is_page = true;
        self.limit = first_limit;
        self
    }

    /// The next try, after a pause where all instances have failed.
    ///
    /// # Errors
    ///
    /// 503 where no instance is known; and with what the last one answered, where the time is up, or where so many
    /// requests fail that this one is not tried again: see [`Budget`].
    pub(super) async fn next(&mut self) -> Result<Try, HttpError> {
        let budget = if self.is_page {
            &self.service.page_budget
        } else {
            &self.service.budget
        };
        if !self.has_begun {
            budget.request();
        } else if self.left() > Duration::ZERO && !budget.retry() {
            return Err(self.give_up("and too many requests fail for it to be tried again"));
        }
        self.has_begun = true;
        loop {
            let left = self.left();
            if left.is_zero() {
                return Err(self.give_up("in time"));
            }
            if let Some(instance) = self.pick() {
                let limit = self.limit_at(&instance);
                return Ok(Try {
                    instance,
                    limit: limit.min(left),
                    is_cut_short: left < limit,
                    is_page: self.is_page,
                });
            }
            if self.tried.is_empty() {
                return Err(self.give_up("in time"));
            }
            self.tried.clear();
            sleep(self.pause.min(left)).await;
            self.pause = self.pause.saturating_mul(2);
        }
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// The last try came to nothing: `why` names the instance.
    pub(super) fn failed(&mut self, why: String) {
        if let Some(unlogged) = FAILED.pass() {
            warn!(
                service = self.service.name,
                reason = why,
                unlogged,
                "an instance failed, trying on"
            );
        }
        self.last = Some(why);
    }

    fn limit_at(&mut self, instance: &Pick) -> Duration {
        match instance.trial() {
            Some(ejections) if !self.is_page => trial_limit(ejections),
            _ => {
                let limit = self.limit;
                self.limit = limit.saturating_mul(2);
                limit
            }
        }
    }

    fn pick(&mut self) -> Option<Pick> {
        let pick = self.choose()?;
        self.tried.push(pick.id.clone());
        Some(pick)
    }

    fn choose(&self) -> Option<Pick> {
        let discovery = &self.service.discovery;
        let tried: Vec<&str> = self.tried.iter().map(String::as_str).collect();
        if self.others == Others::Alike {
            return discovery.pick(&tried);
        }
        let instances = discovery.instances();
        let (ours, others): (Vec<_>, Vec<_>) = instances.iter().partition(|known| is_ours(known));
        let mut left_out = tried.clone();
        left_out.extend(others.iter().map(|other| other.id.as_str()));
        let pick = discovery.pick(&left_out);
        if pick.is_none() && (self.others == Others::Last || self.others == Others::Alone && ours.is_empty()) {
            return discovery.pick(&tried);
        }
        pick
    }

    fn give_up(&self, why: &str) -> HttpError {
        let service = self.service.name;
        HttpError::unavailable(match &self.last {
            Some(last) => format!("no instance of {service} could do it {why}, at last {last}"),
            None if self.others == Others::Never && self.service.has_others() => {
                format!("no live instance of {service} is known but of another origin, which cannot do it")
            }
            None => format!("no live instance of {service} is known"),
        })
    }
}

/// How long the trial may take of an instance that was ejected so often in a row.
fn trial_limit(ejections: u32) -> Duration {
    let doublings = ejections.saturating_sub(1).min(16);
    TRIAL_LIMIT.saturating_mul(1 << doublings).min(FIRST_LIMIT)
}

/// What an instance answered instead of what it was asked for: `logging-service@127.0.0.1:8101 answered 503: …`.
pub(super) fn describe(instance: &Pick, status: StatusCode, body: &[u8]) -> String {
    let answered = format!("{} answered {}", instance.id, status.as_u16());
    let said: Option<Value> = serde_json::from_slice(body).ok();
    match said.as_ref().and_then(|said| said.pointer("/error/message")?.as_str()) {
        Some(message) => format!("{answered}: {message}"),
        None => answered,
    }
}

/// [`describe`] for a whole answer.
pub(super) fn describe_answer(instance: &Pick, answer: &Answer) -> String {
    describe(instance, answer.status, &answer.body)
}
