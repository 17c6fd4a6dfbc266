//! Members that the cluster lists under an address that does not lead to them from here, told from those that were lost.
//!
//! The rule: a member to which this client was connected since it was listed, by its listed address or as the first one
//! through a configured address, is *lost* where it cannot be reached: it died, or the network did. One that was never
//! reached so is *astray*: if it runs, the address that it gives to clients is wrong.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use uuid::Uuid;

use super::cluster::{Member, View};
use super::error::Error;

/// What a person is to look at.
pub(super) const ADVICE: &str = "its public address (HZ_NETWORK_PUBLICADDRESS of the member, public-address in its \
    configuration) does not lead to it from here: set it to one that does";

/// Which of the listed members were reached, and which are astray.
#[derive(Default)]
pub(super) struct Astray {
    reached: HashSet<Uuid>,
    members: BTreeMap<Uuid, Missed>,
}

struct Missed {
    address: String,
    cause: String,
}

impl Astray {
    /// The member was reached, and is not astray from now on.
    pub(super) fn reached(&mut self, member: Uuid) {
        self.members.remove(&member);
        self.reached.insert(member);
    }

    /// The member was not reached at its listed address. Returns whether it is astray from now on and was not before.
    pub(super) fn missed(&mut self, member: &Member, cause: &Error) -> bool {
        if self.is_lost(member.uuid) {
            return false;
        }
        let missed = Missed {
            address: member.address(),
            cause: format!("{cause:#}"),
        };
        self.members.insert(member.uuid, missed).is_none()
    }

    /// Whether the member is one that was lost, where it cannot be reached.
    pub(super) fn is_lost(&self, member: Uuid) -> bool {
        self.reached.contains(&member)
    }

    /// Forgets members that `is_member` does not know.
    pub(super) fn keep_members(&mut self, is_member: impl Fn(Uuid) -> bool) {
        self.reached.retain(|member| is_member(*member));
        self.members.retain(|member, _| is_member(*member));
    }

    /// Which members are astray, where any is, why, and what to do.
    pub(super) fn warning(&self, view: &View) -> Option<Arc<str>> {
        let told = self.members.iter().map(|(uuid, Missed { address, cause })| {
            let found = match view.connection_to(*uuid) {
                Some(connection) => format!("it is used through {}, and", connection.address),
                None => "if it runs,".to_owned(),
            };
            format!(
                "the cluster lists the member {uuid} at {address}, where this client has never reached it ({cause}); \
                 {found} {ADVICE}"
            )
        });
        let told: Vec<String> = told.collect();
        (!told.is_empty()).then(|| told.join("; ").into())
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::Kind;
    use super::*;

    fn member(id: u128) -> Member {
        Member {
            uuid: Uuid::from_u128(id),
            host: "nat.example".into(),
            port: 5701,
        }
    }

    fn cause() -> Error {
        Error::new(Kind::NotWritten, "connection refused")
    }

    #[test]
    fn a_member_that_was_never_reached_is_astray_and_that_is_new_once() {
        let mut astray = Astray::default();
        assert!(astray.missed(&member(1), &cause()));
        assert!(!astray.missed(&member(1), &cause()));
        let warning = astray.warning(&View::default()).unwrap();
        for part in [
            &member(1).uuid.to_string(),
            "nat.example:5701",
            "connection refused",
            "if it runs",
            "public address",
            "HZ_NETWORK_PUBLICADDRESS",
        ] {
            assert!(warning.contains(part), "{part}: {warning}");
        }
    }

    #[test]
    fn a_member_that_was_reached_is_lost_and_not_astray() {
        let mut astray = Astray::default();
        astray.missed(&member(1), &cause());
        astray.reached(member(1).uuid);
        assert_eq!(astray.warning(&View::default()), None);
        assert!(!astray.missed(&member(1), &cause()));
        assert!(astray.is_lost(member(1).uuid));
        assert_eq!(astray.warning(&View::default()), None);
    }

    #[test]
    fn members_that_left_are_forgotten() {
        let mut astray = Astray::default();
        astray.missed(&member(1), &cause());
        astray.reached(member(2).uuid);
        astray.keep_members(|_| false);
        assert_eq!(astray.warning(&View::default()), None);
        assert!(!astray.is_lost(member(2).uuid));
    }
}
