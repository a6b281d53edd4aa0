//! Which snapshots have times that are in the order in which they were made.

use std::collections::HashMap;
use std::hash::Hash;

/// Says of each item, given in the order in which they were made, whether its time is in that order: whether it
/// belongs to the longest sequence of items of its lineage with ascending times. Items without a time belong to
/// none.
pub(super) fn in_order<L: Eq + Hash, T: Ord>(
    items: impl Iterator<Item = (L, Option<T>)>,
) -> Vec<bool> {
    let mut of_lineage: HashMap<L, Vec<(usize, T)>> = HashMap::new();
    let mut count = 0;
    for (place, (lineage, time)) in items.enumerate() {
        count += 1;
        if let Some(time) = time {
            of_lineage.entry(lineage).or_default().push((place, time));
        }
    }
    let mut in_order = vec![false; count];
    for items in of_lineage.into_values() {
        for at in longest_ascending(&items) {
            in_order[items[at].0] = true;
        }
    }
    in_order
}

/// The places of a longest sequence of items with ascending times; equal ones ascend too.
fn longest_ascending<T: Ord>(items: &[(usize, T)]) -> Vec<usize> {
    // `ends[n]` is the item with the least time that ends an ascending sequence of n + 1 items.
    let mut ends: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(items.len());
    for (at, (_, time)) in items.iter().enumerate() {
        let length = ends.partition_point(|end| items[*end].1 <= *time);
        before.push(length.checked_sub(1).map(|shorter| ends[shorter]));
        match ends.get_mut(length) {
            Some(end) => *end = at,
            None => ends.push(at),
        }
    }
    let mut sequence = Vec::with_capacity(ends.len());
    let mut next = ends.last().copied();
    while let Some(at) = next {
        sequence.push(at);
        next = before[at];
    }
    sequence
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_one(times: &[u32]) -> Vec<bool> {
        in_order(times.iter().map(|time| ((), Some(*time))))
    }

    #[test]
    fn what_contradicts_the_others_is_out_of_order() {
        assert_eq!(of_one(&[1, 2, 2, 3]), [true; 4]);
        // A clock that was years ahead, and one that began at zero.
        assert_eq!(of_one(&[1, 2, 99, 3, 4]), [true, true, false, true, true]);
        assert_eq!(of_one(&[5, 6, 0, 7]), [true, true, false, true]);
        assert_eq!(of_one(&[]), [true; 0]);
        let two = [("a", Some(5)), ("b", Some(1)), ("a", None), ("b", Some(2))];
        assert_eq!(in_order(two.into_iter()), [true, true, false, true]);
    }
}
