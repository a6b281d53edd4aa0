use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use jiff::Timestamp;

use super::*;
use crate::base::progress::testing::Silent;
use crate::base::resources::Resources;
use crate::etcd::TxnLimits;
use crate::instance::objects::{ObjectLayer, Presence};
use crate::milvus::objects::collection_prefix;
use crate::repo::{Manifest, Unlock};
use crate::restore::act::keyspace::memory::{Fault, MemoryKeys};
use crate::restore::plan::marker::{Marker, MarkerKeys};
use crate::snapshot::fixture::{Contents, body, commit, noise, repository, told};
use crate::snapshot::{Selected, WalState};
use crate::store::open::Location;
use crate::store::testing::fault::{Action, FaultStore, Rule};
use crate::store::testing::memory::MemoryStore;
use crate::store::testing::record::Op;
use crate::store::{GetOptions, Key, ListOptions, PutOptions, Store};
use crate::{Cause, Result};

fn contents(state: WalState) -> Contents {
    let objects = (0..6)
        .map(|n| {
            (
                format!("insert_log/1/2/3/100/{n}"),
                noise(n, 100 + usize::from(n)),
            )
        })
        .chain([("index_files/5/1/2/3/big".to_owned(), noise(50, 20_000))]);
    let mut body = body();
    body.wal.state = state;
    let wal = match state {
        WalState::Reset => BTreeMap::new(),
        WalState::Captured => [
            ("rdb_data/000004.log".to_owned(), noise(60, 9000)),
            ("rdb_data/CURRENT".to_owned(), noise(61, 16)),
            ("rdb_data_meta_kv/000007.sst".to_owned(), noise(62, 300)),
        ]
        .into(),
    };
    Contents {
        objects: objects.collect(),
        wal,
        keys: vec![],
        body,
    }
}

/// What is to be there; the counter of sessions goes on from the target's own, as it does in a plan.
fn target(session_id: i64) -> TargetKeys {
    let counter = (session_id.max(7) + 16).to_string();
    let keys = [
        ("r/meta/fields/1", "f"),
        ("r/meta/session/id", counter.as_str()),
        ("r/meta/collection/1", "c"),
    ];
    TargetKeys {
        keys: keys.map(|(k, v)| (k.into(), v.into())).to_vec(),
        last: 1,
    }
}

/// An old instance: keys, objects (one with the path of a new one, one equal), a queue.
const OLD: [(&str, &[u8]); 4] = [
    ("insert_log/1/2/3/100/2", b"other bytes at the same path"),
    ("insert_log/9/9/9/100/1", b"gone at the end"),
    ("notes.txt", b"not an object of Milvus"),
    ("delta_log/9/9/9/1", b"gone too"),
];

async fn captured(state: WalState) -> (Repository, Manifest) {
    let (_, repository, manifest) = captured_in(state).await;
    (repository, manifest)
}

async fn captured_in(state: WalState) -> (MemoryStore, Repository, Manifest) {
    let (store, repository) = repository().await;
    let manifest = commit(&repository, &contents(state)).await;
    (store, repository, manifest)
}

/// A layer of one file and no line: objects in memory, which the world hands to the restore.
#[derive(Debug)]
struct InMemory;

#[async_trait]
impl Layer for InMemory {
    fn record(&self) -> ObjectLayer {
        ObjectLayer::Local {
            path: String::new(),
        }
    }

    fn place(&self) -> String {
        "memory".into()
    }

    async fn open(&self) -> Result<SharedStore> {
        Ok(Arc::new(MemoryStore::new()))
    }

    async fn look(&self) -> Result<(Presence, Option<SharedStore>)> {
        Ok((Presence::There, Some(self.open().await?)))
    }

    async fn make(&self) -> Result<SharedStore> {
        self.open().await
    }

    async fn overlap(&self, _: &Location) -> Option<String> {
        None
    }
}

/// A target that survives crashes.
struct World {
    repository: Repository,
    manifest: Manifest,
    keys: MemoryKeys,
    objects: MemoryStore,
    queue: tempfile::TempDir,
    options: Options,
    scope: Scope,
    contents: Contents,
}

impl World {
    async fn new(occupied: Occupied, state: WalState) -> Self {
        Self::on(&captured(state).await, occupied, state).await
    }

