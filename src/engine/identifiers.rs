//! [`Identifiers`]: the identifiers of new messages.

use uuid::Uuid;

/// Makes the identifiers of new messages, so that the log takes those of one batch with as little work as it can.
pub trait Identifiers: Send + Sync {
    /// Another one, which nobody else makes: a `UUIDv7` as it is usually written.
    fn make(&self) -> String;

    /// Tells that a batch left: those that are made from now on are of the next one.
    fn batch_left(&self);
}

/// Those of a log to which all identifiers are alike.
pub(super) struct Plain;

impl Identifiers for Plain {
    fn make(&self) -> String {
        Uuid::now_v7().to_string()
    }

    fn batch_left(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_a_uuid_of_version_7_of_its_own() {
        let [one, other] = [Plain.make(), Plain.make()];
        assert_ne!(one, other);
        for identifier in [one, other] {
            let uuid: Uuid = identifier.parse().unwrap();
            assert_eq!((uuid.get_version_num(), uuid.to_string()), (7, identifier));
        }
    }
}
