//! Capture methods: how the objects that an anchor requires become part of a snapshot.
//!
//! A method is one file here and one line in [the table](Method). What it has to keep in mind between
//! its steps it keeps itself; `take` and `capture` may be called from several tasks.

mod copy;
#[cfg(test)]
pub(crate) mod pinning;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::objects::LayerObject;
use crate::repo::{ObjectHash, StoredObject, Writer};
use crate::store::Store;
use crate::{Cause, Error, Result};

/// A capture method at work in one capture, restore or verification.
#[async_trait]
pub trait CaptureMethod: fmt::Debug + Send + Sync {
    /// Which it is, for manifests.
    fn method(&self) -> Method;

    /// Asks whether it can capture what the object layer holds, before anything is held.
    ///
    /// # Errors
    ///
    /// [`Side::Source`](crate::Side::Source) with the reason why not and the way out.
    async fn plan(&self, _objects: &dyn Store) -> Result<()> {
        Ok(())
    }

    /// Whether objects are handed to [`capture`](Self::capture) with their version ids, where the store
    /// keeps versions.
    fn needs_versions(&self) -> bool {
        false
    }

    /// Pins the object layer as a whole, where the method does: inside the window, when the anchor's
    /// revision is known and before the holds are released. When an anchor turns out to be void this is
    /// called again, and replaces what it took before.
    ///
    /// # Errors
    ///
    /// Any error ends the capture. It may be dropped where it waits, when the hold has lasted too long or
    /// the run is stopped; [`release`](Self::release) follows.
    async fn take(&self, _revision: i64) -> Result<()> {
        Ok(())
    }

    /// Captures one object.
    ///
    /// # Errors
    ///
    /// An object that is gone is no error but [`Captured::Gone`].
    async fn capture(&self, object: &LayerObject, writer: &Writer) -> Result<Captured>;

    /// Ends what `take` made and no snapshot keeps: when a capture has ended, and before one begins, for
    /// what a process that was killed left behind. The capture holds the instance's writer lease
    /// meanwhile, so no other capture of the instance is at work.
    ///
    /// # Errors
    ///
    /// What is left then stays until the next capture; none fails for it.
    async fn release(&self, _ended: Ended) -> Result<()> {
        Ok(())
    }

    /// What it pinned, of a snapshot; `None` for a method that stores every byte in the repository.
    fn pins(&self) -> Option<&dyn Pins> {
        None
    }
}

/// Objects that a method left where they are.
#[async_trait]
pub trait Pins: fmt::Debug + Send + Sync {
    /// The bytes of a pinned object of `size` bytes, in order. Who reads them hashes them.
    fn read(&self, pin: &Bytes, size: u64) -> BoxStream<'static, Result<Bytes>>;

    /// Whether the pinned object is still there, as far as can be told without reading it.
    ///
    /// # Errors
    ///
    /// What keeps it from being told.
    async fn verify(&self, pin: &Bytes) -> Result<bool>;

    /// Lets go of an object that no snapshot refers to any more.
    ///
    /// # Errors
    ///
    /// The object is still pinned then.
    async fn expire(&self, pin: &Bytes) -> Result<()>;
}

/// How a capture ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Its snapshot exists.
    Committed,
    /// There is no snapshot of it.
    GivenUp,
}

/// What came of the capture of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Captured {
    /// Its bytes are in the repository.
    Stored(StoredObject),
    /// It stays where it is.
    Pinned {
        /// The plain BLAKE3 hash of its bytes; `None` while it is owed.
        hash: Option<ObjectHash>,
        /// Its size, in bytes.
        size: u64,
        /// Where it is; the method knows what this means.
        pin: Bytes,
    },
    /// It is not there.
    Gone,
}

macro_rules! methods {
    ($($(#[doc = $doc:literal])* $method:ident $word:literal $open:expr;)*) => {
        /// How objects are captured.
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
        )]
        #[serde(rename_all = "lowercase")]
        pub enum Method { $($(#[doc = $doc])* $method,)* }

        impl Method {
            /// Every method.
            pub const ALL: &'static [Self] = &[$(Self::$method,)*];

            /// The word on the command line and in documents.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$method => $word,)* }
            }

            fn opening(self) -> Option<fn() -> Arc<dyn CaptureMethod>> {
                match self { $(Self::$method => $open,)* }
            }
        }
    };
}

methods! {
    /// Copy bytes into the repository
    Copy "copy" Some(|| Arc::new(copy::Copy));
    /// Pin S3 versions where they are
    Versions "versions" None;
    /// Clone or snapshot the file system
    Filesystem "filesystem" None;
    /// Snapshot EBS volumes
    Ebs "ebs" None;
}

impl Method {
    /// The method, ready for work.
    ///
    /// # Errors
    ///
    /// [`Cause::Invalid`] when this eyrie does not have it.
    pub fn open(self) -> Result<Arc<dyn CaptureMethod>> {
        let Some(open) = self.opening() else {
            let has = Self::ALL.iter().filter(|method| method.opening().is_some());
            let has: Vec<&str> = has.map(|method| method.word()).collect();
            let message = format!("this eyrie cannot capture by {self}");
            return Err(Error::new(Cause::Invalid, message)
                .with_hint(format!("use --method {}", has.join(" or "))));
        };
        Ok(open())
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
