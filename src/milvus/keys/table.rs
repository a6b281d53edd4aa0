//! The table of key families: pattern, what the ids mean, and how a key is read.

use std::fmt;

use super::{Area, LogKind, SegmentKey};

/// What an etcd key of Milvus is, with the ids that are in the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the fields are the ids that the family's pattern names"
)]
pub enum KeyKind<'k> {
    Database {
        database: i64,
    },
    Collection {
        database: i64,
        collection: i64,
    },
    /// A collection made before there were databases (2.2.8 and older).
    LegacyCollection {
        collection: i64,
    },
    Partition {
        collection: i64,
        partition: i64,
    },
    Field {
        collection: i64,
        field: i64,
    },
    Function {
        collection: i64,
        function: i64,
    },
    StructField {
        collection: i64,
        field: i64,
    },
    Alias {
        database: i64,
        alias: &'k str,
    },
    LegacyAlias {
        alias: &'k str,
    },
    User {
        user: &'k str,
    },
    Role {
        role: &'k str,
    },
    UserRole {
        user: &'k str,
        role: &'k str,
    },
    /// Grants: who may do what; never interpreted.
    Grant,
    PrivilegeGroup {
        name: &'k str,
    },
    FileResource,
    /// A copy of `original` (below the meta path) as it was at the hybrid timestamp `ts`.
    SnapshotCopy {
        original: &'k str,
        ts: u64,
    },
    Segment(SegmentKey),
    Log {
        kind: LogKind,
        segment: SegmentKey,
        field: i64,
    },
    ChannelCheckpoint {
        vchannel: &'k str,
    },
    ChannelRemoval {
        vchannel: &'k str,
    },
    ImportJob {
        job: i64,
    },
    ImportTask,
    /// A bulk load of 2.2 and 2.3.
    LegacyImportTask {
        task: i64,
    },
    CompactionTask {
        trigger: i64,
        plan: i64,
    },
    AnalyzeTask,
    StatsTask,
    PartitionStats {
        collection: i64,
        partition: i64,
        vchannel: &'k str,
        version: i64,
    },
    PartitionStatsVersion {
        collection: i64,
        partition: i64,
        vchannel: &'k str,
    },
    /// Snapshots, copies and external collections of Milvus 3.
    Newer,
    FieldIndex {
        collection: i64,
        index: i64,
    },
    SegmentIndex {
        segment: SegmentKey,
        build: i64,
    },
    ChannelWatch {
        node: i64,
        vchannel: &'k str,
    },
    CollectionLoad {
        collection: i64,
    },
    PartitionLoad {
        collection: i64,
        partition: i64,
    },
    Replica {
        collection: i64,
        replica: i64,
    },
    ResourceGroup {
        name: &'k str,
    },
    CollectionTarget {
        collection: i64,
    },
    LegacyQuery,
    SessionId,
    SessionVersion,
    Session {
        name: &'k str,
    },
    IdCounter,
    TsoCounter,
    QueryIdCounter,
    /// Dynamic configuration; `item` as it is spelled.
    Config {
        item: &'k str,
    },
    PChannel {
        pchannel: &'k str,
    },
    BroadcastTask {
        task: i64,
    },
    StreamingVersion,
    ControlChannel,
    /// The topology of replication (CDC).
    Replication,
    ConsumeCheckpoint {
        pchannel: &'k str,
    },
    VChannel {
        pchannel: &'k str,
        vchannel: &'k str,
    },
    VChannelSchema {
        pchannel: &'k str,
        vchannel: &'k str,
    },
    SegmentAssignment {
        pchannel: &'k str,
        segment: i64,
    },
    /// Woodpecker's own metadata, where it lives below the root.
    Woodpecker,
    /// A key below the root that the table does not know.
    Unknown,
    /// A key outside the root.
    Foreign,
}

/// What the keys of a family say about whether an anchor can be taken (docs/milvus.md 3.1 to 3.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// What is held: read first.
    Holds,
    /// They decide: DDL under way, what is flushed, jobs that refuse a capture. Read while writes are denied.
    Decides,
    /// Logs of rows or deletes: they prove the cut, as far as they may be newer than it.
    RowLog,
    /// Other logs; with the rows' they tell whether a segment is open.
    OtherLog,
    /// Nothing: read after the holds are released, at the same revision.
    Later,
}

