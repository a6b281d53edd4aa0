//! The objects that an anchor requires, as a pure function of it (I1; docs/milvus.md 4.2).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::catalog::{Catalog, FieldStats, Log, Segment, SegmentIndex, StatsKind};
use super::keys::{LogKind, SegmentKey};
use super::proto::common::IndexState;
use super::proto::meta::PartitionState;

/// What an object holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectKind {
    /// Rows of a field or a column group.
    InsertLog,
    /// Deletes.
    DeltaLog,
    /// Bloom filters of primary keys.
    StatsLog,
    /// BM25 statistics.
    Bm25Stats,
    /// An index.
    IndexFile,
    /// A text index.
    TextLog,
    /// JSON key statistics of 2.5.
    JsonKeyIndexLog,
    /// JSON statistics of 2.6.
    JsonStats,
    /// Partition statistics of clustering compaction.
    PartStats,
}

impl ObjectKind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::InsertLog,
        Self::DeltaLog,
        Self::StatsLog,
        Self::Bm25Stats,
        Self::IndexFile,
        Self::TextLog,
        Self::JsonKeyIndexLog,
        Self::JsonStats,
        Self::PartStats,
    ];

    /// The directory below the storage root that holds this kind, and the kind's name.
    #[must_use]
    pub const fn folder(self) -> &'static str {
        match self {
            Self::InsertLog => "insert_log",
            Self::DeltaLog => "delta_log",
            Self::StatsLog => "stats_log",
            Self::Bm25Stats => "bm25_stats",
            Self::IndexFile => "index_files",
            Self::TextLog => "text_log",
            Self::JsonKeyIndexLog => "json_key_index_log",
            Self::JsonStats => "json_stats",
            Self::PartStats => "part_stats",
        }
    }
}

/// The directory of what is computed while a clustering compaction runs; no key names its objects.
const ANALYZE_STATS: &str = "analyze_stats";

/// Directories below the storage root that are Milvus's own for objects (docs/milvus.md 4.2);
/// `--replace` wipes these and nothing else.
pub fn folders() -> impl Iterator<Item = &'static str> {
    let of_kinds = ObjectKind::ALL.iter().map(|kind| kind.folder());
    of_kinds.chain([ANALYZE_STATS])
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.folder())
    }
}

/// An object that the anchor requires.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ObjectRef {
    /// Its path relative to the storage root, such as `insert_log/1/2/3/100/449`.
    pub path: String,
    /// What it holds.
    pub kind: ObjectKind,
    /// The collection.
    pub collection: i64,
    /// The partition; −1 for all.
    pub partition: i64,
    /// The segment; 0 for partition statistics.
    pub segment: i64,
    /// The field or column group; 0 where the kind has none.
    pub field: i64,
    /// The log or the build; the version of partition statistics.
    pub id: i64,
    /// The object's size in bytes where Milvus is known to record it: stats logs of storage
    /// version 1.
    pub expected_size: Option<u64>,
}

impl ObjectRef {
    /// The key that orders objects in a snapshot: ids padded so that byte order is numeric order.
    #[must_use]
    pub fn tree_key(&self) -> String {
        let Self {
            collection,
            partition,
            segment,
            path,
            ..
        } = self;
        let collection = collection_prefix(*collection);
        format!("{collection}{partition:020}/{segment:020}/{path}")
    }
}

/// What the [`ObjectRef::tree_key`] of every object of a collection begins with.
#[must_use]
pub fn collection_prefix(collection: i64) -> String {
    format!("{collection:020}/")
}

/// What a [`ObjectRef::tree_key`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeKey<'k> {
    /// The collection.
    pub collection: i64,
    /// The partition; −1 for all.
    pub partition: i64,
    /// The segment; 0 for partition statistics.
    pub segment: i64,
    /// The path relative to the storage root.
    pub path: &'k str,
}

