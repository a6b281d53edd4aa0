//! Removing what nobody needs: mark, wait, sweep (docs/format.md, section 15).

mod clean;
mod marking;
mod needed;
mod plan;
mod situation;
mod sweep;
mod usage;
mod watch;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use self::needed::{Needed, Roots};
use self::plan::{Chosen, Limits, PackUse, choose};
use self::situation::Situation;
use self::usage::Usage;
use self::watch::watch;
use crate::Result;
use crate::repo::format::ids::{PackId, SnapshotId};
use crate::repo::format::manifest::Manifest;
use crate::repo::format::pack::frame;
use crate::repo::format::tree::NodeRef;
use crate::repo::repository::Repository;
use crate::repo::session::checkpoint::Checkpoint;
use crate::repo::session::lease::MAINTENANCE;
use crate::repo::session::writer::Writer;

/// How long packs stay after they were marked, unless told otherwise: what was forgotten by mistake can be brought
/// back within it, and what arrives late in the store has arrived.
pub const GRACE: Duration = Duration::from_hours(24);

/// How much of the packs may be unused, as a part of what is needed, in percent: as in restic, where it is known to
/// be a fair balance between space and what is written again.
pub const MAX_UNUSED: f64 = 5.0;

/// How to prune.
pub struct PruneOptions<'a> {
    /// How long marked packs stay.
    pub grace: Duration,
    /// Bytes of packs that may stay unused, as a part of those that are needed, in percent.
    pub max_unused: f64,
    /// Bytes that are stored again at most.
    pub max_repack: u64,
    /// Whether to say what would be done, and do nothing.
    pub dry_run: bool,
    /// Forgotten snapshots that are to stay all the same, with what they need.
    pub keeps: &'a (dyn Fn(&Manifest) -> bool + Send + Sync),
}

impl Default for PruneOptions<'_> {
    fn default() -> Self {
        Self {
            grace: GRACE,
            max_unused: MAX_UNUSED,
            max_repack: u64::MAX,
            dry_run: false,
            keeps: &|_| false,
        }
    }
}

/// Packs and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Packs {
    /// How many.
    pub count: u64,
    /// The sizes of their files.
    pub bytes: u64,
}

impl Packs {
    fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// What a prune did, or would do.
#[derive(Debug, Clone, Default)]
pub struct PruneReport {
    /// Packs that were removed.
    pub removed: Packs,
    /// Packs that were removed from the index, and that the store does not let go yet: they are locked.
    pub locked: Packs,
    /// Packs that are marked and still there.
    pub marked: Packs,
    /// Of these, packs that were marked now.
    pub newly_marked: Packs,
    /// Packs of which something was stored again before they were marked; the bytes are those stored again.
    pub repacked: Packs,
    /// When the first of the marked packs may go, unless sessions are at work then.
    pub due: Option<Timestamp>,
    /// Sessions that are waited for, for people.
    pub waits_for: Vec<String>,
    /// Snapshots that are needed.
    pub snapshots: u64,
    /// Forgotten snapshots whose manifests were removed.
    pub manifests_removed: Vec<SnapshotId>,
    /// Forgotten snapshots that stay, as the policy of this prune keeps them.
    pub kept_back: Vec<SnapshotId>,
    /// Stored bytes that are needed.
    pub needed_bytes: u64,
    /// Bytes in packs that stay, and that nobody needs.
    pub unused_bytes: u64,
    /// Packs that could not be repacked as they are damaged.
    pub damaged: Vec<PackId>,
    /// Needed blobs that are only in packs that the store has lost.
    pub lost_blobs: u64,
}

impl Repository {
    /// Removes what no snapshot and no session at work needs: removes packs that were marked long enough ago, and
    /// marks others.
    ///
    /// May be called while others write and read. One prune works at a time. Whatever it fails with, nothing is lost,
    /// and the next one goes on.
    ///
    /// # Errors
    ///
    /// [`Cause::Locked`](crate::Cause::Locked) while another one prunes, [`Cause::Damage`](crate::Cause::Damage) when
    /// it is not known what is needed, [`Cause::NewerFormat`](crate::Cause::NewerFormat) when a newer eyrie is needed to
    /// know it; what the store fails with.
    pub async fn prune(&self, options: &PruneOptions<'_>) -> Result<PruneReport> {
        self.wait_for_other_writers(MAINTENANCE).await?;
        let writer = self.begin_maintenance().await?;
        let done = async {
            watch(self, writer.session()).await?;
            Pruning::new(&writer, options).run().await
        };
        let done = Box::pin(done).await;
        match done {
            Ok(report) => {
                writer.finish().await?;
                Ok(report)
            }
            Err(error) => {
                if let Err(error) = writer.abort().await {
                    tracing::warn!("{}", error.chain());
                }
                Err(error)
            }
        }
    }
}

/// A prune at work.
struct Pruning<'a> {
    writer: &'a Writer,
    options: &'a PruneOptions<'a>,
    report: PruneReport,
}

impl<'a> Pruning<'a> {
    fn new(writer: &'a Writer, options: &'a PruneOptions<'a>) -> Self {
        Self {
            writer,
            options,
            report: PruneReport::default(),
        }
    }

