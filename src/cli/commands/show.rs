//! `eyrie show`: one snapshot in full.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::TryStreamExt as _;

use super::{denied, weakenings};
use crate::Result;
use crate::base::progress::Amount;
use crate::base::text::Bytes;
use crate::base::weakening;
use crate::cli::context::Context;
use crate::cli::documents::{
    self, ShowDocument, ShownCollection, ShownCut, ShownHold, ShownIndex, ShownLoad, Time,
};
use crate::cli::output::{Column, Page, Render, count};
use crate::cli::stored::Stored;
use crate::cli::values::{SnapshotName, took};
use crate::instance::holds::HoldState;
use crate::milvus::catalog::{Catalog, Collection};
use crate::milvus::hybrid;
use crate::milvus::objects::TreeKey;
use crate::milvus::unnamed::UnnamedDeltaLog;
use crate::snapshot::{Body, Cut, Selected, Snapshot, WalState};

/// Show one snapshot: databases, collections, rows, indexes, holds, weakenings
///
/// Reads the manifest and the metadata in the snapshot, no objects.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// latest, an id or the beginning of one
    #[arg(value_name = "SNAPSHOT")]
    pub snapshot: SnapshotName,
}

/// Shows one snapshot.
///
/// # Errors
///
/// Those of [`Stored::open`] and [`Stored::find`];
/// [`Cause::Damage`](crate::Cause::Damage) when its metadata cannot be read.
pub fn run(args: &Args, context: &Context) -> Result<u8> {
    let config = context.config()?;
    let document = context.run(context.cancel.run(async {
        let stored = Stored::open(context, &config).await?;
        let view = stored.repository.view().await?;
        let snapshot = stored.snapshot(&args.snapshot, &view)?;
        let catalog = snapshot.catalog().await?;
        let amounts = amounts(&snapshot).await?;
        let verified = stored.verified().await?;
        let verified = verified.get(&snapshot.manifest.snapshot);
        let mut document = document(&snapshot, &catalog, &amounts, &config.accept);
        document.snapshot.verified = verified.cloned();
        Ok(document)
    }))?;
    context.output.show(&document)?;
    Ok(0)
}

/// Objects and bytes of each collection.
async fn amounts(snapshot: &Snapshot) -> Result<BTreeMap<i64, Amount>> {
    let mut amounts: BTreeMap<i64, Amount> = BTreeMap::new();
    let mut entries = snapshot.entries(&Selected::All);
    while let Some(entry) = entries.try_next().await? {
        if let Some(key) = TreeKey::parse(&entry.key) {
            *amounts.entry(key.collection).or_default() += Amount::object(entry.content.size());
        }
    }
    Ok(amounts)
}

fn document(
    snapshot: &Snapshot,
    catalog: &Catalog,
    amounts: &BTreeMap<i64, Amount>,
    accept: &[String],
) -> ShowDocument {
    let (manifest, body) = (&snapshot.manifest, &snapshot.body);
    let created = catalog.collections.values().filter(|c| c.is_created());
    let mut shown: Vec<ShownCollection> = created
        .map(|c| collection(catalog, c, amounts.get(&c.id).copied().unwrap_or_default()))
        .collect();
    shown.sort_by(|a, b| (&a.database, &a.name).cmp(&(&b.database, &b.name)));
    ShowDocument {
        snapshot: documents::snapshot(manifest, body, accept, None),
        revision: body.revision,
        etcd_keys: body.counts.etcd_keys,
        sequence: manifest.sequence,
        segments: body.counts.segments,
        rows: body.counts.rows,
        wal_kind: body.wal.kind.clone(),
        wal: match body.wal.state {
            WalState::Captured => "captured",
            WalState::Reset => "reset",
        }
        .to_owned(),
        duration_ms: body.duration_ms,
        write_hold_ms: body.write_hold_ms,
        write_hold_spent: body.write_hold_spent,
        asked_mode: body.asked_mode,
        cut: cut(&body.cut),
        flush: body.flush.clone(),
        holds: holds(body),
        databases: catalog.databases.values().map(|d| d.name.clone()).collect(),
        catalog: shown,
        notes: documents::notes(body),
        unnamed_delta_logs: body
            .unnamed_delta_logs
            .iter()
            .map(UnnamedDeltaLog::path)
            .collect(),
        differences: body.differences.clone(),
        missing: missing(body),
    }
}