/// When a key is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Before what belongs to segments.
    First,
    /// What belongs to segments: there is so much of it that it goes right where it belongs.
    WithSegments,
}

/// Whether a key has copies below `snapshots/`, where Milvus before 2.4.14 looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copies {
    /// It has.
    Copied,
    /// It has not.
    Alone,
}

/// Whether Milvus shows it to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// It does.
    Shown,
    /// It does not.
    Hidden,
}

/// What the table says of a family, besides its patterns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Columns {
    /// What its keys say about whether an anchor can be taken.
    pub cut: Cut,
    /// When its keys are decoded.
    pub turn: Turn,
    /// Whether its keys have copies below `snapshots/`.
    pub copies: Copies,
    /// Whether Milvus's own answers show what its keys say.
    pub view: View,
}

/// What a pattern captured.
struct Captures<'k> {
    numbers: [i64; 4],
    texts: [&'k str; 3],
}

type Make = for<'k> fn(&Captures<'k>) -> KeyKind<'k>;

/// One line of the table. In a pattern `#` is an id, `@` one path part, a final `*` the rest.
struct Row {
    family: Family,
    area: Area,
    pattern: &'static str,
    make: Make,
}

macro_rules! families {
    ($($family:ident $name:literal ($cut:ident, $turn:ident, $copies:ident, $view:ident) {
        $($area:ident $pattern:literal => $make:expr),* $(,)?
    })*) => {
        /// A family of keys that are treated alike. The order is that of the table.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs, reason = "each is the KeyKind of the same name")]
        pub enum Family { $($family,)* Unknown, Foreign }

        impl Family {
            /// Every family that has a pattern.
            pub const ALL: &'static [Self] = &[$(Self::$family,)*];

            /// The family's name in reports.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$family => $name,)*
                    Self::Unknown => "unknown",
                    Self::Foreign => "outside the root",
                }
            }

            /// The columns of the table.
            #[must_use]
            pub const fn columns(self) -> Columns {
                match self {
                    $(Self::$family => Columns {
                        cut: Cut::$cut,
                        turn: Turn::$turn,
                        copies: Copies::$copies,
                        view: View::$view,
                    },)*
                    Self::Unknown | Self::Foreign => Columns {
                        cut: Cut::Later,
                        turn: Turn::First,
                        copies: Copies::Alone,
                        view: View::Hidden,
                    },
                }
            }
        }

        static TABLE: &[Row] = &[$($(Row {
            family: Family::$family,
            area: Area::$area,
            pattern: $pattern,
            make: $make,
        },)*)*];
    };
}

const fn segment(c: &Captures<'_>) -> SegmentKey {
    SegmentKey {
        collection: c.numbers[0],
        partition: c.numbers[1],
        segment: c.numbers[2],
    }
}

const fn log<'k>(kind: LogKind, c: &Captures<'k>) -> KeyKind<'k> {
    KeyKind::Log {
        kind,
        segment: segment(c),
        field: c.numbers[3],
    }
}

