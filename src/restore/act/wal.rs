//! The files of a queue on the target: brought back, or made room for.

use std::path::PathBuf;

use futures::TryStreamExt;

use super::objects::{Other, Placing, read_back};
use crate::base::cancel::Cancel;
use crate::base::env::Env;
use crate::base::progress::{Amount, SharedProgress};
use crate::instance::objects::local::Local;
use crate::instance::objects::{Layer as _, Listed};
use crate::instance::old_content::{self, Part};
use crate::instance::wal::ROCKSMQ_NAMES;
use crate::restore::plan::inputs::WalFacts;
use crate::snapshot::Snapshot;
use crate::snapshot::items::Item;
use crate::store::Key;
use crate::store::limit::limited;
use crate::{Cause, Result, Side};

/// The queue of a target, as far as it is in directories of this host.
#[derive(Debug, Clone, Default)]
pub(crate) struct WalDirectories {
    /// Its directories, for rocksmq messages and positions.
    pub(crate) directories: Vec<PathBuf>,
}

impl WalDirectories {
    /// The queue in the directories that were found.
    pub(crate) fn new(found: &WalFacts) -> Self {
        let paths = found.directories.iter().map(|(path, _)| path.clone());
        Self {
            directories: paths.collect(),
        }
    }

    /// Moves the old queue aside.
    pub(crate) fn put_aside(&self) -> Result<()> {
        self.directories
            .iter()
            .try_for_each(|directory| old_content::move_aside(directory, Part::All))
    }

    /// Removes the old queue.
    pub(crate) fn remove_aside(&self) -> Result<()> {
        self.directories
            .iter()
            .try_for_each(|directory| old_content::remove(directory))
    }

    /// Writes the files of the captured queue and reads them back.
    pub(crate) async fn bring_back(
        &self,
        snapshot: &Snapshot,
        env: &Env,
        progress: &SharedProgress,
        cancel: &Cancel,
    ) -> Result<Amount> {
        if self.directories.len() != ROCKSMQ_NAMES.len() {
            return Err(Side::Target.error(Cause::Refused,
                "the captured queue has two directories, and the target's is not in directories of this host",
            ));
        }
        progress.begin("queue", None);
        let mut usage = Amount::default();
        for (name, directory) in ROCKSMQ_NAMES.into_iter().zip(&self.directories) {
            let layer = Local::of_queue(directory, Side::Target, env);
            let resources = snapshot.view().resources();
            let store = limited(layer.make().await?, resources);
            let placing = Placing {
                snapshot,
                store: &store,
                in_place: Listed::all(&*store).await?,
                other: Other::Overwrite,
                progress,
                cancel,
            };
            let placed = placing.place(Box::pin(files(snapshot, name))).await?;
            usage += placed.written + placed.kept;
            layer.settle(&[String::new()]).await?;
            store.sync().await?;
            read_back(resources, &*store, files(snapshot, name), progress, cancel).await?;
        }
        progress.end();
        Ok(usage)
    }
}

/// The captured files of one directory, below it.
fn files(
    snapshot: &Snapshot,
    name: &'static str,
) -> impl futures::Stream<Item = Result<Item>> + Send + use<> {
    snapshot.wal_files().try_filter_map(move |item| {
        let below = item
            .key
            .as_str()
            .strip_prefix(name)
            .and_then(|rest| rest.strip_prefix('/'));
        let moved = below.map(|path| {
            Key::new(path).map(|key| Item {
                key,
                ..item.clone()
            })
        });
        std::future::ready(moved.transpose())
    })
}
