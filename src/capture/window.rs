//! From the holds to the anchor: the only part of a capture that clients may feel.

mod settle;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::anchor::Anchored;
use super::complete::{Claim, Completed, Decided, Settled, complete};
use super::denial::{Denial, Writes};
use super::followed::Followed;
use super::metadata::{CutPoint, ReadScope, Reader};
use super::plan::{Planned, refused};
use super::reach::Running;
use super::{Context, Options, view};
use crate::base::env::lock;
use crate::base::poll::poll;
use crate::etcd::Etcd;
use crate::instance::holds::{self, Holds};
use crate::milvus::barrier::Checkpoints;
use crate::milvus::flush::{FlushEvent, FlushOptions, FlushOutcome, Pace, flush_all};
use crate::milvus::keys::{Family, Roots, View};
use crate::milvus::validate::RefusalKind;
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
                match settled {
                    Ok(settled) => holds.release_config().await.map(|()| settled),
                    Err(error) => {
                        holds.give_up_config().await;
                        Err(error)
                    }
                }
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
            let mut refusals = part.refusals().into_iter();
            half_saved = refusals.find(|refusal| refusal.kind == RefusalKind::Compaction);
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
            let read = settle.await?;
            let claim = match read.has_newer(cut) {
                true if newer == Newer::Voids => {
                    info!(
                        "requests from before the denial were still being written; taking a later cut"
                    );
                    continue;
                }
                true => Claim::None,
                false => Claim::Proven,
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
        let read = settle.await?;
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
                "the write hold would have exceeded {} s (--max-write-hold), so it was given up; nothing was stored",
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

/// What becomes of an anchor that holds something newer than the cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Newer {
    /// Another cut is taken.
    Voids,
    /// It is taken as it is.
    Taken,
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
