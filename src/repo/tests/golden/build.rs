//! What made the golden repositories: everything that the format has, in as few bytes as it can be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::super::support::*;
use super::truth::{Content as Truly, Entry as TrueEntry, Runs, Snapshot as TrueSnapshot, Truth};
use super::{PASSPHRASES, unlocks};
use crate::base::env::Env;
use crate::base::resources::Resources;
use crate::repo::format::files::{Seal, StoredFile};
use crate::repo::format::ids::{IndexId, KeyId};
use crate::repo::format::keys::{NewKey, key_path, wrap};
use crate::repo::host::Host;
use crate::repo::session::lease::{LeaseFile, SessionKind};
use crate::repo::{
    Amendment, AmendmentId, BadPlace, Chunking, Content, Entry, Extent, InitOptions, Manifest,
    NodeRef, ObjectHash, Origin, PackId, Repository, Roots, SessionId, SnapshotId, Values,
    Verification, VerifiedSnapshot, Writer,
};
use crate::store::testing::memory::MemoryStore;
use crate::store::{Key, Store};

/// The keys of a real Milvus 2.3.5.
const KEYS: &str = include_str!("../../../../tests/data/milvus-2.3.5/keys.jsonl");
/// The session that was cut off before its commit.
const CUT_OFF: SessionId = SessionId([0xc0; 32]);

/// A map being written, and what it truly holds.
struct Draft<'a> {
    writer: &'a Writer,
    values: Values,
    entries: Vec<(TrueEntry, Content)>,
}

impl<'a> Draft<'a> {
    fn new(writer: &'a Writer, values: Values) -> Self {
        let entries = Vec::new();
        Self {
            writer,
            values,
            entries,
        }
    }

    fn plain(&mut self, key: &[u8], value: Runs) {
        self.push(key, value, Truly::None, Content::None);
    }

    fn push(&mut self, key: &[u8], value: Runs, content: Truly, stored: Content) {
        let key = Runs::of(key);
        let entry = TrueEntry {
            key,
            value,
            content,
        };
        self.entries.push((entry, stored));
    }

    async fn object(&mut self, key: &str, bytes: Runs) {
        let stored = store(self.writer, key, &bytes.expand().into())
            .await
            .unwrap();
        let content = Truly::Object {
            hash: stored.hash,
            size: stored.size,
            bytes,
        };
        let value = Runs::of(format!("{{\"kind\":\"of {key}\"}}").as_bytes());
        let entry = entry(key, stored);
        self.push(key.as_bytes(), value, content, entry.content);
    }

    async fn finish(mut self) -> (Option<NodeRef>, Vec<TrueEntry>) {
        self.entries.sort_by_key(|(entry, _)| entry.key.expand());
        let mut map = self.writer.map(self.values);
        for (entry, content) in &self.entries {
            let entry = Entry {
                key: entry.key.expand().into(),
                value: entry.value.expand().into(),
                content: content.clone(),
            };
            map.push(entry).await.unwrap();
        }
        let entries = self.entries.into_iter().map(|(entry, _)| entry).collect();
        (map.finish().await.unwrap(), entries)
    }
}

type Maps = BTreeMap<String, Vec<TrueEntry>>;