// The families with the most keys come first. The columns are what a family says about the cut, when it
// is decoded, whether it has copies, and whether Milvus shows it; its decoding is the match in
// catalog/decode.rs, its action at a restore that in restore/plan/transform/table.rs.
families! {
    InsertLog "insert logs" (RowLog, WithSegments, Alone, Hidden) { Meta "datacoord-meta/binlog/#/#/#/#" => |c| log(LogKind::Insert, c) }
    DeltaLog "delta logs" (RowLog, WithSegments, Alone, Hidden) { Meta "datacoord-meta/deltalog/#/#/#/#" => |c| log(LogKind::Delta, c) }
    StatsLog "stats logs" (OtherLog, WithSegments, Alone, Hidden) { Meta "datacoord-meta/statslog/#/#/#/#" => |c| log(LogKind::Stats, c) }
    Bm25Log "bm25 logs" (OtherLog, WithSegments, Alone, Hidden) { Meta "datacoord-meta/bm25log/#/#/#/#" => |c| log(LogKind::Bm25, c) }
    Segment "segments" (Decides, First, Alone, Hidden) { Meta "datacoord-meta/s/#/#/#" => |c| KeyKind::Segment(segment(c)) }
    SegmentIndex "segment indexes" (Later, WithSegments, Alone, Hidden) {
        Meta "segment-index/#/#/#/#" => |c| KeyKind::SegmentIndex { segment: segment(c), build: c.numbers[3] },
    }
    SnapshotCopy "snapshot copies" (Later, First, Alone, Hidden) {
        Meta "snapshots/*" => |c| snapshot_copy(c.texts[0]),
    }
    Partition "partitions" (Decides, First, Copied, Shown) {
        Meta "root-coord/partitions/#/#" => |c| KeyKind::Partition { collection: c.numbers[0], partition: c.numbers[1] },
    }
    Field "fields" (Later, First, Copied, Shown) {
        Meta "root-coord/fields/#/#" => |c| KeyKind::Field { collection: c.numbers[0], field: c.numbers[1] },
    }
    Function "functions" (Later, First, Copied, Shown) {
        Meta "root-coord/functions/#/#" => |c| KeyKind::Function { collection: c.numbers[0], function: c.numbers[1] },
    }
    StructField "struct array fields" (Later, First, Copied, Shown) {
        Meta "root-coord/struct-array-fields/#/#" => |c| KeyKind::StructField { collection: c.numbers[0], field: c.numbers[1] },
    }
    Collection "collections" (Decides, First, Copied, Shown) {
        Meta "root-coord/database/collection-info/#/#" => |c| KeyKind::Collection { database: c.numbers[0], collection: c.numbers[1] },
    }
    LegacyCollection "collections before databases" (Decides, First, Copied, Shown) {
        Meta "root-coord/collection/#" => |c| KeyKind::LegacyCollection { collection: c.numbers[0] },
    }
    Database "databases" (Decides, First, Copied, Shown) {
        Meta "root-coord/database/db-info/#" => |c| KeyKind::Database { database: c.numbers[0] },
    }
    Alias "aliases" (Decides, First, Copied, Shown) {
        Meta "root-coord/database/aliases/#/@" => |c| KeyKind::Alias { database: c.numbers[0], alias: c.texts[0] },
    }
    LegacyAlias "aliases before databases" (Decides, First, Copied, Shown) {
        Meta "root-coord/aliases/@" => |c| KeyKind::LegacyAlias { alias: c.texts[0] },
        Meta "root-coord/collection-alias/@" => |c| KeyKind::LegacyAlias { alias: c.texts[0] },
    }
    User "users" (Later, First, Alone, Shown) { Meta "root-coord/credential/users/@" => |c| KeyKind::User { user: c.texts[0] } }
    Role "roles" (Later, First, Alone, Shown) { Meta "root-coord/credential/roles/@" => |c| KeyKind::Role { role: c.texts[0] } }
    UserRole "roles of users" (Later, First, Alone, Shown) {
        Meta "root-coord/credential/user-role-mapping/@/@" => |c| KeyKind::UserRole { user: c.texts[0], role: c.texts[1] },
    }
    Grant "grants" (Later, First, Alone, Shown) {
        Meta "root-coord/credential/grantee-privileges/*" => |_| KeyKind::Grant,
        Meta "root-coord/credential/grantee-id/*" => |_| KeyKind::Grant,
    }
    PrivilegeGroup "privilege groups" (Later, First, Alone, Shown) {
        Meta "root-coord/privilege-group/@" => |c| KeyKind::PrivilegeGroup { name: c.texts[0] },
    }
    FileResource "file resources" (Later, First, Alone, Shown) {
        Meta "root-coord/file_resource_info/*" => |_| KeyKind::FileResource,
        Meta "datacoord-meta/file_resource/*" => |_| KeyKind::FileResource,
    }
    ChannelCheckpoint "channel checkpoints" (Decides, First, Alone, Hidden) {
        Meta "datacoord-meta/channel-cp/@" => |c| KeyKind::ChannelCheckpoint { vchannel: c.texts[0] },
    }
    ChannelRemoval "channel removals" (Later, First, Alone, Hidden) {
        Meta "datacoord-meta/channel-removal/@" => |c| KeyKind::ChannelRemoval { vchannel: c.texts[0] },
    }
    ImportJob "import jobs" (Decides, First, Alone, Hidden) { Meta "datacoord-meta/import-job/#" => |c| KeyKind::ImportJob { job: c.numbers[0] } }
    ImportTask "import tasks" (Later, First, Alone, Hidden) {
        Meta "datacoord-meta/import-task/*" => |_| KeyKind::ImportTask,
        Meta "datacoord-meta/preimport-task/*" => |_| KeyKind::ImportTask,
    }
    LegacyImportTask "bulk loads of 2.2 and 2.3" (Decides, First, Alone, Hidden) {
        Meta "importtask/#" => |c| KeyKind::LegacyImportTask { task: c.numbers[0] },
    }
    CompactionTask "compaction tasks" (Decides, First, Alone, Hidden) {
        Meta "datacoord-meta/compaction-task/@/#/#" => |c| KeyKind::CompactionTask { trigger: c.numbers[0], plan: c.numbers[1] },
    }
    AnalyzeTask "analyze tasks" (Later, First, Alone, Hidden) { Meta "datacoord-meta/analyze-task/*" => |_| KeyKind::AnalyzeTask }
    StatsTask "stats tasks" (Later, First, Alone, Hidden) { Meta "datacoord-meta/stats-task/*" => |_| KeyKind::StatsTask }
    PartitionStats "partition stats" (Later, First, Alone, Hidden) {
        Meta "datacoord-meta/partition-stats/#/#/@/#" => |c| KeyKind::PartitionStats {
            collection: c.numbers[0], partition: c.numbers[1], vchannel: c.texts[0], version: c.numbers[2],
        },
    }
    PartitionStatsVersion "partition stats in use" (Later, First, Alone, Hidden) {
        Meta "datacoord-meta/current-partition-stats-version/#/#/@" => |c| KeyKind::PartitionStatsVersion {
            collection: c.numbers[0], partition: c.numbers[1], vchannel: c.texts[0],
        },
    }
    Newer "snapshots, copies and external collections of Milvus 3" (Later, First, Alone, Hidden) {
        Meta "datacoord-meta/snapshot/*" => |_| KeyKind::Newer,
        Meta "datacoord-meta/copy-segment-job/*" => |_| KeyKind::Newer,
        Meta "datacoord-meta/copy-segment-task/*" => |_| KeyKind::Newer,
        Meta "datacoord-meta/external-collection-job/*" => |_| KeyKind::Newer,
        Meta "datacoord-meta/external-collection-task/*" => |_| KeyKind::Newer,
    }
    FieldIndex "indexes" (Later, First, Alone, Shown) {
        Meta "field-index/#/#" => |c| KeyKind::FieldIndex { collection: c.numbers[0], index: c.numbers[1] },
    }
    ChannelWatch "channel watches" (Later, First, Alone, Hidden) {
        Meta "channelwatch/#/@" => |c| KeyKind::ChannelWatch { node: c.numbers[0], vchannel: c.texts[0] },
    }
    CollectionLoad "loaded collections" (Later, First, Alone, Hidden) {
        Meta "querycoord-collection-loadinfo/#" => |c| KeyKind::CollectionLoad { collection: c.numbers[0] },
    }
    PartitionLoad "loaded partitions" (Later, First, Alone, Hidden) {
        Meta "querycoord-partition-loadinfo/#/#" => |c| KeyKind::PartitionLoad { collection: c.numbers[0], partition: c.numbers[1] },
    }
    Replica "replicas" (Later, First, Alone, Hidden) {
        Meta "querycoord-replica/#/#" => |c| KeyKind::Replica { collection: c.numbers[0], replica: c.numbers[1] },
    }
    ResourceGroup "resource groups" (Later, First, Alone, Hidden) {
        Meta "queryCoord-ResourceGroup/@" => |c| KeyKind::ResourceGroup { name: c.texts[0] },
    }
    CollectionTarget "collection targets" (Later, First, Alone, Hidden) {
        Meta "queryCoord-Collection-Target/#" => |c| KeyKind::CollectionTarget { collection: c.numbers[0] },
    }
    LegacyQuery "query state of 2.1" (Later, First, Alone, Hidden) {
        Meta "queryCoord-collectionMeta/*" => |_| KeyKind::LegacyQuery,
        Meta "queryCoord-ReplicaMeta/*" => |_| KeyKind::LegacyQuery,
        Meta "queryCoord-segmentMeta/*" => |_| KeyKind::LegacyQuery,
        Meta "queryCoord-sealedSegmentChangeInfo/*" => |_| KeyKind::LegacyQuery,
        Meta "querycoord-handoff/*" => |_| KeyKind::LegacyQuery,
    }
    SessionId "node id counter" (Later, First, Alone, Hidden) { Meta "session/id" => |_| KeyKind::SessionId }
    SessionVersion "highest version that ran" (Later, First, Alone, Hidden) { Meta "session/version" => |_| KeyKind::SessionVersion }
    Session "sessions" (Later, First, Alone, Hidden) { Meta "session/*" => |c| KeyKind::Session { name: c.texts[0] } }
    IdCounter "id counter" (Later, First, Alone, Hidden) { Kv "gid/idTimestamp" => |_| KeyKind::IdCounter }
    TsoCounter "timestamp counter" (Later, First, Alone, Hidden) {
        Kv "gid/timestamp" => |_| KeyKind::TsoCounter,
        Kv "tso/timestamp" => |_| KeyKind::TsoCounter,
    }
    QueryIdCounter "id counter of querycoord" (Later, First, Alone, Hidden) {
        Kv "querycoord-id-allocator/idTimestamp" => |_| KeyKind::QueryIdCounter,
    }
    Config "dynamic configuration" (Holds, First, Alone, Hidden) {
        Root "config/*" => |c| KeyKind::Config { item: c.texts[0] },
        Meta "config/*" => |c| KeyKind::Config { item: c.texts[0] },
    }
    PChannel "physical channels" (Later, First, Alone, Hidden) {
        Meta "streamingcoord-meta/pchannel/@" => |c| KeyKind::PChannel { pchannel: c.texts[0] },
    }
    BroadcastTask "broadcast tasks" (Decides, First, Alone, Hidden) {
        Meta "streamingcoord-meta/broadcast-task/#" => |c| KeyKind::BroadcastTask { task: c.numbers[0] },
    }
    StreamingVersion "streaming version" (Later, First, Alone, Hidden) {
        Meta "streamingcoord-meta/version" => |_| KeyKind::StreamingVersion,
        Meta "streamingcoord-meta/version/" => |_| KeyKind::StreamingVersion,
    }
    ControlChannel "control channel" (Later, First, Alone, Hidden) {
        Meta "streamingcoord-meta/cchannel" => |_| KeyKind::ControlChannel,
        Meta "streamingcoord-meta/cchannel/" => |_| KeyKind::ControlChannel,
    }
    Replication "replication topology" (Later, First, Alone, Hidden) {
        Meta "streamingcoord-meta/replicate-configuration" => |_| KeyKind::Replication,
        Meta "streamingcoord-meta/replicate-configuration/" => |_| KeyKind::Replication,
        Meta "streamingcoord-meta/replicating-pchannel/*" => |_| KeyKind::Replication,
    }
    ConsumeCheckpoint "consume checkpoints" (Later, First, Alone, Hidden) {
        Meta "streamingnode-meta/wal/@/consume-checkpoint" => |c| KeyKind::ConsumeCheckpoint { pchannel: c.texts[0] },
    }
    VChannel "virtual channels" (Later, First, Alone, Hidden) {
        Meta "streamingnode-meta/wal/@/vchannel/@" => |c| KeyKind::VChannel { pchannel: c.texts[0], vchannel: c.texts[1] },
    }
    VChannelSchema "schemas of virtual channels" (Later, First, Alone, Hidden) {
        Meta "streamingnode-meta/wal/@/vchannel/@/schema/*" => |c| KeyKind::VChannelSchema { pchannel: c.texts[0], vchannel: c.texts[1] },
    }
    SegmentAssignment "segment assignments" (Later, First, Alone, Hidden) {
        Meta "streamingnode-meta/wal/@/segment-assign/#" => |c| KeyKind::SegmentAssignment { pchannel: c.texts[0], segment: c.numbers[0] },
    }
    Woodpecker "woodpecker's own metadata" (Later, First, Alone, Hidden) {
        Root "wp/*" => |_| KeyKind::Woodpecker,
        Root "woodpecker/*" => |_| KeyKind::Woodpecker,
    }
}