    async fn on(from: &(Repository, Manifest), occupied: Occupied, state: WalState) -> Self {
        let contents = contents(state);
        let (repository, manifest) = from.clone();
        let world = Self {
            repository,
            manifest,
            keys: MemoryKeys::default(),
            objects: MemoryStore::new(),
            queue: tempfile::tempdir().unwrap(),
            options: Options {
                occupied,
                ..Options::default()
            },
            scope: Scope::whole(&Roots::new("r")),
            contents,
        };
        if occupied == Occupied::Replace {
            world.keys.insert("r/meta/old", b"1");
            world.keys.insert("r/meta/collection/9", b"1");
            for (key, bytes) in OLD {
                world.put(key, bytes).await;
            }
            world.put("insert_log/1/2/3/100/1", &noise(1, 101)).await;
            for directory in world.directories() {
                std::fs::create_dir(&directory).unwrap();
                std::fs::write(directory.join("OLD"), "old").unwrap();
            }
        }
        world
    }

    fn directories(&self) -> Vec<PathBuf> {
        ["rdb", "rdb_meta_kv"]
            .map(|name| self.queue.path().join(name))
            .to_vec()
    }

    async fn put(&self, key: &str, bytes: &[u8]) {
        let bytes = Bytes::copy_from_slice(bytes);
        let key = Key::new(key).unwrap();
        self.objects
            .put(&key, bytes, PutOptions::default())
            .await
            .unwrap();
    }

    /// One process: what it knows comes from the keys, as in a real run.
    async fn run(&self, store: SharedStore) -> Result<Done> {
        let view = told(self.repository.view().await);
        let snapshot = told(Snapshot::open(&view, self.manifest.clone()));
        let names = MarkerKeys::new("r");
        let mut keys = self.keys.clone();
        let all = keys.read("r/").await?;
        let found = crate::restore::plan::marker::Found::read(&names, &all.keys);
        let marker = found.marker.clone().unwrap_or(Marker {
            restore: "x".into(),
            repository: self.repository.id().to_string(),
            snapshot: self.manifest.snapshot.to_string(),
            options: String::new(),
            started: Timestamp::UNIX_EPOCH,
            over_swap: false,
        });
        let stage = found.stage.unwrap_or(Stage::Objects);
        let old = Old {
            instance: "main".into(),
            keys: all
                .keys
                .into_iter()
                .filter(|kv| !names.owns(&kv.key))
                .collect(),
            body: body(),
        };
        let replaces = self.options.occupied == Occupied::Replace && stage == Stage::Objects;
        let storage = Storage {
            layer: Arc::new(InMemory),
            store,
            outside: vec![],
        };
        let queue = WalDirectories {
            directories: self.directories(),
        };
        let own = keys.dump().get("r/meta/session/id").cloned();
        let own = own.map_or(0, |own| String::from_utf8(own).unwrap().parse().unwrap());
        let pinned = found.pinned.filter(|_| stage > Stage::Objects);
        let pinned = pinned.unwrap_or(Pinned {
            session_id: own,
            version: "2.3.5".into(),
        });
        let target = target(pinned.session_id);
        let work = Steps {
            snapshot: &snapshot,
            repository: &self.repository,
            options: &self.options,
            beginning: Beginning {
                marker: &marker,
                stage,
                given_up: None,
                found: found.value.as_deref(),
                limits: TxnLimits::default(),
                seen: Some(all.revision),
            },
            target: &target,
            scope: &self.scope,
            roots: &Roots::new("r"),
            storage: &storage,
            queue: &queue,
            old: replaces.then_some(&old),
            pinned,
            instance: None,
            saved: found.saved,
            command: "eyrie restore",
            env: &Env::simulated(Timestamp::UNIX_EPOCH, 3).0,
            progress: &(Arc::new(Silent) as SharedProgress),
            cancel: &Cancel::new(),
        };
        Box::pin(work.run(&mut keys, None)).await
    }

    fn plain(&self) -> SharedStore {
        Arc::new(self.objects.clone())
    }

    async fn stored(&self) -> BTreeMap<String, Bytes> {
        let metas: Vec<_> = self
            .objects
            .list("", ListOptions::default())
            .try_collect()
            .await
            .unwrap();
        let mut found = BTreeMap::new();
        for meta in metas {
            let bytes = self
                .objects
                .get(&meta.key, GetOptions::default())
                .await
                .unwrap();
            found.insert(meta.key.to_string(), bytes);
        }
        found
    }

