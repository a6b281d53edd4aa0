//! Merging segments, so that a look-up asks few of them.

use std::collections::{HashMap, HashSet, VecDeque};

use super::load::{Trust, whole};
use super::runs::{MERGED_RECORDS, Span, to_merge};
use super::{Index, Live};
use crate::Result;
use crate::repo::format::ids::{BlobId, IndexId, PackId};
use crate::repo::format::segment::{Record, SEGMENT_RECORDS, Segment};
use crate::repo::format::wire::to_u32;
use crate::repo::repository::Repository;
use crate::repo::session::unnamed::write_segment;

/// What a segment of the merge takes in memory, in bytes: as it is read, and as it is written.
const SEGMENT_MEMORY: u64 = (SEGMENT_RECORDS * 2 * size_of::<Record>()) as u64;

/// Merges segments until no tier has too many of them. Each merge supersedes its segments with its last write:
/// until then all of them count. Returns how many segments were merged; `goes_on` is asked before each write.
///
/// # Errors
///
/// What the store or `goes_on` fails with. The index is whole then, and has some records twice.
pub(crate) async fn merge(repo: &Repository, goes_on: impl Fn() -> Result<()>) -> Result<usize> {
    merge_by(repo, goes_on, MERGED_RECORDS).await
}

/// The same, with segments of so many records.
pub(crate) async fn merge_by(
    repo: &Repository,
    goes_on: impl Fn() -> Result<()>,
    full: usize,
) -> Result<usize> {
    let mut merged = 0;
    loop {
        let index = Index::load(repo, Trust::Files).await?;
        let spans = index.live.iter().map(|live| live.span).collect();
        // While a segment cannot be read, the next writer names its packs anew first.
        let Some(runs) = to_merge(spans).filter(|_| index.unread.is_empty()) else {
            return Ok(merged);
        };
        let inputs: usize = runs.iter().map(Vec::len).sum();
        tracing::debug!(segments = inputs, runs = runs.len(), "merging the index");
        let share = SEGMENT_MEMORY * (runs.len() as u64 + 1);
        let _share = repo.resources().reserve(share).await?;
        let live: HashMap<IndexId, &Live> = index.live.iter().map(|l| (l.id, l)).collect();
        let runs = runs.into_iter().map(|run| Run::new(&run, &live)).collect();
        Merge::new(repo, runs, full).run(&goes_on).await?;
        merged += inputs;
    }
}

/// Segments that follow each other, and how far they have been read.
struct Run<'a> {
    rest: VecDeque<&'a Live>,
    current: Segment,
    at: usize,
}

impl<'a> Run<'a> {
    fn new(spans: &[Span], live: &HashMap<IndexId, &'a Live>) -> Self {
        let segments = spans.iter().filter_map(|span| live.get(&span.id));
        Self {
            rest: segments.copied().collect(),
            current: Segment::default(),
            at: 0,
        }
    }

    /// Reads the next segment where the one before is done.
    async fn fill(&mut self, repo: &Repository) -> Result<()> {
        while self.at == self.current.records.len()
            && let Some(next) = self.rest.pop_front()
        {
            self.current = Segment::default();
            self.current = whole(repo, next).await?;
            self.at = 0;
        }
        Ok(())
    }

    fn next(&self) -> Option<&Record> {
        self.current.records.get(self.at)
    }
}

struct Merge<'a> {
    repo: &'a Repository,
    /// A segment has so many records, and those of its last blob.
    full: usize,
    supersedes: Vec<IndexId>,
    runs: Vec<Run<'a>>,
    out: Segment,
    numbers: HashMap<PackId, u32>,
}

impl<'a> Merge<'a> {
    fn new(repo: &'a Repository, runs: Vec<Run<'a>>, full: usize) -> Self {
        // What those supersede that are merged must not count again once these are gone.
        let inputs = runs.iter().flat_map(|run| &run.rest);
        let supersedes = inputs.flat_map(|live| live.supersedes.iter().chain([&live.id]));
        let supersedes: HashSet<IndexId> = supersedes.copied().collect();
        let mut supersedes: Vec<IndexId> = supersedes.into_iter().collect();
        supersedes.sort_unstable();
        Self {
            repo,
            full,
            supersedes,
            runs,
            out: Segment::default(),
            numbers: HashMap::new(),
        }
    }

    async fn run(mut self, goes_on: &impl Fn() -> Result<()>) -> Result<()> {
        loop {
            for run in &mut self.runs {
                run.fill(self.repo).await?;
            }
            self.take()?;
            if self
                .runs
                .iter()
                .all(|run| run.next().is_none() && run.rest.is_empty())
            {
                break;
            }
            if self.is_full() {
                goes_on()?;
                self.write(false).await?;
            }
        }
        goes_on()?;
        self.write(true).await
    }

    fn is_full(&self) -> bool {
        self.out.records.len() >= self.full
    }

    /// Takes records, the least first, up to where a segment is full or a run has to be read on. The records of
    /// one id come together.
    fn take(&mut self) -> Result<()> {
        while let Some((id, at)) = self.least() {
            let last = self.out.records.last().map(|last| last.entry.id);
            let room = self.out.records.len() < SEGMENT_RECORDS;
            if self.is_full() && !(room && last == Some(id)) {
                return Ok(());
            }
            self.take_from(at)?;
            let run = &self.runs[at];
            if run.next().is_none() && !run.rest.is_empty() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The least id that is next, and the run that has it.
    fn least(&self) -> Option<(BlobId, usize)> {
        let next = self.runs.iter().enumerate();
        let next = next.filter_map(|(at, run)| Some((run.next()?.entry.id, at)));
        next.min()
    }

    fn take_from(&mut self, at: usize) -> Result<()> {
        let run = &mut self.runs[at];
        let Some(record) = run.next().copied() else {
            return Ok(());
        };
        run.at += 1;
        let pack = run.current.packs[record.pack as usize];
        let next = to_u32(self.out.packs.len(), "a number of packs")?;
        let number = *self.numbers.entry(pack.id).or_insert(next);
        match self.out.packs.get_mut(number as usize) {
            None => self.out.packs.push(pack),
            Some(known) if !known.hash_known() => known.hash = pack.hash,
            Some(_) => {}
        }
        // What several segments say alike is one record as soon as they are sorted.
        self.out.records.push(Record {
            pack: number,
            ..record
        });
        Ok(())
    }

    async fn write(&mut self, last: bool) -> Result<()> {
        let mut segment = std::mem::take(&mut self.out);
        self.numbers.clear();
        if last {
            segment.supersedes = std::mem::take(&mut self.supersedes);
        }
        write_segment(self.repo, segment).await
    }
}