impl Family {
    /// Keys of this family, one for each pattern, without the root.
    #[must_use]
    pub fn examples(self) -> Vec<String> {
        let rows = TABLE.iter().filter(|row| row.family == self);
        rows.map(|row| {
            let area = match row.area {
                Area::Meta => "meta/",
                Area::Kv => "kv/",
                Area::Root => "",
            };
            let rest = match self {
                Self::SnapshotCopy => "root-coord/partitions/1/2_ts3",
                _ => "rest",
            };
            let pattern = row.pattern.replace('#', "4").replace('@', "name");
            format!("{area}{}", pattern.replace('*', rest))
        })
        .collect()
    }

    /// Where the family's keys are: what comes before the first id in each of its patterns.
    pub fn prefixes(self) -> impl Iterator<Item = (Area, &'static str)> {
        let rows = TABLE.iter().filter(move |row| row.family == self);
        rows.map(|row| {
            let ids = row.pattern.find(['#', '@', '*']);
            (row.area, &row.pattern[..ids.unwrap_or(row.pattern.len())])
        })
    }

    /// Whether keys of this family make a collection visible; they are written last.
    #[must_use]
    pub const fn is_collection(self) -> bool {
        matches!(self, Self::Collection | Self::LegacyCollection)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl serde::Serialize for Family {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl KeyKind<'_> {
    /// The family.
    #[must_use]
    pub const fn family(&self) -> Family {
        macro_rules! family {
            ($($name:ident)*) => {
                match self {
                    $(Self::$name { .. } => Family::$name,)*
                    Self::Log { kind: LogKind::Insert, .. } => Family::InsertLog,
                    Self::Log { kind: LogKind::Delta, .. } => Family::DeltaLog,
                    Self::Log { kind: LogKind::Stats, .. } => Family::StatsLog,
                    Self::Log { kind: LogKind::Bm25, .. } => Family::Bm25Log,
                }
            };
        }
        family!(
            Database Collection LegacyCollection Partition Field Function StructField Alias
            LegacyAlias User Role UserRole Grant PrivilegeGroup FileResource SnapshotCopy Segment
            ChannelCheckpoint ChannelRemoval ImportJob ImportTask LegacyImportTask CompactionTask
            AnalyzeTask StatsTask PartitionStats PartitionStatsVersion Newer FieldIndex SegmentIndex
            ChannelWatch CollectionLoad PartitionLoad Replica ResourceGroup CollectionTarget
            LegacyQuery SessionId SessionVersion Session IdCounter TsoCounter QueryIdCounter Config
            PChannel BroadcastTask StreamingVersion ControlChannel Replication ConsumeCheckpoint
            VChannel VChannelSchema SegmentAssignment Woodpecker Unknown Foreign
        )
    }
}

/// Reads the part of a key after its area.
pub(super) fn parse(area: Area, rest: &str) -> KeyKind<'_> {
    TABLE
        .iter()
        .filter(|row| row.area == area)
        .find_map(|row| capture(row.pattern, rest).map(|c| (row.make)(&c)))
        .unwrap_or(KeyKind::Unknown)
}

fn capture<'k>(pattern: &'static str, text: &'k str) -> Option<Captures<'k>> {
    let mut captures = Captures {
        numbers: [0; 4],
        texts: [""; 3],
    };
    let (mut numbers, mut texts) = (0, 0);
    let (mut pattern, mut text) = (pattern, text);
    loop {
        let literal = pattern.find(['#', '@', '*']).unwrap_or(pattern.len());
        text = text.strip_prefix(&pattern[..literal])?;
        let Some(kind) = pattern.as_bytes().get(literal) else {
            return text.is_empty().then_some(captures);
        };
        pattern = &pattern[literal + 1..];
        let end = match kind {
            b'*' => text.len(),
            _ => text.find('/').unwrap_or(text.len()),
        };
        let (part, rest) = text.split_at(end);
        if part.is_empty() {
            return None;
        }
        if *kind == b'#' {
            *captures.numbers.get_mut(numbers)? = part.parse().ok()?;
            numbers += 1;
        } else {
            *captures.texts.get_mut(texts)? = part;
            texts += 1;
        }
        text = rest;
    }
}

fn snapshot_copy(rest: &str) -> KeyKind<'_> {
    let parts = rest
        .rsplit_once("_ts")
        .and_then(|(original, ts)| Some((original, ts.parse().ok()?)));
    match parts {
        Some((original, ts)) => KeyKind::SnapshotCopy { original, ts },
        None => KeyKind::Unknown,
    }
}