    fn repo(&self) -> &'a Repository {
        self.writer.view().repo()
    }

    async fn run(mut self) -> Result<PruneReport> {
        let mut situation = Situation::read(self.writer, self.options.dry_run).await?;
        let acts = !self.options.dry_run;
        if acts && !situation.dead.is_empty() {
            // Whatever they may still write is no snapshot from here on.
            let dead = std::mem::take(&mut situation.dead);
            self.write_mark(vec![], std::iter::empty(), dead).await?;
        }
        let needed = self.needed(&situation).await?;
        let usage = Usage::of(&situation, &needed).await?;
        self.report.lost_blobs = usage.lost as u64;
        if usage.lost > 0 {
            tracing::warn!(
                blobs = usage.lost,
                "the repository has lost packs that snapshots need; eyrie verify names these"
            );
        }
        let again = self.sweep(&mut situation, &needed).await?;
        let chosen = self.choose(&situation, &usage);
        self.report.unused_bytes = chosen.unused_left;
        let going: Vec<PackId> = chosen
            .unneeded
            .iter()
            .chain(&chosen.repacked)
            .copied()
            .collect();
        if !going.is_empty() || !again.is_empty() {
            self.note_due(situation.now);
        }
        if acts {
            self.mark(&situation, &needed, going, again).await?;
            self.clean(&situation).await?;
            self.writer.dead_are_named().await;
        } else {
            self.foretell(&situation, &usage, &going, &chosen);
        }
        self.sum_up(&situation);
        Ok(self.report)
    }

    /// How long marked packs stay.
    fn grace(&self) -> SignedDuration {
        SignedDuration::try_from(self.options.grace).unwrap_or(SignedDuration::MAX)
    }

    /// Notes that packs may go when the grace since then is over.
    fn note_due(&mut self, marked: Timestamp) {
        let due = marked.saturating_add(self.grace()).ok();
        let first = self.report.due.into_iter().chain(due).min();
        self.report.due = first;
    }

    /// All that snapshots, sessions at work and checkpoints need.
    async fn needed(&mut self, situation: &Situation) -> Result<Needed> {
        let (mut needed, mut seen) = (Needed::default(), HashSet::new());
        let read = situation.read_by_sessions();
        let keeps = |manifest: &&Manifest| (self.options.keeps)(manifest);
        let forgotten = situation.forgotten().iter();
        let kept_back: Vec<&Manifest> = forgotten.clone().filter(keeps).collect();
        let at_work = forgotten.filter(|manifest| read.contains(&manifest.snapshot));
        let view = &situation.view;
        let roots = situation.snapshots.manifests.iter();
        let roots = roots.flat_map(Manifest::all_roots);
        needed
            .add(view, roots, &mut seen, Roots::OfSnapshots)
            .await?;
        // Of these some may have been removed before, and of what they share with snapshots nothing has.
        let forgotten = kept_back.iter().copied().chain(at_work);
        let checkpoints = self.checkpoints(situation).await?;
        let of_checkpoints = checkpoints.iter().flat_map(|c| c.roots.values().flatten());
        let roots = forgotten.flat_map(Manifest::all_roots);
        let roots: Vec<NodeRef> = roots.chain(of_checkpoints.copied()).collect();
        needed.add(view, roots, &mut seen, Roots::OfOthers).await?;
        self.report.snapshots = situation.snapshots.manifests.len() as u64;
        self.report.kept_back = kept_back.iter().map(|m| m.snapshot).collect();
        Ok(needed)
    }

    /// The checkpoints that a session may go on from.
    async fn checkpoints(&self, situation: &Situation) -> Result<Vec<Checkpoint>> {
        let mut all = self.repo().all_checkpoints().await?;
        all.retain(|checkpoint| situation.goes_on_from(checkpoint));
        Ok(all)
    }

    /// Chooses among the packs that are there and that nothing speaks for.
    fn choose(&mut self, situation: &Situation, usage: &Usage) -> Chosen {
        let (young, marked) = (situation.young(), situation.view.marks().packs());
        let index = situation.view.index();
        let there = index.packs().iter().filter(|pack| situation.has(pack));
        let indexed: BTreeMap<PackId, u32> = there.map(|pack| (pack.id, pack.blobs)).collect();
        let unindexed = situation.unindexed().into_iter().map(|id| (id, 0));
        let all = indexed.into_iter().chain(unindexed);
        let free = all.filter(|(id, _)| !young.contains(id) && !marked.contains(id));
        let packs: Vec<PackUse> = free
            .filter_map(|(id, blobs)| {
                let pack = situation.packs.get(&id)?;
                Some(PackUse {
                    id,
                    size: pack.size,
                    frame: frame(blobs),
                    needed: usage.needed.get(&id).copied().unwrap_or(0),
                    readable: !pack.archived,
                })
            })
            .collect();
        self.report.needed_bytes = usage.needed.values().sum();
        let limits = Limits {
            max_unused: self.options.max_unused,
            max_repack: self.options.max_repack,
        };
        choose(&packs, limits)
    }

    /// What a prune would mark.
    fn foretell(
        &mut self,
        situation: &Situation,
        usage: &Usage,
        going: &[PackId],
        chosen: &Chosen,
    ) {
        for id in going {
            let size = situation.packs.get(id).map_or(0, |pack| pack.size);
            self.report.newly_marked.add(size);
        }
        for id in &chosen.repacked {
            let needed = usage.needed.get(id).copied().unwrap_or(0);
            self.report.repacked.add(needed);
        }
    }

    /// Counts the packs that are marked and there.
    fn sum_up(&mut self, situation: &Situation) {
        let marked = situation.view.marks().packs();
        for id in marked {
            if let Some(pack) = situation.packs.get(&id) {
                self.report.marked.add(pack.size);
            }
        }
        self.report.marked.count += self.report.newly_marked.count;
        self.report.marked.bytes += self.report.newly_marked.bytes;
    }
}
