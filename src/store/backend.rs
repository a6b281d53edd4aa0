//! What a backend is to those who open stores by their location.

use std::fmt;

use async_trait::async_trait;

use super::SharedStore;
use super::probe::Findings;
use super::read_back::ReadBack;
use super::s3::UploadChecksums;
use crate::Result;
use crate::base::env::Env;

/// What opening does when the place of a store, such as a directory, is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MissingRoot {
    /// Fail with [`Cause::NotFound`](crate::Cause::NotFound).
    #[default]
    Fail,
    /// Make it and its parents.
    Create,
}

/// A place of one backend, and how to reach it.
#[async_trait]
pub(super) trait Backend: Sized + Send {
    /// Reads a URL; `None` for one that is not of this backend.
    fn parse(url: &str) -> Option<Result<Self>>;

    /// Writes the URL that it was parsed from, without a trailing `/`.
    fn write_url(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;

    /// Opens the store, without retries.
    async fn open(&self, missing: MissingRoot, env: &Env) -> Result<SharedStore>;

    /// Takes over what a probe of the store found, for when it is opened again.
    fn heed(&mut self, _findings: &Findings) {}

    /// The same place, written with a checksum only where `uploads` says; `None` where nothing would change.
    fn with_checksums(&self, _uploads: UploadChecksums) -> Option<Self> {
        None
    }

    /// Which uploads are to be read back.
    fn read_back(&self) -> Option<ReadBack> {
        None
    }
}
