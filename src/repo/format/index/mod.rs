//! The index in memory: where each blob is.

pub(crate) mod segment;

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::ids::{BlobId, IndexId, PackId};
use super::wire::{damaged, to_u32};
use crate::Result;
use crate::repo::format::files::StoredFile;
use segment::{PackInfo, Record, Segment};

/// All segments of a repository that no other supersedes, in one sorted array of 56 bytes a blob.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// The segments that it was read from, superseded ones included.
    segments: Vec<IndexId>,
    /// Segments that could not be read, that no other supersedes, and why.
    unread: Vec<(IndexId, String)>,
    /// Packs that were read by their own directories, as segments that cannot be read may have named them.
    recovered: HashSet<PackId>,
    /// Whether that was not possible with all of them.
    in_part: bool,
    packs: Vec<PackInfo>,
    records: Vec<Record>,
    /// Where the records with each first two bytes begin; one more than there are.
    fan: Vec<u32>,
}

impl Index {
    /// Where the blob is: all its places, none when the repository does not have it.
    pub(crate) fn places(&self, id: &BlobId) -> &[Record] {
        let bucket = usize::from(u16::from_be_bytes([id.0[0], id.0[1]]));
        let ends = (self.fan.get(bucket), self.fan.get(bucket + 1));
        let (Some(from), Some(to)) = ends else {
            return &[];
        };
        let bucket = &self.records[*from as usize..*to as usize];
        let first = bucket.partition_point(|record| record.entry.id < *id);
        let same = bucket[first..].partition_point(|record| record.entry.id == *id);
        &bucket[first..first + same]
    }

    /// The pack with this number.
    pub(crate) fn pack(&self, number: u32) -> &PackInfo {
        &self.packs[number as usize]
    }

    /// The segments that it was read from, superseded ones included.
    pub(crate) fn segments(&self) -> &[IndexId] {
        &self.segments
    }

    /// Segments that could not be read, that no other supersedes, and why.
    pub(crate) fn unread(&self) -> &[(IndexId, String)] {
        &self.unread
    }

    /// Whether a pack was read by its own directory.
    pub(crate) fn is_recovered(&self, pack: &PackId) -> bool {
        self.recovered.contains(pack)
    }

    /// Whether some packs could not be read so, and hold perhaps what segments lack.
    pub(crate) fn is_recovered_in_part(&self) -> bool {
        self.in_part
    }

    /// The numbers of such packs, ascending.
    pub(crate) fn recovered(&self) -> Vec<u32> {
        let numbered = (0..).zip(&self.packs);
        let recovered = numbered.filter(|(_, pack)| self.is_recovered(&pack.id));
        recovered.map(|(number, _)| number).collect()
    }

    /// All packs.
    pub(crate) fn packs(&self) -> &[PackInfo] {
        &self.packs
    }

    /// All places of all blobs, ascending by id.
    pub(crate) fn records(&self) -> &[Record] {
        &self.records
    }
}

/// Segments on their way into one index; each is let go as soon as its records are taken over, so
/// that the index is not in memory twice.
#[derive(Debug, Default)]
pub(crate) struct Merging {
    /// The packs of all segments, one after the other; records name their places here.
    packs: Vec<PackInfo>,
    /// Which of `packs` each segment brought.
    origins: Vec<(Option<IndexId>, Range<usize>)>,
    records: Vec<Record>,
    gone: HashSet<IndexId>,
    unread: Vec<(IndexId, String)>,
    recovered: HashSet<PackId>,
    in_part: bool,
}

impl Merging {
    /// Notes a segment that cannot be read.
    pub(crate) fn leave_out(&mut self, id: IndexId, why: String) {
        self.unread.push((id, why));
    }

    /// Those that cannot be read and that no other supersedes.
    pub(crate) fn missed(&self) -> impl Iterator<Item = &(IndexId, String)> {
        self.unread.iter().filter(|(id, _)| !self.gone.contains(id))
    }

    /// What the segments say of packs, superseded ones included.
    pub(crate) fn described(&self) -> HashMap<PackId, PackInfo> {
        self.packs.iter().map(|pack| (pack.id, *pack)).collect()
    }

