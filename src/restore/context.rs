//! What a restore runs in.

use crate::base::cancel::Cancel;
use crate::base::env::Env;
use crate::base::progress::SharedProgress;
use crate::config;
use crate::repo::Repository;
use crate::store::open::Location;

/// What a restore runs in.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The instance to restore onto.
    pub instance: &'a config::Instance,
    /// The repository.
    pub repository: &'a Repository,
    /// Where the repository is.
    pub location: &'a Location,
    /// The command that goes on with an interrupted restore, for people.
    pub command: &'a str,
    /// Clock, randomness and ids.
    pub env: &'a Env,
    /// Who is told how it goes.
    pub progress: &'a SharedProgress,
    /// Ends the restore; the same command goes on where it stopped.
    pub cancel: &'a Cancel,
}

/// What a look at the target is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A plan; nothing is waited for.
    Plan,
    /// A restore; sessions that are running out are waited for.
    Restore,
}
