//! Damage to any file is found and named, and never believed.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;

use super::support::*;
use crate::base::env::lock;
use crate::repo::format::files::{Names, Seal, StoredFile};
use crate::repo::format::sealed::FileKind;
use crate::repo::{
    Amendment, AmendmentId, CheckBytes, CheckReport, Cv, Damage, DamageKind, Manifest,
    ManifestHash, PieceRef, Repository, Roots, SessionId, Sink, SnapshotId, Verification,
};
use crate::store::testing::memory::MemoryStore;
use crate::store::{GetOptions, Key, PutOptions, Store};
use crate::{Cause, Error, Result};

struct Fixture {
    store: MemoryStore,
    first: Manifest,
    second: Manifest,
}

/// Two snapshots of two instances that share most objects.
async fn fixture() -> Fixture {
    let store = MemoryStore::new();
    let repo = init(Arc::new(store.clone())).await;
    let mut data = objects(1);
    let (first, _) = backup(&repo, "a", &data).await.unwrap();
    data.insert("only/b".into(), noise(99, 10_000));
    let (second, _) = backup(&repo, "b", &data).await.unwrap();
    Fixture {
        store,
        first,
        second,
    }
}

async fn checked(store: &MemoryStore) -> CheckReport {
    open(Arc::new(store.clone()))
        .await
        .unwrap()
        .check(&[], CheckBytes::All)
        .await
        .unwrap()
}

/// A lease, a verification, and a file of each other kind that opens by itself; the snapshots need none.
async fn small_files(store: &MemoryStore) {
    let repo = open(Arc::new(store.clone())).await.unwrap();
    repo.require_features(vec![], vec![]).await.unwrap();
    // The session does not end, so its lease stays.
    std::mem::forget(repo.begin_reader("a", vec![]).await.unwrap());
    let verification = Verification {
        time: jiff::Timestamp::UNIX_EPOCH,
        level: "bytes".into(),
        results: vec![],
        places: vec![],
        segments: vec![],
    };
    repo.record_verification(&verification).await.unwrap();
    repo.record_forgetting(&[]).await.unwrap();
    let id = AmendmentId([7; 32]);
    let amendment = Amendment {
        format: 1,
        amendment: id,
        snapshot: SnapshotId([7; 32]),
        manifest: ManifestHash([7; 32]),
        session: SessionId([7; 32]),
        time: jiff::Timestamp::UNIX_EPOCH,
        roots: Roots::new(),
        requires: vec![],
    };
    let path = StoredFile::Amendment.path(&id);
    let kind = FileKind::Amendment;
    let bytes = repo.sealer().seal_json(kind, &path, &amendment).unwrap();
    repo.put_once(&path, bytes).await.unwrap();
    for file in [StoredFile::Mark, StoredFile::Checkpoint] {
        let Seal::Meta(kind) = file.row().seal else {
            panic!("{file:?} is not sealed");
        };
        let path = file.path(&SnapshotId([7; 32]));
        let bytes = repo.sealer().seal_json(kind, &path, &"of a test").unwrap();
        repo.put_once(&path, bytes).await.unwrap();
    }
}

type How = (&'static str, fn(&mut Vec<u8>));

const HOWS: [How; 5] = [
    ("a flipped bit in the middle", |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    }),
    ("a flipped first bit", |bytes| bytes[0] ^= 1),
    ("a flipped last bit", |bytes| {
        *bytes.last_mut().unwrap() ^= 0x80;
    }),
    ("a byte cut off", |bytes| _ = bytes.pop()),
    ("nothing left", Vec::clear),
];