/// Commits maps as a snapshot.
async fn commit(writer: &Writer, drafts: Vec<(&str, Draft<'_>)>, truth: &mut Truth) -> Manifest {
    let (mut roots, mut maps) = (Roots::new(), Maps::new());
    for (name, draft) in drafts {
        let (root, entries) = draft.finish().await;
        roots.insert(name.into(), root);
        maps.insert(name.into(), entries);
    }
    let mut draft = draft(roots);
    if maps.len() > 1 {
        // So that its manifest is large enough to be compressed.
        draft.labels.insert("note".into(), "golden ".repeat(300));
    }
    let manifest = writer.commit(draft).await.unwrap();
    truth.snapshots.push(true_snapshot(&manifest, maps));
    manifest
}

fn true_snapshot(manifest: &Manifest, maps: Maps) -> TrueSnapshot {
    TrueSnapshot {
        id: manifest.snapshot,
        instance: manifest.instance.clone(),
        sequence: manifest.sequence,
        parent: manifest.parent.map(|parent| parent.snapshot),
        origin: manifest.origin.map(|origin| origin.repository),
        maps,
    }
}

/// The keys of the anchor: `varint create revision ‖ mod revision ‖ version ‖ lease ‖ value`.
fn anchor(writer: &Writer) -> Draft<'_> {
    #[derive(Deserialize)]
    struct Line {
        key: String,
        value: String,
        create_revision: u64,
        mod_revision: u64,
        version: u64,
        lease: u64,
    }
    let mut draft = Draft::new(writer, Values::Apart);
    for line in KEYS.lines() {
        let line: Line = serde_json::from_str(line).unwrap();
        let numbers = [
            line.create_revision,
            line.mod_revision,
            line.version,
            line.lease,
        ];
        let mut value = Vec::new();
        for number in numbers {
            crate::repo::format::wire::put_varint(&mut value, number);
        }
        value.extend(BASE64.decode(line.value).unwrap());
        draft.plain(&BASE64.decode(line.key).unwrap(), Runs::of(&value));
    }
    draft
}

/// Objects of few bytes; `n` changes one of them. The large one has more pieces than a node takes.
async fn objects(writer: &Writer, n: u64) -> Draft<'_> {
    let mut draft = Draft::new(writer, Values::Inline);
    for size in [0_u16, 1, 1024, 1537] {
        let bytes = noise(u64::from(size), usize::from(size));
        draft
            .object(&format!("noise/{size:06}"), Runs::of(&bytes))
            .await;
    }
    draft.object("text", Runs::of(&text(n, 4_000))).await;
    draft
}

/// A leaf that ends with its 1,024th entry, one that ends by a key, one that ends by its size, and one that
/// holds what is left: and an inner node above.
fn every_split(writer: &Writer) -> Draft<'_> {
    let mut draft = Draft::new(writer, Values::Inline);
    let ends = |key: &String| blake3::hash(key.as_bytes()).as_bytes()[0] == 0;
    let keys = (0..).map(|n| format!("a/{n:06}"));
    for key in keys.filter(|key| !ends(key)).take(1024) {
        draft.plain(key.as_bytes(), Runs::of(b"v"));
    }
    let keys = (0..).map(|n| format!("b/{n:06}"));
    for key in keys.filter(|key| !ends(key)).take(63) {
        draft.plain(key.as_bytes(), Runs::of(b"v"));
    }
    let last = (0..9999).map(|n| format!("b/x{n:06}")).find(ends).unwrap();
    draft.plain(last.as_bytes(), Runs::of(b"the 64th, and it ends the leaf"));
    for n in 0..3 {
        let value = Runs(vec![(b"0123456789abcdef".to_vec(), 25_000)]);
        draft.plain(format!("c/{n}").as_bytes(), value);
    }
    draft.plain(b"d", Runs::default());
    draft
}

fn hash_of(bytes: &[u8]) -> ObjectHash {
    ObjectHash(blake3::hash(bytes).into())
}

/// External objects and a volume, one of each with an owed hash.
async fn pinned(writer: &Writer) -> Draft<'_> {
    let mut draft = Draft::new(writer, Values::Inline);
    let about = || Runs::of(b"{\"kind\":\"pinned\"}");
    for (key, hash) in [
        ("e/known", Some(hash_of(b"known"))),
        ("e/owed", None),
        ("e/paid", None),
        ("e/lost", None),
    ] {
        let pin = format!("version of {key}");
        let content = Content::External {
            hash,
            size: 5,
            pin: Bytes::from(pin.clone()),
        };
        let truly = Truly::External {
            hash,
            size: 5,
            pin: Runs::of(pin.as_bytes()),
        };
        draft.push(key.as_bytes(), about(), truly, content);
    }
    // Pieces 0, 1 and 2 of 4 KiB, a hole, and a last one of 100 bytes; 0 and 2 are the same.
    let (one, two, last) = (vec![1; 4096], vec![2; 4096], vec![3; 100]);
    let mut extents = Vec::new();
    for (number, bytes) in [(0, &one), (1, &two), (2, &one), (4, &last)] {
        for part in bytes.chunks(4096) {
            let stored = writer.store_piece(part.to_vec().into()).await.unwrap();
            extents.push(Extent {
                number,
                piece: stored,
            });
        }
    }
    let nodes = writer.store_extents(&extents).await.unwrap();
    let bytes = Runs(vec![
        (one.clone(), 1),
        (two, 1),
        (one, 1),
        (vec![0], 4096),
        (last, 1),
    ]);
    let whole = bytes.expand();
    for (key, hash) in [("v/known", Some(hash_of(&whole))), ("v/owed", None)] {
        let size = whole.len() as u64;
        let content = Content::Volume {
            hash,
            size,
            piece: 4096,
            extents: nodes.clone(),
        };
        let truly = Truly::Volume {
            hash,
            size,
            piece: 4096,
            bytes: bytes.clone(),
        };
        draft.push(key.as_bytes(), about(), truly, content);
    }
    draft
}

