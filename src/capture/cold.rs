//! What of a stopped Milvus is captured in another way than of one that runs: its anchor, and its
//! message queue (WAL).

use bytes::Bytes;
use futures::TryStreamExt;

use super::Context;
use super::anchor::Anchored;
use super::cold_source::wal_directories;
use super::metadata::Undated;
use super::objects::content;
use super::plan::{Planned, refuse_stopped};
use crate::instance::methods::CaptureMethod;
use crate::instance::objects::local::Local;
use crate::instance::objects::{Layer as _, LayerObject};
use crate::instance::wal;
use crate::milvus::catalog::Catalog;
use crate::repo::{Entry, NodeRef, Values, Writer};
use crate::store::limit::limited;
use crate::store::{ListOptions, Meta};
use crate::{Result, Side};

/// Takes the anchor of a stopped Milvus.
pub(super) async fn anchor(
    context: &Context,
    planned: &mut Planned,
    method: &dyn CaptureMethod,
) -> Result<Anchored> {
    context.progress.begin("anchor", None);
    let prefix = format!("{}/", planned.roots.root);
    let anchor = planned.etcd.client.read_prefix(&prefix).await?;
    let catalog = Catalog::decode(&planned.roots, &anchor.keys, &planned.version)?;
    refuse_stopped(&catalog)?;
    method.take(anchor.revision).await?;
    Ok(Anchored::new(
        context.env.now(),
        anchor,
        catalog,
        0,
        Undated::default(),
    ))
}

/// Captures the message queue's files, both directories of rocksmq.
pub(super) async fn copy_wal(context: &Context, writer: &Writer) -> Result<Option<NodeRef>> {
    let mut files = Vec::new();
    for (name, directory) in wal::ROCKSMQ_NAMES.iter().zip(wal_directories(context)?) {
        let layer = Local::of_queue(&directory, Side::Source, &context.env);
        let store = limited(layer.open().await?, &context.resources);
        let listed: Vec<_> = store.list("", ListOptions::default()).try_collect().await?;
        let of_store = |meta: Meta| (format!("{name}/{}", meta.key), store.clone(), meta);
        files.extend(listed.into_iter().map(of_store));
    }
    files.sort_by(|a, b| a.0.cmp(&b.0));
    let mut map = writer.map(Values::Inline);
    for (key, store, meta) in files {
        let source = LayerObject {
            store,
            key: meta.key,
            size: meta.size,
            version: None,
        };
        let stored = writer.store_object(&source).await?;
        map.push(Entry {
            key: key.into(),
            value: Bytes::new(),
            content: content(stored),
        })
        .await?;
    }
    map.finish().await
}
