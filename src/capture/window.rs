//! From the holds to the anchor: the only part of a capture that clients may feel.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::anchor::Anchored;
use super::plan::{Planned, refused};
use super::reach::Running;
use super::{Context, Holds, Options, view};
use crate::etcd::{Anchor, Etcd};
use crate::hold;
use crate::manifest::{FlushRecord, Mode};
use crate::milvus::barrier::{Barrier, Checkpoints, Lag};
use crate::milvus::catalog::{Catalog, DROPPED, Segment};
use crate::milvus::flush::{FlushEvent, FlushOptions, FlushOutcome, Pace, flush_all};
use crate::milvus::inventory::CollectionName;
use crate::milvus::keys::Roots;
use crate::milvus::probe::ProbeOutcome;
use crate::{Error, Kind, Result};

/// How long Milvus may take until it denies writes: it polls etcd every 5 s and recomputes its
/// limits every 3 s (docs/milvus.md 2.3); three times that.
const DENIAL_TIMEOUT: Duration = Duration::from_secs(25);

/// How long a denial that began before ours is waited for: a dead agent's lease and the time that
/// Milvus takes to notice.
const STALE_TIMEOUT: Duration = Duration::from_secs(hold::TTL.as_secs() + 15);

/// Between two probes.
const PROBE_PAUSE: Duration = Duration::from_millis(250);

/// Collections that a probe is tried on, when one is dropped meanwhile.
const PROBED_COLLECTIONS: usize = 5;

/// How long compactions that were running are waited for.
const COMPACTION_DRAIN: Duration = Duration::from_secs(20);

/// How often a later cut is taken. A request that was admitted before the denial gets its timestamp
/// when it is carried out, which may be after the first cut; a proxy that goes on letting writes
/// through does so at every attempt.
const CUT_ATTEMPTS: usize = 4;

/// What an error names of what is not flushed.
const NAMED: usize = 5;

/// After this long without settling the flush is asked for once more.
const NUDGE: Duration = Duration::from_secs(5);

/// Before the anchor is read again when it holds DDL that is under way.
const ANCHOR_PAUSE: Duration = Duration::from_millis(500);

/// Takes the anchor of a running Milvus.
pub(super) async fn take(
    context: &Context,
    planned: &mut Planned,
    options: &Options,
    holds: &mut Holds,
) -> Result<Anchored> {
    let Some(running) = &planned.milvus else {
        return Err(Error::new(
            Kind::Failed,
            "a running Milvus is needed for this mode",
        ));
    };
    let window = Window {
        context,
        options,
        running,
        roots: &planned.roots,
        etcd: planned.etcd.client.clone(),
    };
    context.progress.begin("hold", None);
    window.hold_compaction(holds).await?;
    match options.mode {
        Mode::Quiesced => {
            window.pre_flush().await?;
            let deadline = Instant::now() + options.max_write_hold;
            let quiesced = window.quiesced(holds);
            let taken = tokio::time::timeout_at(deadline, quiesced).await;
            let released = holds.release_config().await;
            let mut anchored = taken.map_err(|_| window.too_long())??;
            let held = released?;
            anchored.write_hold = held;
            window.settle_view(&mut anchored).await;
            Ok(anchored)
        }
        Mode::Hot | Mode::Cold => {
            let mut anchored = window.hot(holds).await?;
            holds.release_config().await?;
            window.settle_view(&mut anchored).await;
            Ok(anchored)
        }
    }
}

struct Window<'a> {
    context: &'a Context,
    options: &'a Options,
    running: &'a Running,
    roots: &'a Roots,
    etcd: Etcd,
}