#[tokio::test]
async fn every_kind_of_file_in_every_way() {
    let fixture = fixture().await;
    let opens_with = [StoredFile::Config, StoredFile::Key];
    small_files(&fixture.store).await;
    for file in StoredFile::ALL {
        let keys = match file.row().names {
            Names::One(name) => vec![Key::new(name).unwrap()],
            _ => paths(&fixture.store, file.row().directory).await,
        };
        let keys: Vec<Key> = keys
            .into_iter()
            .filter(|key| file.id(key.as_str()).is_some())
            .collect();
        assert!(!keys.is_empty(), "the fixture has no {file:?}");
        for key in keys {
            for (name, how) in HOWS {
                let store = fixture.store.fork();
                damage(&store, &key, how).await;
                let case = format!("{name} in {key}");
                if let Err(error) = open(Arc::new(store.clone())).await {
                    assert_eq!(error.cause(), Cause::Damage, "{case}: {error:?}");
                    assert!(opens_with.contains(file), "{case}: {error:?}");
                    continue;
                }
                let report = checked(&store).await;
                let named = |damage: &Damage| damage.what.contains(key.as_str());
                assert!(
                    report.damage.iter().any(named),
                    "{case}: {:?}",
                    report.damage
                );
                restore_never_lies(&store, &fixture, &case).await;
            }
        }
    }
}

/// Each snapshot comes back exactly, or with an error.
async fn restore_never_lies(store: &MemoryStore, fixture: &Fixture, case: &str) {
    let repo = open(Arc::new(store.clone())).await.unwrap();
    let good = open(Arc::new(fixture.store.clone()))
        .await
        .unwrap()
        .view()
        .await
        .unwrap();
    for manifest in [&fixture.first, &fixture.second] {
        let read = match repo.view().await {
            Ok(view) => restore(&view, manifest).await,
            Err(error) => Err(error),
        };
        match read {
            Ok(read) => assert_eq!(read, restore(&good, manifest).await.unwrap(), "{case}"),
            Err(error) => assert_eq!(error.cause(), Cause::Damage, "{case}: {error:?}"),
        }
    }
}

#[tokio::test]
async fn a_damaged_manifest_does_not_hide_the_others() {
    let fixture = fixture().await;
    let key = Key::new(format!("snapshots/{}", fixture.first.snapshot)).unwrap();
    damage(&fixture.store, &key, |bytes| bytes[20] ^= 4).await;
    let repo = open(Arc::new(fixture.store.clone())).await.unwrap();
    let snapshots = repo.snapshots().await.unwrap();
    assert_eq!(snapshots.manifests, std::slice::from_ref(&fixture.second));
    assert_eq!(snapshots.damage.len(), 1);
    assert_eq!(snapshots.damage[0].snapshots, [fixture.first.snapshot]);
    assert_eq!(
        snapshots.find("latest", None).unwrap_err().cause(),
        Cause::Damage
    );
    // The next backup goes on.
    backup(&repo, "a", &objects(1)).await.unwrap();
}

#[tokio::test]
async fn a_lost_pack_is_laid_to_the_snapshots_that_need_it() {
    let fixture = fixture().await;
    let both = [fixture.first.snapshot, fixture.second.snapshot];
    for key in paths(&fixture.store, "data/").await {
        let store = fixture.store.fork();
        store.delete(&key, None).await.unwrap();
        let report = open(Arc::new(store.clone()))
            .await
            .unwrap()
            .check(&[], CheckBytes::None)
            .await
            .unwrap();
        let [damage] = &report.damage[..] else {
            panic!("{:?}", report.damage)
        };
        assert_eq!(damage.kind, DamageKind::Pack);
        assert_eq!(damage.what, format!("{key} is missing"));
        let hurt: Vec<bool> = both
            .iter()
            .map(|id| damage.snapshots.contains(id))
            .collect();
        assert!(hurt == [true, true] || hurt == [false, true], "{damage:?}");
        // Asked about the first snapshot alone, what it does not need is not its damage.
        let repo = open(Arc::new(store)).await.unwrap();
        let first = repo.check(&both[..1], CheckBytes::All).await.unwrap();
        assert_eq!(first.damage.len(), usize::from(hurt[0]));
    }
}