impl<'k> TreeKey<'k> {
    /// Reads a key; `None` when it is none.
    #[must_use]
    pub fn parse(key: &'k [u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(key).ok()?.splitn(4, '/');
        let mut id = || parts.next()?.parse().ok();
        let (collection, partition, segment) = (id()?, id()?, id()?);
        Some(Self {
            collection,
            partition,
            segment,
            path: parts.next()?,
        })
    }
}

/// What the objects at one place of the order belong to.
#[derive(Clone, Copy)]
enum Owner {
    PartStats(i64, i64),
    Segment(usize),
}

/// Which segments count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Live segments: what a restore onto a fresh WAL needs.
    Live,
    /// Also growing and sealed segments: what a restore with the captured WAL needs.
    WithOpen,
}

impl Catalog {
    /// Every object that a restore onto a fresh WAL needs, in ascending order of
    /// [`ObjectRef::tree_key`], each path once. Segments whose objects cannot be told from metadata
    /// (a manifest) yield none and are refused by [`Catalog::refusals`].
    pub fn objects(&self) -> impl Iterator<Item = ObjectRef> {
        self.objects_in(Scope::Live)
    }

    /// Every object of the segments in `scope`; otherwise as [`Catalog::objects`].
    pub fn objects_in(&self, scope: Scope) -> impl Iterator<Item = ObjectRef> {
        self.owners(scope).into_iter().flat_map(|(_, owner)| {
            let mut objects = match owner {
                Owner::PartStats(collection, partition) => {
                    self.part_stats_objects(collection, partition)
                }
                Owner::Segment(at) => self.segment_objects(&self.segments[at]),
            };
            objects.sort_by(|a, b| a.path.cmp(&b.path));
            objects.dedup_by(|a, b| a.path == b.path);
            objects
        })
    }

    fn owners(&self, scope: Scope) -> Vec<(SegmentKey, Owner)> {
        let key = |collection, partition| SegmentKey {
            collection,
            partition,
            segment: 0,
        };
        let segments = self.segments.iter().enumerate();
        let mut owners: Vec<_> = segments
            .filter(|(_, s)| s.is_live() || scope == Scope::WithOpen && s.standing.is_open())
            .map(|(at, segment)| (segment.key, Owner::Segment(at)))
            .collect();
        let partitions = self.partition_stats.iter();
        let mut partitions: Vec<_> = partitions
            .filter(|stats| self.serves_partition(stats.collection, stats.partition))
            .map(|stats| (stats.collection, stats.partition))
            .collect();
        partitions.dedup();
        owners.extend(
            partitions
                .into_iter()
                .map(|(c, p)| (key(c, p), Owner::PartStats(c, p))),
        );
        owners.sort_by_key(|(key, _)| *key);
        owners
    }

    /// Whether that partition of that collection is there for clients.
    pub(crate) fn serves_partition(&self, collection: i64, partition: i64) -> bool {
        let collection = self.collection(collection);
        collection.is_some_and(|c| {
            let found = c.partitions.get(&partition);
            found.is_some_and(|p| p.state == PartitionState::Created)
        })
    }

    /// Whether a build's files are served: finished, not deleted, and of an index that is there.
    pub(crate) fn serves_build(&self, segment: &Segment, build: &SegmentIndex) -> bool {
        let collection = self.collection(segment.key.collection);
        let index = collection.and_then(|collection| collection.indexes.get(&build.index));
        build.state == IndexState::Finished
            && !build.deleted
            && index.is_some_and(|index| !index.deleted)
    }

