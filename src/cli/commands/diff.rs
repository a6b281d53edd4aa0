//! `eyrie diff`: what changed between two snapshots.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt as _;

use crate::Result;
use crate::base::text::Bytes;
use crate::cli::context::Context;
use crate::cli::documents::{Change, DiffDocument, DiffEntry, DiffSummary, HexId};
use crate::cli::output::{Page, Render, count};
use crate::cli::stored::Stored;
use crate::cli::values::SnapshotName;
use crate::milvus::catalog::{Catalog, Collection};
use crate::milvus::objects::TreeKey;
use crate::repo::{self, Content, Entry};
use crate::snapshot::Snapshot;

/// Say what changed from one snapshot to another
///
/// Compares metadata and trees of hashes; reads no object. Lines begin with + for what only the
/// second has, - for what only the first has, ~ for what differs.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The first: latest, an id or the beginning of one
    #[arg(value_name = "FROM")]
    pub from: SnapshotName,

    /// The second
    #[arg(value_name = "TO")]
    pub to: SnapshotName,
}

/// Compares two snapshots.
///
/// # Errors
///
/// Those of [`Stored::open`] and [`Stored::find`];
/// [`Cause::Damage`](crate::Cause::Damage) when their metadata cannot be read.
pub fn run(args: &Args, context: &Context) -> Result<u8> {
    let config = context.config()?;
    let document = context.run(context.cancel.run(async {
        let stored = Stored::open(context, &config).await?;
        let view = stored.repository.view().await?;
        let from = stored.snapshot(&args.from, &view)?;
        let to = stored.snapshot(&args.to, &view)?;
        let (objects, entries) = objects(&from, &to).await?;
        Ok(DiffDocument {
            from: HexId(from.manifest.snapshot.to_string()),
            to: HexId(to.manifest.snapshot.to_string()),
            objects,
            metadata: metadata(&from.catalog().await?, &to.catalog().await?),
            entries,
        })
    }))?;
    context.output.show(&document)?;
    Ok(0)
}

/// Compares the maps of objects without reading what they share.
async fn objects(from: &Snapshot, to: &Snapshot) -> Result<(DiffSummary, Vec<DiffEntry>)> {
    let mut summary = DiffSummary::default();
    let mut entries = Vec::new();
    let (left, right) = (from.objects(), to.objects());
    let mut changes = left.diff(&right);
    while let Some(change) = changes.try_next().await? {
        let (change, entry) = match &change {
            repo::Change::Added(entry) => {
                summary.added += 1;
                summary.bytes_added += entry.content.size();
                (Change::Added, entry)
            }
            repo::Change::Removed(entry) => {
                summary.removed += 1;
                summary.bytes_removed += entry.content.size();
                (Change::Removed, entry)
            }
            // Another identity of the same bytes, as after a restore, is no change.
            repo::Change::Changed { from, to } if same_bytes(&from.content, &to.content) => {
                continue;
            }
            repo::Change::Changed { to, .. } => {
                summary.changed += 1;
                (Change::Changed, to)
            }
        };
        entries.push(DiffEntry {
            change,
            what: path(entry),
            size: Some(entry.content.size()),
        });
    }
    let before = from.manifest.totals.objects;
    summary.same = before.saturating_sub(summary.removed + summary.changed);
    Ok((summary, entries))
}

fn same_bytes(from: &Content, to: &Content) -> bool {
    from.hash().is_some() && from.hash() == to.hash()
}

fn path(entry: &Entry) -> String {
    match TreeKey::parse(&entry.key) {
        Some(key) => key.path.to_owned(),
        None => String::from_utf8_lossy(&entry.key).into_owned(),
    }
}

/// What differs between the databases, collections and users of two snapshots.
fn metadata(from: &Catalog, to: &Catalog) -> Vec<DiffEntry> {
    let mut found = Vec::new();
    let databases = |c: &Catalog| c.databases.values().map(|d| d.name.clone()).collect();
    sets("database", &databases(from), &databases(to), &mut found);
    let named = |catalog: &Catalog| -> BTreeMap<i64, String> {
        let created = catalog.collections.values().filter(|c| c.is_created());
        created
            .map(|c| {
                let (database, name) = catalog.names(c.id);
                (c.id, format!("{database}.{name}"))
            })
            .collect()
    };
    let (before, after) = (named(from), named(to));
    for id in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
        match (before.get(id), after.get(id)) {
            (Some(name), None) => found.push(entry(Change::Removed, gone(name, from, *id))),
            (None, Some(name)) => found.push(entry(Change::Added, gone(name, to, *id))),
            (Some(old), Some(new)) => {
                if old != new {
                    let what = format!("collection {old} is now {new}");
                    found.push(entry(Change::Changed, what));
                }
                collection(
                    new,
                    (from, &from.collections[id]),
                    (to, &to.collections[id]),
                    &mut found,
                );
            }
            (None, None) => {}
        }
    }
    let (old, new) = (&from.access, &to.access);
    for (what, old, new) in [
        ("users", old.users.len() as u64, new.users.len() as u64),
        ("roles", old.roles.len() as u64, new.roles.len() as u64),
        ("grants", old.grants, new.grants),
    ] {
        changed(&format!("number of {what}"), &old, &new, &mut found);
    }
    found
}

