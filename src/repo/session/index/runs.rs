//! Which segments a look-up has to ask, and which are to be merged.
//!
//! Segments whose ids do not overlap form a run: of each run a look-up asks one segment at most. Each session adds
//! a run, so runs of like size are merged into one, as soon as there are [`FAN_IN`] of a tier. A tier holds runs of
//! up to [`FAN_IN`] times as many records as the one below.

use crate::repo::format::ids::IndexId;
use crate::repo::format::segment::SEGMENT_RECORDS;

/// So many runs of one tier are merged into one.
pub(super) const FAN_IN: usize = 8;
/// Runs of fewer records than this are all of the lowest tier.
const LOWEST: u64 = 8_192;
/// A segment of a merge is full at so many records. There is room for other places of its last blob, so that
/// segments of one run do not overlap.
pub(super) const MERGED_RECORDS: usize = SEGMENT_RECORDS - 1_024;
/// Runs of so many records are not merged any more: each segment names the packs that its records are in, and would
/// name nearly all packs of a large repository otherwise.
pub(super) const LARGEST: u64 = 1 << 24;

/// What has to be known of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) id: IndexId,
    /// The first eight bytes of its first and its last id.
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) records: u64,
}

/// Arranges segments into the fewest runs there can be; each is ascending.
pub(super) fn runs(mut spans: Vec<Span>) -> Vec<Vec<Span>> {
    spans.sort_unstable_by_key(|span| (span.first, span.last, span.id));
    let mut runs: Vec<Vec<Span>> = Vec::new();
    for span in spans {
        let end = |run: &Vec<Span>| run.last().map_or(0, |last| last.last);
        let before = runs.iter_mut().filter(|run| end(run) < span.first);
        // The nearest one: what was written as one run stays one.
        match before.max_by_key(|run| end(run)) {
            Some(run) => run.push(span),
            None => runs.push(vec![span]),
        }
    }
    runs
}

fn records(run: &[Span]) -> u64 {
    run.iter().map(|span| span.records).sum()
}

fn tier(records: u64) -> u32 {
    let mut least = LOWEST;
    let mut tier = 0;
    while records >= least {
        least = least.saturating_mul(FAN_IN as u64);
        tier += 1;
    }
    tier
}

/// Whether a run has many more segments than its records need: those of a few ids each rarely overlap.
fn is_scattered(run: &[Span]) -> bool {
    run.len() as u64 >= FAN_IN as u64 + records(run).div_ceil(MERGED_RECORDS as u64)
}