    fn segment_objects(&self, segment: &Segment) -> Vec<ObjectRef> {
        let SegmentKey {
            collection: c,
            partition: p,
            segment: s,
        } = segment.key;
        if segment.manifest.is_some() {
            return Vec::new();
        }
        let object = |kind, path, field, id| ObjectRef {
            path,
            kind,
            collection: c,
            partition: p,
            segment: s,
            field,
            id,
            expected_size: None,
        };
        let mut objects = Vec::new();
        for logs in &segment.logs {
            for log in &logs.logs {
                let (field, id) = (logs.field, log.id);
                let (kind, path) = match logs.kind {
                    LogKind::Insert => (
                        ObjectKind::InsertLog,
                        format!("insert_log/{c}/{p}/{s}/{field}/{id}"),
                    ),
                    LogKind::Stats => (
                        ObjectKind::StatsLog,
                        format!("stats_log/{c}/{p}/{s}/{field}/{id}"),
                    ),
                    LogKind::Delta => (ObjectKind::DeltaLog, format!("delta_log/{c}/{p}/{s}/{id}")),
                    LogKind::Bm25 => (
                        ObjectKind::Bm25Stats,
                        format!("bm25_stats/{c}/{p}/{s}/{field}/{id}"),
                    ),
                };
                objects.push(ObjectRef {
                    expected_size: expected_size(segment, kind, *log),
                    ..object(kind, path, field, id)
                });
            }
        }
        for build in segment
            .indexes
            .iter()
            .filter(|build| self.serves_build(segment, build))
        {
            let (id, version) = (build.build, build.version);
            let field = self
                .collections
                .get(&c)
                .and_then(|collection| collection.indexes.get(&build.index))
                .map_or(0, |index| index.field);
            objects.extend(build.files.iter().map(|file| {
                let path = format!("index_files/{id}/{version}/{p}/{s}/{file}");
                object(ObjectKind::IndexFile, path, field, id)
            }));
        }
        for stats in &segment.stats {
            let kind = stats_kind(stats);
            objects.extend(stats.files.iter().map(|file| {
                let path = stats_path(segment.key, stats, kind, file);
                object(kind, path, stats.field, stats.build)
            }));
        }
        objects
    }

    fn part_stats_objects(&self, collection: i64, partition: i64) -> Vec<ObjectRef> {
        self.partition_stats
            .iter()
            .filter(|stats| stats.collection == collection && stats.partition == partition)
            .map(|stats| ObjectRef {
                path: format!(
                    "part_stats/{collection}/{partition}/{}/{}",
                    stats.vchannel, stats.version
                ),
                kind: ObjectKind::PartStats,
                collection,
                partition,
                segment: 0,
                field: 0,
                id: stats.version,
                expected_size: None,
            })
            .collect()
    }
}

/// From this format on JSON statistics lie under `json_stats/`.
const JSON_STATS_FORMAT: i64 = 2;

fn stats_kind(stats: &FieldStats) -> ObjectKind {
    match stats.kind {
        StatsKind::Text => ObjectKind::TextLog,
        StatsKind::Json if stats.format >= JSON_STATS_FORMAT => ObjectKind::JsonStats,
        StatsKind::Json => ObjectKind::JsonKeyIndexLog,
    }
}

/// The path of a statistics file: 2.6.8 and later write the name only, older versions the whole
/// path with the storage root before it, which is found by the directory's name (docs/milvus.md 4.4).
fn stats_path(key: SegmentKey, stats: &FieldStats, kind: ObjectKind, file: &str) -> String {
    let directory = format!("{kind}/");
    if let Some(at) = file.find(&directory) {
        return file[at..].to_owned();
    }
    let SegmentKey {
        collection,
        partition,
        segment,
    } = key;
    let FieldStats {
        build,
        version,
        field,
        format,
        ..
    } = stats;
    let place = format!("{build}/{version}/{collection}/{partition}/{segment}/{field}/{file}");
    match kind {
        ObjectKind::JsonStats => format!("{directory}{format}/{place}"),
        _ => directory + &place,
    }
}

/// Stats logs are recorded with their object's size. Insert logs are not: 2.3.5 records the size of
/// the rows in memory (seen on a real server; 154 of 164 differ). Delta logs of 2.6 have a made-up
/// figure and column groups a writer's.
fn expected_size(segment: &Segment, kind: ObjectKind, log: Log) -> Option<u64> {
    let recorded = kind == ObjectKind::StatsLog && segment.storage_version < 2;
    let size = u64::try_from(log.size).ok().filter(|size| *size > 0);
    size.filter(|_| recorded)
}
