//! Milvus's own view of what it holds, compared with the anchor (I6).
//!
//! Some of what Milvus answers is not in etcd: 2.3.5 keeps altered collection properties in memory
//! only (docs/milvus.md 00). The anchor is then less than what a client sees, and the snapshot says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use crate::base::text::cut;
use crate::milvus::catalog::{Catalog, Collection};
use crate::milvus::inventory::{self, Inventory};
use crate::milvus::proto::meta::{AliasState, DatabaseState, PartitionState};
use crate::milvus::proto::schema::FieldSchema;

/// Differences that are named; the rest are counted.
const NAMED: usize = 200;

/// What Milvus answers otherwise than the anchor holds it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Differences {
    /// Each in words.
    pub(super) found: BTreeSet<String>,
    /// The collections that they are of.
    pub(super) collections: BTreeSet<i64>,
}

/// Names every difference between what Milvus answers and what the anchor holds.
pub(super) fn differences(inventory: &Inventory, catalog: &Catalog) -> Differences {
    let mut found = BTreeSet::new();
    let mut collections = BTreeSet::new();
    let answered: BTreeSet<&str> = inventory
        .databases
        .iter()
        .map(|d| d.name.as_str())
        .collect();
    let named: BTreeSet<&str> = catalog
        .databases
        .values()
        .filter(|d| matches!(d.state, DatabaseState::Created | DatabaseState::Unknown))
        .map(|d| d.name.as_str())
        .collect();
    sets("databases", &answered, &named, &mut found);
    let answered: BTreeMap<i64, &inventory::Collection> = inventory
        .collections
        .iter()
        .map(|c| (c.name.id, c))
        .collect();
    for collection in catalog.collections.values().filter(|c| c.is_created()) {
        let (database, name) = catalog.names(collection.id);
        let name = format!("{database}.{name}");
        let before = found.len();
        match answered.get(&collection.id) {
            Some(answered) => compare(&name, answered, collection, &mut found),
            None => {
                found.insert(format!("{name}: in etcd, and Milvus does not show it"));
            }
        }
        if found.len() > before {
            collections.insert(collection.id);
        }
    }
    for (id, collection) in &answered {
        if catalog.collection(*id).is_none() {
            collections.insert(*id);
            found.insert(format!(
                "{}: Milvus shows it, and it is not in etcd",
                collection.name
            ));
        }
    }
    let users = inventory.users.iter().map(String::as_str).collect();
    sets("users", &users, &names(&catalog.access.users), &mut found);
    let roles = inventory.roles.iter().map(|r| r.name.as_str()).collect();
    sets("roles", &roles, &names(&catalog.access.roles), &mut found);
    Differences { found, collections }
}

fn compare(
    name: &str,
    answered: &inventory::Collection,
    stored: &Collection,
    found: &mut BTreeSet<String>,
) {
    let described = &answered.description;
    let properties: BTreeMap<&str, &str> = described
        .properties
        .iter()
        .map(|pair| (pair.key.as_str(), pair.value.as_str()))
        .collect();
    let kept: BTreeMap<&str, &str> = stored
        .properties
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    for key in properties
        .keys()
        .chain(kept.keys())
        .collect::<BTreeSet<_>>()
    {
        let (answered, kept) = (properties.get(*key), kept.get(*key));
        if answered != kept {
            found.insert(format!(
                "{name}: property {key} is {} in Milvus and {} in etcd; set it again after a restore",
                shown(answered),
                shown(kept)
            ));
        }
    }
    let schema = described.schema.iter();
    let in_milvus: BTreeSet<_> = schema.flat_map(|s| &s.fields).map(field).collect();
    // Row id and timestamp (0 and 1) are not shown to clients.
    let user_fields = stored.fields.iter();
    let user_fields = user_fields.filter(|f| f.field_id >= FIRST_USER_FIELD && !f.is_dynamic);
    let in_etcd: BTreeSet<_> = user_fields.map(field).collect();
    sets(
        &format!("{name}: fields"),
        &names(&in_milvus),
        &names(&in_etcd),
        found,
    );
    let partitions = answered.partitions.keys().map(String::as_str).collect();
    let stored_partitions = stored
        .partitions
        .values()
        .filter(|p| p.state == PartitionState::Created)
        .map(|p| p.name.as_str())
        .collect();
    sets(
        &format!("{name}: partitions"),
        &partitions,
        &stored_partitions,
        found,
    );
    let aliases = answered.aliases.iter().map(String::as_str).collect();
    let stored_aliases = stored
        .aliases
        .iter()
        .filter(|(_, state)| **state == AliasState::Created)
        .map(|(alias, _)| alias.as_str())
        .collect();
    sets(
        &format!("{name}: aliases"),
        &aliases,
        &stored_aliases,
        found,
    );
    let indexes = answered.indexes.iter();
    let indexes: BTreeSet<_> = indexes
        .map(|(name, index)| format!("{name} on {}", index.field_name))
        .collect();
    let field_name = |id| {
        let field = stored.fields.iter().find(|f| f.field_id == id);
        field.map_or("a field that is not there", |f| f.name.as_str())
    };
    let stored_indexes = stored.indexes.values().filter(|index| !index.deleted);
    let stored_indexes: BTreeSet<_> = stored_indexes
        .map(|index| format!("{} on {}", index.name, field_name(index.field)))
        .collect();
    sets(
        &format!("{name}: indexes"),
        &names(&indexes),
        &names(&stored_indexes),
        found,
    );
}

/// A field as it is told: its id, name and type, and what the type is of.
fn field(field: &FieldSchema) -> String {
    let params = field.type_params.iter();
    let params: BTreeSet<_> = params.map(|p| format!(" {}={}", p.key, p.value)).collect();
    let params: String = params.into_iter().collect();
    let key = if field.is_primary_key { " primary" } else { "" };
    let (id, name) = (field.field_id, &field.name);
    format!(
        "{id} {name} {}{params}{key}",
        field.data_type().as_str_name()
    )
}

fn names(of: &BTreeSet<String>) -> BTreeSet<&str> {
    of.iter().map(String::as_str).collect()
}

/// The id of the first field that users name; 0 and 1 are Milvus's own.
const FIRST_USER_FIELD: i64 = 100;

fn sets(what: &str, milvus: &BTreeSet<&str>, etcd: &BTreeSet<&str>, found: &mut BTreeSet<String>) {
    let only = |a: &BTreeSet<&str>, b: &BTreeSet<&str>| -> Vec<String> {
        a.difference(b).map(ToString::to_string).collect()
    };
    let (in_milvus, in_etcd) = (only(milvus, etcd), only(etcd, milvus));
    if !in_milvus.is_empty() || !in_etcd.is_empty() {
        found.insert(format!(
            "{what}: only in Milvus {in_milvus:?}, only in etcd {in_etcd:?}"
        ));
    }
}

fn shown<T: Debug>(value: Option<T>) -> String {
    value.map_or_else(|| "absent".to_owned(), |value| format!("{value:?}"))
}

/// The differences that a manifest and a report name.
pub(super) fn named(differences: &BTreeSet<String>) -> Vec<String> {
    cut(differences, NAMED, |more| {
        format!("{more} more differences")
    })
}
