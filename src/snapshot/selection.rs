//! Which part of a snapshot: databases and collections, by default all of it.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::base::text::first;
use crate::milvus::catalog::{Catalog, DEFAULT_DATABASE};
use crate::milvus::objects::collection_prefix;
use crate::repo::KeyRange;
use crate::{Cause, Error, Result};

/// Names that an error lists when one was not found.
const NAMED: usize = 10;

/// Databases and collections by their names; all of a snapshot when empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Databases with all their collections.
    pub databases: BTreeSet<String>,
    /// Single collections.
    pub collections: BTreeSet<CollectionPath>,
}

/// A collection by name: `DATABASE.NAME`, or `NAME` of the database `default`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CollectionPath {
    /// The database's name.
    pub database: String,
    /// The collection's name.
    pub name: String,
}

impl FromStr for CollectionPath {
    type Err = String;

    // Milvus takes letters, digits, `_` and, if so configured, `$` for names, so the first `.` divides.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (database, name) = text.split_once('.').unwrap_or((DEFAULT_DATABASE, text));
        if database.is_empty() || name.is_empty() {
            return Err(format!(
                "{text:?} names no collection; write NAME or DATABASE.NAME"
            ));
        }
        Ok(Self {
            database: database.to_owned(),
            name: name.to_owned(),
        })
    }
}

impl fmt::Display for CollectionPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.database, self.name)
    }
}

/// What a [`Selection`] is in one snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Selected {
    /// The whole snapshot.
    #[default]
    All,
    /// The collections with these ids.
    Collections(BTreeSet<i64>),
}

impl Selection {
    /// Whether it is all of a snapshot.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.databases.is_empty() && self.collections.is_empty()
    }

    /// Finds what is selected among the collections that clients saw.
    ///
    /// # Errors
    ///
    /// [`Cause::NotFound`] for a name that the snapshot does not have.
    pub fn of(&self, catalog: &Catalog) -> Result<Selected> {
        if self.is_all() {
            return Ok(Selected::All);
        }
        let created = || catalog.collections.values().filter(|c| c.is_created());
        let mut ids = BTreeSet::new();
        for name in &self.databases {
            let known = catalog.databases.values().map(|found| found.name.as_str());
            let mut known: BTreeSet<&str> = known.collect();
            // Milvus before 2.2.9 has no other, and no key for it.
            known.insert(DEFAULT_DATABASE);
            if !known.contains(name.as_str()) {
                let known: Vec<_> = known.into_iter().collect();
                return Err(absent("database", name, &known));
            }
            let within = created().filter(|c| catalog.database_name(c.database) == *name);
            ids.extend(within.map(|c| c.id));
        }
        for path in &self.collections {
            let is = |id: i64| catalog.names(id) == (path.database.clone(), path.name.clone());
            let Some(found) = created().find(|c| is(c.id)) else {
                let mut known: Vec<_> = created().map(|c| catalog.names(c.id)).collect();
                known.sort();
                let known: Vec<_> = known.into_iter().map(|(d, c)| format!("{d}.{c}")).collect();
                return Err(absent("collection", path, &known));
            };
            ids.insert(found.id);
        }
        Ok(Selected::Collections(ids))
    }
}

impl Selected {
    /// Whether the collection is selected.
    #[must_use]
    pub fn has(&self, collection: i64) -> bool {
        match self {
            Self::All => true,
            Self::Collections(ids) => ids.contains(&collection),
        }
    }

    /// Where the selected objects are in the map of objects, in ascending order.
    #[must_use]
    pub fn ranges(&self) -> Vec<KeyRange> {
        match self {
            Self::All => vec![KeyRange::all()],
            Self::Collections(ids) => {
                let ranges = ids
                    .iter()
                    .map(|id| KeyRange::prefix(collection_prefix(*id)));
                ranges.collect()
            }
        }
    }
}

fn absent(what: &str, name: impl fmt::Display, known: &[impl fmt::Display]) -> Error {
    let error = Error::new(
        Cause::NotFound,
        format!("the snapshot has no {what} {name}"),
    );
    if known.is_empty() {
        return error;
    }
    error.with_hint(format!("it has {}", first(known, NAMED, ", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::milvus::keys::Roots;
    use crate::milvus::simulated::keys::SimulatedKeys;
    use crate::milvus::{MilvusVersion, recorded};

    fn catalog() -> Catalog {
        let version = MilvusVersion::new(2, 3, 5);
        Catalog::decode(&Roots::new("by-dev"), &recorded::keys(), &version).unwrap()
    }

    fn selection(databases: &[&str], collections: &[&str]) -> Selection {
        Selection {
            databases: databases.iter().map(|&name| name.to_owned()).collect(),
            collections: collections
                .iter()
                .map(|name| name.parse().unwrap())
                .collect(),
        }
    }

    #[test]
    fn nothing_named_is_all_of_it() {
        let all = Selection::default().of(&catalog()).unwrap();
        assert_eq!(all, Selected::All);
        assert!(all.has(21));
    }

    #[test]
    fn names_are_looked_up_within_their_database() {
        let catalog = catalog();
        let of = |databases, collections| {
            let selected = selection(databases, collections).of(&catalog).unwrap();
            let Selected::Collections(ids) = selected else {
                panic!("all was selected");
            };
            let names: BTreeSet<_> = ids.into_iter().map(|id| catalog.names(id)).collect();
            let names = names.into_iter().map(|(d, c)| format!("{d}.{c}"));
            names.collect::<Vec<_>>()
        };
        assert_eq!(of(&[], &["flat"]), ["default.flat"]);
        assert_eq!(of(&[], &["second.flat"]), ["second.flat"]);
        let two = of(&["second"], &["flat"]);
        assert_eq!(
            two,
            ["default.flat", "second.flat", "second.unflushed_before"]
        );
        assert!(of(&["default"], &[]).len() > 10);
    }

    #[test]
    fn milvus_without_databases_has_the_default_one_simulated_milvus_2_2() {
        let mut old = SimulatedKeys::v2_2();
        old.keys
            .retain(|kv| !String::from_utf8_lossy(&kv.key).contains("/database/"));
        let version = MilvusVersion::new(2, 2, 8);
        let catalog = Catalog::decode(&SimulatedKeys::roots(), &old.keys, &version).unwrap();
        assert!(catalog.databases.is_empty());
        let expected = Selected::Collections(catalog.collections.keys().copied().collect());
        for selected in [selection(&["default"], &[]), selection(&[], &["docs"])] {
            assert_eq!(selected.of(&catalog).unwrap(), expected);
        }
    }

    #[test]
    fn a_name_that_is_not_there_is_told_with_those_that_are() {
        let error = selection(&["third"], &[]).of(&catalog()).unwrap_err();
        assert_eq!(error.cause(), Cause::NotFound);
        assert_eq!(error.hint(), Some("it has default, second"));
        let error = selection(&[], &["second.hnsw"]).of(&catalog()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the snapshot has no collection second.hnsw"
        );
        assert!(
            error.hint().unwrap().contains("default.hnsw"),
            "{:?}",
            error.hint()
        );
        for wrong in [".flat", "second.", ""] {
            assert!(wrong.parse::<CollectionPath>().is_err(), "{wrong}");
        }
    }
}