#[tokio::test]
async fn a_lost_index_segment_is_told_by_the_blobs_that_nobody_knows() {
    let fixture = fixture().await;
    let key = paths(&fixture.store, "index/").await.remove(0);
    fixture.store.delete(&key, None).await.unwrap();
    let report = checked(&fixture.store).await;
    assert!(
        report
            .damage
            .iter()
            .all(|damage| damage.kind == DamageKind::Index)
    );
    assert!(
        report
            .damage
            .iter()
            .any(|damage| damage.what.contains("in no index segment"))
    );
}

#[tokio::test]
async fn a_damaged_index_segment_is_named_and_stops_nothing() {
    let store = MemoryStore::new();
    let repo = init(Arc::new(store.clone())).await;
    let (of_a, _) = backup(&repo, "a", &objects(1)).await.unwrap();
    let segment = paths(&store, "index/").await.remove(0);
    let (of_b, _) = backup(&repo, "b", &objects(2)).await.unwrap();
    damage(&store, &segment, |bytes| bytes[40] ^= 1).await;
    let report = checked(&store).await;
    let named = |d: &Damage| d.kind == DamageKind::Index && d.place == segment.as_str();
    assert!(report.damage.iter().all(named), "{:?}", report.damage);
    assert_eq!(report.damage.len(), 1);
    // Its blobs are known by the directories of their packs, so nobody is hurt.
    assert_eq!(report.damage[0].snapshots, []);

    let repo = open(Arc::new(store.clone())).await.unwrap();
    let view = repo.view().await.unwrap();
    assert_eq!(restore(&view, &of_b).await.unwrap(), objects(2));
    assert_eq!(restore(&view, &of_a).await.unwrap(), objects(1));
    // Where a pack is gone as well, what it held is absent: it is stored again, and the old snapshot is
    // whole with it.
    let pack = paths(&store, "data/").await.remove(0);
    store.delete(&pack, None).await.unwrap();
    let repo = open(Arc::new(store.clone())).await.unwrap();
    let (again_b, _) = backup(&repo, "b", &objects(2)).await.unwrap();
    let (again, _) = backup(&repo, "a", &objects(1)).await.unwrap();
    let view = repo.view().await.unwrap();
    for manifest in [&of_a, &again] {
        assert_eq!(restore(&view, manifest).await.unwrap(), objects(1));
    }
    for manifest in [&of_b, &again_b] {
        assert_eq!(restore(&view, manifest).await.unwrap(), objects(2));
    }
}

#[tokio::test]
async fn exchanged_files_do_not_pass() {
    let fixture = fixture().await;
    for prefix in ["snapshots/", "index/", "data/", "tree/"] {
        let keys = paths(&fixture.store, prefix).await;
        let store = fixture.store.fork();
        let (a, b) = (&keys[0], &keys[1]);
        let bytes = store.get(a, GetOptions::default()).await.unwrap();
        store.put(b, bytes, PutOptions::default()).await.unwrap();
        let report = checked(&store).await;
        assert!(!report.damage.is_empty(), "{a} in the place of {b}");
    }
}

#[tokio::test]
async fn a_config_of_another_repository_is_damage() {
    let fixture = fixture().await;
    let other = MemoryStore::new();
    init(Arc::new(other.clone())).await;
    let config = Key::new("config").unwrap();
    let bytes = other.get(&config, GetOptions::default()).await.unwrap();
    fixture
        .store
        .put(&config, bytes, PutOptions::default())
        .await
        .unwrap();
    let error = open(Arc::new(fixture.store.clone())).await.unwrap_err();
    assert_eq!(error.cause(), Cause::Damage);
}