    async fn complete(&self) {
        let mut wanted = self.contents.objects.clone();
        if self.options.occupied == Occupied::Replace {
            wanted.insert("notes.txt".into(), Bytes::from_static(OLD[2].1));
        }
        assert_eq!(self.stored().await, wanted);
        let mut keys = self.keys.dump();
        let pinned: Pinned = serde_json::from_slice(&keys["r/eyrie/restore-target"]).unwrap();
        let least = pinned.session_id;
        let left = ["restored", "restore-lock", "restore-target"];
        keys.retain(|key, _| !left.iter().any(|name| *key == format!("r/eyrie/{name}")));
        let wanted = target(least).keys.into_iter();
        let wanted = wanted.map(|(key, value)| (String::from_utf8(key).unwrap(), value));
        assert_eq!(keys, wanted.collect());
        let files = |directory: PathBuf| -> BTreeMap<String, Bytes> {
            let Ok(entries) = std::fs::read_dir(directory) else {
                return BTreeMap::new();
            };
            let read = |entry: std::io::Result<std::fs::DirEntry>| {
                let entry = entry.unwrap();
                let bytes = std::fs::read(entry.path()).unwrap_or_default();
                (entry.file_name().into_string().unwrap(), bytes.into())
            };
            entries.map(read).collect()
        };
        for (name, directory) in ["rdb_data/", "rdb_data_meta_kv/"]
            .into_iter()
            .zip(self.directories())
        {
            let wanted = self.contents.wal.iter();
            let wanted = wanted.filter_map(|(path, bytes)| {
                Some((path.strip_prefix(name)?.to_owned(), bytes.clone()))
            });
            assert_eq!(files(directory), wanted.collect());
        }
    }

    /// Nobody but the restore has written, so it must never seem so.
    async fn nobody_seems_to_have_written(&self) {
        let all = self.keys.clone().read("r/").await.unwrap().keys;
        let found = crate::restore::plan::marker::Found::read(&MarkerKeys::new("r"), &all);
        assert_eq!(found.touched, None);
    }

    /// While the swap has not begun, all that was there is there.
    async fn old_is_whole_before_the_swap(&self) {
        let keys = self.keys.dump();
        let swapped = keys
            .get("r/eyrie/restore-stage")
            .is_some_and(|stage| stage != b"objects");
        if self.options.occupied == Occupied::Refuse
            || swapped
            || keys.contains_key("r/eyrie/restored")
        {
            return;
        }
        assert!(keys.contains_key("r/meta/old") && keys.contains_key("r/meta/collection/9"));
        let stored = self.stored().await;
        for (key, bytes) in OLD {
            assert_eq!(stored[key], bytes, "{key} of the old instance");
        }
        assert!(
            self.directories()
                .iter()
                .all(|directory| directory.join("OLD").exists())
        );
    }
}

fn ways() -> [(Occupied, WalState); 4] {
    [
        (Occupied::Refuse, WalState::Reset),
        (Occupied::Refuse, WalState::Captured),
        (Occupied::Replace, WalState::Reset),
        (Occupied::Replace, WalState::Captured),
    ]
}

#[tokio::test]
async fn a_restore_is_complete_and_can_be_repeated() {
    for (occupied, state) in ways() {
        let world = World::new(occupied, state).await;
        let done = told(world.run(world.plain()).await);
        world.complete().await;
        let objects = world.contents.objects.len() as u64;
        assert_eq!(done.written.objects + done.kept.objects, objects);
        world.keys.revive();
        let again = told(world.run(world.plain()).await);
        world.complete().await;
        assert_eq!((again.written.objects, again.kept.objects), (0, objects));
    }
}