/// Writes a sealed file of JSON.
async fn put_json(repo: &Repository, file: StoredFile, id: &str, body: &impl serde::Serialize) {
    let Seal::Meta(kind) = file.row().seal else {
        panic!("{file:?} is not sealed");
    };
    let path = file.path(&id);
    let bytes = repo.sealer().seal_json(kind, &path, body).unwrap();
    repo.put_once(&path, bytes).await.unwrap();
}

async fn again(store: &MemoryStore, name: &str) -> Repository {
    super::open_golden(store, name, 0).await.unwrap()
}

async fn begin(repo: &Repository, instance: &str) -> Writer {
    writer(repo, instance).await.unwrap()
}

async fn remove(store: &MemoryStore, path: String) {
    store.delete(&Key::new(path).unwrap(), None).await.unwrap();
}

/// Builds the repository called `name`, and says what it truly holds.
pub async fn build(name: &str) -> (MemoryStore, Truth) {
    let mut truth = Truth::default();
    if name == "encrypted" {
        truth.passphrases = PASSPHRASES.map(str::to_owned).into();
    }
    let store = MemoryStore::new();
    let env = Env::system();
    let options = InitOptions {
        cuts: Chunking {
            cut: 1024,
            whole: 1536,
        },
        pack_size: 1 << 20,
        ..options()
    };
    let (unlock, resources) = (unlocks(name).remove(0), Resources::of_tests());
    let made = Repository::init(Arc::new(store.clone()), unlock, options, &resources, &env);
    let repo = made.await.unwrap();
    second_key(&repo, name).await;
    repo.require_features(vec![], vec![]).await.unwrap();

    // 1: it is forgotten; one of its packs is lost before that, so that the index is written anew.
    let writer = begin(&repo, "main").await;
    let first = commit(
        &writer,
        vec![("objects", objects(&writer, 1).await)],
        &mut truth,
    )
    .await;
    writer.finish().await.unwrap();
    let pack = paths(&store, name, "data/").await.remove(0);
    remove(&store, pack).await;
    let repo = again(&store, name).await;
    let writer = begin(&repo, "main").await;
    let second = commit(
        &writer,
        vec![("objects", objects(&writer, 1).await)],
        &mut truth,
    )
    .await;
    writer.finish().await.unwrap();
    truth.snapshots.retain(|s| s.id != first.snapshot);
    truth.forgotten.push(first.snapshot);
    let forgotten = std::slice::from_ref(&first);
    repo.record_forgetting(forgotten).await.unwrap();
    remove(&store, StoredFile::Manifest.path(&first.snapshot)).await;

    repo.begin_epoch().await.unwrap();
    let repo = again(&store, name).await;
    lease(&repo, "main", CUT_OFF, BTreeSet::new(), 120).await;
    let third = everything(&repo, &mut truth).await;

    // The session that was cut off uploads its manifest at last.
    let mut late = second.clone();
    late.snapshot = SnapshotId([0x1a; 32]);
    late.session = CUT_OFF;
    late.sequence = second.sequence + 1;
    late.parent = Some(second.as_parent());
    late.write(&repo, std::time::Duration::MAX).await.unwrap();
    truth.void.push(late.snapshot);

    let writer = begin(&repo, "pinned").await;
    let pinned = commit(
        &writer,
        vec![("objects", pinned(&writer).await)],
        &mut truth,
    )
    .await;
    amend(&repo, &writer, &pinned, &mut truth).await;
    writer.finish().await.unwrap();
    copied(&repo, &mut truth).await;
    others(&repo, &third).await;
    truth.snapshots.sort_by_key(|snapshot| snapshot.id);
    (store, truth)
}

