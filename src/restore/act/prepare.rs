//! Making a target ready to be written, once the guard has let it pass.

use super::steps::Storage;
use crate::etcd::Etcd;
use crate::instance::embedded::{Embedded, Holds};
use crate::restore::context::Context;
use crate::restore::plan::inputs::Marked;
use crate::restore::plan::target::{TargetEtcd, TargetStorage};
use crate::store::limit::limited;
use crate::{Cause, Error, Result};

impl TargetEtcd {
    /// Makes the etcd ready to be written, once the guard has let it pass. An embedded one that another
    /// restore prepared is given up.
    pub(crate) async fn prepare(&mut self, marked: &Marked) -> Result<(Etcd, Option<Embedded>)> {
        let mut embedded = self.embedded.take();
        if let Some(directory) = &mut embedded {
            match (directory.holds(), marked) {
                (Holds::Staged, Marked::Other { .. } | Marked::No) => {
                    self.etcd = None;
                    directory.stop().await?;
                    directory.discard()?;
                }
                (Holds::Member, Marked::Ours(_)) => directory.unsettle()?,
                _ => {}
            }
            if self.etcd.is_none() {
                self.etcd = Some(directory.start().await?);
            }
        }
        let Some(etcd) = self.etcd.take() else {
            return Err(Error::new(Cause::Failed, "the target's etcd is not open"));
        };
        Ok((etcd, embedded))
    }
}

impl TargetStorage {
    /// Makes the storage ready to be written, once the guard has let it pass.
    pub(crate) async fn prepare(self, context: &Context<'_>) -> Result<Storage> {
        let store = self.layer.make().await?;
        Ok(Storage {
            store: limited(store, context.repository.resources()),
            layer: self.layer,
            outside: self.outside,
        })
    }
}