    /// The packs of which the segments that count have every blob.
    pub(crate) fn whole(&self) -> Result<HashSet<PackId>> {
        let (packs, numbers) = self.number()?;
        let place = |record: &Record| {
            let number = numbers[record.pack as usize]?;
            Some((number, record.entry.position))
        };
        let mut places: Vec<(u32, u32)> = self.records.iter().filter_map(place).collect();
        places.sort_unstable();
        places.dedup();
        let of_one = places.chunk_by(|a, b| a.0 == b.0);
        let whole = of_one.filter_map(|places| {
            let pack = packs.get(places.first()?.0 as usize)?;
            (places.len() >= pack.blobs as usize).then_some(pack.id)
        });
        Ok(whole.collect())
    }

    /// Notes that not every directory could be read that may have what segments lack.
    pub(crate) fn recovered_in_part(&mut self) {
        self.in_part = true;
    }

    /// Adds a segment.
    pub(crate) fn add(&mut self, id: IndexId, segment: Segment) -> Result<()> {
        self.take(Some(id), segment)
    }

    /// Adds what directories of packs say that no segment names.
    pub(crate) fn recover(&mut self, segment: Segment) -> Result<()> {
        self.recovered
            .extend(segment.packs.iter().map(|pack| pack.id));
        self.take(None, segment)
    }