#[tokio::test]
async fn a_repository_that_needs_a_newer_writer_can_be_read() {
    let store = MemoryStore::new();
    let repo = init(Arc::new(store.clone())).await;
    backup(&repo, "a", &objects(1)).await.unwrap();
    let rewrite = |change: fn(&mut crate::repo::format::config::Config)| {
        let mut config = repo.config().clone();
        change(&mut config);
        Bytes::from(config.seal(repo.sealer()).unwrap())
    };
    let key = Key::new("config").unwrap();
    let write = rewrite(|config| config.required_write.push("new".into()));
    store.put(&key, write, PutOptions::default()).await.unwrap();
    let again = open(Arc::new(store.clone())).await.unwrap();
    assert_eq!(again.snapshots().await.unwrap().manifests.len(), 1);
    let error = writer(&again, "a").await.unwrap_err();
    assert_eq!(error.exit_code(), 13);

    let read = rewrite(|config| config.required_read.push("new".into()));
    store.put(&key, read, PutOptions::default()).await.unwrap();
    assert_eq!(open(Arc::new(store)).await.unwrap_err().exit_code(), 13);
}

#[tokio::test]
async fn marks_of_a_later_eyrie_stop_writers_only() {
    let store = MemoryStore::new();
    let repo: Repository = init(Arc::new(store.clone())).await;
    let open_writer = writer(&repo, "a").await.unwrap();
    let path = StoredFile::Mark.path(&"0a".repeat(32));
    let mark = serde_json::json!({"of a": "later eyrie"});
    let mark = repo.sealer().seal_json(FileKind::Mark, &path, &mark);
    repo.put_once(&path, mark.unwrap()).await.unwrap();
    let error = write_snapshot(&open_writer, &objects(1)).await.unwrap_err();
    assert_eq!(error.cause(), Cause::NewerFormat);
    assert_eq!(
        writer(&repo, "b").await.unwrap_err().cause(),
        Cause::NewerFormat
    );
    repo.begin_reader("a", vec![]).await.unwrap().finish().await;
    open_writer.abort().await.unwrap();
}

/// What stands in docs/errors.md of a file that has a right name and is empty, or half of one: whether
/// `latest` is known, what writing fails with, and what verify names.
fn of_stray(file: StoredFile) -> (bool, Option<Cause>, Option<DamageKind>) {
    let named = file.row().damage;
    match file {
        StoredFile::Config | StoredFile::Ring => panic!("it has no such name"),
        StoredFile::Features => (true, Some(Cause::Damage), Some(named)),
        StoredFile::Lease => (true, Some(Cause::Locked), Some(named)),
        StoredFile::Manifest => (false, None, Some(named)),
        StoredFile::Data | StoredFile::Tree => (true, None, None),
        StoredFile::Key
        | StoredFile::Index
        | StoredFile::Claim
        | StoredFile::Forgotten
        | StoredFile::Amendment
        | StoredFile::Checkpoint
        | StoredFile::Mark
        | StoredFile::Verification => (true, None, Some(named)),
    }
}

#[tokio::test]
async fn stray_files_stop_what_the_page_on_errors_says_and_nothing_else() {
    let fixture = fixture().await;
    for file in StoredFile::ALL {
        if !matches!(file.row().names, Names::Id | Names::FannedOut) {
            continue;
        }
        let key = Key::new(file.path(&"5a".repeat(32))).unwrap();
        let half = match paths(&fixture.store, file.row().directory).await.first() {
            Some(one) => {
                let read = fixture.store.get(one, GetOptions::default()).await.unwrap();
                read.slice(..read.len() / 2)
            }
            None => noise(7, 100),
        };
        for stray in [Bytes::new(), half] {
            let store = MemoryStore::fork(&fixture.store);
            let put = store.put(&key, stray, PutOptions::default());
            put.await.unwrap();
            let (latest, writing, named) = of_stray(*file);
            let repo = open(Arc::new(store.clone())).await.unwrap();
            let snapshots = repo.snapshots().await.unwrap();
            assert_eq!(snapshots.manifests.len(), 2, "{key}");
            assert_eq!(snapshots.find("latest", None).is_ok(), latest, "{key}");
            let reader = repo.begin_reader("a", vec![]).await.unwrap();
            let read = restore(reader.view(), &fixture.first).await.unwrap();
            assert_eq!(read, objects(1), "{key}");
            reader.finish().await;
            let report = repo.check(&[], CheckBytes::All).await.unwrap();
            let kinds: Vec<DamageKind> = report.damage.iter().map(|d| d.kind).collect();
            assert_eq!(kinds, Vec::from_iter(named), "{key}");
            let hurt = report.damage.iter().flat_map(|d| &d.snapshots);
            let others = hurt.filter(|id| !key.as_str().ends_with(&id.to_string()));
            assert_eq!(others.count(), 0, "{key}");
            let written = backup(&repo, "a", &objects(1)).await;
            assert_eq!(written.err().map(|error| error.cause()), writing, "{key}");
        }
    }
}

