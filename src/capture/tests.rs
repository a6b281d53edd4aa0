//! The parts of a capture that need no servers, on keys recorded from a real Milvus 2.3.5.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use jiff::Timestamp;

use super::anchor::Anchored;
use super::metadata::Undated;
use super::objects::{Copied, Required, capture};
use super::plan::refuse_full;
use super::stored::{Stored, objects_of};
use super::stranger::Earlier;
use super::{Checkpoints, Context, body, view};
use crate::base::cancel::Cancel;
use crate::base::env::{Env, lock};
use crate::base::progress::testing::Recorder;
use crate::base::resources::Resources;
use crate::base::weakening;
use crate::config::{Resolved, Variables};
use crate::etcd::{Anchor, MAKE_ROOM};
use crate::instance::holds::{HoldRecord, HoldState};
use crate::instance::methods::pinning::Pinning;
use crate::instance::methods::{CaptureMethod, Method};
use crate::milvus::catalog::{self, Catalog};
use crate::milvus::keys::Roots;
use crate::milvus::objects::Scope;
use crate::milvus::proto::common::KeyValuePair;
use crate::milvus::proto::meta::{CollectionState, PartitionState};
use crate::milvus::simulated::inventory_of;
use crate::milvus::simulated::keys::SimulatedKeys;
use crate::milvus::{MilvusVersion, recorded};
use crate::repo::{
    Compression, Content, Entry, InitOptions, KeyRange, Map, NodeRef, ObjectHash, Repository,
    Unlock, Writer,
};
use crate::snapshot::store_keys;
use crate::store::sided::SidedStore;
use crate::store::testing::fault::{Action, FaultStore, Rule};
use crate::store::testing::memory::MemoryStore;
use crate::store::testing::record::{Op, RecordStore};
use crate::store::{GetOptions, Key, ListOptions, PutOptions, SharedStore, Store};
use crate::{Cause, Side};

const CONFIG: &str = "instance:\n  name: main\n  objects: {type: local, path: /nowhere}\n";

pub(super) fn context() -> Context {
    let path = std::path::Path::new("/etc/eyrie/eyrie.yaml");
    let config = Resolved::from_text(CONFIG, path, &Variables::from_pairs([]));
    Context {
        instance: config.unwrap().instance.unwrap(),
        env: Env::system(),
        progress: Arc::new(Recorder::default()),
        cancel: Cancel::new(),
        accept: Vec::new(),
        resources: Resources::of_tests(),
    }
}

fn catalog() -> Catalog {
    Catalog::decode(
        &Roots::default(),
        &recorded::keys(),
        &MilvusVersion::new(2, 3, 5),
    )
    .unwrap()
}

/// A store with an object of the recorded size at every path that the anchor requires.
async fn source(catalog: &Catalog) -> MemoryStore {
    filled(MemoryStore::new(), catalog).await
}

async fn filled(store: MemoryStore, catalog: &Catalog) -> MemoryStore {
    let sizes = recorded::files();
    for object in catalog.objects() {
        put(
            &store,
            &object.path,
            usize::try_from(sizes[&object.path]).unwrap(),
        )
        .await;
    }
    store
}

async fn put(store: &MemoryStore, path: &str, size: usize) {
    let mut bytes = vec![0; size];
    blake3::Hasher::new()
        .update(path.as_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    put_bytes(store, path, bytes.into()).await;
}

pub(super) async fn put_bytes(store: &MemoryStore, path: &str, bytes: Bytes) {
    let key = Key::new(path).unwrap();
    store.put(&key, bytes, PutOptions::default()).await.unwrap();
}

pub(super) async fn repository() -> Repository {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let env = Env::system();
    Repository::init(
        store,
        Unlock::None,
        InitOptions::default(),
        &Resources::of_tests(),
        &env,
    )
    .await
    .unwrap()
}

fn required(catalog: &Catalog) -> Required<'_> {
    Required {
        catalog,
        scope: Scope::Live,
        elsewhere: BTreeMap::new(),
    }
}

