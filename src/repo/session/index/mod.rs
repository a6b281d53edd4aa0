//! The index of a repository, as a session sees it: where each blob is.
//!
//! Records of small segments are in memory, in one sorted array of 56 bytes a blob; those of large ones are in
//! local files ([`filed`]), with some 10 bits a blob in memory. How much is in memory is a part of the budget.

mod filed;
pub(crate) mod load;
pub(crate) mod merge;
mod read;
pub(crate) mod recover;
pub(crate) mod rewrite;
mod runs;

use std::sync::{Arc, PoisonError, RwLock};

use self::filed::{BadFile, Filed, prefix};
use self::runs::{Span, runs};
use crate::Result;
use crate::repo::format::ids::{BlobId, IndexId};
use crate::repo::format::segment::{PackInfo, Record};
use crate::repo::format::wire::to_u32;

/// The records of all segments that no other supersedes.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Those segments.
    live: Vec<Live>,
    /// Segments that could not be read, that no other supersedes, and why.
    unread: Vec<(IndexId, String)>,
    /// Records that these had, or may have had, ascending: from elsewhere. They are in memory, too.
    recovered: Vec<Record>,
    /// Whether some packs that these may have named could not be read.
    in_part: bool,
    packs: Vec<PackInfo>,
    resident: Resident,
    on_disk: Vec<OnDisk>,
    /// The segments on disk, by their places there, in runs that do not overlap.
    runs: Vec<Vec<usize>>,
}

/// A segment that no other supersedes.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    pub(crate) id: IndexId,
    /// In the repository, in bytes.
    size: u64,
    /// What it supersedes.
    pub(crate) supersedes: Vec<IndexId>,
    /// The numbers of its packs in the index.
    pub(crate) packs: Arc<[u32]>,
    span: Span,
}

/// A segment whose records are in a local file.
#[derive(Debug)]
struct OnDisk {
    /// Its place among those that live.
    live: usize,
    packs: Arc<[u32]>,
    first: u64,
    last: u64,
    file: RwLock<Arc<Filed>>,
    /// Held by who reads it again.
    repairing: tokio::sync::Mutex<()>,
}

impl OnDisk {
    fn file(&self) -> Arc<Filed> {
        self.file
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// A record of the file, with its pack's number in the index.
    fn placed(&self, mut record: Record) -> std::result::Result<Record, BadFile> {
        let number = self.packs.get(record.pack as usize);
        record.pack = *number.ok_or_else(|| BadFile::Wrong("a record names no pack".into()))?;
        Ok(record)
    }
}

/// The local file of a segment is not what was written there.
#[derive(Debug)]
pub(crate) struct Unreadable {
    /// The place of the segment among those on disk.
    segment: usize,
    /// The file that was read.
    file: Arc<Filed>,
    why: String,
}

impl Index {
    /// Where the blob is: all its places, none when the repository does not have it.
    ///
    /// # Errors
    ///
    /// The segment whose local file cannot be read: [`repair`](load::repair) it, and look again.
    pub(crate) fn places(&self, id: &BlobId) -> std::result::Result<Vec<Record>, Unreadable> {
        let mut found = self.resident.places(id).to_vec();
        let wanted = prefix(id);
        for run in &self.runs {
            let begun = run.partition_point(|segment| self.on_disk[*segment].first <= wanted);
            let Some(segment) = begun.checked_sub(1).map(|at| run[at]) else {
                continue;
            };
            let on_disk = &self.on_disk[segment];
            if wanted > on_disk.last {
                continue;
            }
            let file = on_disk.file();
            let bad = |bad: BadFile| Unreadable {
                segment,
                file: file.clone(),
                why: bad.why(),
            };
            let before = found.len();
            file.find(id, &mut found).map_err(bad)?;
            for record in &mut found[before..] {
                *record = on_disk.placed(*record).map_err(bad)?;
            }
        }
        if !self.runs.is_empty() {
            found.sort_unstable_by_key(Record::order);
            found.dedup();
        }
        Ok(found)
    }

    /// Whether look-ups read no files.
    pub(crate) fn is_in_memory(&self) -> bool {
        self.on_disk.is_empty()
    }

    /// The pack with this number.
    pub(crate) fn pack(&self, number: u32) -> &PackInfo {
        &self.packs[number as usize]
    }

    /// The segments that no other supersedes.
    pub(crate) fn live(&self) -> &[Live] {
        &self.live
    }

    /// Segments that could not be read, that no other supersedes, and why.
    pub(crate) fn unread(&self) -> &[(IndexId, String)] {
        &self.unread
    }

    /// What is known from elsewhere of that which segments had that cannot be read: from copies of them, from
    /// segments that were superseded, from the packs' own directories.
    pub(crate) fn recovered(&self) -> &[Record] {
        &self.recovered
    }

    /// Whether some packs could not be read, which have perhaps what those segments had.
    pub(crate) fn is_recovered_in_part(&self) -> bool {
        self.in_part
    }

    /// All packs.
    pub(crate) fn packs(&self) -> &[PackInfo] {
        &self.packs
    }

    /// How many records there are; one that several segments have is counted as often.
    pub(crate) fn records(&self) -> u64 {
        let on_disk = self.on_disk.iter();
        let on_disk: usize = on_disk.map(|on_disk| on_disk.file().records).sum();
        (self.resident.records.len() + on_disk) as u64
    }

    /// Shows every record; one that several segments have may be shown as often.
    ///
    /// # Errors
    ///
    /// As of [`places`](Self::places): some records were shown then.
    pub(crate) fn each_record(
        &self,
        mut show: impl FnMut(&Record),
    ) -> std::result::Result<(), Unreadable> {
        self.resident.records.iter().for_each(&mut show);
        for (segment, on_disk) in self.on_disk.iter().enumerate() {
            let file = on_disk.file();
            let bad = |bad: BadFile| Unreadable {
                segment,
                file: file.clone(),
                why: bad.why(),
            };
            for number in 0..file.chunks() {
                for record in file.chunk(number).map_err(bad)? {
                    show(&on_disk.placed(record).map_err(bad)?);
                }
            }
        }
        Ok(())
    }

    /// The records in memory.
    #[cfg(test)]
    pub(crate) fn resident(&self) -> &[Record] {
        &self.resident.records
    }
}

/// Records in memory, ascending.
#[derive(Debug, Default)]
struct Resident {
    records: Vec<Record>,
    /// Where the records with each first two bytes begin; one more than there are.
    fan: Vec<u32>,
}

impl Resident {
    fn new(mut records: Vec<Record>) -> Result<Self> {
        records.sort_unstable_by_key(Record::order);
        records.dedup_by_key(|record| record.order());
        records.shrink_to_fit();
        let fan = fan(&records)?;
        Ok(Self { records, fan })
    }

    fn places(&self, id: &BlobId) -> &[Record] {
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
