//! [`Identifiers`]: which messages there are, without their texts.

use std::collections::HashSet;
use std::time::Duration;

use uuid::Uuid;

/// A set of identifiers. One that was made here takes 16 bytes in it.
#[derive(Debug, Default)]
pub(in crate::roles) struct Identifiers {
    uuids: HashSet<u128>,
    others: HashSet<Box<str>>,
}

impl Identifiers {
    pub(in crate::roles) fn insert(&mut self, identifier: &str) {
        match uuid(identifier) {
            Some(uuid) => self.uuids.insert(uuid.as_u128()),
            None => self.others.insert(identifier.into()),
        };
    }

    pub(in crate::roles) fn contains(&self, identifier: &str) -> bool {
        match uuid(identifier) {
            Some(uuid) => self.uuids.contains(&uuid.as_u128()),
            None => self.others.contains(identifier),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.uuids.is_empty() && self.others.is_empty()
    }
}

/// When the message was posted, since 1970, in whole milliseconds, as its identifier says: a `UUIDv7` is made of that.
pub(in crate::roles) fn posted_at(identifier: &str) -> Option<Duration> {
    let uuid = uuid(identifier).filter(|uuid| uuid.get_version_num() == 7)?;
    let (seconds, nanoseconds) = uuid.get_timestamp()?.to_unix();
    Some(Duration::new(seconds, nanoseconds))
}

/// The UUID that this is the one way to write of: others are other identifiers.
fn uuid(identifier: &str) -> Option<Uuid> {
    let uuid = Uuid::try_parse(identifier).ok()?;
    let mut written = [0; uuid::fmt::Hyphenated::LENGTH];
    (uuid.hyphenated().encode_lower(&mut written) == identifier).then_some(uuid)
}

#[cfg(test)]
mod tests {
    use uuid::{NoContext, Timestamp};

    use super::*;

    const V7: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

    #[test]
    fn two_ways_to_write_a_uuid_are_two_identifiers() {
        let mut known = Identifiers::default();
        let others = [
            V7.to_uppercase(),
            V7.replace('-', ""),
            format!("{{{V7}}}"),
            format!("urn:uuid:{V7}"),
            format!("{V7} "),
            String::new(),
        ];
        known.insert(V7);
        for other in &others {
            assert!(known.contains(V7) && !known.contains(other), "{other}");
        }
        for other in &others {
            known.insert(other);
            assert!(known.contains(other), "{other}");
        }
    }

    #[test]
    fn only_a_uuid_of_version_7_says_when_it_was_posted() {
        let at = Duration::from_millis(1_795_570_917_123);
        let made = Uuid::new_v7(Timestamp::from_unix(NoContext, at.as_secs(), at.subsec_nanos()));
        assert_eq!(posted_at(&made.to_string()), Some(at));
        let others = [
            Uuid::new_v4().to_string(),
            "a".to_owned(),
            made.to_string().to_uppercase(),
            "c232ab00-9414-11ec-b3c8-9f6bdeced846".to_owned(),
        ];
        for other in others {
            assert_eq!(posted_at(&other), None, "{other}");
        }
    }
}