/// The runs to merge into one, of the lowest tier that has too many; none when no tier has. They are so many that
/// a segment of each fits into memory.
pub(super) fn to_merge(spans: Vec<Span>) -> Option<Vec<Vec<Span>>> {
    let mut tiers: std::collections::BTreeMap<u32, Vec<Vec<Span>>> =
        std::collections::BTreeMap::new();
    for run in runs(spans) {
        if is_scattered(&run) {
            return Some(vec![run]);
        }
        let records = records(&run);
        if records < LARGEST {
            tiers.entry(tier(records)).or_default().push(run);
        }
    }
    let mut runs = tiers.into_values().find(|runs| runs.len() >= FAN_IN)?;
    runs.sort_by_key(|run| records(run));
    runs.truncate(FAN_IN);
    Some(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(n: u32, first: u64, last: u64, records: u64) -> Span {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&n.to_be_bytes());
        let id = IndexId(id);
        Span {
            id,
            first,
            last,
            records,
        }
    }

    #[test]
    fn segments_that_do_not_overlap_are_one_run() {
        let of_one_merge = [span(0, 0, 9, 5), span(1, 10, 19, 5), span(2, 20, 29, 5)];
        let sessions = [span(3, 1, 28, 2), span(4, 0, 29, 2)];
        let mut all = [&of_one_merge[..], &sessions].concat();
        all.reverse();
        let mut arranged = runs(all);
        arranged.sort_unstable_by_key(|run| std::cmp::Reverse(run.len()));
        assert_eq!(arranged.len(), 3);
        assert_eq!(arranged[0], of_one_merge);
        // Two that share an id overlap.
        assert_eq!(runs(vec![span(0, 0, 9, 5), span(1, 9, 19, 5)]).len(), 2);
        assert_eq!(runs(vec![]), Vec::<Vec<Span>>::new());
    }

    /// How many sessions there are, and how many records each adds.
    type Growth = (u64, fn(u64) -> u64);

    /// Sessions that add `of(session)` records each, over all ids.
    fn grow(sessions: u64, of: impl Fn(u64) -> u64) -> (usize, u64, u64) {
        let (mut spans, mut most, mut added, mut rewritten) = (Vec::new(), 0, 0, 0);
        let mut next = 0;
        for session in 0..sessions {
            let records = of(session);
            spans.push(span(next, 0, u64::MAX, records));
            next += 1;
            added += records;
            while let Some(merged) = to_merge(spans.clone()) {
                let inputs: Vec<IndexId> = merged.iter().flatten().map(|span| span.id).collect();
                let records = merged.iter().map(|run| super::records(run)).sum();
                spans.retain(|span| !inputs.contains(&span.id));
                spans.push(span(next, 0, u64::MAX, records));
                next += 1;
                rewritten += records;
            }
            most = most.max(runs(spans.clone()).len());
        }
        (most, added, rewritten)
    }

    /// What docs/format.md says of the overlap and of the bytes that are written again.
    #[test]
    fn few_segments_overlap_and_each_record_is_rewritten_a_few_times() {
        let tiers = u64::from(tier(LARGEST - 1)) + 1;
        assert_eq!(tiers, 5);
        let bound = |added: u64| tiers * (FAN_IN as u64 - 1) + added / LARGEST;
        let growth: [Growth; 4] = [
            (3_000, |_| 10_000),
            (
                3_000,
                |session| if session % 100 == 0 { 1 << 20 } else { 50 },
            ),
            (20_000, |_| 100),
            (400, |session| 1 << (session % 23)),
        ];
        for (sessions, of) in growth {
            let (most, added, rewritten) = grow(sessions, of);
            assert!(most as u64 <= bound(added), "{most} runs");
            // Each tier once, and in the lowest one all of it with each seventh session.
            let lowest = sessions.div_ceil(FAN_IN as u64 - 1) * LOWEST;
            assert!(
                rewritten <= tiers * added + lowest,
                "{rewritten} of {added}"
            );
        }
    }

    #[test]
    fn a_run_that_is_as_large_as_they_get_is_left_alone() {
        let large = (0..20).map(|n| span(n, 0, u64::MAX, LARGEST)).collect();
        assert_eq!(to_merge(large), None);
        let small: Vec<Span> = (0..8).map(|n| span(n, 0, u64::MAX, 5)).collect();
        assert_eq!(to_merge(small[..7].to_vec()), None);
        assert_eq!(to_merge(small).map(|runs| runs.len()), Some(8));
        // However many there are, so many at once, and the smallest.
        let many = (0..100).map(|n| span(n, 0, u64::MAX, u64::from(n)));
        let merged = to_merge(many.collect()).unwrap();
        let records: Vec<u64> = merged.iter().map(|run| super::records(run)).collect();
        assert_eq!(records, [0, 1, 2, 3, 4, 5, 6, 7]);
        // Segments of one blob each never overlap.
        let points: Vec<Span> = (0..9).map(|n| span(n, n.into(), n.into(), 1)).collect();
        assert_eq!(to_merge(points[..8].to_vec()), None);
        assert_eq!(to_merge(points.clone()), Some(vec![points]));
        let merged = (0..100).map(|n| span(n, u64::from(n) * 10, u64::from(n) * 10 + 9, 130_048));
        assert_eq!(to_merge(merged.collect()), None);
    }
}