/// Copies in a session of its own; gives what was done and which objects were read.
async fn run(
    repository: &Repository,
    source: &MemoryStore,
    catalog: &Catalog,
    parent: Option<NodeRef>,
) -> (Copied, Vec<String>) {
    let method = Method::Copy.open().unwrap();
    run_by(&*method, repository, source, catalog, parent).await
}

async fn run_by(
    method: &dyn CaptureMethod,
    repository: &Repository,
    source: &MemoryStore,
    catalog: &Catalog,
    parent: Option<NodeRef>,
) -> (Copied, Vec<String>) {
    run_all(method, repository, source, &required(catalog), parent).await
}

pub(super) async fn run_all(
    method: &dyn CaptureMethod,
    repository: &Repository,
    source: &MemoryStore,
    required: &Required<'_>,
    parent: Option<NodeRef>,
) -> (Copied, Vec<String>) {
    let recorded = RecordStore::new(Arc::new(source.clone()));
    let log = recorded.log();
    let store: SharedStore = Arc::new(recorded);
    let writer = repository
        .begin_writer("main", vec![], Compression::Auto)
        .await
        .unwrap();
    let mut stored = Stored::begin(&writer, method.method(), Checkpoints::default());
    let known = parent.map(|parent| writer.view().map(Some(parent)));
    let copied = capture(
        &context(),
        method,
        &mut stored,
        Some(&store),
        required,
        known.as_slice(),
    )
    .await
    .unwrap();
    writer.flush().await.unwrap();
    writer.finish().await.unwrap();
    (copied, log.keys(Op::Get))
}

#[tokio::test]
async fn an_unchanged_instance_is_not_read_again_and_a_changed_object_alone_is() {
    let (catalog, repository) = (catalog(), repository().await);
    let source = source(&catalog).await;
    let (first, read) = run(&repository, &source, &catalog, None).await;
    assert_eq!(first.objects, catalog.objects().count() as u64);
    assert_eq!(first.objects_read, first.objects);
    assert_eq!(read.len() as u64, first.objects);

    let (second, read) = run(&repository, &source, &catalog, first.root).await;
    assert_eq!((second.objects_read, second.bytes_read), (0, 0));
    assert_eq!(read, Vec::<String>::new());
    assert_eq!(second.root, first.root);

    let changed = catalog.objects().nth(3).unwrap();
    put(&source, &changed.path, 5).await;
    let (third, read) = run(&repository, &source, &catalog, second.root).await;
    assert_eq!(read, [changed.path]);
    assert_eq!(third.objects_read, 1);
}

#[test]
fn what_a_full_etcd_keeps_milvus_from_ending_is_told_with_the_cure() {
    let roots = SimulatedKeys::roots();
    let decoded = |set: &SimulatedKeys| Catalog::decode(&roots, &set.keys, &set.version).unwrap();
    let mut set = SimulatedKeys::v2_3();
    assert!(refuse_full(&decoded(&set)).is_ok());
    set.collection(900, "half", CollectionState::Creating);
    let stuck = refuse_full(&decoded(&set)).unwrap_err();
    assert_eq!(stuck.exit_code(), 20);
    assert_eq!(stuck.hint(), Some(MAKE_ROOM));
    assert!(stuck.chain().contains("NOSPACE"), "{}", stuck.chain());
}

#[tokio::test]
async fn another_milvus_under_the_same_name_is_noticed() {
    let (mut catalog, repository) = (catalog(), repository().await);
    let writer = repository.begin_writer("main", vec![], Compression::Auto);
    let writer = writer.await.unwrap();
    let keys = store_keys(&writer, recorded::keys()).await.unwrap();
    writer.flush().await.unwrap();
    writer.finish().await.unwrap();
    let view = repository.view().await.unwrap();
    let earlier = Earlier {
        anchor: keys.unwrap(),
        roots: Roots::default(),
    };
    let map = view.map(keys);
    assert!(!earlier.is_of_another(&map, &catalog).await.unwrap());
    let nothing = view.map(None);
    assert!(!earlier.is_of_another(&nothing, &catalog).await.unwrap());
    // One collection that both have is enough.
    let ids: Vec<i64> = catalog.collections.keys().copied().collect();
    for (at, id) in ids.iter().enumerate() {
        let shared = earlier.is_of_another(&map, &catalog).await.unwrap();
        assert!(!shared, "{at}");
        let collection = catalog.collections.remove(id).unwrap();
        catalog.collections.insert(id + 1_000_000, collection);
    }
    assert!(earlier.is_of_another(&map, &catalog).await.unwrap());
    catalog.collections.clear();
    assert!(!earlier.is_of_another(&map, &catalog).await.unwrap());
}