#[tokio::test]
async fn a_mark_that_cannot_be_read_is_named_and_stops_nothing() {
    let (_, store) = memory();
    let repo = init(store).await;
    for (digits, bytes) in [("0a", ""), ("0b", "noise")] {
        let path = StoredFile::Mark.path(&digits.repeat(32));
        repo.put_once(&path, bytes.into()).await.unwrap();
    }
    let (manifest, _) = backup(&repo, "a", &objects(1)).await.unwrap();
    let view = repo.view().await.unwrap();
    assert_eq!(restore(&view, &manifest).await.unwrap(), objects(1));
    let report = repo.check(&[], CheckBytes::None).await.unwrap();
    let kinds: Vec<_> = report.damage.iter().map(|damage| damage.kind).collect();
    assert_eq!(kinds, [DamageKind::Mark; 2]);
}

/// Takes damage and goes on.
#[derive(Default)]
struct Tolerant {
    whole: Collect,
    damaged: Mutex<Vec<(u64, PieceRef)>>,
}

#[async_trait]
impl Sink for Tolerant {
    async fn piece(&self, item: u64, offset: u64, bytes: Bytes) -> Result<()> {
        self.whole.piece(item, offset, bytes).await
    }

    async fn damaged(&self, item: u64, piece: PieceRef, error: Error) -> Result<()> {
        assert_eq!(error.cause(), Cause::Damage);
        lock(&self.damaged).push((item, piece));
        Ok(())
    }
}

#[tokio::test]
async fn a_sink_that_takes_damage_gets_everything_else() {
    let fixture = fixture().await;
    let keys = paths(&fixture.store, "data/").await;
    damage(&fixture.store, &keys[0], |bytes| bytes[100] ^= 1).await;
    fixture.store.delete(&keys[1], None).await.unwrap();
    let view = open(Arc::new(fixture.store.clone()))
        .await
        .unwrap()
        .view()
        .await
        .unwrap();
    let entries = entries(&view, &fixture.second).await.unwrap();
    let nowhere = PieceRef {
        cv: Cv([1; 32]),
        offset: 0,
        length: 9,
    };
    let items = (0..).zip(entries.iter().map(|entry| pieces(entry).to_vec()));
    let plan = view.read_plan(items.chain([(1000, vec![nowhere])]));
    let plan = plan.await.unwrap();
    assert_eq!(plan.missing(), [(1000, nowhere)]);
    let sink = Tolerant::default();
    plan.execute(&sink).await.unwrap();
    let damaged = sink.damaged.into_inner().unwrap();
    let whole = sink.whole.0.into_inner().unwrap();
    let all: usize = entries.iter().map(|entry| pieces(entry).len()).sum();
    let read: usize = whole.values().map(std::collections::BTreeMap::len).sum();
    assert_eq!(read + damaged.len(), all + 1);
    assert!(damaged.contains(&(1000, nowhere)) && damaged.len() >= 3 && read > 0);
}
