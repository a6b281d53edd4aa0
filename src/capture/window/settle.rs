//! Looking until an anchor can be taken.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info};

use super::{COMPACTION_DRAIN, LOOK_PAUSE, Newer, Window, in_millis, millis};
use crate::base::env::lock;
use crate::capture::followed::{Followed, Known};
use crate::capture::metadata::{Blockers, CutPoint, MetadataRead, ReadScope};
use crate::capture::quiet::{self, QUIET};
use crate::instance::holds::Holds;
use crate::milvus::barrier::Lag;
use crate::milvus::flush::{Pace, nudge_of};
use crate::milvus::validate::{Refusal, RefusalKind};
use crate::milvus::version::FlushMethod;
use crate::{Cause, Error, Result, Side};

impl Window<'_> {
    /// Looks until there is no unfinished DDL, every channel has passed the barrier, every segment with rows from
    /// before the cut is flushed, and nothing was half saved. What is returned shows this, and that the holds
    /// were in force. One that has something newer than the cut is given at once where `newer` voids it.
    pub(super) async fn settle(
        &self,
        holds: &mut Holds,
        scope: ReadScope,
        followed: &Followed<'_>,
        cut_point: &CutPoint<'_>,
        newer: Newer,
    ) -> Result<MetadataRead> {
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
                    return Ok(read);
                }
                let half_saved = self.half_saved(followed, &read, reached).await?;
                holds.spent().quiet_ms += millis(judged);
                let revision = reached.revision;
                match half_saved {
                    None => return Ok(read),
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
        reached: Known,
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
}

fn restless(why: &str) -> Error {
    let message = format!("no revision of etcd could be used, the last because {why}");
    Side::Source.error(Cause::Refused, message).with_hint(
        "run the backup again when less is compacted and etcd is well, or allow more time with --flush-timeout",
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
