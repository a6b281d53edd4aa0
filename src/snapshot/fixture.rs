//! A repository in memory with a snapshot in it, for tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use crate::base::env::Env;
use crate::base::resources::Resources;
use crate::etcd::KeyValue;
use crate::instance::methods::Method;
use crate::instance::methods::pinning::Pinning;
use crate::instance::objects::ObjectLayer;
use crate::milvus::objects::TreeKey;
use crate::repo::{
    Chunking, Compression, Content, Entry, InitOptions, Manifest, NodeRef, ObjectHash,
    ObjectSource, Repository, Totals, Unlock, Values, Writer,
};
use crate::snapshot::{
    Body, Counts, Cut, Draft, EtcdIdentity, MilvusIdentity, Mode, ObjectEntry, Snapshot, Wal,
    WalState, store_keys,
};
use crate::store::testing::memory::MemoryStore;
use crate::store::{Key, PutOptions, Store};
use crate::{Error, Result};

/// What a snapshot says of itself, when a test does not care.
pub(crate) fn body() -> Body {
    Body {
        eyrie_version: "0.1.0".into(),
        mode: Mode::Quiesced,
        asked_mode: Mode::Quiesced,
        method: Method::Copy,
        revision: 77,
        etcd: EtcdIdentity {
            version: "3.5.21".into(),
            cluster_id: "00".into(),
            embedded: false,
            root_path: "by-dev".into(),
            meta_sub_path: "meta".into(),
            kv_sub_path: "kv".into(),
        },
        milvus: MilvusIdentity {
            version: "2.3.5".into(),
            commit: None,
            deploy_mode: None,
        },
        objects: ObjectLayer::Local {
            path: "/var/lib/milvus/data".into(),
        },
        wal: Wal {
            kind: "rocksmq".into(),
            state: WalState::Reset,
            channel_prefix: "by-dev".into(),
        },
        cut: Cut {
            timestamp: 9,
            newest_log: 8,
            proven: true,
            straddling: vec![],
            straddling_unnamed: 0,
        },
        holds: vec![],
        write_hold_ms: 900,
        write_hold_spent: None,
        duration_ms: 1000,
        flush: None,
        counts: Counts {
            objects_by_kind: [("index_files".to_owned(), 12)].into(),
            ..Counts::default()
        },
        objects_read: 0,
        bytes_read: 0,
        unnamed_delta_logs: vec![],
        differences: vec![],
        weakenings: vec![],
        notes: vec![],
        accepted: vec![],
    }
}

/// Bytes as an object.
pub(crate) struct Given(pub(crate) Bytes);

#[async_trait]
impl ObjectSource for Given {
    fn name(&self) -> String {
        "given".into()
    }

    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    async fn piece(&self, offset: u64, len: usize) -> Result<Bytes> {
        let from = usize::try_from(offset).unwrap();
        Ok(Bytes::copy_from_slice(
            &self.0[from..(from + len).min(self.0.len())],
        ))
    }
}

/// What a snapshot of a fixture holds.
#[derive(Debug, Clone)]
pub(crate) struct Contents {
    /// Objects by path below the storage root, or by tree key.
    pub(crate) objects: BTreeMap<String, Bytes>,
    /// Files of the queue by path in the snapshot.
    pub(crate) wal: BTreeMap<String, Bytes>,
    /// etcd keys.
    pub(crate) keys: Vec<KeyValue>,
    /// What the snapshot says of itself.
    pub(crate) body: Body,
}

/// A repository in memory and the store that it is on.
pub(crate) async fn repository() -> (MemoryStore, Repository) {
    let store = MemoryStore::new();
    let env = Env::simulated(Timestamp::UNIX_EPOCH, 11).0;
    let options = InitOptions {
        cuts: Chunking {
            cut: 4096,
            whole: 8192,
        },
        ..InitOptions::default()
    };
    let shared = Arc::new(store.clone());
    let repository = Repository::init(shared, Unlock::None, options, &Resources::of_tests(), &env)
        .await
        .unwrap();
    (store, repository)
}