fn holds(body: &Body) -> Vec<ShownHold> {
    let shown = body.holds.iter().map(|hold| ShownHold {
        kind: hold.hold.clone(),
        state: match hold.state {
            HoldState::Held => "held",
            HoldState::Lost => "lost",
            HoldState::External => "external",
            HoldState::Absent => "absent",
        }
        .to_owned(),
        how: hold.detail.clone(),
        held_ms: hold.held_ms,
    });
    shown.collect()
}

fn cut(cut: &Cut) -> ShownCut {
    ShownCut {
        timestamp: cut.timestamp,
        time: hybrid::time(cut.timestamp).map(Time),
        proven: cut.proven,
        straddling: cut.straddling.clone(),
        straddling_unnamed: cut.straddling_unnamed,
    }
}

/// Objects that were gone when the snapshot was taken.
fn missing(body: &Body) -> Vec<String> {
    let missing = body.weakenings.iter();
    missing
        .filter(|weakening| weakening.code == weakening::MISSING_OBJECTS)
        .flat_map(|weakening| weakening.items.clone())
        .collect()
}

fn collection(catalog: &Catalog, c: &Collection, amount: Amount) -> ShownCollection {
    let live = || catalog.live_segments().filter(|s| s.key.collection == c.id);
    let partition = |id: &i64| match c.partitions.get(id) {
        Some(partition) => partition.name.clone(),
        None => id.to_string(),
    };
    let field = |id: i64| match c.columns().find(|field| field.field_id == id) {
        Some(field) => field.name.clone(),
        None => id.to_string(),
    };
    let indexes = c.indexes.values().filter(|index| !index.deleted);
    let load = catalog.load.collections.get(&c.id).map(|load| ShownLoad {
        replicas: load.replicas,
        partitions: if load.whole {
            Vec::new()
        } else {
            load.partitions.iter().map(partition).collect()
        },
    });
    ShownCollection {
        database: catalog.database_name(c.database),
        name: c.name.clone(),
        id: c.id,
        aliases: c.aliases.keys().cloned().collect(),
        partitions: c.partitions.len() as u64,
        segments: live().count() as u64,
        rows: live().map(|s| u64::try_from(s.rows).unwrap_or(0)).sum(),
        objects: amount.objects,
        bytes: amount.bytes,
        indexes: indexes
            .map(|index| ShownIndex {
                name: index.name.clone(),
                field: field(index.field),
                kind: index.params.get("index_type").cloned().unwrap_or_default(),
            })
            .collect(),
        loaded: load.is_some(),
        partition_names: c.partitions.values().map(|p| p.name.clone()).collect(),
        load,
        ttl_seconds: c.ttl_seconds(),
    }
}

