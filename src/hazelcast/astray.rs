//! Members that the cluster lists under an address that does not lead to them from here, told from those that were lost.
//!
//! The rule: a member to which this client was connected since it was listed, by its listed address or as the first one
//! through a configured address, is *lost* where it cannot be reached: it died, or the network did. One that was never
//! reached so is *astray*, once it was missed for [`PATIENCE`], or at once where it was reached by another address meanwhile:
//! if it runs, the address that it gives to clients is wrong.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::cluster::{Member, View};
use super::error::Error;

/// What a person is to look at.
pub(super) const ADVICE: &str = "its public address (HZ_NETWORK_PUBLICADDRESS of the member, public-address in its \
    configuration) does not lead to it from here: set it to one that does";

/// How long a member may be missed before it is astray: one that has just joined may be slow, or refuse clients until it is
/// ready.
const PATIENCE: Duration = Duration::from_secs(5);

/// Which of the listed members were reached, and which are astray.
#[derive(Default)]
pub(super) struct Astray {
    reached: HashSet<Uuid>,
    members: BTreeMap<Uuid, Missed>,
}

struct Missed {
    address: String,
    cause: String,
    since: Instant,
    is_astray: bool,
}

impl Astray {
    /// The member was reached, and is not astray from now on.
    pub(super) fn reached(&mut self, member: Uuid) {
        self.members.remove(&member);
        self.reached.insert(member);
    }

    /// The member was not reached at its listed address; `elsewhere` says whether it was by another one. Returns whether it
    /// is astray from now on and was not before.
    pub(super) fn missed(&mut self, member: &Member, cause: &Error, elsewhere: bool, now: Instant) -> bool {
        if self.is_lost(member.uuid) {
            return false;
        }
        let missed = self.members.entry(member.uuid).or_insert_with(|| Missed {
            address: String::new(),
            cause: String::new(),
            since: now,
            is_astray: false,
        });
        missed.address = member.address();
        missed.cause = format!("{cause:#}");
        let is_astray = elsewhere || now.duration_since(missed.since) >= PATIENCE;
        let is_new = is_astray && !missed.is_astray;
        missed.is_astray |= is_astray;
        is_new
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
        let astray = self.members.iter().filter(|(_, missed)| missed.is_astray);
        let told = astray.map(|(uuid, Missed { address, cause, .. })| {
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

    /// Misses it for as long as it takes.
    fn miss(astray: &mut Astray, member: &Member) -> bool {
        let now = Instant::now();
        astray.missed(member, &cause(), false, now);
        astray.missed(member, &cause(), false, now + PATIENCE)
    }

    #[test]
    fn a_member_that_was_never_reached_for_five_seconds_is_astray_and_that_is_new_once() {
        let mut astray = Astray::default();
        let now = Instant::now();
        assert!(!astray.missed(&member(1), &cause(), false, now));
        let soon = now + PATIENCE - Duration::from_millis(1);
        assert!(!astray.missed(&member(1), &cause(), false, soon));
        assert_eq!(astray.warning(&View::default()), None);
        assert!(astray.missed(&member(1), &cause(), false, now + PATIENCE));
        assert!(!astray.missed(&member(1), &cause(), false, now + 2 * PATIENCE));
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
    fn a_member_that_is_reached_by_another_address_is_astray_at_once() {
        let mut astray = Astray::default();
        assert!(astray.missed(&member(1), &cause(), true, Instant::now()));
        assert!(astray.warning(&View::default()).is_some());
    }

    #[test]
    fn a_member_that_was_reached_is_lost_and_not_astray() {
        let mut astray = Astray::default();
        miss(&mut astray, &member(1));
        astray.reached(member(1).uuid);
        assert_eq!(astray.warning(&View::default()), None);
        assert!(!miss(&mut astray, &member(1)));
        assert!(astray.is_lost(member(1).uuid));
        assert_eq!(astray.warning(&View::default()), None);
    }

    #[test]
    fn members_that_left_are_forgotten() {
        let mut astray = Astray::default();
        miss(&mut astray, &member(1));
        astray.reached(member(2).uuid);
        astray.keep_members(|_| false);
        assert_eq!(astray.warning(&View::default()), None);
        assert!(!astray.is_lost(member(2).uuid));
    }
}
