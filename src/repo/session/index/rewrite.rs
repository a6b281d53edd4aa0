//! Writing segments anew without some of their records.

use std::collections::{HashMap, HashSet};

use super::Index;
use super::load::whole;
use crate::Result;
use crate::repo::format::ids::IndexId;
use crate::repo::format::segment::{PackInfo, Record, Segment};
use crate::repo::format::wire::to_u32;
use crate::repo::repository::Repository;
use crate::repo::session::unnamed::write_segment;

/// Writes those segments anew that have records of these packs which go: each new one supersedes the one that it
/// is made of. Records have the numbers of packs in the index. Segments of which nothing is left are superseded by
/// another new one.
///
/// # Errors
///
/// What the store fails with: some segments are written anew then, and no record is lost that does not go.
pub(crate) async fn rewrite(
    repo: &Repository,
    index: &Index,
    packs: &HashSet<u32>,
    goes: impl Fn(&Record) -> bool,
) -> Result<()> {
    let mut emptied: Vec<IndexId> = Vec::new();
    for live in index.live() {
        if !live.packs.iter().any(|number| packs.contains(number)) {
            continue;
        }
        let in_index = |record: Record| {
            let pack = live.packs.get(record.pack as usize).copied();
            pack.map(|pack| Record { pack, ..record })
        };
        let records = whole(repo, live).await?.records.into_iter();
        let mut records: Vec<Record> = records.filter_map(in_index).collect();
        let before = records.len();
        records.retain(|record| !goes(record));
        // A segment that only names a pack has no record of it.
        if records.len() == before {
            continue;
        }
        let supersedes = live.supersedes.iter().copied().chain([live.id]);
        if records.is_empty() {
            emptied.extend(supersedes);
            continue;
        }
        let segment = segment(
            index,
            &records,
            supersedes.chain(emptied.drain(..)).collect(),
            &HashMap::new(),
        )?;
        write_segment(repo, segment).await?;
    }
    if !emptied.is_empty() {
        let segment = Segment {
            supersedes: emptied,
            ..Segment::default()
        };
        write_segment(repo, segment).await?;
    }
    Ok(())
}

/// A segment of some of an index's records. Packs have the hashes that are given rather than those of the index.
pub(crate) fn segment(
    index: &Index,
    records: &[Record],
    supersedes: Vec<IndexId>,
    hashes: &HashMap<u32, [u8; 32]>,
) -> Result<Segment> {
    let mut segment = Segment {
        supersedes,
        ..Segment::default()
    };
    let mut numbers: HashMap<u32, u32> = HashMap::new();
    for record in records {
        let next = to_u32(segment.packs.len(), "a number of packs")?;
        let number = *numbers.entry(record.pack).or_insert(next);
        if number == next {
            let pack = *index.pack(record.pack);
            let hash = hashes.get(&record.pack).copied().unwrap_or(pack.hash);
            segment.packs.push(PackInfo { hash, ..pack });
        }
        segment.records.push(Record {
            pack: number,
            ..*record
        });
    }
    Ok(segment)
}
