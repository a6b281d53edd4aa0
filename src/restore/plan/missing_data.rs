//! What a snapshot lacks of what its metadata requires, and what comes of it on the target (I6).
//!
//! A snapshot that was taken with `--allow-missing` names objects that were gone already. It is not
//! believed: what is missing is computed from the anchor and the object map. A segment that lacks
//! index files only loses the keys of those builds, and Milvus builds them again from the rows
//! (facts 7.3); whatever else is missing cannot be made up for, and is said.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};

use schemars::JsonSchema;
use serde::Serialize;

use crate::Result;
use crate::base::weakening::{MISSING_OBJECTS, Weakening};
use crate::milvus::catalog::{ALL_PARTITIONS, Catalog, Collection, Segment};
use crate::milvus::keys::SegmentKey;
use crate::milvus::objects::{ObjectKind, ObjectRef};
use crate::snapshot::{Selected, Snapshot, missing};

/// Missing files that are named for each collection; the rest are counted.
const NAMED: usize = 20;

/// What one collection lacks, with one outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Lacking {
    /// Its database.
    pub database: String,
    /// Its name.
    pub collection: String,
    /// The partitions that are affected.
    pub partitions: Vec<String>,
    /// How many segments lack something.
    pub segments: u64,
    /// What they lack.
    pub files: Vec<LackingFiles>,
    /// The fields that the missing files are of; empty where they are of all.
    pub fields: Vec<String>,
    /// The indexes that the missing files are of.
    pub indexes: Vec<String>,
    /// The first of the missing files, each with its segment.
    pub named: Vec<LackingObject>,
    /// What comes of it.
    pub outcome: Outcome,
    /// What to do about it.
    pub way_out: String,
}

/// Missing files of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LackingFiles {
    /// The kind, such as `insert_log`.
    pub kind: String,
    /// How many segments lack such files.
    pub segments: u64,
    /// How many files.
    pub files: u64,
}

/// A missing file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LackingObject {
    /// Its segment; 0 for partition statistics.
    pub segment: i64,
    /// Its path below the storage root.
    pub path: String,
}

/// What comes of missing files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The partitions do not load, or answer with an error where the fields are read.
    NotLoaded,
    /// Only index files are missing: their keys are not written, and Milvus builds them again.
    IndexRebuilt,
}

impl Display for Outcome {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotLoaded => "not-loaded",
            Self::IndexRebuilt => "index-rebuilt",
        })
    }
}

impl Display for Lacking {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let files = self.files.iter().map(|one| {
            let LackingFiles {
                kind,
                segments,
                files,
            } = one;
            format!(
                "{} {files} {kind}",
                counted(*segments, "segment lacks", "segments lack")
            )
        });
        let files: Vec<String> = files.collect();
        write!(
            f,
            "{}.{}: {}",
            self.database,
            self.collection,
            files.join(", ")
        )?;
        let of = [("field", &self.fields), ("index", &self.indexes)];
        let of = of.iter().filter(|(_, names)| !names.is_empty());
        let of: Vec<String> = of
            .map(|(what, names)| format!("{what} {}", names.join(", ")))
            .collect();
        if !of.is_empty() {
            write!(f, " ({})", of.join("; "))?;
        }
        match self.outcome {
            Outcome::NotLoaded => {
                let partitions = self.partitions.join(", ");
                write!(f, "; partition {partitions} will not load")?;
            }
            Outcome::IndexRebuilt => write!(f, "; the index is built again")?,
        }
        write!(f, ": {}", self.way_out)?;
        for LackingObject { segment, path } in &self.named {
            write!(f, "\n  segment {segment}: {path}")?;
        }
        let files: u64 = self.files.iter().map(|one| one.files).sum();
        match files.saturating_sub(self.named.len() as u64) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

fn counted(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// Everything that a snapshot lacks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MissingData {
    /// By collection and outcome.
    pub lacking: Vec<Lacking>,
    /// Builds that Milvus is to make again: their keys are not written.
    pub rebuild: BTreeSet<i64>,
    /// How many objects are missing.
    pub objects: u64,
}

impl MissingData {
    /// Compares the selected objects of the snapshot with what its anchor requires. The object map is read only
    /// when the manifest says that something is missing, or when the numbers differ.
    ///
    /// # Errors
    ///
    /// [`Cause::Damage`](crate::Cause::Damage) when a node of the map is missing or damaged.
    pub(crate) async fn find(
        snapshot: &Snapshot,
        catalog: &Catalog,
        selected: &Selected,
    ) -> Result<Self> {
        let body = &snapshot.body;
        let scope = body.wal.state.scope();
        let said = body.weakenings.iter();
        let said = said.map(|weak| weak.code.as_str());
        let required = catalog.objects_in(scope).count() as u64;
        if required == snapshot.totals().objects && !said.into_iter().any(|c| c == MISSING_OBJECTS)
        {
            return Ok(Self::default());
        }
        let mut sums = Sums::new(catalog);
        missing::find(&snapshot.objects(), catalog, scope, |object| {
            if selected.has(object.collection) {
                sums.take(object);
            }
        })
        .await?;
        Ok(sums.finish())
    }