impl Render for ShowDocument {
    fn render(&self, page: &mut Page) {
        let s = &self.snapshot;
        let ms = |ms| took(Duration::from_millis(ms));
        let parent = s.parent.as_ref().map_or("none", |id| id.short());
        let verified = s.verified.as_ref().map_or_else(
            || "never".to_owned(),
            |v| {
                format!(
                    "{} at {}: {}",
                    v.level,
                    v.time.0,
                    match v.damage {
                        0 => "no damage".to_owned(),
                        n => format!("DAMAGE in {}", count(n, "place")),
                    }
                )
            },
        );
        page.line(format!("snapshot {} of {}", s.snapshot.short(), s.instance));
        page.pairs(&[
            ("id", s.snapshot.0.clone()),
            ("time", s.time.0.to_string()),
            ("sequence", format!("{}, after {parent}", self.sequence)),
            ("mode", self.mode()),
            ("cut", self.cut()),
            ("milvus", s.milvus_version.clone()),
            (
                "anchor",
                format!(
                    "etcd revision {}, {}",
                    self.revision,
                    count(self.etcd_keys, "key")
                ),
            ),
            (
                "contents",
                format!(
                    "{}, {}, {}, {}, {}",
                    count(s.collections, "collection"),
                    count(self.rows, "row"),
                    count(self.segments, "segment"),
                    count(s.objects, "object"),
                    Bytes(s.bytes),
                ),
            ),
            ("added", Bytes(s.bytes_added).to_string()),
            ("wal", format!("{}, {}", self.wal_kind, self.wal)),
            (
                "writes denied",
                denied(self.write_hold_ms, self.write_hold_spent),
            ),
            ("flush", self.flush()),
            ("took", ms(self.duration_ms)),
            ("verified", verified),
        ]);
        let labels = s.labels.iter().map(|(key, value)| format!("{key}={value}"));
        page.list("labels", labels);
        weakenings(page, &s.weakened);
        page.list(
            "held",
            self.holds.iter().map(|hold| match hold.state.as_str() {
                "absent" => format!("{}: not held, {}", hold.kind, hold.how),
                state => format!(
                    "{}: {state} for {}, {}",
                    hold.kind,
                    ms(hold.held_ms),
                    hold.how
                ),
            }),
        );
        page.list("gone when it was taken", self.missing.iter().cloned());
        let unnamed = self.cut.straddling_unnamed;
        let more = (unnamed > 0).then(|| format!("{unnamed} more that are not named"));
        page.list(
            "logs newer than the cut",
            self.cut.straddling.iter().cloned().chain(more),
        );
        page.list(
            "where Milvus and etcd differed",
            self.differences.iter().cloned(),
        );
        page.list("notes", self.notes.iter().map(|note| note.what.clone()));
        page.heading(&format!(
            "collections in {}",
            count(self.databases.len() as u64, "database")
        ));
        page.table(
            &[
                Column::text("database"),
                Column::text("collection"),
                Column::text("aliases"),
                Column::number("partitions"),
                Column::number("rows"),
                Column::number("segments"),
                Column::number("objects"),
                Column::number("size"),
                Column::text("indexes"),
                Column::text("loaded"),
            ],
            self.catalog.iter().map(row),
        );
    }
}

impl ShowDocument {
    fn mode(&self) -> String {
        let (mode, method) = (self.snapshot.mode.word(), self.snapshot.method.word());
        if self.asked_mode == self.snapshot.mode {
            format!("{mode}, by {method}")
        } else {
            format!(
                "{mode} ({} was asked for), by {method}",
                self.asked_mode.word()
            )
        }
    }

    fn cut(&self) -> String {
        let proven = if self.cut.proven {
            "nothing in it is newer"
        } else {
            "some of it is newer"
        };
        match &self.cut.time {
            Some(time) => format!("{}, {proven}", time.0),
            None => "everything: Milvus was stopped".to_owned(),
        }
    }

    fn flush(&self) -> String {
        match &self.flush {
            Some(flush) => format!(
                "{} in {}",
                count(u64::from(flush.attempts), "call"),
                took(Duration::from_millis(flush.duration_ms))
            ),
            None => "none".to_owned(),
        }
    }
}

fn row(collection: &ShownCollection) -> Vec<String> {
    let indexes = collection
        .indexes
        .iter()
        .map(|i| format!("{}:{}", i.field, i.kind));
    vec![
        collection.database.clone(),
        collection.name.clone(),
        collection.aliases.join(","),
        collection.partitions.to_string(),
        collection.rows.to_string(),
        collection.segments.to_string(),
        collection.objects.to_string(),
        Bytes(collection.bytes).to_string(),
        indexes.collect::<Vec<_>>().join(" "),
        match &collection.load {
            None => "no".to_owned(),
            Some(load) if load.partitions.is_empty() => "yes".to_owned(),
            Some(load) => load.partitions.join(","),
        },
    ]
}
