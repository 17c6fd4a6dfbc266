//! Identifiers of new messages: those of a batch are in one partition of the log.

use std::sync::atomic::{AtomicI32, Ordering};

use uuid::Uuid;

use crate::engine::Identifiers;
use crate::hazelcast::in_partition;

/// Partitions of a cluster, unless its `hazelcast.partition.count` says otherwise. Where it does, identifiers of a batch are spread
/// over its partitions, which costs it more work and nothing else.
const PARTITIONS: i32 = 271;

/// A map takes entries of one partition by one request, which its backups confirm once: that is what a single entry costs. So the
/// last four digits of an identifier, which are random, are such that it is in the partition of its batch.
pub(in crate::engine) struct OfOnePartition {
    batch: AtomicI32,
}

impl OfOnePartition {
    /// The first batch goes to any partition, and each to another one than the batch before.
    pub(in crate::engine) fn new() -> Self {
        let (random, ..) = Uuid::new_v4().as_fields();
        Self {
            batch: AtomicI32::new(random.cast_signed()),
        }
    }
}

impl Identifiers for OfOnePartition {
    fn make(&self) -> String {
        let partition = self.batch.load(Ordering::Relaxed).rem_euclid(PARTITIONS);
        in_partition(&Uuid::now_v7().to_string(), partition, PARTITIONS)
    }

    fn batch_left(&self) {
        self.batch.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::hazelcast::ToData;

    fn made(identifiers: &OfOnePartition, count: usize) -> Vec<String> {
        (0..count).map(|_| identifiers.make()).collect()
    }

    fn partitions(identifiers: &[String]) -> HashSet<i32> {
        let hashes = identifiers.iter().map(|one| one.to_data().partition_hash());
        hashes
            .map(|hash| hash.unsigned_abs().cast_signed() % PARTITIONS)
            .collect()
    }

    #[test]
    fn those_of_a_batch_are_in_one_partition_and_those_of_the_next_in_another() {
        let identifiers = OfOnePartition::new();
        let mut seen = HashSet::new();
        for _ in 0..PARTITIONS {
            let partitions = partitions(&made(&identifiers, 5));
            assert_eq!(partitions.len(), 1);
            seen.extend(partitions);
            identifiers.batch_left();
        }
        assert_eq!(seen.len(), 271, "all partitions have their turn");
    }

    #[test]
    fn each_is_a_uuid_of_version_7_that_nobody_else_made_and_comes_after_those_before() {
        let identifiers = [OfOnePartition::new(), OfOnePartition::new()];
        let mut all = HashSet::new();
        for identifiers in &identifiers {
            let made = made(identifiers, 10_000);
            assert!(made.is_sorted());
            for identifier in made {
                let uuid: Uuid = identifier.parse().unwrap();
                assert_eq!((uuid.get_version_num(), uuid.to_string()), (7, identifier.clone()));
                assert!(all.insert(identifier));
            }
        }
    }

    #[test]
    fn the_turn_goes_on_when_the_count_of_batches_is_at_its_end() {
        let identifiers = OfOnePartition {
            batch: AtomicI32::new(i32::MAX),
        };
        let before = partitions(&made(&identifiers, 3));
        identifiers.batch_left();
        let after = partitions(&made(&identifiers, 3));
        assert_eq!((before.len(), after.len()), (1, 1));
        assert_ne!(before, after);
    }
}
