//! Compactions of which a part was saved, as their tasks tell (2.4 and later).

use std::collections::HashMap;

use super::super::catalog::{ALL_PARTITIONS, Catalog, CompactionTask, Segment, SegmentFlags};
use super::super::keys::SegmentKey;
use super::super::proto::common::SegmentState;
use super::super::proto::data::CompactionTaskState as State;

impl Catalog {
    /// Names every compaction whose task has not come to where all of its segments are saved, and whose
    /// segments show that some are.
    ///
    /// A task that failed or ran out of time has changed nothing, as a rule, and its inputs are compacted by
    /// another one later: it counts only when nothing else accounts for an input that is dropped.
    pub(super) fn half_saved_compactions(&self) -> Vec<String> {
        let segments = self.segments.iter().map(|s| (s.key.segment, s)).collect();
        let tasks = self.tasks.compactions.iter();
        tasks
            .filter_map(|task| self.half_saved(task, &segments))
            .collect()
    }

    fn half_saved(
        &self,
        task: &CompactionTask,
        segments: &HashMap<i64, &Segment>,
    ) -> Option<String> {
        let name = format!("compaction task {} ({:?})", task.plan, task.state);
        // What is dropped with its collection or partition was not replaced by anything.
        let dropped = |id: &&i64| {
            let segment = segments.get(id);
            segment.is_some_and(|s| s.state == SegmentState::Dropped && self.serves(s))
        };
        let gone = task.inputs.iter().find(dropped);
        match task.state {
            State::Unknown | State::Executing | State::Pipelining | State::Analyzing => {
                if let Some(input) = gone {
                    return Some(format!(
                        "{name}: its input segment {input} is dropped already"
                    ));
                }
                let served = |id: &&i64| {
                    let output = segments.get(id);
                    output.is_some_and(|s| s.is_live() && !s.flags.has(SegmentFlags::INVISIBLE))
                };
                let output = task.outputs.iter().find(served)?;
                Some(format!(
                    "{name}: its output segment {output} is there, and its inputs are not dropped"
                ))
            }
            State::Failed | State::Timeout => {
                let input = gone.filter(|input| !self.is_replaced(**input, task))?;
                Some(format!(
                    "{name}: its input segment {input} is dropped, and nothing replaces it"
                ))
            }
            State::MetaSaved
            | State::Statistic
            | State::Indexing
            | State::Completed
            | State::Cleaned => None,
        }
    }

    /// Whether a segment's collection and partition are there.
    fn serves(&self, segment: &Segment) -> bool {
        let SegmentKey {
            collection,
            partition,
            ..
        } = segment.key;
        match partition {
            ALL_PARTITIONS => self.collection(collection).is_some(),
            _ => self.serves_partition(collection, partition),
        }
    }

    /// Whether something other than `task` accounts for a segment that is dropped.
    fn is_replaced(&self, input: i64, task: &CompactionTask) -> bool {
        let by_segment = |segment: &Segment| segment.compaction_from.contains(&input);
        let by_task = |other: &CompactionTask| {
            let saved = !matches!(other.state, State::Failed | State::Timeout);
            saved && other.plan != task.plan && other.inputs.contains(&input)
        };
        self.segments.iter().any(by_segment) || self.tasks.compactions.iter().any(by_task)
    }
}
