//! From the holds to the anchor: the only part of a capture that clients may feel.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::anchor::Anchored;
use super::complete::{Claim, Completed, Settled, complete};
use super::denial::{Denial, Writes};
use super::plan::Planned;
use super::reach::Running;
use super::{Context, Options, view};
use crate::base::poll::poll;
use crate::capture::metadata::{Blockers, CutPoint, MetadataRead, ReadScope, Reader, lagging};
use crate::etcd::Etcd;
use crate::instance::holds::{self, Holds};
use crate::milvus::barrier::{Barrier, Checkpoints, Lag};
use crate::milvus::flush::{FlushEvent, FlushOptions, FlushOutcome, Pace, flush_all};
use crate::milvus::keys::{Family, Roots, View};
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

/// After this long without settling the flush is asked for once more.
const NUDGE: Duration = Duration::from_secs(5);

/// Before etcd is looked at again when something is under way.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

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
        }
    }
}

impl Window<'_> {
    /// Settles what decides under the holds, and reads the rest of the anchor after their release. Where
    /// that fails the holds are taken once more, for the time that all of the anchor takes to read.
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
                "this read of the metadata cannot be used; the next reads all of it while writes are denied"
            );
        }
        Err(Side::Source
            .error(
                Cause::Refused,
                format!("neither of two reads of the metadata can be used: {why}"),
            )
            .with_hint("run the backup again; does something other than this Milvus write to etcd, or compact it?"))
    }

    /// Takes the holds, settles, and releases all but the one on garbage collection.
    async fn settled(&self, holds: &mut Holds, scope: ReadScope) -> Result<Settled> {
        self.context.progress.begin("hold", None);
        self.hold_compaction(holds).await?;
        match self.options.mode {
            Mode::Quiesced => {
                self.pre_flush().await?;
                let left = self
                    .options
                    .max_write_hold
                    .saturating_sub(holds.writes_held());
                let deadline = Instant::now() + left;
                let quiesced = Box::pin(async {
                    let settled = self.quiesced(holds, scope).await?;
                    self.options.method.take(settled.read.revision).await?;
                    Ok::<_, Error>(settled)
                });
                let settled = tokio::time::timeout_at(deadline, quiesced).await;
                let released = holds.release_config().await;
                let settled = settled.map_err(|_| self.too_long())??;
                released?;
                Ok(settled)
            }
            Mode::Hot | Mode::Cold => {
                let settled = self.hot(holds, scope).await?;
                self.options.method.take(settled.read.revision).await?;
                holds.release_config().await?;
                Ok(settled)
            }
        }
    }

    async fn hold_compaction(&self, holds: &mut Holds) -> Result<()> {
        let rules = &self.running.rules;
        let items = [
            (rules.compaction_hold, holds::COMPACTION),
            (rules.sort_compaction_hold, holds::SORT_COMPACTION),
        ];
        for (supported, item) in items {
            if supported.is_some() {
                holds
                    .place(
                        &mut self.etcd.clone(),
                        &self.roots.root,
                        item,
                        &self.context.env,
                    )
                    .await?;
            }
        }
        self.drain_compactions().await
    }

    /// Waits, bounded, until no compaction task is under way; what is left is caught by validation.
    async fn drain_compactions(&self) -> Result<()> {
        let mut running = 0;
        let drained = poll(COMPACTION_DRAIN, LOOK_PAUSE, async || {
            let part = self.reader.part(|family| family == Family::CompactionTask);
            running = part.await?.tasks.compactions.len();
            Ok((running == 0).then_some(()))
        });
        if drained.await?.is_none() {
            info!(
                running,
                "compactions are still running; the anchor is validated instead"
            );
        }
        Ok(())
    }

    /// Flushes before writes are denied, so that the flush inside the window is short. A flush that
    /// does not finish here would not finish there either, and clients would feel it.
    async fn pre_flush(&self) -> Result<()> {
        self.context.progress.begin("flush", None);
        let cut = self.running.client.alloc_timestamp().await?;
        self.flush(cut).await?;
        Ok(())
    }

    async fn quiesced(&self, holds: &mut Holds, scope: ReadScope) -> Result<Settled> {
        let rules = &self.running.rules;
        let etcd = &mut self.etcd.clone();
        if rules.write_hold.is_none() {
            return Err(
                self.cannot_hold("this version of Milvus reads the setting at its start only")
            );
        }
        self.context.progress.begin("deny writes", None);
        if !holds::is_set(etcd, &self.roots.root, holds::WRITES).await? {
            self.until_accepted().await?;
        }
        let since = holds
            .place(etcd, &self.roots.root, holds::WRITES, &self.context.env)
            .await?;
        if rules.ddl_hold.is_some() {
            holds
                .place(etcd, &self.roots.root, holds::DDL, &self.context.env)
                .await?;
        } else {
            holds.absent(
                "ddl",
                "this version has no switch; DDL that is unfinished at the anchor voids it",
            );
        }
        let (denied, inventory) =
            tokio::join!(self.until_denied(), self.running.client.inventory());
        denied?;
        info!(after_ms = since.elapsed().as_millis(), "writes are denied");
        let inventory = inventory?;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let since = self.etcd.clone().status().await?.revision;
            let t_hold = self.running.client.alloc_timestamp().await?;
            self.context.progress.begin("flush", None);
            let flush = self.flush(t_hold).await?;
            self.context.progress.begin("anchor", None);
            let cut = t_hold.unwrap_or_else(|| flush.0.barrier.timestamp());
            let cut_point = CutPoint {
                barrier: &flush.0.barrier,
                cut,
                since,
            };
            let read = self.settle(holds, scope, &cut_point).await?;
            let claim = if read.has_newer(cut) {
                Claim::None
            } else {
                Claim::Proven
            };
            if claim == Claim::Proven || attempt == CUT_ATTEMPTS {
                return Ok(Settled {
                    read,
                    time: self.context.env.now(),
                    cut,
                    since,
                    claim,
                    flush,
                    inventory,
                });
            }
            info!("requests from before the denial were still being written; taking a later cut");
        }
    }

    /// The cut is a timestamp from before the flush is asked for: what was acknowledged until then is
    /// in segments that the flush seals. Milvus allocates the flush's own timestamp later, and rows
    /// in between may be in a segment that goes on growing.
    async fn hot(&self, holds: &mut Holds, scope: ReadScope) -> Result<Settled> {
        self.context.progress.begin("flush", None);
        let since = self.etcd.clone().status().await?.revision;
        let before = self.running.client.alloc_timestamp().await?;
        let flush = self.flush(before).await?;
        self.context.progress.begin("anchor", None);
        let cut = before.unwrap_or_else(|| flush.0.barrier.earliest());
        let cut_point = CutPoint {
            barrier: &flush.0.barrier,
            cut,
            since,
        };
        let read = self.settle(holds, scope, &cut_point).await?;
        let inventory = self.running.client.inventory().await?;
        Ok(Settled {
            read,
            time: self.context.env.now(),
            cut,
            since,
            claim: Claim::None,
            flush,
            inventory,
        })
    }

    async fn until_denied(&self) -> Result<()> {
        match self.running.until_denied(DENIAL_TIMEOUT).await? {
            Denial::Complete => Ok(()),
            Denial::Incomplete(last) => {
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
    async fn flush(&self, cut: Option<u64>) -> Result<(FlushOutcome, Duration)> {
        let budget = self.options.flush_timeout;
        let begun = Instant::now();
        let options = FlushOptions {
            rules: self.running.rules,
            budget,
            pace: Pace::default(),
            reach: cut,
            checkpoints: Some(self),
        };
        let mut tell = |event: FlushEvent| match event {
            FlushEvent::Retrying { reason, after } => {
                warn!(reason, ?after, "the flush is tried again");
            }
            other => debug!(?other, "flush"),
        };
        let outcome = flush_all(&self.running.client, &options, &mut tell).await?;
        Ok((outcome, begun.elapsed()))
    }

    /// Looks until there is no unfinished DDL, every channel has passed the barrier, and every segment
    /// with rows from before the cut is flushed. The metadata that is returned shows this, and that the holds were in force.
    async fn settle(
        &self,
        holds: &Holds,
        scope: ReadScope,
        cut_point: &CutPoint<'_>,
    ) -> Result<MetadataRead> {
        let give_up = Instant::now() + self.options.flush_timeout;
        let mut flushed = Instant::now();
        loop {
            let (blockers, read) = match self.read_once(holds, scope, cut_point).await? {
                Some((blockers, read)) if blockers.is_empty() => return Ok(read),
                Some(looked) => looked,
                None if Instant::now() > give_up => return Err(overtaken()),
                None => continue,
            };
            if !blockers.passes() || Instant::now() > give_up {
                return Err(blockers.error());
            }
            debug!(
                read.revision,
                refusals = blockers.refusals.len(),
                lagging = blockers.lagging.len(),
                open = blockers.open.len(),
                "not settled; looking again"
            );
            if !blockers.open.is_empty() && flushed.elapsed() > NUDGE {
                self.flush(Some(cut_point.cut)).await?;
                flushed = Instant::now();
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    /// Reads once, at one revision, what decides; its logs only once nothing else is in the way.
    async fn read_once(
        &self,
        holds: &Holds,
        scope: ReadScope,
        cut_point: &CutPoint<'_>,
    ) -> Result<Option<(Blockers, MetadataRead)>> {
        let Some(read) = self.reader.read(scope).await? else {
            return Ok(None);
        };
        holds.prove(&read.keys, read.revision)?;
        let blockers = Blockers::of(&read.catalog, cut_point);
        if !blockers.is_empty() {
            return Ok(Some((blockers, read)));
        }
        let read = self.reader.with_logs(read, cut_point).await?;
        Ok(read.map(|read| (Blockers::of(&read.catalog, cut_point), read)))
    }

    /// Keeps the differences that are still there when both sides are asked again: others were DDL in
    /// between. The anchor stands whatever comes of it.
    async fn settle_view(&self, anchored: &mut Anchored) {
        if anchored.differences.is_empty() {
            return;
        }
        match self.view_now().await {
            Ok(again) => anchored
                .differences
                .retain(|difference| again.contains(difference)),
            Err(error) => {
                debug!(error = %error.chain(), "the differences were not looked at again");
            }
        }
    }

    async fn view_now(&self) -> Result<BTreeSet<String>> {
        let inventory = self.running.client.inventory().await?;
        let catalog = self
            .reader
            .part(|family| family.columns().view == View::Shown)
            .await?;
        Ok(view::differences(&inventory, &catalog))
    }
}

fn overtaken() -> Error {
    Side::Source
        .error(
            Cause::Refused,
            "etcd compacts its revisions faster than the metadata can be read at one of them",
        )
        .with_hint("does something compact this etcd without a retention?")
}

#[async_trait]
impl Checkpoints for Window<'_> {
    async fn lagging(&self, barrier: &Barrier) -> Result<Vec<Lag>> {
        let catalog = self
            .reader
            .part(|family| family == Family::ChannelCheckpoint)
            .await?;
        Ok(lagging(&catalog, barrier, barrier.timestamp()))
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