#[tokio::test]
async fn a_restore_of_a_part_leaves_the_rest_of_the_target_alone() {
    let (_, repository) = repository().await;
    let mut more = contents(WalState::Reset);
    let other = "insert_log/2/2/4/100/1";
    let entry = format!("{}{:020}/{:020}/{other}", collection_prefix(2), 2, 4);
    more.objects.insert(entry, noise(70, 10));
    let manifest = commit(&repository, &more).await;
    let mut world = World::on(&(repository, manifest), Occupied::Replace, WalState::Reset).await;
    let keys = [
        "r/meta/collection/1",
        "r/meta/fields/1",
        "r/meta/fields/1/",
        "r/meta/session/id",
    ];
    world.scope = Scope {
        selected: Selected::Collections([1].into()),
        keys: keys.map(str::to_owned).to_vec(),
        empty: vec![],
        replaced: vec!["insert_log/1/".to_owned()],
    };
    world
        .put("insert_log/1/2/3/100/99", b"gone at the end")
        .await;
    world.keys.insert("r/meta/fields/1/old", b"gone at the end");
    world
        .keys
        .insert("r/meta/fields/10", b"of another collection");
    let done = told(world.run(world.plain()).await);
    assert_eq!(done.removed, 1);
    let stored = world.stored().await;
    let mut wanted = world.contents.objects.clone();
    let beside = OLD
        .iter()
        .filter(|(path, _)| !path.starts_with("insert_log/1/"));
    wanted.extend(beside.map(|(path, bytes)| ((*path).to_owned(), Bytes::from_static(bytes))));
    assert_eq!(
        stored, wanted,
        "and not {other}, which is of another collection"
    );
    let keys = world.keys.dump();
    let of_milvus = keys.keys().filter(|key| key.starts_with("r/meta/"));
    let wanted = [
        "r/meta/collection/1",
        "r/meta/collection/9",
        "r/meta/fields/1",
        "r/meta/fields/10",
        "r/meta/old",
        "r/meta/session/id",
    ];
    assert_eq!(of_milvus.collect::<Vec<_>>(), wanted);
}

#[tokio::test]
async fn what_is_replaced_is_saved_first_in_a_lineage_of_its_own() {
    let world = World::new(Occupied::Replace, WalState::Reset).await;
    let done = told(world.run(world.plain()).await);
    assert_eq!((done.kept.objects, done.removed), (1, 2));
    let snapshots = told(world.repository.snapshots().await);
    assert!(snapshots.damage.is_empty());
    let saved = snapshots.newest_of("main.replaced").unwrap();
    assert_eq!(saved.labels["eyrie.contents"], "keys-only");
    assert_eq!(snapshots.newest_of("main").unwrap().sequence, 1);
    let view = told(world.repository.view().await);
    let keys = told(told(Snapshot::open(&view, saved.clone())).keys().await);
    let names: Vec<_> = keys
        .iter()
        .map(|kv| String::from_utf8_lossy(&kv.key))
        .collect();
    assert_eq!(names, ["r/meta/collection/9", "r/meta/old"]);
}

/// A crash at every write to etcd, then the same again.
#[tokio::test(start_paused = true)]
async fn a_crash_at_any_write_to_etcd_is_resumed() {
    for (occupied, state) in ways() {
        let captured = captured(state).await;
        for fault in [Fault::CrashBefore, Fault::CrashAfter] {
            for at in 0.. {
                let world = World::on(&captured, occupied, state).await;
                world.keys.arm(at, fault);
                let first = world.run(world.plain()).await;
                if world.keys.armed() {
                    break;
                }
                world.old_is_whole_before_the_swap().await;
                world.keys.revive();
                world.nobody_seems_to_have_written().await;
                if first.is_err() {
                    told(world.run(world.plain()).await);
                }
                world.complete().await;
            }
        }
    }
}

/// Who may not delete restores again and again; a crash at any write of a later run is resumed, and none of them
/// is taken for a Milvus that has run.
#[tokio::test(start_paused = true)]
async fn a_crash_at_any_write_of_a_repeated_clean_up_is_resumed() {
    let captured = captured(WalState::Captured).await;
    for fault in [Fault::CrashBefore, Fault::CrashAfter] {
        for at in 0.. {
            let world = World::on(&captured, Occupied::Replace, WalState::Captured).await;
            let undeletable = || {
                let faulty = FaultStore::new(world.plain());
                let rule = Rule::on(Op::Delete, Action::Fail(Cause::AccessDenied));
                faulty.faults().add(rule);
                Arc::new(faulty)
            };
            assert!(told(world.run(undeletable()).await).left.is_some());
            world.keys.revive();
            world.nobody_seems_to_have_written().await;
            world.keys.arm(at, fault);
            let second = world.run(undeletable()).await;
            let over = world.keys.armed();
            world.keys.revive();
            world.nobody_seems_to_have_written().await;
            if let Ok(done) = second {
                assert!(done.left.is_some());
            }
            let done = told(world.run(world.plain()).await);
            assert!(done.left.is_none());
            world.complete().await;
            if over {
                break;
            }
        }
    }
}