    /// What a restored instance is less than a whole one.
    pub(crate) fn weakening(&self) -> Option<Weakening> {
        let affected = |outcome| {
            let of = self
                .lacking
                .iter()
                .filter(move |one| one.outcome == outcome);
            let names: Vec<String> = of
                .map(|one| format!("{}.{}", one.database, one.collection))
                .collect();
            names.join(", ")
        };
        let mut message = format!(
            "{} that the metadata names {} not in the snapshot",
            counted(self.objects, "object", "objects"),
            if self.objects == 1 { "is" } else { "are" }
        );
        for (outcome, what) in [
            (Outcome::NotLoaded, "what needs them will not load in"),
            (Outcome::IndexRebuilt, "indexes are built again in"),
        ] {
            let names = affected(outcome);
            if !names.is_empty() {
                message = format!("{message}; {what} {names}");
            }
        }
        (self.objects > 0).then(|| Weakening {
            code: MISSING_OBJECTS.to_owned(),
            message,
            items: vec![],
        })
    }
}

/// What is missing, summed up as it comes: segment by segment.
struct Sums<'a> {
    catalog: &'a Catalog,
    segments: BTreeMap<SegmentKey, &'a Segment>,
    /// Missing objects of the segment at hand.
    current: Vec<ObjectRef>,
    totals: BTreeMap<(i64, Outcome), Sum>,
    rebuild: BTreeSet<i64>,
    objects: u64,
}

/// What one collection lacks, with one outcome.
#[derive(Default)]
struct Sum {
    partitions: BTreeSet<i64>,
    segments: u64,
    kinds: BTreeMap<ObjectKind, (u64, u64)>,
    fields: BTreeSet<i64>,
    indexes: BTreeSet<i64>,
    named: Vec<LackingObject>,
}

impl<'a> Sums<'a> {
    fn new(catalog: &'a Catalog) -> Self {
        Self {
            catalog,
            segments: catalog.segments.iter().map(|s| (s.key, s)).collect(),
            current: Vec::new(),
            totals: BTreeMap::new(),
            rebuild: BTreeSet::new(),
            objects: 0,
        }
    }

    fn take(&mut self, object: ObjectRef) {
        if self
            .current
            .first()
            .is_some_and(|first| key(first) != key(&object))
        {
            self.end_segment();
        }
        self.objects += 1;
        self.current.push(object);
    }

    fn end_segment(&mut self) {
        let missing = std::mem::take(&mut self.current);
        let Some(first) = missing.first() else {
            return;
        };
        let (key, segment) = (key(first), self.segments.get(&key(first)).copied());
        let indexes_only = missing.iter().all(|o| o.kind == ObjectKind::IndexFile);
        let outcome = if indexes_only {
            self.rebuild.extend(missing.iter().map(|object| object.id));
            Outcome::IndexRebuilt
        } else {
            Outcome::NotLoaded
        };
        let sum = self.totals.entry((key.collection, outcome)).or_default();
        sum.segments += 1;
        sum.partitions.insert(key.partition);
        let mut kinds: BTreeMap<ObjectKind, u64> = BTreeMap::new();
        for object in missing {
            *kinds.entry(object.kind).or_default() += 1;
            sum.fields.extend(fields(segment, &object));
            sum.indexes.extend(index(segment, &object));
            if sum.named.len() < NAMED {
                sum.named.push(LackingObject {
                    segment: object.segment,
                    path: object.path,
                });
            }
        }
        for (kind, files) in kinds {
            let (segments, all) = sum.kinds.entry(kind).or_default();
            *segments += 1;
            *all += files;
        }
    }

