//! Heeding marks: packs that are about to go are none to rely on.

use std::collections::{BTreeSet, HashSet};

use crate::repo::format::files::StoredFile;
use crate::repo::format::ids::{MarkId, PackId};
use crate::repo::format::lineage::Dead;
use crate::repo::format::mark::Mark;
use crate::repo::repository::Repository;
use crate::{Cause, Result, Side};

/// The marks of a repository that can be read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Marks {
    pub(crate) known: Vec<Mark>,
    /// Marks that say what this eyrie does not understand.
    pub(crate) unknown: Vec<MarkId>,
    /// The sessions that the marks of both kinds took for dead.
    pub(crate) dead: Vec<Dead>,
}

impl Marks {
    /// Refuses to write beside a mark of which it is not known how to heed it. One that cannot be read marks
    /// nothing, as nothing is removed by it.
    ///
    /// # Errors
    ///
    /// [`Cause::NewerFormat`].
    pub(crate) fn refuse_unknown(&self) -> Result<()> {
        let Some(mark) = self.unknown.first() else {
            return Ok(());
        };
        let message = format!(
            "{} marks packs to be removed in a way that this eyrie does not know",
            StoredFile::Mark.path(mark)
        );
        Err(Side::Repository
            .error(Cause::NewerFormat, message)
            .with_hint("let the eyrie that prunes finish, or write with that one"))
    }

    /// Their names.
    pub(crate) fn ids(&self) -> BTreeSet<MarkId> {
        let known = self.known.iter().map(|mark| mark.id);
        known.chain(self.unknown.iter().copied()).collect()
    }

    /// The packs that are marked.
    pub(crate) fn packs(&self) -> HashSet<PackId> {
        let packs = self.known.iter().flat_map(|mark| &mark.packs);
        packs.copied().collect()
    }
}

impl Repository {
    /// Reads the marks. What a damaged one says is not known; a check names it.
    ///
    /// # Errors
    ///
    /// What the store fails with.
    pub(crate) async fn marks(&self) -> Result<Marks> {
        let mut damage = Vec::new();
        let files = self
            .open_all::<MarkId, serde_json::Value>(StoredFile::Mark, &mut damage)
            .await?;
        for damage in damage {
            if self.first_told(damage.place) {
                tracing::warn!("a mark is left out: {}", damage.what);
            }
        }
        let mut marks = Marks::default();
        for (id, file) in files {
            // One that says it otherwise is of a later eyrie, which requires a feature for that.
            let dead = file.get("dead").cloned().unwrap_or_default();
            marks
                .dead
                .push(serde_json::from_value(dead).unwrap_or_default());
            match serde_json::from_value::<Mark>(file) {
                Ok(mark) if mark.id == id => marks.known.push(mark),
                _ => marks.unknown.push(id),
            }
        }
        Ok(marks)
    }
}