impl Window<'_> {
    async fn hold_compaction(&self, holds: &mut Holds) -> Result<()> {
        let rules = &self.running.rules;
        let items = [
            (rules.compaction_hold, hold::COMPACTION),
            (rules.sort_compaction_hold, hold::SORT_COMPACTION),
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
        let give_up = Instant::now() + COMPACTION_DRAIN;
        loop {
            let tasks = self.part(&["datacoord-meta/compaction-task/"]).await?.tasks;
            if tasks.compactions.is_empty() {
                return Ok(());
            }
            if Instant::now() > give_up {
                info!(
                    running = tasks.compactions.len(),
                    "compactions are still running; the anchor is validated instead"
                );
                return Ok(());
            }
            tokio::time::sleep(ANCHOR_PAUSE).await;
        }
    }

    /// Decodes databases, collections, and the keys below `families`; not at one revision.
    async fn part(&self, families: &[&str]) -> Result<Catalog> {
        let mut keys = Vec::new();
        for family in ["root-coord/collection/", "root-coord/database/"]
            .iter()
            .chain(families)
        {
            let prefix = format!("{}/{}/{family}", self.roots.root, self.roots.meta);
            keys.extend(self.etcd.clone().read_prefix(&prefix).await?.keys);
        }
        keys.sort_by(|a, b| a.key.cmp(&b.key));
        keys.dedup_by(|a, b| a.key == b.key);
        Catalog::decode(self.roots, &keys, &self.running.version)
    }

    /// Flushes before writes are denied, so that the flush inside the window is short. A flush that
    /// does not finish here would not finish there either, and clients would feel it.
    async fn pre_flush(&self) -> Result<()> {
        self.context.progress.begin("flush", None);
        self.flush(self.options.flush_timeout).await?;
        Ok(())
    }

    async fn quiesced(&self, holds: &mut Holds) -> Result<Anchored> {
        let rules = &self.running.rules;
        let etcd = &mut self.etcd.clone();
        if rules.write_hold.is_none() {
            return Err(
                self.cannot_hold("this version of Milvus reads the setting at its start only")
            );
        }
        self.context.progress.begin("deny writes", None);
        if !hold::is_set(etcd, &self.roots.root, hold::WRITES).await? {
            self.until_accepted().await?;
        }
        let since = holds
            .place(etcd, &self.roots.root, hold::WRITES, &self.context.env)
            .await?;
        if rules.ddl_hold.is_some() {
            holds
                .place(etcd, &self.roots.root, hold::DDL, &self.context.env)
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
            let t_hold = self.running.client.alloc_timestamp().await?;
            self.context.progress.begin("flush", None);
            let flush = self.flush(self.options.flush_timeout).await?;
            self.context.progress.begin("anchor", None);
            let cut = t_hold.unwrap_or_else(|| flush.0.barrier.timestamp());
            let (anchor, catalog) = self.anchor(holds, &flush.0.barrier, cut).await?;
            let settled = catalog.logs_after(cut).next().is_none();
            if settled || attempt == CUT_ATTEMPTS {
                let differences = view::differences(&inventory, &catalog);
                let now = self.context.env.now();
                let flush = Some(record(&flush));
                return Ok(Anchored::new(now, anchor, catalog, cut, flush, differences));
            }
            info!("requests from before the denial were still being written; taking a later cut");
        }
    }

    /// The cut is a timestamp from before the flush is asked for: what was acknowledged until then is
    /// in segments that the flush seals. Milvus allocates the flush's own timestamp later, and rows
    /// in between may be in a segment that goes on growing.
    async fn hot(&self, holds: &mut Holds) -> Result<Anchored> {
        self.context.progress.begin("flush", None);
        let before = self.running.client.alloc_timestamp().await?;
        let flush = self.flush(self.options.flush_timeout).await?;
        self.context.progress.begin("anchor", None);
        let cut = before.unwrap_or_else(|| flush.0.barrier.earliest());
        let (anchor, catalog) = self.anchor(holds, &flush.0.barrier, cut).await?;
        let inventory = self.running.client.inventory().await?;
        let differences = view::differences(&inventory, &catalog);
        Ok(Anchored::new(
            self.context.env.now(),
            anchor,
            catalog,
            cut,
            Some(record(&flush)),
            differences,
        ))
    }

    /// Probes through every reachable proxy until each denies a write for the forced reason.
    async fn until_denied(&self) -> Result<()> {
        let give_up = Instant::now() + DENIAL_TIMEOUT;
        let mut last = "no probe was answered".to_owned();
        loop {
            let targets = self.running.probe_targets().await?;
            if targets.is_empty() {
                // Nothing can be written where there is no collection.
                return Ok(());
            }
            let mut denied = 0;
            for proxy in &self.running.proxies {
                match probe(proxy, &targets).await {
                    ProbeOutcome::Denied => denied += 1,
                    ProbeOutcome::Accepted => {
                        last = format!("{} still accepts writes", proxy.address());
                    }
                    ProbeOutcome::Limited(why) => {
                        last = format!(
                            "{} limits writes for another reason: {why}",
                            proxy.address()
                        );
                    }
                    ProbeOutcome::Other(error) => {
                        last = format!("{}: {}", proxy.address(), error.chain());
                    }
                }
            }
            if denied == self.running.proxies.len() {
                return Ok(());
            }
            if Instant::now() > give_up {
                return Err(
                    self.cannot_hold(&format!("after {} s {last}", DENIAL_TIMEOUT.as_secs()))
                );
            }
            tokio::time::sleep(PROBE_PAUSE).await;
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
        Error::new(
            Kind::Instance,
            format!(
                "writes cannot be denied: {}/config/{} was put into etcd, and {why} ({reason})",
                self.roots.root,
                hold::WRITES.path
            ),
        )
        .with_hint("use --mode hot, which needs no hold, or stop Milvus and use --mode cold")
    }

    fn too_long(&self) -> Error {
        Error::new(
            Kind::Instance,
            format!(
                "the write hold would have exceeded {} s (--max-write-hold); it was released and nothing was stored",
                self.options.max_write_hold.as_secs()
            ),
        )
        .with_hint("allow a longer hold, or use --mode hot")
    }

    async fn flush(&self, budget: Duration) -> Result<(FlushOutcome, Duration)> {
        let begun = Instant::now();
        let options = FlushOptions {
            rules: self.running.rules,
            budget,
            pace: Pace::default(),
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

    /// Reads the anchor until it holds no unfinished DDL, every channel has passed the barrier, and
    /// every segment with rows from before the cut is flushed.
    async fn anchor(
        &self,
        holds: &Holds,
        barrier: &Barrier,
        cut: u64,
    ) -> Result<(Anchor, Catalog)> {
        let give_up = Instant::now() + self.options.flush_timeout;
        let mut flushed = Instant::now();
        loop {
            let anchor = self
                .etcd
                .clone()
                .read_prefix(&format!("{}/", self.roots.root))
                .await?;
            holds.prove(&anchor.keys, anchor.revision)?;
            let catalog = Catalog::decode(self.roots, &anchor.keys, &self.running.version)?;
            let refusals = catalog.refusals();
            let lagging = lagging(&catalog, barrier, cut);
            let open = open_before(&catalog, cut);
            if refusals.is_empty() && lagging.is_empty() && open.is_empty() {
                return Ok((anchor, catalog));
            }
            let passing = refusals.iter().all(|refusal| refusal.kind.passes());
            if !passing || Instant::now() > give_up {
                if let Some(refusal) = refusals.first() {
                    return Err(refused(refusal));
                }
                let named: Vec<String> = lagging
                    .iter()
                    .map(ToString::to_string)
                    .chain(open.iter().map(|segment| format!("segment {segment}")))
                    .take(NAMED)
                    .collect();
                return Err(Error::new(
                    Kind::Instance,
                    format!(
                        "the flush did not finish for {} channels and {} segments: {}",
                        lagging.len(),
                        open.len(),
                        named.join("; ")
                    ),
                )
                .with_hint("run the backup again, or allow more time with --flush-timeout"));
            }
            debug!(
                refusals = refusals.len(),
                lagging = lagging.len(),
                open = open.len(),
                "the anchor is not settled; reading it again"
            );
            if !open.is_empty() && flushed.elapsed() > NUDGE {
                self.flush(self.options.flush_timeout).await?;
                flushed = Instant::now();
            }
            tokio::time::sleep(ANCHOR_PAUSE).await;
        }
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
        let catalog = self.part(&["root-coord/", "field-index/"]).await?;
        Ok(view::differences(&inventory, &catalog))
    }
}

/// Whether writes pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writes {
    /// Every reachable proxy takes them.
    Accepted,
    /// Some proxy denies them.
    Denied,
}

impl Running {
    /// Waits until no proxy denies writes any more, for `limit` at most.
    pub(super) async fn until_accepted(&self, limit: Duration) -> Result<Writes> {
        let give_up = Instant::now() + limit;
        while Instant::now() < give_up {
            let targets = self.probe_targets().await?;
            let mut denied = false;
            for proxy in &self.proxies {
                denied |= matches!(probe(proxy, &targets).await, ProbeOutcome::Denied);
            }
            if !denied {
                return Ok(Writes::Accepted);
            }
            tokio::time::sleep(PROBE_PAUSE).await;
        }
        Ok(Writes::Denied)
    }

    async fn probe_targets(&self) -> Result<Vec<CollectionName>> {
        let mut targets = Vec::new();
        for database in self.client.list_databases().await? {
            targets.extend(self.client.show_collections(&database).await?);
            if targets.len() >= PROBED_COLLECTIONS {
                targets.truncate(PROBED_COLLECTIONS);
                break;
            }
        }
        Ok(targets)
    }
}

async fn probe(proxy: &crate::milvus::client::Client, targets: &[CollectionName]) -> ProbeOutcome {
    let mut outcome = ProbeOutcome::Accepted;
    for target in targets {
        outcome = proxy.probe_write(target).await;
        match &outcome {
            ProbeOutcome::Other(error) if error.kind() == Kind::NotFound => {}
            _ => return outcome,
        }
    }
    outcome
}

fn record((outcome, duration): &(FlushOutcome, Duration)) -> FlushRecord {
    FlushRecord {
        shape: format!("{:?}/{:?}", outcome.method, outcome.shape),
        timestamp: outcome.barrier.timestamp(),
        attempts: outcome.attempts,
        duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
    }
}

/// Segments that a flush should have closed and that are not flushed yet: sealed or growing, with
/// rows, begun before the cut. Their logs are not part of a snapshot until they are.
fn open_before(catalog: &Catalog, cut: u64) -> Vec<i64> {
    let open = |segment: &&Segment| {
        segment.standing.is_open()
            && segment.start_timestamp <= cut
            && (segment.rows > 0 || segment.has_logs())
    };
    let segments = catalog.segments.iter().filter(open);
    segments.map(|segment| segment.key.segment).collect()
}

/// Virtual channels of live collections whose checkpoint has not reached the barrier. A collection
/// that was created after the cut has no row from before it.
fn lagging(catalog: &Catalog, barrier: &Barrier, cut: u64) -> Vec<Lag> {
    catalog
        .collections
        .values()
        .filter(|collection| collection.is_created() && collection.create_timestamp <= cut)
        .flat_map(|collection| &collection.vchannels)
        .map(|vchannel| (vchannel, catalog.checkpoints.get(vchannel)))
        .filter_map(|(vchannel, checkpoint)| {
            let checkpoint = checkpoint.map(|c| c.timestamp);
            let passed = |at| at != DROPPED && at >= barrier.of_vchannel(vchannel);
            (!checkpoint.is_some_and(passed)).then(|| Lag {
                vchannel: vchannel.clone(),
                checkpoint,
            })
        })
        .collect()
}

#[async_trait]
impl Checkpoints for Window<'_> {
    async fn lagging(&self, barrier: &Barrier) -> Result<Vec<Lag>> {
        let catalog = self.part(&["datacoord-meta/channel-cp/"]).await?;
        Ok(lagging(&catalog, barrier, barrier.timestamp()))
    }
}