/// The third snapshot of `main`, under a second epoch and after a session that was cut off: all that a
/// capture stores, and a map that this eyrie does not know.
async fn everything(repo: &Repository, truth: &mut Truth) -> Manifest {
    let writer = begin(repo, "main").await;
    let mut large = objects(&writer, 2).await;
    let many = Runs(vec![(
        b"more than 1,024 pieces of 1,024 bytes. ".to_vec(),
        27_000,
    )]);
    large.object("large", many).await;
    let mut wal = Draft::new(&writer, Values::Inline);
    for (path, bytes) in [
        ("rdb_data/000004.log", &b"\x01\x02log of a rocksmq"[..]),
        ("rdb_data/CURRENT", b"MANIFEST-000003\n"),
        ("rdb_data_meta_kv/CURRENT", b"MANIFEST-000001\n"),
    ] {
        wal.object(path, Runs::of(bytes)).await;
        wal.entries.last_mut().unwrap().0.value = Runs::default();
    }
    let third = commit(
        &writer,
        vec![
            ("anchor", anchor(&writer)),
            ("objects", large),
            ("wal", wal),
            ("of-a-later-eyrie", every_split(&writer)),
        ],
        truth,
    )
    .await;
    writer.finish().await.unwrap();
    third
}

async fn paths(store: &MemoryStore, name: &str, prefix: &str) -> Vec<String> {
    let listed = again(store, name).await.list(prefix).await.unwrap();
    listed
        .into_iter()
        .map(|meta| meta.key.to_string())
        .collect()
}

/// Wraps the master key for a second passphrase.
async fn second_key(repo: &Repository, name: &str) {
    let Some(unlock) = unlocks(name).into_iter().nth(1) else {
        return;
    };
    let new = NewKey {
        id: KeyId([0x2b; 32]),
        repository: repo.id(),
        created: Timestamp::UNIX_EPOCH,
        label: "the second",
        cost: options().kdf,
    };
    let file = wrap(&new, &unlock, repo.master()).unwrap();
    repo.put_once(&key_path(&new.id), file.into())
        .await
        .unwrap();
}

async fn lease(
    repo: &Repository,
    instance: &str,
    session: SessionId,
    dead: BTreeSet<SessionId>,
    ttl_s: u64,
) {
    let file = LeaseFile {
        session,
        kind: SessionKind::Writer,
        lineage: repo.lineage(instance),
        host: Host {
            pid: u32::MAX,
            ..Host::current()
        },
        created: Timestamp::UNIX_EPOCH,
        ttl_s,
        renewals: 3,
        parents: vec![],
        checkpoint: false,
        uncertain: ttl_s == 0,
        packs: BTreeMap::new(),
        unfinished: vec![],
        marks: BTreeSet::new(),
        dead,
    };
    put_json(repo, StoredFile::Lease, &session.to_string(), &file).await;
}

