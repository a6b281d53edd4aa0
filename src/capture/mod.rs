//! The protocol of a capture.
//!
//! ```text
//! begin ─→ Begun ─→ writer session, prepare ─────────────────→ Prepared ─→ commit
//!   plan              holds, flush, anchor, objects, audit                   manifest
//! ```
//!
//! `Prepared` has all that the manifest says, and its commit consumes it and the writer session.
//! Whatever is suspended lives in [`Holds`], which the caller of the steps owns: it is released on
//! every way out, errors and signals included, and by its leases when the process dies (I3).

mod anchor;
mod body;
mod cold;
mod cold_source;
mod complete;
mod denial;
mod followed;
mod full;
mod metadata;
mod objects;
mod plan;
mod protocol;
mod quiet;
mod reach;
mod still;
mod stored;
mod stranger;
mod survey;
#[cfg(test)]
mod tests;
mod unnamed;
mod view;
mod window;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

pub use plan::{Plan, plan};
pub use survey::{Survey, survey};

use self::stored::Stored;
use crate::Result;
use crate::base::cancel::{Cancel, Turn};
use crate::base::env::Env;
use crate::base::progress::SharedProgress;
use crate::base::resources::Resources;
use crate::config::Instance;
use crate::instance::holds::Holds;
use crate::instance::methods::{CaptureMethod, Ended};
use crate::repo::Repository;
use crate::snapshot::{Body, Mode};

/// What a capture runs in.
#[derive(Debug, Clone)]
pub struct Context {
    /// The instance.
    pub instance: Instance,
    /// Clock, randomness and ids.
    pub env: Env,
    /// Who is told how it goes.
    pub progress: SharedProgress,
    /// Ends the capture: holds are released, the repository stays whole.
    pub cancel: Cancel,
    /// Codes of weakenings that the operator accepts.
    pub accept: Vec<String>,
    /// What it works with; the repository shares it.
    pub resources: Resources,
}

/// What to do when objects that the anchor requires are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Missing {
    /// Fail and name them.
    #[default]
    Refuse,
    /// Capture the rest, weakened.
    Allow,
}

/// How to capture.
#[derive(Debug, Clone)]
pub struct Options {
    /// How writes are treated.
    pub mode: Mode,
    /// How objects are captured.
    pub method: Arc<dyn CaptureMethod>,
    /// Labels of the snapshot.
    pub labels: BTreeMap<String, String>,
    /// What to do about missing objects.
    pub missing: Missing,
    /// How long clients may see denied writes, at most.
    pub max_write_hold: Duration,
    /// How long a flush may take.
    pub flush_timeout: Duration,
    /// When it is written down how far the capture has come.
    pub checkpoints: Checkpoints,
}

/// How much of a capture that is killed is read again at most, beside the objects under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoints {
    /// After so long.
    pub time: Duration,
    /// After so many bytes were read.
    pub bytes: u64,
}

impl Default for Checkpoints {
    /// 15 minutes or 64 GiB.
    fn default() -> Self {
        Self {
            time: Duration::from_mins(15),
            bytes: 64 << 30,
        }
    }
}

impl Options {
    /// To capture by `method`, quiesced, with the default limits.
    #[must_use]
    pub fn new(method: Arc<dyn CaptureMethod>) -> Self {
        Self {
            mode: Mode::Quiesced,
            method,
            labels: BTreeMap::new(),
            missing: Missing::Refuse,
            max_write_hold: Duration::from_mins(2),
            flush_timeout: Duration::from_mins(5),
            checkpoints: Checkpoints::default(),
        }
    }
}

/// What a capture made.
#[derive(Debug, Clone)]
pub struct Captured {
    /// The repository's manifest.
    pub manifest: crate::repo::Manifest,
    /// What the snapshot says of itself.
    pub body: Body,
}

/// How often steps 4 to 7 are repeated when objects vanish because GC could not be held.
const ANCHOR_ATTEMPTS: usize = 3;

/// Captures the instance into `repository`.
///
/// # Errors
///
/// [`Side::Source`](crate::Side::Source) when the instance cannot be captured as asked, [`Cause::Locked`] when another
/// writer of the instance is at work. Whatever the error: holds are released, older snapshots are
/// whole, and nothing of this one is visible.
pub async fn capture(
    context: &Context,
    repository: &Repository,
    options: &Options,
) -> Result<Captured> {
    let mut holds = Holds::default();
    let outcome = attempt(context, repository, options, &mut holds).await;
    release(context, &mut holds).await;
    let (captured, held) = outcome?.end(&context.cancel).await;
    if let Some(running) = held {
        tokio::select! {
            () = protocol::wait_until_writable(&running) => {}
            () = context.cancel.requested() => {}
        }
    }
    Ok(captured)
}

/// Releases what is held and not yet released.
async fn release(context: &Context, holds: &mut Holds) {
    let released = Box::pin(holds.release());
    if context
        .cancel
        .in_order(Turn::Last, released)
        .await
        .is_none()
    {
        warn!("the holds were not released in time; they end by themselves");
    }
}

/// Captures with holds that are still to be released. The writer session ends in order on every way
/// out: what is cut short is only work that holds nothing.
async fn attempt(
    context: &Context,
    repository: &Repository,
    options: &Options,
    holds: &mut Holds,
) -> Result<protocol::Committed> {
    let cancel = &context.cancel;
    let planned = protocol::begin(context, repository, options);
    let mut begun = Box::pin(cancel.run(planned)).await?;
    let begins = cancel.in_order(Turn::First, begun.writer(context, repository));
    let writer = begins.await.unwrap_or_else(|| Err(cancel.error()))?;
    let method = &*options.method;
    let mut stored = Stored::begin(&writer, method.method(), options.checkpoints);
    let work = async {
        // What a process left that was killed.
        protocol::end_method(method, Ended::GivenUp).await;
        protocol::prepare(context, options, holds, &mut begun, &mut stored).await
    };
    match Box::pin(cancel.run(work)).await {
        // Nothing is cut short any more, unless the store does not answer: who is told 130 may rely on
        // it that there is no snapshot, or is told that it is not known.
        Ok(prepared) => {
            drop(stored);
            let committed = cancel
                .in_order(Turn::First, Box::pin(prepared.commit(writer, method)))
                .await;
            committed.unwrap_or_else(|| Err(protocol::unknown(&cancel.error())))
        }
        Err(error) => {
            if cancel.is_requested() {
                context.resources.lift_rate();
            }
            // Clients wait for the holds: they do not wait for the repository.
            tokio::join!(
                release(context, holds),
                cancel.in_order(Turn::First, stored.write_down()),
            );
            drop(stored);
            cancel
                .in_order(Turn::Last, protocol::give_up(writer, method))
                .await;
            Err(error)
        }
    }
}
