//! Proving that an object layer takes what a restore does to it, by an object of its own.

use bytes::Bytes;
use tracing::warn;

use crate::base::env::Env;
use crate::store::probe::Deletion;
use crate::store::{GetOptions, Key, PutOptions, Store};
use crate::{Cause, Error, Result};

/// What the paths of such objects begin with: outside of Milvus's folders, and not counted as content.
pub(crate) const PROBE_FOLDER: &str = ".eyrie-probe/";

/// Bytes of the second part.
const REST: usize = 1 << 10;

/// Writes an object in one piece and then in two parts, reads it and removes it, by its version where there is one:
/// a store may take a checksum with the one and not with the other.
///
/// # Errors
///
/// What the store fails with, and [`Cause::Failed`] when it gives back other bytes. The object may be left.
pub(super) async fn prove(store: &dyn Store, env: &Env) -> Result<Deletion> {
    let key = Key::new(format!("{PROBE_FOLDER}{}", hex::encode(&env.id()[..8])))?;
    let doing = |error: Error| {
        let location = store.location();
        error.context(format!(
            "{location} does not take an object in one piece or of two parts"
        ))
    };
    let written = write(store, &key).await;
    let version = written.as_ref().ok().and_then(Clone::clone);
    let removed = remove(store, &key, version.as_deref()).await;
    written.map_err(doing)?;
    removed
}

async fn write(store: &dyn Store, key: &Key) -> Result<Option<String>> {
    let size = store.capabilities().probed_part();
    let parts = [Bytes::from(vec![0x5a; size]), Bytes::from(vec![0xa5; REST])];
    let put = store.put(key, parts[1].clone(), PutOptions::default());
    if let Some(version) = put.await?.version {
        remove(store, key, Some(&version)).await?;
    }
    let mut upload = store.upload(key, PutOptions::default()).await?;
    for part in &parts {
        if let Err(error) = upload.write(part.clone()).await {
            let _ = upload.abort().await;
            return Err(error);
        }
    }
    let put = upload.finish().await?;
    let from = (size - REST) as u64;
    let options = GetOptions {
        range: Some(from..from + 2 * REST as u64),
        version: None,
    };
    let read = store.get(key, options).await?;
    let expected = [&parts[0][..REST], &parts[1][..]].concat();
    if read != expected || store.head(key).await?.size != (size + REST) as u64 {
        return Err(Error::new(
            Cause::Failed,
            "it does not give back what was written",
        ));
    }
    Ok(put.version)
}

async fn remove(store: &dyn Store, key: &Key, version: Option<&str>) -> Result<Deletion> {
    let denied = |error: &Error| error.cause() == Cause::AccessDenied;
    match store.delete(key, version).await {
        Ok(()) => return Ok(Deletion::Allowed),
        Err(error) if denied(&error) && version.is_none() => {}
        Err(error) if denied(&error) => match store.delete(key, None).await {
            // Old versions may not be removed for good, which no restore does.
            Ok(()) => return Ok(Deletion::Allowed),
            Err(error) if denied(&error) => {}
            Err(error) => return Err(error),
        },
        Err(error) => return Err(error),
    }
    warn!(
        "{key} of a probe stays in {}: it may not be deleted",
        store.location()
    );
    Ok(Deletion::Denied)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::TryStreamExt;

    use super::*;
    use crate::store::ListOptions;
    use crate::store::testing::fault::{Action, FaultStore, Rule};
    use crate::store::testing::memory::MemoryStore;
    use crate::store::testing::record::Op;

    #[tokio::test]
    async fn a_probe_leaves_nothing_and_tells_whether_it_may_delete() {
        let memory = MemoryStore::new();
        let env = Env::system();
        let left = async || -> Vec<_> {
            let listed = memory.list("", ListOptions::default());
            listed.try_collect().await.unwrap()
        };
        assert_eq!(prove(&memory, &env).await.unwrap(), Deletion::Allowed);
        assert!(left().await.is_empty());

        let faulty = FaultStore::new(Arc::new(memory.clone()));
        let rule = Rule::on(Op::Delete, Action::Fail(Cause::AccessDenied));
        faulty.faults().add(rule);
        assert_eq!(prove(&faulty, &env).await.unwrap(), Deletion::Denied);
        let found = left().await;
        assert_eq!(found.len(), 1);
        assert!(found[0].key.as_str().starts_with(PROBE_FOLDER));

        faulty.faults().clear();
        let rule = Rule::on_writes(Action::Fail(Cause::NoSpace));
        faulty.faults().add(rule.first(1));
        let error = prove(&faulty, &env).await.unwrap_err();
        assert_eq!(error.cause(), Cause::NoSpace);
        assert!(error.chain().contains("two parts"), "{}", error.chain());
    }
}