#[tokio::test]
async fn a_method_that_pins_stores_no_byte_and_captures_what_changed_alone() {
    let (catalog, repository) = (catalog(), repository().await);
    let source = source(&catalog).await;
    let method = Pinning::new(Arc::new(source.clone()));
    let asked = || std::mem::take(&mut *lock(&method.asked));
    let gone = catalog.objects().nth(7).unwrap();
    let key = Key::new(&gone.path).unwrap();
    source.delete(&key, None).await.unwrap();
    let (first, read) = run_by(&method, &repository, &source, &catalog, None).await;
    assert_eq!(read, Vec::<String>::new());
    assert_eq!(first.missing, [gone]);
    assert_eq!(asked().len() as u64, first.objects);
    let packs = repository.store().list("data/", ListOptions::default());
    assert_eq!(packs.try_collect::<Vec<_>>().await.unwrap(), []);
    let map = repository.view().await.unwrap().map(first.root);
    let entries: Vec<Entry> = map.scan(KeyRange::all()).try_collect().await.unwrap();
    let pinned = |entry: &Entry| matches!(entry.content, Content::External { hash: Some(_), .. });
    assert!(!entries.is_empty() && entries.iter().all(pinned));

    let changed = catalog.objects().nth(3).unwrap();
    put(&source, &changed.path, 5).await;
    let (second, _) = run_by(&method, &repository, &source, &catalog, first.root).await;
    assert_eq!(asked(), [format!("capture {}", changed.path)]);
    assert_eq!(second.objects_read, 1);
}

#[tokio::test]
async fn a_method_that_needs_versions_gets_those_that_were_listed() {
    let (catalog, repository) = (catalog(), repository().await);
    let source = filled(MemoryStore::versioned(), &catalog).await;
    let method = Pinning::new(Arc::new(source.clone()));
    let (copied, _) = run_by(&method, &repository, &source, &catalog, None).await;
    for object in catalog.objects() {
        put(&source, &object.path, 3).await;
        let key = Key::new(&object.path).unwrap();
        source.delete(&key, None).await.unwrap();
    }
    let map = repository.view().await.unwrap().map(copied.root);
    let entries: Vec<Entry> = map.scan(KeyRange::all()).try_collect().await.unwrap();
    assert_eq!(entries.len() as u64, copied.objects);
    for entry in entries {
        let Content::External { hash, size, pin } = entry.content else {
            panic!("{entry:?} is not pinned");
        };
        let pins = method.pins().unwrap();
        assert!(pins.verify(&pin).await.unwrap());
        let bytes: Vec<_> = pins.read(&pin, size).try_collect().await.unwrap();
        let read = ObjectHash(*blake3::hash(&bytes.concat()).as_bytes());
        assert_eq!(hash, Some(read));
    }
}

#[tokio::test]
async fn what_lost_packs_held_is_read_again_and_counted() {
    for lost in ["data/", "tree/"] {
        let (catalog, repository) = (catalog(), repository().await);
        let source = source(&catalog).await;
        let (first, _) = run(&repository, &source, &catalog, None).await;
        assert_eq!(first.lost_packs, 0);
        let store = repository.store();
        let packs: Vec<_> = store
            .list(lost, ListOptions::default())
            .try_collect()
            .await
            .unwrap();
        assert!(!packs.is_empty());
        for pack in &packs {
            store.delete(&pack.key, None).await.unwrap();
        }
        let (again, read) = run(&repository, &source, &catalog, first.root).await;
        assert_eq!(again.lost_packs, packs.len());
        assert_eq!(again.objects_read, again.objects, "{lost}");
        assert_eq!(read.len() as u64, again.objects);
        assert_eq!(again.root, first.root, "the same snapshot as before");
    }
}

