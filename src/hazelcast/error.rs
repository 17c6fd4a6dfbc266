//! The client's one error.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

/// What a call answers.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed. Callers match by the predicates or by [`Error::kind`].
///
/// What matters most to a caller who may repeat a call is whether it may have been applied already: [`Error::outcome_unknown`].
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    message: String,
    cause: Option<Box<dyn StdError + Send + Sync>>,
}

/// The kinds of [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// No byte of the request reached a socket: it was not applied and may be repeated.
    NotWritten,
    /// The request was written, in part at least, and its connection died before the answer: it may have been applied or not.
    OutcomeUnknown,
    /// The member applied the operation, but its backups did not confirm it in time: the primary's death may undo it.
    Indeterminate,
    /// The call's deadline passed.
    TimedOut {
        /// Whether the operation may have been applied: a try was handed to a connection and its answer did not come.
        outcome_unknown: bool,
    },
    /// The member answered with an error of its own.
    Server {
        /// The protocol's error code (`ClientProtocolErrorCodes` of the reference implementation).
        code: i32,
    },
    /// The call was for one member, and that is no member of the cluster any more. It was not sent.
    MemberLeft,
    /// The cluster refuses this client: another cluster name, or credentials that it does not take.
    Authentication,
    /// The member sent what the protocol does not allow.
    Protocol,
    /// A request is larger than a frame or the configured limit allows. It was not sent.
    TooLarge,
    /// The configuration cannot work: no address, or one that does not parse.
    Configuration,
    /// The client was shut down.
    ShutDown,
}

/// Server error codes after which a call is tried again, mutations included, as the official clients do: the operation was not
/// applied, but for some of [`POSSIBLY_APPLIED_CODES`].
const RETRYABLE_CODES: [i32; 11] = [
    8,  // caller not member
    19, // Hazelcast instance not active
    22, // I/O
    33, // member left
    39, // partition migrating
    46, // retryable Hazelcast exception
    47, // retryable I/O
    53, // target not member
    62, // wrong target
    82, // target not replica
    90, // cannot replicate
];

/// Server error codes of a member that passed the operation on to another one and had no answer.
const POSSIBLY_APPLIED_CODES: [i32; 3] = [
    22, // I/O
    33, // member left
    38, // operation timeout
];

/// Server error code of an operation whose backups did not confirm it.
const INDETERMINATE_CODE: i32 = 80;

impl Error {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            cause: None,
        }))
    }

    /// What the member sent cannot be read; `what` says where.
    pub(crate) fn protocol(what: impl Into<String>) -> Self {
        Self::new(Kind::Protocol, what)
    }

    /// An error that a member answered with.
    pub(crate) fn server(code: i32, class_name: &str, message: &str) -> Self {
        let kind = if code == INDETERMINATE_CODE {
            Kind::Indeterminate
        } else {
            Kind::Server { code }
        };
        Self::new(
            kind,
            format!("the member answered {class_name} (code {code}): {message}"),
        )
    }

    pub(crate) fn timed_out(operation: &str, deadline: Duration, outcome_unknown: bool) -> Self {
        let outcome = if outcome_unknown {
            "it may have been applied"
        } else {
            "it was not applied"
        };
        Self::new(
            Kind::TimedOut { outcome_unknown },
            format!(
                "{operation} had no answer within {} ms; {outcome}",
                deadline.as_millis()
            ),
        )
    }

    /// Keeps what led to this error, as its source.
    pub(crate) fn caused_by(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// The kind, to match on.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Whether the operation may have been applied although the call failed. Where this is false it was not, unless the member
    /// applied it and failed afterwards ([`Kind::Server`]), as it does where an index cannot take the value that it stored.
    pub fn outcome_unknown(&self) -> bool {
        match self.0.kind {
            Kind::OutcomeUnknown | Kind::Indeterminate | Kind::TimedOut { outcome_unknown: true } => true,
            Kind::Server { code } => POSSIBLY_APPLIED_CODES.contains(&code),
            _ => false,
        }
    }

    /// Whether the call's deadline passed.
    pub fn is_timeout(&self) -> bool {
        matches!(self.0.kind, Kind::TimedOut { .. })
    }

    /// Whether the member named a condition that passes by itself: the call is tried again until its deadline.
    pub(crate) fn is_retryable_at_server(&self) -> bool {
        matches!(self.0.kind, Kind::Server { code } if RETRYABLE_CODES.contains(&code))
    }
}

/// What happened; in the alternate form (`{:#}`) also what led to it, one cause after the other.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        let mut cause = self.source().filter(|_| f.alternate());
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.cause.as_deref().map(|cause| cause as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_written_and_outcome_unknown_are_two_errors() {
        assert!(!Error::new(Kind::NotWritten, "").outcome_unknown());
        assert!(Error::new(Kind::OutcomeUnknown, "").outcome_unknown());
        assert!(Error::timed_out("Map.Set", Duration::from_secs(1), true).outcome_unknown());
        assert!(!Error::timed_out("Map.Set", Duration::from_secs(1), false).outcome_unknown());
    }

    #[test]
    fn a_member_that_cannot_confirm_backups_leaves_the_outcome_unknown() {
        let error = Error::server(80, "com.hazelcast.core.IndeterminateOperationStateException", "");
        assert_eq!(error.kind(), Kind::Indeterminate);
        assert!(error.outcome_unknown());
    }

    #[test]
    fn a_member_that_lost_another_one_leaves_the_outcome_unknown() {
        for code in [22, 33, 38] {
            assert!(Error::server(code, "", "").outcome_unknown(), "{code}");
        }
        for code in [8, 19, 39, 46, 47, 53, 62, 82, 90, 21] {
            assert!(!Error::server(code, "", "").outcome_unknown(), "{code}");
        }
    }

    #[test]
    fn the_alternate_form_tells_what_led_to_an_error() {
        let cause = Error::protocol("a list has no end").caused_by("the bytes ran out");
        let error = Error::protocol("the answer cannot be read").caused_by(cause);
        assert_eq!(error.to_string(), "the answer cannot be read");
        assert_eq!(
            format!("{error:#}"),
            "the answer cannot be read: a list has no end: the bytes ran out"
        );
    }

    #[test]
    fn only_errors_that_pass_by_themselves_are_retryable() {
        for code in [8, 19, 22, 33, 39, 46, 47, 53, 62, 82, 90] {
            assert!(Error::server(code, "", "").is_retryable_at_server(), "{code}");
        }
        for code in [38, 51, 56, 57, 58, 80] {
            assert!(!Error::server(code, "", "").is_retryable_at_server(), "{code}");
        }
    }
}