    fn finish(mut self) -> MissingData {
        self.end_segment();
        let lacking = self.totals.iter();
        MissingData {
            lacking: lacking
                .map(|((collection, outcome), sum)| sum.told(self.catalog, *collection, *outcome))
                .collect(),
            rebuild: self.rebuild,
            objects: self.objects,
        }
    }
}

const fn key(object: &ObjectRef) -> SegmentKey {
    SegmentKey {
        collection: object.collection,
        partition: object.partition,
        segment: object.segment,
    }
}

/// The fields that a missing object is of: those of its column group where Milvus says which.
fn fields(segment: Option<&Segment>, object: &ObjectRef) -> Vec<i64> {
    let group = |segment: &Segment| {
        let mut logs = segment.logs.iter();
        let logs = logs.find(|logs| logs.field == object.field && !logs.children.is_empty())?;
        Some(logs.children.to_vec())
    };
    match object.kind {
        ObjectKind::InsertLog => segment
            .and_then(group)
            .unwrap_or_else(|| vec![object.field]),
        ObjectKind::IndexFile
        | ObjectKind::Bm25Stats
        | ObjectKind::TextLog
        | ObjectKind::JsonKeyIndexLog
        | ObjectKind::JsonStats => vec![object.field],
        ObjectKind::DeltaLog | ObjectKind::StatsLog | ObjectKind::PartStats => vec![],
    }
}

/// The index that a missing index file is of.
fn index(segment: Option<&Segment>, object: &ObjectRef) -> Option<i64> {
    if object.kind != ObjectKind::IndexFile {
        return None;
    }
    let mut builds = segment?.indexes.iter();
    let build = builds.find(|build| build.build == object.id)?;
    Some(build.index)
}

impl Sum {
    fn told(&self, catalog: &Catalog, collection: i64, outcome: Outcome) -> Lacking {
        let (database, name) = catalog.names(collection);
        let found = catalog.collections.get(&collection);
        let name_of = |id: &i64, name: Option<String>| name.unwrap_or_else(|| id.to_string());
        let field = |id: &i64| {
            let column = found.and_then(|c| c.columns().find(|field| field.field_id == *id));
            name_of(id, column.map(|field| field.name.clone()))
        };
        let index = |id: &i64| {
            let index = found.and_then(|collection| collection.indexes.get(id));
            name_of(id, index.map(|index| index.name.clone()))
        };
        let files = self
            .kinds
            .iter()
            .map(|(kind, (segments, files))| LackingFiles {
                kind: kind.to_string(),
                segments: *segments,
                files: *files,
            });
        let partitions = self.partition_names(found);
        Lacking {
            way_out: way_out(outcome, &partitions),
            database,
            collection: name,
            partitions,
            segments: self.segments,
            files: files.collect(),
            fields: self.fields.iter().map(field).collect(),
            indexes: self.indexes.iter().map(index).collect(),
            named: self.named.clone(),
            outcome,
        }
    }

    fn partition_names(&self, collection: Option<&Collection>) -> Vec<String> {
        let Some(collection) = collection else {
            return self.partitions.iter().map(ToString::to_string).collect();
        };
        let all = self.partitions.contains(&ALL_PARTITIONS);
        let partitions = collection.partitions.iter();
        let affected = partitions.filter(|(id, _)| all || self.partitions.contains(id));
        affected
            .map(|(_, partition)| partition.name.clone())
            .collect()
    }
}

/// The partition that every collection has and that cannot be dropped.
const DEFAULT_PARTITION: &str = "_default";

fn way_out(outcome: Outcome, partitions: &[String]) -> String {
    match outcome {
        Outcome::IndexRebuilt => {
            "nothing is to be done; until it is built, searches take longer".to_owned()
        }
        Outcome::NotLoaded if partitions.iter().any(|name| name == DEFAULT_PARTITION) => {
            "drop the collection when Milvus runs, or restore another snapshot".to_owned()
        }
        Outcome::NotLoaded => {
            "drop the partition when Milvus runs, or restore another snapshot".to_owned()
        }
    }
}

#[cfg(test)]
#[path = "missing_data_tests.rs"]
mod tests;