/// A capture whose source fails at its `n`th reading of an object: what it had read.
async fn broken_off(
    repository: &Repository,
    source: &MemoryStore,
    catalog: &Catalog,
    n: u64,
    checkpoints: Checkpoints,
    orderly: bool,
) -> Vec<String> {
    let recorded = RecordStore::new(Arc::new(source.clone()));
    let log = recorded.log();
    let faulty = FaultStore::new(Arc::new(recorded));
    let fails = Rule::on(Op::Get, Action::Fail(Cause::Failed)).from(n);
    faulty.faults().add(fails);
    let store: SharedStore = Arc::new(faulty);
    let writer = repository.begin_writer("main", vec![], Compression::Auto);
    let writer = writer.await.unwrap();
    let by = Method::Copy.open().unwrap();
    let mut stored = Stored::begin(&writer, Method::Copy, checkpoints);
    let known = maps(repository, &writer).await;
    capture(
        &context(),
        &*by,
        &mut stored,
        Some(&store),
        &required(catalog),
        &known,
    )
    .await
    .unwrap_err();
    if orderly {
        stored.write_down().await;
        drop(stored);
    }
    writer.abort().await.unwrap();
    log.keys(Op::Get)
}

/// What the checkpoints of a repository know.
async fn maps(repository: &Repository, writer: &Writer) -> Vec<Map> {
    let checkpoints = repository.checkpoints("main").await.unwrap();
    let roots = checkpoints
        .iter()
        .filter_map(|c| objects_of(c, Method::Copy));
    roots.map(|root| writer.view().map(Some(root))).collect()
}

#[tokio::test]
async fn what_a_capture_that_broke_off_had_read_is_not_read_again() {
    let (catalog, repository) = (catalog(), repository().await);
    let source = source(&catalog).await;
    let all = catalog.objects().count();
    let half = all as u64 / 2;
    let never = Checkpoints {
        time: std::time::Duration::MAX,
        bytes: u64::MAX,
    };
    let mut read: Vec<String> = Vec::new();
    // Ended in order at the first half, then twice at once, then to the end: all are read once, but
    // for those under way.
    for n in [half, 3, 3] {
        let again = broken_off(&repository, &source, &catalog, n, never, true).await;
        read.extend(again);
    }
    let writer = repository.begin_writer("main", vec![], Compression::Auto);
    let writer = writer.await.unwrap();
    let known = maps(&repository, &writer).await;
    assert_eq!(known.len(), 3);
    let recorded = RecordStore::new(Arc::new(source.clone()));
    let log = recorded.log();
    let store: SharedStore = Arc::new(recorded);
    let by = Method::Copy.open().unwrap();
    let mut stored = Stored::begin(&writer, Method::Copy, never);
    let copied = capture(
        &context(),
        &*by,
        &mut stored,
        Some(&store),
        &required(&catalog),
        &known,
    )
    .await
    .unwrap();
    writer.flush().await.unwrap();
    read.extend(log.keys(Op::Get));
    assert_eq!(copied.objects, all as u64);
    assert!(
        copied.objects_read <= copied.objects - half + 64,
        "{copied:?}"
    );
    assert!(read.len() <= all + 3 * 64, "{} of {all}", read.len());
    drop(stored);
    let sessions: Vec<_> = repository.checkpoints("main").await.unwrap();
    writer
        .remove_checkpoints(sessions.iter().map(|c| c.session))
        .await;
    assert!(repository.checkpoints("main").await.unwrap().is_empty());
    writer.finish().await.unwrap();
    let whole = run(&repository, &source, &catalog, None).await.0;
    assert_eq!(copied.root, whole.root);
}

#[tokio::test]
async fn a_tree_that_is_found_damaged_is_made_again() {
    let (catalog, repository) = (catalog(), repository().await);
    let source = source(&catalog).await;
    let (first, _) = run(&repository, &source, &catalog, None).await;
    let store = repository.store();
    let packs: Vec<_> = store
        .list("tree/", ListOptions::default())
        .try_collect()
        .await
        .unwrap();
    for pack in &packs {
        let read = store.get(&pack.key, GetOptions::default()).await.unwrap();
        let mut bytes = read.to_vec();
        // In the first blob.
        bytes[100] ^= 1;
        store.delete(&pack.key, None).await.unwrap();
        let put = store.put(&pack.key, bytes.into(), PutOptions::default());
        put.await.unwrap();
    }
    let (again, _) = run(&repository, &source, &catalog, first.root).await;
    assert_eq!((again.lost_packs, again.damaged_blobs), (0, packs.len()));
    assert!(again.objects_read > 0);
    assert_eq!(again.root, first.root, "the same snapshot as before");
}

