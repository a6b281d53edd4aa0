//! Which segments are live (docs/milvus.md 3.2 and 3.8 c).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::proto::common::SegmentState;
use super::super::proto::meta::PartitionState;
use super::super::validate::is_complete;
use super::standing::{Conflict, Keeps, Standing};
use super::{ALL_PARTITIONS, Catalog, Collection, Segment, SegmentFlags};

/// Gives every segment its standing.
pub(super) fn judge(catalog: &mut Catalog) {
    for at in 0..catalog.segments.len() {
        let segment = &catalog.segments[at];
        let standing = first_look(segment, catalog.collections.get(&segment.key.collection));
        catalog.segments[at].standing = standing;
    }
    let mut conflicts = Vec::new();
    // Where parents win, two generations of them may be tied in turn: look again until none are.
    loop {
        let decided = conflicts.len();
        for (collection, group) in families(catalog) {
            conflicts.extend(settle(catalog, collection, &group));
        }
        if conflicts.len() == decided {
            break;
        }
    }
    catalog.conflicts = conflicts;
}

/// Takes the losing side of a group out of what is live; `None` when there is no losing side.
fn settle(catalog: &mut Catalog, collection: i64, group: &Group) -> Option<Conflict> {
    let keeps = decide(catalog, group);
    let (losers, standing) = match keeps {
        Keeps::Parents => (&group.children, Standing::Unserved),
        Keeps::Children => (&group.parents, Standing::Compacted),
    };
    for &at in losers {
        catalog.segments[at].standing = standing;
    }
    let ids = |places: &BTreeSet<usize>| {
        let segments = places.iter().map(|&at| catalog.segments[at].key.segment);
        segments.collect()
    };
    (!losers.is_empty()).then(|| Conflict {
        collection,
        parents: ids(&group.parents),
        children: ids(&group.children),
        keeps,
    })
}

/// What the record alone says.
fn first_look(segment: &Segment, collection: Option<&Collection>) -> Standing {
    if segment.flags.has(SegmentFlags::FAKE) {
        return Standing::Empty;
    }
    let standing = match segment.state {
        SegmentState::Flushed | SegmentState::Flushing => Standing::Live,
        SegmentState::Growing => Standing::Growing,
        SegmentState::Sealed => Standing::Sealed,
        SegmentState::Importing => Standing::Importing,
        SegmentState::Dropped => Standing::Dropped,
        SegmentState::None | SegmentState::NotExist => Standing::Empty,
    };
    if standing == Standing::Live && segment.flags.has(SegmentFlags::IMPORTING) {
        return Standing::Importing;
    }
    let partition = segment.key.partition;
    let there = collection.is_some_and(|c| {
        let found = c.partitions.get(&partition);
        let served = found.is_some_and(|p| p.state == PartitionState::Created);
        c.is_created() && (served || partition == ALL_PARTITIONS)
    });
    match standing {
        Standing::Dropped | Standing::Empty => standing,
        _ if !there => Standing::Orphan,
        _ => standing,
    }
}

/// Segments that are tied by compaction: places in `Catalog::segments`.
#[derive(Default)]
struct Group {
    parents: BTreeSet<usize>,
    children: BTreeSet<usize>,
}

/// Every set of live parents and live children of the same compactions, with its collection.
///
/// A dropped segment between the two does not break the tie: a sorted copy of a compaction's
/// output stands for the compaction's inputs.
fn families(catalog: &Catalog) -> Vec<(i64, Group)> {
    let compacted: Vec<usize> = (0..catalog.segments.len())
        .filter(|&at| !catalog.segments[at].compaction_from.is_empty())
        .collect();
    if compacted.is_empty() {
        return Vec::new();
    }
    let places: HashMap<i64, usize> = catalog
        .segments
        .iter()
        .enumerate()
        .map(|(at, segment)| (segment.key.segment, at))
        .collect();
    let mut ties: Vec<(usize, BTreeSet<usize>)> = Vec::new();
    for at in compacted {
        if !catalog.segments[at].is_live() {
            continue;
        }
        let ancestors = ancestors(catalog, &places, at);
        let live: BTreeSet<usize> = ancestors
            .into_iter()
            .filter(|&ancestor| catalog.segments[ancestor].is_live())
            .collect();
        if !live.is_empty() {
            ties.push((at, live));
        }
    }
    join(ties)
        .into_iter()
        .map(|group| {
            let first = group.children.first().copied().unwrap_or_default();
            (catalog.segments[first].key.collection, group)
        })
        .collect()
}

fn ancestors(catalog: &Catalog, places: &HashMap<i64, usize>, from: usize) -> BTreeSet<usize> {
    let mut seen = BTreeSet::new();
    let mut next = vec![from];
    while let Some(at) = next.pop() {
        for parent in &catalog.segments[at].compaction_from {
            match places.get(parent) {
                Some(&place) if place != from && seen.insert(place) => next.push(place),
                _ => {}
            }
        }
    }
    seen
}

/// Joins children that share a parent. A segment that is both a child and another's parent counts
/// as a parent only, so that the newest generation is judged against all before it.
fn join(ties: Vec<(usize, BTreeSet<usize>)>) -> Vec<Group> {
    let mut group_of: BTreeMap<usize, usize> = BTreeMap::new();
    let mut groups: Vec<Option<Group>> = Vec::new();
    for (child, parents) in ties {
        let touched: BTreeSet<usize> = parents
            .iter()
            .chain([&child])
            .filter_map(|at| group_of.get(at).copied())
            .collect();
        let mut joined = Group::default();
        for group in touched {
            if let Some(group) = groups[group].take() {
                joined.parents.extend(group.parents);
                joined.children.extend(group.children);
            }
        }
        joined.parents.extend(parents);
        joined.children.insert(child);
        for at in joined.parents.iter().chain(&joined.children) {
            group_of.insert(*at, groups.len());
        }
        groups.push(Some(joined));
    }
    let mut groups: Vec<Group> = groups.into_iter().flatten().collect();
    for group in &mut groups {
        group.children.retain(|at| !group.parents.contains(at));
    }
    groups
}

/// Children win when all of them are served and complete and no known output is missing.
fn decide(catalog: &Catalog, group: &Group) -> Keeps {
    let complete = group.children.iter().all(|&at| {
        let child = &catalog.segments[at];
        let collection = catalog.collections.get(&child.key.collection);
        !child.flags.has(SegmentFlags::INVISIBLE)
            && collection.is_some_and(|collection| is_complete(&catalog.version, collection, child))
    });
    let children: BTreeSet<i64> = group
        .children
        .iter()
        .map(|&at| catalog.segments[at].key.segment)
        .collect();
    let parents: BTreeSet<i64> = group
        .parents
        .iter()
        .map(|&at| catalog.segments[at].key.segment)
        .collect();
    // Where the task still names its outputs, one that is not there yet decides.
    let all_there = catalog.tasks.compactions_under_way().all(|task| {
        let ours = task.inputs.iter().any(|id| parents.contains(id));
        !ours || task.outputs.iter().all(|id| children.contains(id))
    });
    if complete && all_there && !children.is_empty() {
        Keeps::Children
    } else {
        Keeps::Parents
    }
}
