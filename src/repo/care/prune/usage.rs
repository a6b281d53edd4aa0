//! How much of each pack is needed.

use std::collections::HashMap;

use super::needed::Needed;
use super::situation::Situation;
use crate::Result;
use crate::repo::format::ids::PackId;
use crate::repo::format::segment::Record;
use crate::repo::format::wire::damaged;

/// What is needed of packs.
#[derive(Debug, Default)]
pub(super) struct Usage {
    /// The stored bytes that are needed of each pack in the index; a blob of several packs counts in one of them.
    pub(super) needed: HashMap<PackId, u64>,
    /// Blobs that are needed and only in packs that the store does not have.
    pub(super) lost: usize,
}

/// Which of the needed blobs were found.
struct Found {
    bits: Vec<u64>,
    count: usize,
}

impl Found {
    fn new(len: usize) -> Self {
        Self {
            bits: vec![0; len.div_ceil(64)],
            count: 0,
        }
    }

    /// Notes a blob; whether it was not found before.
    fn first(&mut self, number: usize) -> bool {
        let (word, bit) = (&mut self.bits[number / 64], 1 << (number % 64));
        let first = *word & bit == 0;
        *word |= bit;
        self.count += usize::from(first);
        first
    }
}

impl Usage {
    /// Sums up what is needed of each pack. Those that stay come first, then those that are marked.
    ///
    /// # Errors
    ///
    /// [`Cause::Damage`](crate::Cause::Damage) when a needed blob is in no segment of the index: packs that seem to be
    /// nobody's may have it. What the store fails with.
    pub(super) async fn of(situation: &Situation, needed: &Needed) -> Result<Self> {
        let view = &situation.view;
        let (packs, marked) = (view.index().packs(), view.marks().packs());
        let class = |number: &u32| {
            let pack = &packs[*number as usize];
            (!situation.has(pack), marked.contains(&pack.id))
        };
        let mut usage = Self::default();
        let mut found = Found::new(needed.len());
        for of_class in [(false, false), (false, true), (true, false), (true, true)] {
            let there = found.count;
            let numbers = (0..).take(packs.len());
            let numbers = numbers.filter(|number| class(number) == of_class);
            for portion in view.portions(numbers) {
                let mut records = view.records_of(&portion).await?;
                for number in portion {
                    let records = records.remove(&number).unwrap_or_default();
                    let mut first = |record: &&Record| {
                        let number = needed.number(&record.entry.id);
                        number.is_some_and(|number| found.first(number))
                    };
                    let bytes = records.iter().filter(&mut first);
                    let bytes: u64 = bytes.map(|r| u64::from(r.entry.stored)).sum();
                    let id = packs[number as usize].id;
                    *usage.needed.entry(id).or_default() += bytes;
                }
            }
            if of_class.0 {
                usage.lost += found.count - there;
            }
        }
        let unknown = needed.len() - found.count;
        if unknown > 0 {
            let message = format!(
                "{unknown} blobs that snapshots need are in no index segment, so packs that seem to be nobody's may have them; nothing is removed"
            );
            return Err(damaged(message).with_hint(
                "eyrie verify names the snapshots; bring index/ back from a copy of the repository, or forget them",
            ));
        }
        Ok(usage)
    }
}