/// What a Milvus wrote between the look and the swap is neither lost nor left out of what is saved.
#[tokio::test]
async fn what_is_written_while_objects_are_placed_stops_the_swap() {
    let world = World::new(Occupied::Replace, WalState::Reset).await;
    let faulty = FaultStore::new(world.plain());
    // The run goes on when the write returns, and the keys have changed meanwhile.
    let delay = Action::Delay(std::time::Duration::from_millis(300));
    faulty.faults().add(Rule::on(Op::Put, delay));
    let keys = world.keys.clone();
    let meddle = async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        keys.insert("r/meta/session/id", b"40");
        keys.insert("r/meta/collection/77", b"new");
    };
    let (ran, ()) = tokio::join!(world.run(Arc::new(faulty)), meddle);
    let error = ran.unwrap_err();
    assert_eq!(error.exit_code(), 21, "{}", error.chain());
    let dump = world.keys.dump();
    assert!(dump.contains_key("r/meta/collection/77") && dump.contains_key("r/meta/old"));
    assert_eq!(dump["r/eyrie/restore-stage"], b"objects");
    world.keys.revive();
    told(world.run(world.plain()).await);
    world.complete().await;
    let snapshots = told(world.repository.snapshots().await);
    let saved = snapshots.newest_of("main.replaced").unwrap().clone();
    let view = told(world.repository.view().await);
    let saved = told(told(Snapshot::open(&view, saved)).keys().await);
    assert!(saved.iter().any(|kv| kv.key == b"r/meta/collection/77"));
}

/// Whether the repository takes the old keys shows before an object is placed.
#[tokio::test]
async fn a_repository_that_takes_no_session_is_found_before_the_swap() {
    let (store, repository) = repository().await;
    told(replace::prove(&repository, "main").await);
    assert!(
        told(repository.snapshots().await)
            .newest_of("main.replaced")
            .is_none()
    );
    let faulty = FaultStore::new(Arc::new(store));
    let script = faulty.faults();
    let resources = Resources::of_tests();
    let env = Env::simulated(Timestamp::UNIX_EPOCH, 12).0;
    let opened = Repository::open(Arc::new(faulty), Unlock::None, &resources, &env);
    let repository = told(opened.await);
    script.add(Rule::on_writes(Action::Fail(Cause::AccessDenied)));
    let error = replace::prove(&repository, "main").await.unwrap_err();
    assert_eq!(error.cause(), Cause::AccessDenied, "{}", error.chain());
}

/// A restore whose list of old objects nobody has any more ends all the same.
#[tokio::test]
async fn a_clean_up_without_its_list_ends_and_says_so() {
    let (store, repository, manifest) = captured_in(WalState::Reset).await;
    let captured = (repository, manifest);
    let world = World::on(&captured, Occupied::Replace, WalState::Reset).await;
    let faulty = FaultStore::new(world.plain());
    let rule = Rule::on(Op::Delete, Action::Fail(Cause::AccessDenied));
    faulty.faults().add(rule);
    told(world.run(Arc::new(faulty)).await);
    world.keys.revive();
    let saved = told(world.repository.snapshots().await);
    let saved = saved.newest_of("main.replaced").unwrap().snapshot;
    let manifest = Key::new(format!("snapshots/{saved}")).unwrap();
    store.delete(&manifest, None).await.unwrap();
    let done = told(world.run(world.plain()).await);
    assert!(done.left.is_some());
    assert!(!world.keys.dump().contains_key("r/eyrie/restore"));
}

/// A crash at every write to the storage, then the same again.
#[tokio::test(start_paused = true)]
async fn a_crash_at_any_write_to_the_storage_is_resumed() {
    for (occupied, state) in ways() {
        let captured = captured(state).await;
        for at in 1.. {
            let world = World::on(&captured, occupied, state).await;
            let faulty = FaultStore::new(world.plain());
            let rule = Rule::on_writes(Action::Fail(Cause::Failed)).from(at);
            faulty.faults().add(rule);
            let first = world.run(Arc::new(faulty)).await;
            world.old_is_whole_before_the_swap().await;
            world.keys.revive();
            if first.is_ok_and(|done| done.left.is_none()) {
                world.complete().await;
                break;
            }
            told(world.run(world.plain()).await);
            world.complete().await;
        }
    }
}

