//! Features that a repository got after it was made (section 3): files of their own, which all count.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::config::{Authenticated, knows_to_read, knows_to_write};
use super::files::StoredFile;
use super::ids::{FeaturesId, RepositoryId};
use super::sealer::Sealer;
use super::wire::damaged;
use crate::Result;

/// What one file says. What is required is never taken back, so two that were written at once unite.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Features {
    pub(crate) id: FeaturesId,
    pub(crate) repository: RepositoryId,
    pub(crate) created: Timestamp,
    pub(crate) required_read: Vec<String>,
    pub(crate) required_write: Vec<String>,
}

/// Features that were read but are not authenticated yet.
pub(crate) struct Unproven {
    features: Features,
    lines: Authenticated,
}

impl Features {
    /// The bytes of the file.
    pub(crate) fn seal(&self, sealer: &Sealer) -> Result<String> {
        let path = StoredFile::Features.path(&self.id);
        Authenticated::write(&path, self, &sealer.features_key())
    }

    /// Reads the file at `path`. Its MAC is checked by [`Unproven::prove`] once the keyring is open, and
    /// nothing that it says counts before.
    pub(crate) fn read(path: &str, bytes: &[u8], repository: &RepositoryId) -> Result<Unproven> {
        let lines = Authenticated::read(path, bytes)?;
        let features: Self = lines.parse(path)?;
        let named = StoredFile::Features.path(&features.id) == path;
        if !named || features.repository != *repository {
            return Err(damaged(format!(
                "{path} is damaged: it carries another name or repository"
            )));
        }
        Ok(Unproven { features, lines })
    }

    /// Refuses to read what this code cannot.
    pub(crate) fn check_readable(&self) -> Result<()> {
        knows_to_read(&self.required_read)
    }

    /// Refuses to write where this code does not know what a writer must.
    pub(crate) fn check_writable(&self) -> Result<()> {
        knows_to_write(&self.required_write)
    }
}

impl Unproven {
    /// Checks the MAC.
    pub(crate) fn prove(self, sealer: &Sealer) -> Result<Features> {
        let path = StoredFile::Features.path(&self.features.id);
        self.lines.prove(&path, &sealer.features_key())?;
        Ok(self.features)
    }
}