/// Pays the hash of `e/paid` and says that `e/lost` is lost.
async fn amend(repo: &Repository, writer: &Writer, of: &Manifest, truth: &mut Truth) {
    let paid = hash_of(b"paid!");
    let mut map = writer.map(Values::Inline);
    for (key, value, content) in [
        (
            "e/lost",
            r#"{"lost":"the bucket was suspended"}"#,
            Content::None,
        ),
        (
            "e/paid",
            "",
            Content::External {
                hash: Some(paid),
                size: 5,
                pin: "version of e/paid".into(),
            },
        ),
    ] {
        let (key, value) = (key.into(), value.into());
        let entry = Entry {
            key,
            value,
            content,
        };
        map.push(entry).await.unwrap();
    }
    let root = map.finish().await.unwrap();
    writer.flush().await.unwrap();
    let amendment = Amendment {
        format: 1,
        amendment: AmendmentId([0xa3; 32]),
        snapshot: of.snapshot,
        manifest: of.known_as(),
        session: of.session,
        time: Timestamp::UNIX_EPOCH,
        roots: Roots::from([("objects".into(), root)]),
        requires: vec![],
    };
    let id = amendment.amendment.to_string();
    put_json(repo, StoredFile::Amendment, &id, &amendment).await;
    let snapshot = truth.snapshots.last_mut().unwrap();
    for entry in snapshot.maps.get_mut("objects").unwrap() {
        match (&entry.key.expand()[..], &mut entry.content) {
            (b"e/paid", Truly::External { hash, .. }) => *hash = Some(paid),
            (b"e/lost", content) => {
                *content = Truly::Lost {
                    hash: None,
                    size: 5,
                    why: "the bucket was suspended".into(),
                }
            }
            _ => {}
        }
    }
}

/// A snapshot of the same instance that was made in another repository: its third one, alone.
async fn copied(repo: &Repository, truth: &mut Truth) {
    let origin = Origin {
        repository: crate::repo::RepositoryId([0x0e; 32]),
        manifest: crate::repo::ManifestHash([0x0f; 32]),
    };
    let writer = begin(repo, "copies").await;
    let (root, entries) = objects(&writer, 7).await.finish().await;
    writer.flush().await.unwrap();
    let template = repo.snapshots().await.unwrap().manifests[0].clone();
    let mut copy = Manifest {
        snapshot: SnapshotId([0xcc; 32]),
        instance: "main".into(),
        origin: Some(origin),
        session: SessionId([0xcd; 32]),
        sequence: 3,
        parent: Some(crate::repo::Parent {
            snapshot: SnapshotId([0xcb; 32]),
            sequence: 2,
            manifest: crate::repo::ManifestHash([0xcb; 32]),
        }),
        dead: BTreeMap::new(),
        roots: Roots::from([("objects".into(), root)]),
        ..template
    };
    copy.write(repo, std::time::Duration::MAX).await.unwrap();
    writer.finish().await.unwrap();
    let maps = Maps::from([("objects".to_owned(), entries)]);
    truth.snapshots.push(true_snapshot(&copy, maps));
}

/// Leases, a checkpoint, a mark, a verification: no snapshot needs them.
async fn others(repo: &Repository, newest: &Manifest) {
    // One of a session that ended without a commit and names a dead one, one of a reader at work.
    let ended = SessionId([0xde; 32]);
    lease(
        repo,
        "gone",
        ended,
        BTreeSet::from([SessionId([0xdf; 32])]),
        0,
    )
    .await;
    std::mem::forget(
        repo.begin_reader("main", vec![newest.snapshot])
            .await
            .unwrap(),
    );
    let checkpoint = json!({
        "format": 1,
        "session": ended,
        "origin": repo.id(),
        "instance": "gone",
        "time": "2026-01-02T03:04:05Z",
        "roots": {"objects": newest.roots["objects"]},
    });
    put_json(
        repo,
        StoredFile::Checkpoint,
        &ended.to_string(),
        &checkpoint,
    )
    .await;
    let mark = IndexId([0xee; 32]).to_string();
    let body = json!({
        "mark": mark,
        "created": "2026-01-02T03:04:05Z",
        "packs": [PackId([0xef; 32])],
        "moved": {},
        "dead": {CUT_OFF.to_string(): []},
    });
    put_json(repo, StoredFile::Mark, &mark, &body).await;
    let verification = Verification {
        time: Timestamp::UNIX_EPOCH,
        level: "bytes".into(),
        results: vec![VerifiedSnapshot {
            snapshot: newest.snapshot,
            damage: 1,
        }],
        places: vec![BadPlace {
            pack: PackId([0xef; 32]),
            blob: None,
        }],
        segments: vec![],
    };
    repo.record_verification(&verification).await.unwrap();
}
