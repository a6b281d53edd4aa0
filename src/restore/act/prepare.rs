//! Making a target ready to be written, once the guard has let it pass.

use super::steps::Storage;
use crate::etcd::Etcd;
use crate::instance::embedded::{Embedded, Holds};
use crate::restore::context::Context;
use crate::restore::options::Occupied;
use crate::restore::plan::inputs::Marked;
use crate::restore::plan::target::{TargetEtcd, TargetStorage};
use crate::store::limit::limited;
use crate::store::probe::Deletion;
use crate::{Cause, Error, Result, Side};

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
                    if self.keys.is_empty() {
                        directory.discard()?;
                    } else {
                        directory.give_up_staging()?;
                    }
                }
                (Holds::Member, Marked::Ours(_)) => {
                    directory.check_unchanged()?;
                    directory.unsettle()?;
                }
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
    /// Makes the storage ready to be written, once the guard has let it pass, and proves that it can be.
    ///
    /// # Errors
    ///
    /// [`Side::Target`] for what the storage does not take; the old instance is whole then.
    pub(crate) async fn prepare(
        self,
        context: &Context<'_>,
        occupied: Occupied,
    ) -> Result<Storage> {
        let proved = self.layer.prove(context.env);
        let (store, deletion) = context.cancel.run(proved).await?;
        if deletion == Deletion::Denied && occupied == Occupied::Replace {
            let message = format!("nothing may be deleted in {}", self.layer.place());
            let hint = "--replace removes what the snapshot does not have: give these credentials the right to \
                        delete (s3:DeleteObject), or restore onto an empty root";
            return Err(Side::Target.error(Cause::Refused, message).with_hint(hint));
        }
        Ok(Storage {
            store: limited(store, context.repository.resources()),
            layer: self.layer,
            outside: self.outside,
        })
    }
}
