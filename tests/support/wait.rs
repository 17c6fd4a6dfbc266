//! Waiting for a condition with a deadline: the only way in which tests let time pass.

use std::time::{Duration, Instant};

/// Time between two looks at a condition.
const INTERVAL: Duration = Duration::from_millis(20);

/// Looks at `condition` until it gives a value, for at most `deadline`; then `None`.
///
/// It blocks: inside a runtime, call it through `spawn_blocking`.
pub(crate) fn until<T>(deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if Instant::now() >= end {
            return None;
        }
        #[expect(clippy::disallowed_methods, reason = "tests wait on threads of their own")]
        std::thread::sleep(INTERVAL);
    }
}

/// The same for a condition that is true or false.
pub(crate) fn until_true(deadline: Duration, mut condition: impl FnMut() -> bool) -> bool {
    until(deadline, || condition().then_some(())).is_some()
}