#[tokio::test]
async fn a_storage_that_fails_is_the_instances_failure_and_not_the_repositorys() {
    for op in [Op::Get, Op::List] {
        for cause in [Cause::Unavailable, Cause::AccessDenied, Cause::Failed] {
            let (catalog, repository) = (catalog(), repository().await);
            let faulty = FaultStore::new(Arc::new(source(&catalog).await));
            let script = faulty.faults();
            script.add(Rule::on(op, Action::Fail(cause)).from(2));
            let store: SharedStore = Arc::new(SidedStore::new(Arc::new(faulty), Side::Source));
            let writer = repository.begin_writer("main", vec![], Compression::Auto);
            let writer = writer.await.unwrap();
            let mut stored = Stored::begin(&writer, Method::Copy, Checkpoints::default());
            let by = Method::Copy.open().unwrap();
            let error = capture(
                &context(),
                &*by,
                &mut stored,
                Some(&store),
                &required(&catalog),
                &[],
            )
            .await
            .unwrap_err();
            assert_eq!(error.exit_code(), 20, "{op:?} {cause:?}");
            writer.finish().await.unwrap();
        }
    }
}

#[tokio::test]
async fn objects_that_are_gone_are_named_and_the_rest_is_captured() {
    let (catalog, repository) = (catalog(), repository().await);
    let source = source(&catalog).await;
    let gone: Vec<String> = catalog.objects().step_by(7).map(|o| o.path).collect();
    for path in &gone {
        source
            .delete(&Key::new(path.as_str()).unwrap(), None)
            .await
            .unwrap();
    }
    let (copied, _) = run(&repository, &source, &catalog, None).await;
    let missing: Vec<String> = copied.missing.iter().map(|o| o.path.clone()).collect();
    assert_eq!(missing, gone);
    assert_eq!(
        copied.objects + gone.len() as u64,
        catalog.objects().count() as u64
    );
    let weakening = body::missing_weakening(&catalog, &copied).unwrap();
    assert!(
        weakening.items[0].contains("segment"),
        "{:?}",
        weakening.items[0]
    );
    assert!(weakening.items[0].contains(&gone[0]));
}

#[tokio::test]
async fn a_file_that_became_shorter_than_etcd_says_is_refused() {
    let (catalog, repository) = (catalog(), repository().await);
    let source = source(&catalog).await;
    let object = catalog
        .objects()
        .find(|o| o.expected_size.is_some())
        .unwrap();
    put(&source, &object.path, 3).await;
    let store: SharedStore = Arc::new(source);
    let writer = repository
        .begin_writer("main", vec![], Compression::Auto)
        .await
        .unwrap();
    let by = Method::Copy.open().unwrap();
    let mut stored = Stored::begin(&writer, Method::Copy, Checkpoints::default());
    let error = capture(
        &context(),
        &*by,
        &mut stored,
        Some(&store),
        &required(&catalog),
        &[],
    )
    .await
    .unwrap_err();
    assert!(error.chain().contains(&object.path), "{}", error.chain());
    writer.finish().await.unwrap();
}

fn anchored(timestamp: u64) -> Anchored {
    let anchor = Anchor {
        revision: 7,
        keys: recorded::keys(),
    };
    Anchored::new(
        Timestamp::UNIX_EPOCH,
        anchor,
        catalog(),
        timestamp,
        Undated::default(),
    )
}

#[test]
fn the_cut_is_proven_exactly_when_no_log_is_newer() {
    let newest = anchored(1).cut.newest_log;
    assert!(newest > 0);
    let proven = anchored(newest).cut;
    assert!(proven.proven && proven.straddling.is_empty());
    let broken = anchored(newest - 1).cut;
    assert!(!broken.proven);
    let paths: BTreeSet<String> = catalog().objects().map(|o| o.path).collect();
    assert!(!broken.straddling.is_empty());
    for path in &broken.straddling {
        assert!(paths.contains(path), "{path} is no object");
    }
    assert!(
        anchored(0).cut.proven,
        "of a stopped Milvus nothing is newer"
    );
}

