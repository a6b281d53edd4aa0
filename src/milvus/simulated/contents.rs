//! What a simulated Milvus says that it holds.

use std::collections::BTreeMap;

use crate::milvus::catalog::{self, Catalog};
use crate::milvus::inventory::{self, CollectionName, Inventory};
use crate::milvus::proto::common::{IndexState, KeyValuePair};
use crate::milvus::proto::meta::PartitionState;
use crate::milvus::proto::milvus::{DescribeCollectionResponse, IndexDescription};
use crate::milvus::proto::schema::{CollectionSchema, FieldSchema};

/// A collection `docs` in the database `default` with everything that a collection can have, and from
/// 2.2.9 on, where there are databases, an empty one of that name in the database `other`.
pub(super) fn example(version: &crate::milvus::MilvusVersion) -> Inventory {
    let mut databases = vec![database("default", Some(1))];
    let mut docs = collection("default", "docs", 449);
    docs.aliases = vec!["letters".to_owned(), "papers".to_owned()];
    docs.indexes = [("vector_index".to_owned(), index("vector_index", 470))].into();
    let mut collections = vec![docs];
    if version.at_least(2, 2, 9) {
        databases.push(database("other", Some(2)));
        let mut other = collection("other", "docs", 450);
        other.aliases.clone_from(&collections[0].aliases);
        collections.push(other);
    }
    let role = |name: &str, users: &[&str]| inventory::Role {
        name: name.to_owned(),
        users: users.iter().map(|&user| user.to_owned()).collect(),
        grants: vec![],
    };
    Inventory {
        databases,
        collections: collections.into_iter().map(described).collect(),
        users: vec!["root".to_owned(), "bob".to_owned()],
        roles: vec![role("reader", &["bob"]), role("admin", &[])],
    }
}

/// What Milvus would answer for what a catalog holds.
pub(crate) fn inventory_of(catalog: &Catalog) -> Inventory {
    let databases = catalog.databases.values();
    let collections = catalog.collections.values().filter(|c| c.is_created());
    let role = |name: &String| inventory::Role {
        name: name.clone(),
        users: vec![],
        grants: vec![],
    };
    let mut databases: Vec<_> = databases.map(|d| database(&d.name, Some(d.id))).collect();
    if databases.is_empty() {
        databases.push(database(catalog::DEFAULT_DATABASE, Some(1)));
    }
    Inventory {
        databases,
        collections: collections.map(|c| answer(catalog, c)).collect(),
        users: catalog.access.users.iter().cloned().collect(),
        roles: catalog.access.roles.iter().map(role).collect(),
    }
}

fn answer(catalog: &Catalog, stored: &catalog::Collection) -> inventory::Collection {
    let (database, name) = catalog.names(stored.id);
    let mut answered = collection(&database, &name, stored.id);
    let shown = |field: &&FieldSchema| field.field_id >= 100 && !field.is_dynamic;
    let created = |p: &(&i64, &catalog::Partition)| p.1.state == PartitionState::Created;
    answered.description = DescribeCollectionResponse {
        schema: Some(CollectionSchema {
            name,
            fields: stored.fields.iter().filter(shown).cloned().collect(),
            ..Default::default()
        }),
        properties: stored
            .properties
            .iter()
            .map(|(key, value)| KeyValuePair {
                key: key.clone(),
                value: value.clone(),
            })
            .collect(),
        virtual_channel_names: stored.vchannels.clone(),
        physical_channel_names: stored.pchannels.clone(),
        ..answered.description
    };
    let partitions = stored.partitions.iter().filter(created);
    answered.partitions = partitions.map(|(id, p)| (p.name.clone(), *id)).collect();
    answered.aliases = stored.aliases.keys().cloned().collect();
    let indexes = stored.indexes.values().filter(|index| !index.deleted);
    answered.indexes = indexes
        .map(|i| {
            let field = stored.fields.iter().find(|f| f.field_id == i.field);
            let answer = IndexDescription {
                field_name: field.map(|f| f.name.clone()).unwrap_or_default(),
                ..index(&i.name, i.id)
            };
            (i.name.clone(), answer)
        })
        .collect();
    described(answered)
}

fn database(name: &str, id: Option<i64>) -> inventory::Database {
    inventory::Database {
        name: name.to_owned(),
        id,
        properties: BTreeMap::new(),
    }
}

fn collection(database: &str, name: &str, id: i64) -> inventory::Collection {
    inventory::Collection {
        name: CollectionName {
            database: database.to_owned(),
            name: name.to_owned(),
            id,
        },
        description: DescribeCollectionResponse {
            schema: Some(CollectionSchema {
                name: name.to_owned(),
                ..Default::default()
            }),
            virtual_channel_names: vec![format!("by-dev-rootcoord-dml_0_{id}v0")],
            physical_channel_names: vec!["by-dev-rootcoord-dml_0".to_owned()],
            ..Default::default()
        },
        partitions: [("_default".to_owned(), id + 1)].into(),
        aliases: vec![],
        indexes: BTreeMap::new(),
    }
}

/// Puts into the description what it repeats of the rest.
fn described(mut collection: inventory::Collection) -> inventory::Collection {
    collection.description = DescribeCollectionResponse {
        collection_id: collection.name.id,
        collection_name: collection.name.name.clone(),
        db_name: collection.name.database.clone(),
        shards_num: 1,
        aliases: collection.aliases.clone(),
        ..collection.description
    };
    collection
}

fn index(name: &str, id: i64) -> IndexDescription {
    IndexDescription {
        index_name: name.to_owned(),
        index_id: id,
        state: IndexState::Finished.into(),
        ..Default::default()
    }
}
