//! From the holds to the anchor: the only part of a capture that clients may feel.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::anchor::Anchored;
use super::complete::{Claim, Completed, Decided, Settled, complete};
use super::denial::{Denial, Writes};
use super::followed::{Followed, Reached};
use super::metadata::{Blockers, CutPoint, MetadataRead, ReadScope, Reader};
use super::plan::{Planned, refused};
use super::quiet::{self, QUIET};
use super::reach::Running;
use super::{Context, Options, view};
use crate::base::env::lock;
use crate::base::poll::poll;
use crate::etcd::Etcd;
use crate::instance::holds::{self, Holds};
use crate::milvus::barrier::{Checkpoints, Lag};
use crate::milvus::flush::{FlushEvent, FlushOptions, FlushOutcome, Pace, flush_all, nudge_of};
use crate::milvus::keys::{Family, Roots, View};
use crate::milvus::validate::{Refusal, RefusalKind};
use crate::milvus::version::{FlushMethod, Rules};
use crate::snapshot::Mode;
use crate::{Cause, Error, Result, Side};

/// How long Milvus may take until it denies writes: it polls etcd every 5 s and recomputes its
/// limits every 3 s (docs/milvus.md 2.3); three times that.
const DENIAL_TIMEOUT: Duration = Duration::from_secs(25);

/// How long a denial that began before ours is waited for: a dead agent's lease and the time that
/// Milvus takes to notice.
const STALE_TIMEOUT: Duration = Duration::from_secs(holds::TTL.as_secs() + 15);

/// How long compactions that were running are waited for.
const COMPACTION_DRAIN: Duration = Duration::from_secs(20);

/// How often a later cut is taken. A request that was admitted before the denial gets its timestamp
/// when it is carried out, which may be after the first cut; a proxy that goes on letting writes
/// through does so at every attempt.
const CUT_ATTEMPTS: usize = 4;

/// How long Milvus may take until it has seen an item of its configuration: it reads them every 5 s.
const CONFIG_SEEN: Duration = Duration::from_secs(6);

/// Before etcd is looked at again when something is under way.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// Takes the anchor of a running Milvus.
pub(super) async fn take(
    context: &Context,
    planned: &Planned,
    options: &Options,
    holds: &mut Holds,
) -> Result<Anchored> {
    let Some(running) = &planned.milvus else {
        return Err(Error::new(
            Cause::Failed,
            "a running Milvus is needed for this mode",
        ));
    };
    let etcd = planned.etcd.client.clone();
    Window::new(context, options, running, &planned.roots, etcd)
        .take(holds)
        .await
}

/// The window in which holds are in force.
#[derive(Debug)]
pub(super) struct Window<'a> {
    context: &'a Context,
    options: &'a Options,
    running: &'a Running,
    roots: &'a Roots,
    etcd: Etcd,
    reader: Reader<'a>,
    /// How a flush worked last: what does not is not tried while writes are denied.
    flushes_by: Mutex<FlushMethod>,
}

impl<'a> Window<'a> {
    pub(super) fn new(
        context: &'a Context,
        options: &'a Options,
        running: &'a Running,
        roots: &'a Roots,
        etcd: Etcd,
    ) -> Self {
        let reader = Reader {
            etcd: etcd.clone(),
            roots,
            version: &running.version,
        };
        Self {
            context,
            options,
            running,
            roots,
            etcd,
            reader,
            flushes_by: Mutex::new(running.rules.flush),
        }
    }
}

