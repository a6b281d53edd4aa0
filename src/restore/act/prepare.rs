//! Making a target ready to be written, once the guard has let it pass.

use std::sync::Arc;

use super::keyspace::Keyspace;
use super::steps::{Local, Storage};
use crate::base::error::Context as _;
use crate::config::Objects;
use crate::etcd::Etcd;
use crate::instance::embedded::{Embedded, Holds};
use crate::instance::ownership::Owner;
use crate::restore::context::Context;
use crate::restore::plan::inputs::Marked;
use crate::restore::plan::marker::MarkerKeys;
use crate::restore::plan::target::{TargetEtcd, TargetStorage, of_target, settings};
use crate::store::local::{LocalStore, MissingRoot};
use crate::{Cause, Error, Result, Side};

impl TargetEtcd {
    /// Makes the etcd ready to be written, once the guard has let it pass. What another restore left
    /// there is given up.
    pub(crate) async fn prepare(
        &mut self,
        context: &Context<'_>,
        marked: &Marked,
    ) -> Result<(Etcd, Option<Embedded>)> {
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
        let Some(mut etcd) = self.etcd.take() else {
            return Err(Error::new(Cause::Failed, "the target's etcd is not open"));
        };
        if let Marked::Other { .. } = marked {
            let names = MarkerKeys::new(&context.instance.etcd.root_path);
            let own = [names.marker, names.stage, names.saved, names.record];
            Keyspace::delete(&mut etcd, "giving up another restore", vec![], &own).await?;
        }
        Ok((etcd, embedded))
    }
}

impl TargetStorage {
    /// Makes the storage ready to be written, once the guard has let it pass.
    pub(crate) fn prepare(self, context: &Context<'_>) -> Result<Storage> {
        let local = match &context.instance.objects {
            Objects::S3(_) => None,
            Objects::Local(local) => {
                let owner = Owner::of(&local.path)?;
                let is_new = !local.path.exists();
                let store = LocalStore::open(&local.path, settings(MissingRoot::Create));
                let store = store.on(Side::Target)?;
                if is_new {
                    owner.adopt(std::slice::from_ref(&local.path))?;
                }
                Some(Local { store, owner })
            }
        };
        let store = match (&local, self.store) {
            (Some(local), _) => of_target(context, Arc::new(local.store.clone())),
            (None, Some(store)) => store,
            (None, None) => {
                return Err(Error::new(
                    Cause::Failed,
                    "the target's storage is not open",
                ));
            }
        };
        Ok(Storage {
            store,
            local,
            outside: self.outside,
        })
    }
}