    fn take(&mut self, id: Option<IndexId>, segment: Segment) -> Result<()> {
        let first = self.packs.len();
        self.packs.extend(segment.packs);
        self.origins.push((id, first..self.packs.len()));
        to_u32(self.packs.len(), "a number of packs")?;
        let first = to_u32(first, "a number of packs")?;
        let records = segment.records.into_iter();
        self.records.extend(records.map(|mut record| {
            record.pack += first;
            record
        }));
        self.gone.extend(segment.supersedes);
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<Index> {
        let unread = self.missed().cloned().collect();
        let (packs, numbers) = self.number()?;
        let mut records = self.records;
        records.retain_mut(|record| match numbers[record.pack as usize] {
            Some(number) => {
                record.pack = number;
                true
            }
            None => false,
        });
        records.sort_unstable_by_key(Record::order);
        records.dedup_by_key(|record| record.order());
        records.shrink_to_fit();
        let fan = fan(&records)?;
        Ok(Index {
            segments: self.origins.into_iter().filter_map(|(id, _)| id).collect(),
            unread,
            recovered: self.recovered,
            in_part: self.in_part,
            packs,
            records,
            fan,
        })
    }

    /// Each pack of a live segment once, and its number for each place; none where the segment is
    /// superseded.
    fn number(&self) -> Result<(Vec<PackInfo>, Vec<Option<u32>>)> {
        let mut packs: Vec<PackInfo> = Vec::new();
        let mut known: HashMap<PackId, u32> = HashMap::new();
        let mut numbers = vec![None; self.packs.len()];
        for (id, places) in &self.origins {
            if id.is_some_and(|id| self.gone.contains(&id)) {
                continue;
            }
            for place in places.clone() {
                let pack = self.packs[place];
                let next = to_u32(packs.len(), "a number of packs")?;
                let number = *known.entry(pack.id).or_insert(next);
                match packs.get(number as usize) {
                    None => packs.push(pack),
                    // Whose hash is right, the bytes tell.
                    Some(known)
                        if known.size == pack.size
                            && known.kind == pack.kind
                            && known.blobs == pack.blobs => {}
                    Some(_) => {
                        let own = || format!("the directory of pack {}", pack.id);
                        let from = id.map_or_else(own, |id| StoredFile::Index.path(&id));
                        return Err(damaged(format!(
                            "{from} describes pack {} in another way than an earlier segment",
                            pack.id
                        )));
                    }
                }
                numbers[place] = Some(number);
            }
        }
        Ok((packs, numbers))
    }
}

fn fan(records: &[Record]) -> Result<Vec<u32>> {
    to_u32(records.len(), "a number of blobs")?;
    let mut fan = Vec::with_capacity((1 << 16) + 1);
    let mut at = 0_u32;
    for bucket in 0..=u16::MAX {
        fan.push(at);
        while let Some(record) = records.get(at as usize)
            && record.entry.id.0[..2] == bucket.to_be_bytes()
        {
            at += 1;
        }
    }
    fan.push(at);
    Ok(fan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::format::blob::{BlobKind, Codec, PackKind};
    use crate::repo::format::pack::PackEntry;

    fn pack(n: u8) -> PackInfo {
        PackInfo {
            id: PackId([n; 32]),
            hash: [n; 32],
            size: 100,
            kind: PackKind::Data,
            blobs: 1,
        }
    }

    fn record(n: u32, pack: u32) -> Record {
        let entry = PackEntry {
            kind: BlobKind::Data,
            id: BlobId(*blake3::hash(&n.to_le_bytes()).as_bytes()),
            position: n,
            stored: 100,
            plain: 8,
            codec: Codec::Raw,
            epoch: 1,
        };
        Record { entry, pack }
    }

    fn merge(segments: Vec<(IndexId, Segment)>) -> Result<Index> {
        let mut merging = Merging::default();
        for (id, segment) in segments {
            merging.add(id, segment)?;
        }
        merging.finish()
    }

    fn segment(packs: Vec<PackInfo>, records: Vec<Record>, supersedes: Vec<IndexId>) -> Segment {
        Segment {
            packs,
            supersedes,
            records,
        }
    }

    #[test]
    fn every_blob_of_live_segments_is_found_in_all_its_places() {
        let (a, b, c) = (IndexId([1; 32]), IndexId([2; 32]), IndexId([3; 32]));
        let index = merge(vec![
            (a, segment(vec![pack(9)], vec![record(7, 0)], vec![])),
            (
                b,
                segment(
                    vec![pack(1), pack(2)],
                    (0..1000).map(|n| record(n, n % 2)).collect(),
                    vec![a],
                ),
            ),
            (
                c,
                segment(
                    vec![pack(2)],
                    (500..2000).map(|n| record(n, 0)).collect(),
                    vec![],
                ),
            ),
        ])
        .unwrap();
        assert_eq!(index.packs(), [pack(1), pack(2)]);
        // What b and c say of pack 2 alike is one place; what b has in pack 1 and c in pack 2 are two.
        assert_eq!(index.records().len(), 2000 + 250);
        for n in 0..2000 {
            let found = index.places(&record(n, 0).entry.id);
            assert!(found.iter().all(|place| place.entry.position == n));
            let packs: Vec<u8> = found.iter().map(|p| index.pack(p.pack).id.0[0]).collect();
            let expected: &[u8] = match (n, n % 2) {
                (0..500, 0) => &[1],
                (500..1000, 0) => &[1, 2],
                _ => &[2],
            };
            assert_eq!(packs, expected, "{n}");
        }
        assert_eq!(index.places(&record(2000, 0).entry.id), []);
        assert_eq!(Index::default().places(&record(1, 0).entry.id), []);
    }

    #[test]
    fn segments_that_contradict_each_other_are_damage() {
        let other = PackInfo {
            size: 101,
            ..pack(1)
        };
        let error = merge(vec![
            (IndexId([1; 32]), segment(vec![pack(1)], vec![], vec![])),
            (IndexId([2; 32]), segment(vec![other], vec![], vec![])),
        ])
        .unwrap_err();
        assert_eq!(error.cause(), crate::Cause::Damage);
    }

    #[test]
    fn a_pack_that_two_segments_hash_otherwise_is_left_to_its_bytes() {
        let other = PackInfo {
            hash: [7; 32],
            ..pack(1)
        };
        let index = merge(vec![
            (
                IndexId([1; 32]),
                segment(vec![pack(1)], vec![record(1, 0)], vec![]),
            ),
            (
                IndexId([2; 32]),
                segment(vec![other], vec![record(2, 0)], vec![]),
            ),
        ])
        .unwrap();
        assert_eq!((index.packs().len(), index.records().len()), (1, 2));
    }

    #[test]
    fn a_million_blobs_fit_64_megabytes() {
        assert!(size_of::<Record>() * 1_000_000 <= 64_000_000);
    }
}