impl Window<'_> {
    /// Settles what decides under the holds, and judges the whole anchor after their release. Where that
    /// fails the holds are taken once more, and everything is judged under them.
    pub(super) async fn take(&self, holds: &mut Holds) -> Result<Anchored> {
        let mut why = String::new();
        for scope in [ReadScope::CutPoint, ReadScope::Everything] {
            let settled = Box::pin(self.settled(holds, scope)).await?;
            self.context.progress.begin("anchor", None);
            match complete(&self.reader, settled).await? {
                Completed::Anchored(mut anchored) => {
                    self.settle_view(&mut anchored).await;
                    return Ok(*anchored);
                }
                Completed::Void(reason) => why = reason,
            }
            info!(
                why,
                "this anchor cannot be used; another is taken, and all of it is judged while writes are denied"
            );
        }
        Err(Side::Source
            .error(
                Cause::Refused,
                format!("neither of two anchors can be used: {why}"),
            )
            .with_hint("run the backup again; does something other than this Milvus write to etcd, or compact it?"))
    }

    /// Takes the holds, settles, and releases all but the one on garbage collection.
    async fn settled(&self, holds: &mut Holds, scope: ReadScope) -> Result<Settled<'_>> {
        self.context.progress.begin("hold", None);
        let seen = self.hold_compaction(holds).await?;
        match self.options.mode {
            Mode::Quiesced => {
                self.pre_flush().await?;
                self.drain_compactions(seen).await?;
                let settled = self.quiesced(holds, scope).await;
                let released = holds.release_config().await;
                let settled = settled?;
                released?;
                Ok(settled)
            }
            Mode::Hot | Mode::Cold => {
                self.drain_compactions(seen).await?;
                let settled = self.hot(holds, scope).await?;
                self.options
                    .method
                    .take(settled.decided.read.revision)
                    .await?;
                holds.release_config().await?;
                Ok(settled)
            }
        }
    }

    /// Holds compaction where this version can, and says when Milvus will have seen it.
    async fn hold_compaction(&self, holds: &mut Holds) -> Result<Instant> {
        let rules = &self.running.rules;
        let items = [
            (rules.compaction_hold, holds::COMPACTION),
            (rules.sort_compaction_hold, holds::SORT_COMPACTION),
        ];
        let mut seen = Instant::now();
        for (supported, item) in items {
            if supported.is_some() {
                let root = &self.roots.root;
                let etcd = &mut self.etcd.clone();
                let placed = holds.place(etcd, root, item, &self.context.env).await?;
                if self.context.instance.etcd.embedded.is_none() {
                    seen = placed + CONFIG_SEEN;
                }
            }
        }
        Ok(seen)
    }

    /// Waits until Milvus has `seen` the hold, and then, bounded, until no compaction task is under way. One that
    /// goes on is no obstacle as long as it has changed nothing, which the anchor shows.
    async fn drain_compactions(&self, seen: Instant) -> Result<()> {
        tokio::time::sleep_until(seen).await;
        let mut running = 0;
        let mut half_saved = None;
        let tasks = |family| matches!(family, Family::CompactionTask | Family::Segment);
        let drained = poll(COMPACTION_DRAIN, LOOK_PAUSE, async || {
            let part = self.reader.part(tasks).await?;
            running = part.tasks.compactions_under_way().count();
            let refusals = part.refusals().into_iter();
            half_saved = refusals
                .into_iter()
                .find(|r| r.kind == RefusalKind::Compaction);
            Ok((running == 0 && half_saved.is_none()).then_some(()))
        });
        if drained.await?.is_some() {
            return Ok(());
        }
        if let Some(refusal) = half_saved {
            return Err(refused(&refusal));
        }
        info!(
            running,
            "compactions are still running; they have saved nothing yet"
        );
        Ok(())
    }

    /// Flushes before writes are denied, so that the flush inside the window is short. A flush that
    /// does not finish here would not finish there either, and clients would feel it.
    async fn pre_flush(&self) -> Result<()> {
        self.context.progress.begin("flush", None);
        let cut = self.running.client.alloc_timestamp().await?;
        self.flush(cut, &self.reader).await?;
        Ok(())
    }

    async fn quiesced(&self, holds: &mut Holds, scope: ReadScope) -> Result<Settled<'_>> {
        let rules = &self.running.rules;
        let etcd = &mut self.etcd.clone();
        if rules.write_hold.is_none() {
            return Err(
                self.cannot_hold("this version of Milvus reads the setting at its start only")
            );
        }
        // What takes longer the more there is comes before anybody feels anything.
        let inventory = self.running.client.inventory().await?;
        let lease = holds.lease(&self.etcd, &self.context.env).await?;
        let followed = Followed::begin(&self.reader, lease).await?;
        self.context.progress.begin("deny writes", None);
        if !holds::is_set(etcd, &self.roots.root, holds::WRITES).await? {
            self.until_accepted().await?;
        }
        let before = holds.writes_held();
        let placed = holds
            .place(etcd, &self.roots.root, holds::WRITES, &self.context.env)
            .await?;
        let left = self.options.max_write_hold.saturating_sub(before);
        let held = Box::pin(async {
            let held = self.held(holds, scope, &followed, placed).await?;
            self.options.method.take(held.read.revision).await?;
            Ok::<_, Error>(held)
        });
        let held = tokio::time::timeout_at(placed + left, held).await;
        Ok(held
            .map_err(|_| self.too_long())??
            .settled(followed, inventory))
    }

    /// What is done while writes are denied, from `placed` on.
    async fn held(
        &self,
        holds: &mut Holds,
        scope: ReadScope,
        followed: &Followed<'_>,
        placed: Instant,
    ) -> Result<Decided> {
        if self.running.rules.ddl_hold.is_some() {
            let etcd = &mut self.etcd.clone();
            holds
                .place(etcd, &self.roots.root, holds::DDL, &self.context.env)
                .await?;
        } else {
            holds.absent(
                "ddl",
                "this version has no switch; DDL that is unfinished at the anchor voids it",
            );
        }
        self.until_denied(holds, followed).await?;
        let after_ms = millis(placed);
        holds.spent().denial_ms += after_ms;
        info!(after_ms, "writes are denied");
        let mut attempt = 0;
        loop {
            attempt += 1;
            let since = self.etcd.clone().status().await?.revision;
            let t_hold = self.running.client.alloc_timestamp().await?;
            self.context.progress.begin("flush", None);
            let flush = self.flush(t_hold, followed).await?;
            holds.spent().flush_ms += in_millis(flush.1);
            self.context.progress.begin("anchor", None);
            let cut = t_hold.unwrap_or_else(|| flush.0.barrier.timestamp());
            let cut_point = CutPoint {
                barrier: &flush.0.barrier,
                cut,
                since,
            };
            let last = attempt == CUT_ATTEMPTS;
            let newer = if last { Newer::Taken } else { Newer::Voids };
            let settle = self.settle(holds, scope, followed, &cut_point, newer);
            if let Some(read) = settle.await? {
                let claim = if read.has_newer(cut) {
                    Claim::None
                } else {
                    Claim::Proven
                };
                return Ok(Decided {
                    read,
                    time: self.context.env.now(),
                    cut,
                    since,
                    claim,
                    flush,
                });
            }
            info!("requests from before the denial were still being written; taking a later cut");
        }
    }

    /// The cut is a timestamp from before the flush is asked for: what was acknowledged until then is
    /// in segments that the flush seals. Milvus allocates the flush's own timestamp later, and rows
    /// in between may be in a segment that goes on growing.
    async fn hot(&self, holds: &mut Holds, scope: ReadScope) -> Result<Settled<'_>> {
        let lease = holds.lease(&self.etcd, &self.context.env).await?;
        let followed = Followed::begin(&self.reader, lease).await?;
        self.context.progress.begin("flush", None);
        let since = self.etcd.clone().status().await?.revision;
        let before = self.running.client.alloc_timestamp().await?;
        let flush = self.flush(before, &followed).await?;
        self.context.progress.begin("anchor", None);
        let cut = before.unwrap_or_else(|| flush.0.barrier.earliest());
        let cut_point = CutPoint {
            barrier: &flush.0.barrier,
            cut,
            since,
        };
        let settle = self.settle(holds, scope, &followed, &cut_point, Newer::Taken);
        let read = settle.await?.ok_or_else(|| restless("new rows"))?;
        let inventory = self.running.client.inventory().await?;
        let decided = Decided {
            read,
            time: self.context.env.now(),
            cut,
            since,
            claim: Claim::None,
            flush,
        };
        Ok(decided.settled(followed, inventory))
    }

    async fn until_denied(&self, holds: &Holds, followed: &Followed<'_>) -> Result<()> {
        match self.running.until_denied(DENIAL_TIMEOUT).await? {
            Denial::Complete => Ok(()),
            Denial::Incomplete(last) => {
                // A hold that was lost meanwhile denies nothing, and is the reason then.
                let revision = followed.to_now().await?.revision;
                holds.prove(&followed.holds().await, revision)?;
                let after = DENIAL_TIMEOUT.as_secs();
                Err(self.cannot_hold(&format!("after {after} s {last}")))
            }
        }
    }

    /// Waits until an earlier hold that is gone from etcd is gone from Milvus too. Until then a
    /// denial says nothing of our own: Milvus could lift the old one after it has answered a probe.
    ///
    /// A denial that stays is not from etcd (`milvus.yaml`), and holds as well as ours.
    async fn until_accepted(&self) -> Result<()> {
        if self.running.until_accepted(STALE_TIMEOUT).await? == Writes::Denied {
            info!("writes are denied by something other than etcd");
        }
        Ok(())
    }

    fn cannot_hold(&self, why: &str) -> Error {
        let embedded = self.context.instance.etcd.embedded.is_some();
        let reason = if embedded {
            "with an embedded etcd Milvus does not read dynamic configuration"
        } else {
            "is quotaAndLimits.enabled true, and is this the etcd that Milvus reads?"
        };
        Side::Source
            .error(
                Cause::Refused,
                format!(
                    "writes cannot be denied: {}/config/{} was put into etcd, and {why} ({reason})",
                    self.roots.root,
                    holds::WRITES.path
                ),
            )
            .with_hint("use --mode hot, which needs no hold, or stop Milvus and use --mode cold")
    }

    fn too_long(&self) -> Error {
        Side::Source.error(Cause::Refused,
            format!(
                "the write hold would have exceeded {} s (--max-write-hold); it was released and nothing was stored",
                self.options.max_write_hold.as_secs()
            ),
        )
        .with_hint("allow a longer hold, or use --mode hot")
    }

    /// Flushes until every channel has passed `cut`, a timestamp from before this is called.
    async fn flush(
        &self,
        cut: Option<u64>,
        checkpoints: &dyn Checkpoints,
    ) -> Result<(FlushOutcome, Duration)> {
        let begun = Instant::now();
        let options = FlushOptions {
            rules: Rules {
                flush: *lock(&self.flushes_by),
                ..self.running.rules
            },
            budget: self.options.flush_timeout,
            pace: Pace::default(),
            reach: cut,
            checkpoints: Some(checkpoints),
        };
        let mut tell = |event: FlushEvent| match event {
            FlushEvent::Retrying { reason, after } => {
                warn!(reason, ?after, "the flush is tried again");
            }
            other => debug!(?other, "flush"),
        };
        let outcome = flush_all(&self.running.client, &options, &mut tell).await?;
        *lock(&self.flushes_by) = outcome.method;
        Ok((outcome, begun.elapsed()))
    }

    /// Looks until there is no unfinished DDL, every channel has passed the barrier, every segment with rows from
    /// before the cut is flushed, and nothing was half saved. What is returned shows this, and that the holds
    /// were in force. `None` when it holds something newer than the cut and `newer` voids it.
    async fn settle(
        &self,
        holds: &mut Holds,
        scope: ReadScope,
        followed: &Followed<'_>,
        cut_point: &CutPoint<'_>,
        newer: Newer,
    ) -> Result<Option<MetadataRead>> {
        let begun = Instant::now();
        let give_up = begun + self.options.flush_timeout;
        let compactions_end = begun + COMPACTION_DRAIN;
        let mut stuck = Stuck::new(*lock(&self.flushes_by));
        loop {
            // What came shortly before a revision must be known, also when the copy was made anew.
            let waited = Instant::now();
            tokio::time::sleep_until(followed.began().await + QUIET).await;
            holds.spent().quiet_ms += millis(waited);
            let reached = followed.to_now().await?;
            holds.prove(&followed.holds().await, reached.revision)?;
            let (blockers, read) = read_once(followed, scope, cut_point).await?;
            let judged = Instant::now();
            holds.spent().reading_ms += in_millis(judged - reached.asked);
            if blockers.is_empty() {
                if newer == Newer::Voids && read.has_newer(cut_point.cut) {
                    return Ok(None);
                }
                let half_saved = self.half_saved(followed, &read, reached).await?;
                holds.spent().quiet_ms += millis(judged);
                let revision = reached.revision;
                match half_saved {
                    None => return Ok(Some(read)),
                    Some(why) if Instant::now() > give_up => return Err(restless(&why)),
                    Some(why) => info!(
                        revision,
                        why, "this revision cannot be used; taking a later one"
                    ),
                }
                continue;
            }
            let now = Instant::now();
            let is_half_saved = |r: &Refusal| r.kind == RefusalKind::Compaction;
            let over = blockers.refusals.iter().any(is_half_saved) && now > compactions_end;
            if !blockers.passes() || over || now > give_up {
                return Err(blockers.error());
            }
            debug!(
                reached.revision,
                refusals = blockers.refusals.len(),
                lagging = blockers.lagging.len(),
                open = blockers.open.len(),
                "not settled; looking again"
            );
            if stuck.is_at(&blockers) {
                let (_, took) = self.flush(Some(cut_point.cut), followed).await?;
                holds.spent().flush_ms += in_millis(took);
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    /// Waits as long as the parts of one change may lie apart, and names a change that was half saved at the
    /// revision of `read`, or why nothing can be known of it.
    async fn half_saved(
        &self,
        followed: &Followed<'_>,
        read: &MetadataRead,
        reached: Reached,
    ) -> Result<Option<String>> {
        let late = "etcd took long to answer, so parts of one change may lie further apart";
        if followed.began().await + QUIET > reached.asked {
            return Ok(Some("what came before it is not known".to_owned()));
        }
        if reached.is_late() {
            return Ok(Some(late.to_owned()));
        }
        tokio::time::sleep_until(reached.told + QUIET).await;
        match followed.happened().await? {
            None => Ok(Some("etcd compacted what came after it".to_owned())),
            Some((then, _)) if then.is_late() => Ok(Some(late.to_owned())),
            Some((_, changes)) => {
                let (revision, since) = (read.revision, reached.asked);
                quiet::half_saved(self.roots, &changes, revision, since, &read.catalog)
            }
        }
    }

    /// Keeps the differences that are still there when both sides are asked again: others were DDL in
    /// between. The anchor stands whatever comes of it.
    async fn settle_view(&self, anchored: &mut Anchored) {
        if anchored.differences.found.is_empty() {
            return;
        }
        match self.view_now(&anchored.differences.collections).await {
            Ok(again) => anchored
                .differences
                .found
                .retain(|difference| again.contains(difference)),
            Err(error) => {
                debug!(error = %error.chain(), "the differences were not looked at again");
            }
        }
    }

    /// The differences that there are now, of these collections and of what is no collection; those of others
    /// mean nothing.
    async fn view_now(&self, collections: &BTreeSet<i64>) -> Result<BTreeSet<String>> {
        let inventory = self.running.client.inventory_of(Some(collections)).await?;
        let catalog = self
            .reader
            .part(|family| family.columns().view == View::Shown)
            .await?;
        Ok(view::differences(&inventory, &catalog).found)
    }
}

fn restless(why: &str) -> Error {
    let message = format!("Milvus was changing segments at every revision: {why}");
    Side::Source.error(Cause::Refused, message).with_hint(
        "run the backup again when less is compacted, or allow more time with --flush-timeout",
    )
}

/// What is judged of one revision; its logs only once nothing else is in the way.
async fn read_once(
    followed: &Followed<'_>,
    scope: ReadScope,
    cut_point: &CutPoint<'_>,
) -> Result<(Blockers, MetadataRead)> {
    let read = followed.deciding().await?;
    let blockers = Blockers::of(&read.catalog, cut_point);
    if !blockers.is_empty() {
        return Ok((blockers, read));
    }
    let read = followed.with_logs(read, scope, cut_point).await?;
    Ok((Blockers::of(&read.catalog, cut_point), read))
}

/// What becomes of an anchor that holds something newer than the cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Newer {
    /// Another cut is taken.
    Voids,
    /// It is taken as it is.
    Taken,
}

/// Tells when what a flush would move has not moved for a while.
struct Stuck {
    since: Instant,
    at: (Vec<i64>, Vec<Lag>),
    patience: Duration,
}

impl Stuck {
    fn new(method: FlushMethod) -> Self {
        Self {
            since: Instant::now(),
            at: (vec![], vec![]),
            patience: nudge_of(method, &Pace::default()),
        }
    }

    fn is_at(&mut self, blockers: &Blockers) -> bool {
        let at = (blockers.open.clone(), blockers.lagging.clone());
        if self.at != at {
            self.at = at;
            self.since = Instant::now();
        }
        if blockers.open.is_empty() && blockers.lagging.is_empty()
            || self.since.elapsed() < self.patience
        {
            return false;
        }
        self.since = Instant::now();
        self.patience *= 2;
        true
    }
}

fn in_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn millis(since: Instant) -> u64 {
    in_millis(since.elapsed())
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