#[test]
fn what_milvus_and_etcd_agree_on_is_no_difference() {
    let catalog = catalog();
    assert_eq!(
        view::differences(&inventory_of(&catalog), &catalog),
        view::Differences::default()
    );
}

#[test]
fn a_partition_that_waits_to_be_cleaned_up_is_no_difference() {
    let mut catalog = catalog();
    let collection = catalog
        .collections
        .values_mut()
        .find(|c| c.is_created())
        .unwrap();
    let gone = catalog::Partition {
        name: "gone".to_owned(),
        state: PartitionState::Dropping,
        create_timestamp: 1,
    };
    collection.partitions.insert(1, gone);
    assert_eq!(
        view::differences(&inventory_of(&catalog), &catalog),
        view::Differences::default()
    );
}

#[test]
fn a_property_that_milvus_has_in_memory_only_is_named_with_what_to_do() {
    let catalog = catalog();
    let mut inventory = inventory_of(&catalog);
    inventory.collections[0]
        .description
        .properties
        .push(KeyValuePair {
            key: "collection.ttl.seconds".to_owned(),
            value: "60".to_owned(),
        });
    let found = view::differences(&inventory, &catalog).found;
    assert_eq!(found.len(), 1, "{found:?}");
    let difference = found.first().unwrap();
    assert!(difference.contains("collection.ttl.seconds") && difference.contains("set it again"));
}

#[test]
fn file_resources_are_a_weakening_that_names_them() {
    let set = SimulatedKeys::v2_6(&[]);
    let catalog = Catalog::decode(&SimulatedKeys::roots(), &set.keys, &set.version).unwrap();
    let found = body::resources_weakening(&catalog).unwrap();
    assert_eq!(found.code, weakening::FILE_RESOURCES);
    assert_eq!(found.items, ["dict.txt"]);
    let set = SimulatedKeys::v2_3();
    let catalog = Catalog::decode(&SimulatedKeys::roots(), &set.keys, &set.version).unwrap();
    assert_eq!(body::resources_weakening(&catalog), None);
}

#[test]
fn what_differs_with_equal_counts_and_names_is_named_too() {
    let catalog = catalog();
    let mut inventory = inventory_of(&catalog);
    inventory.users[0] = "mallory".to_owned();
    inventory.roles[0].name = "owner".to_owned();
    let collection = inventory.collections.iter_mut();
    let mut indexed = collection.filter(|c| !c.indexes.is_empty());
    let collection = indexed.next().unwrap();
    let index = collection.indexes.values_mut().next().unwrap();
    index.field_name = "elsewhere".to_owned();
    let schema = collection.description.schema.as_mut().unwrap();
    schema.fields[0].data_type = 99;
    let found = view::differences(&inventory, &catalog).found;
    let found: Vec<_> = found.iter().map(String::as_str).collect();
    assert_eq!(found.len(), 4, "{found:?}");
    for words in [
        "users: only in Milvus [\"mallory\"]",
        "roles: only in Milvus [\"owner\"]",
        "on elsewhere",
        ": fields: only in",
    ] {
        assert!(
            found.iter().any(|one| one.contains(words)),
            "{words}: {found:?}"
        );
    }
}

#[test]
fn a_pause_of_garbage_collection_that_was_lost_is_noted_even_when_another_followed() {
    let gc = |state| HoldRecord {
        hold: "gc".to_owned(),
        state,
        held_ms: 1,
        detail: String::new(),
    };
    let noted = |states: &[HoldState]| {
        let records: Vec<_> = states.iter().copied().map(gc).collect();
        body::gc_note(&records)
    };
    assert_eq!(noted(&[HoldState::Held]), None);
    assert!(
        noted(&[HoldState::Absent])
            .unwrap()
            .contains("could not be held")
    );
    let lost = noted(&[HoldState::Lost, HoldState::Held]);
    assert!(lost.unwrap().contains("was lost"));
}