fn gone(name: &str, catalog: &Catalog, id: i64) -> String {
    format!("collection {name} ({})", count(rows(catalog, id), "row"))
}

fn collection(
    name: &str,
    (from, old): (&Catalog, &Collection),
    (to, new): (&Catalog, &Collection),
    found: &mut Vec<DiffEntry>,
) {
    let of = |what: &str| format!("{what} of {name}");
    changed(&of("rows"), &rows(from, old.id), &rows(to, new.id), found);
    let segments = |catalog: &Catalog, id| {
        let live = catalog.live_segments();
        live.filter(|s| s.key.collection == id).count()
    };
    changed(
        &of("segments"),
        &segments(from, old.id),
        &segments(to, new.id),
        found,
    );
    let fields = |c: &Collection| -> BTreeSet<String> {
        let columns = c.columns();
        columns.map(|field| field.name.clone()).collect()
    };
    sets(&of("field"), &fields(old), &fields(new), found);
    let partitions = |c: &Collection| c.partitions.values().map(|p| p.name.clone()).collect();
    sets(&of("partition"), &partitions(old), &partitions(new), found);
    let aliases = |c: &Collection| c.aliases.keys().cloned().collect();
    sets(&of("alias"), &aliases(old), &aliases(new), found);
    let indexes = |c: &Collection| -> BTreeMap<String, _> {
        let kept = c.indexes.values().filter(|index| !index.deleted);
        kept.map(|index| (index.name.clone(), (index.field, index.params.clone())))
            .collect()
    };
    let (old_indexes, new_indexes) = (indexes(old), indexes(new));
    let names = |indexes: &BTreeMap<String, _>| indexes.keys().cloned().collect();
    sets(
        &of("index"),
        &names(&old_indexes),
        &names(&new_indexes),
        found,
    );
    for (index, described) in &new_indexes {
        if old_indexes
            .get(index)
            .is_some_and(|before| before != described)
        {
            found.push(entry(Change::Changed, of(&format!("index {index}"))));
        }
    }
    let loaded = |catalog: &Catalog, id| match catalog.load.collections.get(&id) {
        None => "not loaded",
        Some(load) if load.whole => "loaded",
        Some(_) => "partly loaded",
    };
    changed(
        &of("load state"),
        &loaded(from, old.id),
        &loaded(to, new.id),
        found,
    );
    let properties = |c: &Collection| -> BTreeSet<String> {
        let pairs = c.properties.iter();
        pairs.map(|(key, value)| format!("{key}={value}")).collect()
    };
    sets(&of("property"), &properties(old), &properties(new), found);
}

fn rows(catalog: &Catalog, collection: i64) -> u64 {
    let live = catalog.live_segments();
    live.filter(|s| s.key.collection == collection)
        .map(|s| u64::try_from(s.rows).unwrap_or(0))
        .sum()
}

fn sets(what: &str, from: &BTreeSet<String>, to: &BTreeSet<String>, found: &mut Vec<DiffEntry>) {
    let (kind, of) = what
        .split_once(" of ")
        .map_or((what, None), |(k, c)| (k, Some(c)));
    let named = |name: &String| match of {
        Some(of) => format!("{kind} {name} of {of}"),
        None => format!("{kind} {name}"),
    };
    let removed = from
        .difference(to)
        .map(|name| entry(Change::Removed, named(name)));
    found.extend(removed);
    found.extend(
        to.difference(from)
            .map(|name| entry(Change::Added, named(name))),
    );
}

fn changed<T: PartialEq + ToString>(what: &str, from: &T, to: &T, found: &mut Vec<DiffEntry>) {
    if from != to {
        let what = format!("{what}: {} to {}", from.to_string(), to.to_string());
        found.push(entry(Change::Changed, what));
    }
}

fn entry(change: Change, what: String) -> DiffEntry {
    DiffEntry {
        change,
        what,
        size: None,
    }
}

impl Render for DiffDocument {
    fn render(&self, page: &mut Page) {
        for entry in self.metadata.iter().chain(&self.entries) {
            let sign = match entry.change {
                Change::Added => '+',
                Change::Removed => '-',
                Change::Changed => '~',
            };
            let size = entry
                .size
                .map(|size| format!(" ({})", Bytes(size)))
                .unwrap_or_default();
            page.line(format!("{sign} {}{size}", entry.what));
        }
        let objects = &self.objects;
        page.heading(&format!("{} to {}", self.from.short(), self.to.short()));
        page.pairs(&[
            (
                "added",
                format!(
                    "{}, {}",
                    count(objects.added, "object"),
                    Bytes(objects.bytes_added)
                ),
            ),
            (
                "removed",
                format!(
                    "{}, {}",
                    count(objects.removed, "object"),
                    Bytes(objects.bytes_removed)
                ),
            ),
            ("changed", count(objects.changed, "object")),
            ("same", count(objects.same, "object")),
        ]);
    }
}
