//! Rendezvous hashing: who comes first for a key, agreed on by all without a word.
//!
//! Each instance computes every instance's score for the key, and the highest comes first. When one goes, only its own keys
//! move, and they spread over those that stay. So the hash must be the same in every instance and every version of `svc`.

/// The live instances, as one of them sees them.
pub(super) struct Ring {
    own: (u64, String),
    others: Vec<(u64, String)>,
}

impl Ring {
    /// `own` and the ids in `live`, in which it may be missing or not.
    pub(super) fn new(own: &str, live: Vec<String>) -> Self {
        let seeded = |id: String| (mix(hash(id.as_bytes())), id);
        Self {
            own: seeded(own.to_owned()),
            others: live.into_iter().filter(|id| id != own).map(seeded).collect(),
        }
    }

    /// Whether this instance comes first for the key of this [`hash`].
    pub(super) fn is_first(&self, key: u64) -> bool {
        let score = |(seed, id): &(u64, String)| (mix(seed ^ key), id.clone());
        let own = score(&self.own);
        self.others.iter().all(|other| score(other) < own)
    }
}

/// FNV-1a, 64 bits (draft-eastlake-fnv).
pub(super) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

/// The finalizer of `MurmurHash3` x64: each bit in changes half of those out, which FNV-1a's last bytes do not.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    bits ^ (bits >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: [&str; 3] = ["m@127.0.0.1:8181", "m@127.0.0.1:8182", "m@127.0.0.1:8183"];

    fn ring(own: &str, live: &[&str]) -> Ring {
        Ring::new(own, live.iter().map(|id| (*id).to_owned()).collect())
    }

    /// Who comes first for each of `keys` keys, by each instance's own reckoning.
    fn firsts(live: &[&str], keys: u32) -> Vec<Vec<usize>> {
        let rings: Vec<Ring> = live.iter().map(|own| ring(own, live)).collect();
        (0..keys)
            .map(|key| {
                let key = hash(&key.to_be_bytes());
                (0..rings.len()).filter(|at| rings[*at].is_first(key)).collect()
            })
            .collect()
    }

    #[test]
    fn the_hash_is_the_published_one() {
        for (text, expected) in [
            ("", 0xCBF2_9CE4_8422_2325),
            ("a", 0xAF63_DC4C_8601_EC8C),
            ("foobar", 0x8594_4171_F739_67E8),
        ] {
            assert_eq!(hash(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn who_comes_first_does_not_change_with_the_version() {
        let firsts: Vec<usize> = firsts(&IDS, 12).into_iter().map(|who| who[0]).collect();
        assert_eq!(firsts, [1, 0, 2, 2, 0, 0, 1, 1, 2, 0, 0, 1]);
    }

    #[test]
    fn exactly_one_comes_first_for_each_key_and_each_for_its_share() {
        let firsts = firsts(&IDS, 3000);
        assert!(firsts.iter().all(|who| who.len() == 1));
        for at in 0..IDS.len() {
            let share = firsts.iter().filter(|who| who[0] == at).count();
            assert!((900..1100).contains(&share), "{share}");
        }
    }

    #[test]
    fn when_one_goes_only_its_keys_move() {
        let (before, after) = (firsts(&IDS, 1000), firsts(&IDS[..2], 1000));
        let moved = before.iter().zip(&after).filter(|(before, after)| before != after);
        assert!(moved.clone().all(|(before, _)| before[0] == 2));
        assert!(moved.count() > 200);
    }

    #[test]
    fn an_instance_counts_itself_whether_it_is_listed_or_not() {
        assert!((0..100).all(|key| ring(IDS[0], &[]).is_first(key)));
        for key in (0..100_u32).map(|key| hash(&key.to_be_bytes())) {
            let listed = ring(IDS[0], &IDS).is_first(key);
            assert_eq!(ring(IDS[0], &IDS[1..]).is_first(key), listed);
        }
    }
}
