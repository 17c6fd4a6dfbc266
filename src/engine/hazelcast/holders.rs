//! [`Voucher`]: whether the members that hold a map are those that held it when it was last known to be whole.

use crate::engine::Standing;
use crate::hazelcast::{Client, Map, Result, ToData};

/// The one key of the map.
const KEY: &str = "members";

/// The ids of the members, which are new at each of their starts, in their order, with commas between. `None` where no
/// member can be reached.
pub(super) fn now(client: &Client) -> Option<String> {
    if !client.is_connected() {
        return None;
    }
    let mut ids: Vec<String> = client.members().iter().map(|member| member.uuid.to_string()).collect();
    ids.sort_unstable();
    (!ids.is_empty()).then(|| ids.join(","))
}

/// A map beside the data, on the same members, so that it is gone when they are. It says which members there were when
/// nothing was missing.
#[derive(Debug)]
pub(super) struct Voucher(Map);

impl Voucher {
    /// That of the map of this name.
    pub(super) fn of(client: &Client, name: &str) -> Self {
        Self(client.map(format!("{name}_compared")))
    }

    /// Whether nothing can be missing while these are the members. Those that came later are vouched for with the others:
    /// nothing was lost when they came, but it could be with them.
    pub(super) async fn standing(&self, holders: &str) -> Result<Standing> {
        let standing = self.0.get(KEY).await?;
        let standing = standing_of(standing.as_ref().and_then(|then| then.as_str()), holders);
        match standing {
            Ok(()) => Ok(Standing::Whole),
            Err(Change::SomeCame) => self.vouch(holders).await.map(|()| Standing::Whole),
            Err(Change::SomeWent) => Ok(Standing::InDoubt),
            Err(Change::NobodyVouched) => Ok(Standing::Unknown),
        }
    }

    pub(super) async fn vouch(&self, holders: &str) -> Result<()> {
        self.0.set(KEY, &holders.to_data()).await
    }
}

/// What is different from when somebody vouched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    SomeCame,
    SomeWent,
    NobodyVouched,
}

fn standing_of(then: Option<&str>, now: &str) -> std::result::Result<(), Change> {
    let Some(then) = then else {
        return Err(Change::NobodyVouched);
    };
    let is_there = |id: &str| now.split(',').any(|holder| holder == id);
    if !then.split(',').all(is_there) {
        return Err(Change::SomeWent);
    }
    if then == now { Ok(()) } else { Err(Change::SomeCame) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_whole_as_long_as_all_that_held_it_are_there() {
        for (then, now, change) in [
            (Some("a,b"), "a,b", Ok(())),
            (Some("a,b"), "a,b,c", Err(Change::SomeCame)),
            (Some("a,b"), "a", Err(Change::SomeWent)),
            (Some("a,b"), "a,c", Err(Change::SomeWent)),
            (Some("a,b"), "aa,b", Err(Change::SomeWent)),
            (Some(""), "a", Err(Change::SomeWent)),
            (None, "a,b", Err(Change::NobodyVouched)),
        ] {
            assert_eq!(standing_of(then, now), change, "{then:?} {now}");
        }
    }
}