/// Who may not delete has everything restored, and finishes with the same command later. Only what was
/// there before the swap and is still the same goes then.
#[tokio::test]
async fn what_came_after_the_swap_is_never_removed() {
    let world = World::new(Occupied::Replace, WalState::Reset).await;
    let faulty = FaultStore::new(world.plain());
    let rule = Rule::on(Op::Delete, Action::Fail(Cause::AccessDenied));
    faulty.faults().add(rule);
    let done = told(world.run(Arc::new(faulty)).await);
    assert_eq!(done.left.unwrap().cause(), Cause::AccessDenied);
    let keys = world.keys.dump();
    assert_eq!(keys["r/eyrie/restore-stage"], b"clean");
    assert!(keys.contains_key("r/meta/collection/1"));
    assert!(!keys.contains_key("r/meta/old"));

    let (new, changed) = ("insert_log/9/9/9/100/2", "delta_log/9/9/9/1");
    world.put(new, b"of a later day").await;
    world.put(changed, b"other bytes").await;
    world.keys.revive();
    let done = told(world.run(world.plain()).await);
    assert_eq!(
        (done.removed, done.changed, done.left.is_none()),
        (1, 1, true)
    );
    let stored = world.stored().await;
    assert!(stored.contains_key(new) && stored.contains_key(changed));
    assert!(!stored.contains_key("insert_log/9/9/9/100/1"));
    assert!(!world.keys.dump().contains_key("r/eyrie/restore"));
}

#[tokio::test]
async fn a_full_disk_stops_before_etcd_is_written() {
    let world = World::new(Occupied::Refuse, WalState::Reset).await;
    let faulty = FaultStore::new(world.plain());
    faulty.faults().leave_space(500);
    let error = world.run(Arc::new(faulty)).await.unwrap_err();
    assert_eq!(error.cause(), Cause::NoSpace);
    assert!(
        world
            .keys
            .dump()
            .keys()
            .all(|key| key.starts_with("r/eyrie/"))
    );
    world.keys.revive();
    told(world.run(world.plain()).await);
    world.complete().await;
}

/// What nobody can read for hours is found before the target is touched.
#[tokio::test]
async fn packs_in_an_archive_class_stop_before_anything_is_written() {
    let (store, repository, manifest) = captured_in(WalState::Captured).await;
    let prove = async || {
        let snapshot = Snapshot::open(&repository.view().await?, manifest.clone())?;
        let progress = Arc::new(Silent) as SharedProgress;
        prove::prove(&snapshot, &Selected::All, &progress, &Cancel::new()).await
    };
    told(prove().await);
    store.archive(Some("data/"));
    let error = prove().await.unwrap_err();
    assert_eq!(error.cause(), Cause::Refused);
    assert!(error.to_string().contains("archive"), "{error}");
    store.archive(None);
    told(prove().await);
}

/// Between two flipped bits, in bytes: less than the smallest sealed blob of the fixture takes.
const FLIP_STEP: usize = 128;

/// Whatever blob is damaged, it shows before anything old is gone; mended, the same goes on.
#[tokio::test]
async fn damage_of_any_blob_shows_while_the_old_instance_is_whole() {
    for state in [WalState::Reset, WalState::Captured] {
        let (store, repository, manifest) = captured_in(state).await;
        let packs: Vec<_> = store
            .list("data/", ListOptions::default())
            .try_collect()
            .await
            .unwrap();
        let captured = (repository, manifest);
        let mut hit = 0;
        for pack in packs {
            let whole = store.get(&pack.key, GetOptions::default()).await.unwrap();
            for at in (0..whole.len()).step_by(FLIP_STEP) {
                let mut flipped = whole.to_vec();
                flipped[at] ^= 0x10;
                let put = |bytes: Bytes| store.put(&pack.key, bytes, PutOptions::default());
                put(flipped.into()).await.unwrap();
                let world = World::on(&captured, Occupied::Replace, state).await;
                let Err(error) = world.run(world.plain()).await else {
                    // The pack's own directory, which a restore does not read.
                    put(whole.clone()).await.unwrap();
                    continue;
                };
                hit += 1;
                assert_eq!(error.cause(), Cause::Damage, "{}", error.chain());
                assert!(error.hint().unwrap().contains("nothing was replaced"));
                assert_eq!(world.keys.dump()["r/eyrie/restore-stage"], b"objects");
                world.old_is_whole_before_the_swap().await;
                put(whole.clone()).await.unwrap();
                world.keys.revive();
                if at % (8 * FLIP_STEP) == 0 {
                    told(world.run(world.plain()).await);
                    world.complete().await;
                }
            }
        }
        assert!(hit > 50, "only {hit} flips were in blobs");
    }
}