/// Commits a snapshot of `contents`.
pub(crate) async fn commit(repository: &Repository, contents: &Contents) -> Manifest {
    let writer = repository
        .begin_writer("main", vec![], Compression::Auto)
        .await
        .unwrap();
    let keys = store_keys(&writer, contents.keys.iter().cloned())
        .await
        .unwrap();
    let description = ObjectEntry {
        kind: "insert_log".into(),
        identity: "x".into(),
    };
    let description = serde_json::to_vec(&description).unwrap();
    let named = contents.objects.iter().map(|(path, bytes)| {
        let key = match TreeKey::parse(path.as_bytes()) {
            Some(_) => path.clone(),
            None => format!("{:020}/{:020}/{:020}/{path}", 1, 2, 3),
        };
        (key, bytes)
    });
    let named: BTreeMap<_, _> = named.collect();
    let objects = map(&writer, named.into_iter(), &description).await;
    let wal = contents
        .wal
        .iter()
        .map(|(path, bytes)| (path.clone(), bytes));
    let wal = map(&writer, wal, b"").await;
    let sum = contents
        .objects
        .values()
        .map(|bytes| bytes.len() as u64)
        .sum();
    let draft = Draft {
        time: Timestamp::UNIX_EPOCH,
        keys,
        objects,
        wal,
        totals: Totals {
            objects: contents.objects.len() as u64,
            bytes: sum,
            bytes_added: 0,
        },
        labels: BTreeMap::new(),
        body: contents.body.clone(),
    };
    let manifest = writer.commit(draft.manifest().unwrap()).await.unwrap();
    writer.finish().await.unwrap();
    manifest
}

async fn map<'a>(
    writer: &Writer,
    entries: impl Iterator<Item = (String, &'a Bytes)>,
    value: &[u8],
) -> Option<NodeRef> {
    let mut map = writer.map(Values::Inline);
    for (key, bytes) in entries {
        let stored = writer.store_object(&Given(bytes.clone())).await.unwrap();
        let entry = Entry {
            key: key.into(),
            value: Bytes::copy_from_slice(value),
            content: Content::Object {
                hash: stored.hash,
                size: stored.size,
                pieces: stored.pieces,
            },
        };
        map.push(entry).await.unwrap();
    }
    map.finish().await.unwrap()
}

/// A snapshot whose objects are in `store`, by path, and pinned there.
pub(crate) async fn pinned(
    repository: &Repository,
    objects: &BTreeMap<String, Bytes>,
    store: &MemoryStore,
) -> Snapshot {
    let writer = repository
        .begin_writer("main", vec![], Compression::Auto)
        .await
        .unwrap();
    let mut map = writer.map(Values::Inline);
    for (path, bytes) in objects {
        let key = Key::new(path).unwrap();
        let put = store.put(&key, bytes.clone(), PutOptions::default());
        put.await.unwrap();
        let entry = Entry {
            key: format!("{:020}/{:020}/{:020}/{path}", 1, 2, 3).into(),
            value: Bytes::new(),
            content: Content::External {
                hash: Some(ObjectHash(*blake3::hash(bytes).as_bytes())),
                size: bytes.len() as u64,
                pin: Bytes::copy_from_slice(path.as_bytes()),
            },
        };
        map.push(entry).await.unwrap();
    }
    let draft = Draft {
        time: Timestamp::UNIX_EPOCH,
        keys: None,
        objects: map.finish().await.unwrap(),
        wal: None,
        totals: Totals::default(),
        labels: BTreeMap::new(),
        body: body(),
    };
    let manifest = writer.commit(draft.manifest().unwrap()).await.unwrap();
    writer.finish().await.unwrap();
    let mut snapshot = Snapshot::open(&repository.view().await.unwrap(), manifest).unwrap();
    snapshot.method = Arc::new(Pinning::new(Arc::new(store.clone())));
    snapshot
}

/// Bytes that no other seed gives.
pub(crate) fn noise(seed: u8, len: usize) -> Bytes {
    let mut out = vec![0; len];
    blake3::Hasher::new()
        .update(&[seed])
        .finalize_xof()
        .fill(&mut out);
    out.into()
}

/// Fails a test with what an error says.
pub(crate) fn told<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|error: Error| panic!("{}", error.chain()))
}
