//! What Milvus itself says that it holds: databases, collections, indexes, users and roles.
//!
//! The audit compares it with the catalog that is decoded from etcd. Names that exist in Milvus are text,
//! so a name of a database goes both into the request's `db_name` and into the metadata `dbname`, as
//! older and newer versions read one or the other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use futures::{StreamExt as _, TryStreamExt as _};

use super::catalog::DEFAULT_DATABASE;
use super::client::Client;
use super::proto::milvus as api;
use super::status::RefusalClass;
use crate::{Cause, Result};

/// How many collections are described at a time; a proxy serves such calls from memory.
const CONCURRENT_DESCRIPTIONS: usize = 8;

/// A database as Milvus tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// Its name.
    pub name: String,
    /// Its id; `None` before 2.4.3.
    pub id: Option<i64>,
    /// Its properties; empty before 2.4.3.
    pub properties: BTreeMap<String, String>,
}

/// A collection's names and id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CollectionName {
    /// Its database.
    pub database: String,
    /// Its name.
    pub name: String,
    /// Its id; 0 when it is not known.
    pub id: i64,
}

impl fmt::Display for CollectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.database, self.name)
    }
}

/// A collection as Milvus tells of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Collection {
    /// Names and id.
    pub name: CollectionName,
    /// Schema, shards, properties, consistency level; its aliases are in [`aliases`](Self::aliases).
    pub description: api::DescribeCollectionResponse,
    /// Partition names and ids.
    pub partitions: BTreeMap<String, i64>,
    /// Aliases, sorted.
    pub aliases: Vec<String>,
    /// Indexes, by name.
    pub indexes: BTreeMap<String, api::IndexDescription>,
}

/// A role as Milvus tells of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// The users that have it, sorted.
    pub users: Vec<String>,
    /// What it may do.
    pub grants: Vec<api::GrantEntity>,
}

/// All that Milvus says that it holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Inventory {
    /// Databases, by name.
    pub databases: Vec<Database>,
    /// Collections, by database and name.
    pub collections: Vec<Collection>,
    /// Users, sorted.
    pub users: Vec<String>,
    /// Roles, by name.
    pub roles: Vec<Role>,
}

impl Client {
    /// Asks for everything. Collections that are dropped meanwhile are left out.
    pub async fn inventory(&self) -> Result<Inventory> {
        self.inventory_of(None).await
    }

    /// Asks for everything, of collections for these only; for all of them where there is no such limit.
    pub async fn inventory_of(&self, only: Option<&BTreeSet<i64>>) -> Result<Inventory> {
        let names = self.list_databases().await?;
        let mut databases = Vec::new();
        let mut collections = Vec::new();
        for name in &names {
            collections.extend(self.show_collections(name).await?);
            match self.describe_database(name).await {
                Ok(database) => databases.push(database),
                Err(error) if error.cause() == Cause::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        collections.retain(|name| only.is_none_or(|only| only.contains(&name.id)));
        collections.sort();
        let collections = futures::stream::iter(collections)
            .map(|name| self.collection(name))
            .buffered(CONCURRENT_DESCRIPTIONS)
            .try_filter_map(|collection| async move { Ok(collection) })
            .try_collect()
            .await?;
        Ok(Inventory {
            databases,
            collections,
            users: self.list_users().await?,
            roles: self.list_roles(&names).await?,
        })
    }

    /// Lists the databases' names, sorted; only `default` before 2.2.9, which has no others.
    pub async fn list_databases(&self) -> Result<Vec<String>> {
        let answer = self.ask("", api::ListDatabasesRequest {}).await;
        match answer {
            Ok(answer) => {
                let mut names = answer.db_names;
                names.sort();
                Ok(names)
            }
            Err(failure) if failure.is_unimplemented() => Ok(vec![DEFAULT_DATABASE.to_owned()]),
            Err(failure) => Err(self.error(failure, "list the databases")),
        }
    }

    /// Describes a database; its name alone before 2.4.3, which does not know the call.
    pub async fn describe_database(&self, database: &str) -> Result<Database> {
        let request = api::DescribeDatabaseRequest {
            db_name: database.to_owned(),
        };
        let answer = self.ask(database, request).await;
        match answer {
            Ok(answer) => Ok(Database {
                name: database.to_owned(),
                id: (answer.db_id != 0).then_some(answer.db_id),
                properties: answer
                    .properties
                    .into_iter()
                    .map(|pair| (pair.key, pair.value))
                    .collect(),
            }),
            Err(failure) if failure.is_unimplemented() => Ok(Database {
                name: database.to_owned(),
                id: None,
                properties: BTreeMap::new(),
            }),
            Err(failure) => Err(self.error(failure, &format!("describe the database {database}"))),
        }
    }

    /// Lists the collections of a database; one that was dropped meanwhile has none.
    pub async fn show_collections(&self, database: &str) -> Result<Vec<CollectionName>> {
        let request = api::ShowCollectionsRequest {
            db_name: database.to_owned(),
        };
        let answer = self.ask(database, request).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure) if failure.class() == Some(RefusalClass::NotFound) => {
                return Ok(Vec::new());
            }
            Err(failure) => {
                let doing = format!("list the collections of {database}");
                return Err(self.error(failure, &doing));
            }
        };
        let names = answer
            .collection_names
            .into_iter()
            .zip(answer.collection_ids);
        Ok(names
            .map(|(name, id)| CollectionName {
                database: database.to_owned(),
                name,
                id,
            })
            .collect())
    }

    /// Describes a collection.
    ///
    /// # Errors
    ///
    /// [`crate::Cause::NotFound`] when it is gone.
    pub async fn describe_collection(
        &self,
        collection: &CollectionName,
    ) -> Result<api::DescribeCollectionResponse> {
        let request = api::DescribeCollectionRequest {
            db_name: collection.database.clone(),
            collection_name: collection.name.clone(),
            ..Default::default()
        };
        self.ask(&collection.database, request)
            .await
            .map_err(|failure| self.error(failure, &format!("describe {collection}")))
    }

    /// Lists a collection's partitions and their ids.
    pub async fn show_partitions(
        &self,
        collection: &CollectionName,
    ) -> Result<BTreeMap<String, i64>> {
        let request = api::ShowPartitionsRequest {
            db_name: collection.database.clone(),
            collection_name: collection.name.clone(),
            ..Default::default()
        };
        let answer = self
            .ask(&collection.database, request)
            .await
            .map_err(|failure| {
                self.error(failure, &format!("list the partitions of {collection}"))
            })?;
        Ok(answer
            .partition_names
            .into_iter()
            .zip(answer.partition_ids)
            .collect())
    }

    /// Lists a collection's aliases, sorted; `None` before 2.3, which does not know the call (they are in
    /// the collection's description there).
    pub async fn list_aliases(&self, collection: &CollectionName) -> Result<Option<Vec<String>>> {
        let request = api::ListAliasesRequest {
            db_name: collection.database.clone(),
            collection_name: collection.name.clone(),
        };
        let answer = self.ask(&collection.database, request).await;
        match answer {
            Ok(answer) => {
                let mut aliases = answer.aliases;
                aliases.sort();
                Ok(Some(aliases))
            }
            Err(failure) if failure.is_unimplemented() => Ok(None),
            Err(failure) => Err(self.error(failure, &format!("list the aliases of {collection}"))),
        }
    }

    /// Describes a collection's indexes, by name; a collection without any is no error.
    pub async fn describe_indexes(
        &self,
        collection: &CollectionName,
    ) -> Result<BTreeMap<String, api::IndexDescription>> {
        let request = api::DescribeIndexRequest {
            db_name: collection.database.clone(),
            collection_name: collection.name.clone(),
            ..Default::default()
        };
        let answer = self.ask(&collection.database, request).await;
        let descriptions = match answer {
            Ok(answer) => answer.index_descriptions,
            // "index not found": the collection itself is asked for elsewhere.
            Err(failure) if failure.class() == Some(RefusalClass::NotFound) => Vec::new(),
            Err(failure) => {
                return Err(self.error(failure, &format!("describe the indexes of {collection}")));
            }
        };
        Ok(descriptions
            .into_iter()
            .map(|index| (index.index_name.clone(), index))
            .collect())
    }

    /// Lists the users, sorted.
    pub async fn list_users(&self) -> Result<Vec<String>> {
        let mut users = self
            .ask("", api::ListCredUsersRequest {})
            .await
            .map_err(|failure| self.error(failure, "list the users"))?
            .usernames;
        users.sort();
        Ok(users)
    }

    /// Lists the roles with their users and their grants in `databases`, by name.
    pub async fn list_roles(&self, databases: &[String]) -> Result<Vec<Role>> {
        let request = api::SelectRoleRequest {
            role: None,
            include_user_info: true,
        };
        let answer = self
            .ask("", request)
            .await
            .map_err(|failure| self.error(failure, "list the roles"))?;
        let mut roles = Vec::new();
        for result in answer.results {
            let name = result.role.unwrap_or_default().name;
            let mut users: Vec<_> = result.users.into_iter().map(|user| user.name).collect();
            users.sort();
            let grants = self.list_grants(&name, databases).await?;
            roles.push(Role {
                name,
                users,
                grants,
            });
        }
        roles.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(roles)
    }

    /// Grants are told for one database at a time (2.3.5, live); those that hold in all of them are told
    /// for each.
    async fn list_grants(&self, role: &str, databases: &[String]) -> Result<Vec<api::GrantEntity>> {
        let mut grants = Vec::new();
        for database in databases {
            let entity = api::GrantEntity {
                role: Some(api::RoleEntity {
                    name: role.to_owned(),
                }),
                db_name: database.clone(),
                ..Default::default()
            };
            let request = api::SelectGrantRequest {
                entity: Some(entity),
            };
            let answer = self.ask(database, request).await.map_err(|failure| {
                self.error(failure, &format!("list the grants of the role {role}"))
            })?;
            for grant in answer.entities {
                if !grants.contains(&grant) {
                    grants.push(grant);
                }
            }
        }
        Ok(grants)
    }

    async fn collection(&self, name: CollectionName) -> Result<Option<Collection>> {
        match self.collection_parts(&name).await {
            Ok(collection) => Ok(Some(collection)),
            Err(error) if error.cause() == Cause::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn collection_parts(&self, name: &CollectionName) -> Result<Collection> {
        let description = self.describe_collection(name).await?;
        let aliases = if let Some(aliases) = self.list_aliases(name).await? {
            aliases
        } else {
            let mut aliases = description.aliases.clone();
            aliases.sort();
            aliases
        };
        Ok(Collection {
            partitions: self.show_partitions(name).await?,
            indexes: self.describe_indexes(name).await?,
            name: name.clone(),
            description,
            aliases,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::simulated::{Script, SimulatedMilvus};
    use super::*;
    use crate::Cause;

    #[tokio::test]
    async fn everything_is_asked_for_simulated_milvus_2_2_16_to_2_6_13() {
        for version in ["2.2.8", "2.2.16", "2.3.5", "2.4.24", "2.5.27", "2.6.13"] {
            let milvus = SimulatedMilvus::start(Script::new(version)).await;
            let inventory = milvus.client().await.inventory().await.unwrap();
            let names: Vec<_> = inventory
                .collections
                .iter()
                .map(|c| c.name.to_string())
                .collect();
            let databases: Vec<_> = inventory
                .databases
                .iter()
                .map(|d| d.name.as_str())
                .collect();
            if version == "2.2.8" {
                assert_eq!(
                    (databases, names),
                    (vec!["default"], vec!["default.docs".to_owned()])
                );
            } else {
                assert_eq!(databases, ["default", "other"], "{version}");
                assert_eq!(names, ["default.docs", "other.docs"], "{version}");
            }
            let docs = &inventory.collections[0];
            assert_eq!(docs.aliases, ["letters", "papers"], "{version}");
            assert_eq!(docs.partitions.keys().collect::<Vec<_>>(), ["_default"]);
            assert_eq!(docs.indexes.keys().collect::<Vec<_>>(), ["vector_index"]);
            assert_eq!(inventory.users, ["bob", "root"]);
            assert_eq!(inventory.roles[0].name, "admin");
            assert_eq!(inventory.roles[1].users, ["bob"]);
            assert_eq!(
                inventory.roles[1].grants.len(),
                2,
                "one here, one everywhere: {version}"
            );
            let knows_ids = super::super::version::MilvusVersion::parse(version).at_least(2, 4, 3);
            assert_eq!(inventory.databases[0].id.is_some(), knows_ids, "{version}");
        }
    }

    #[tokio::test]
    async fn equal_names_in_two_databases_are_told_apart_simulated_milvus_2_3_5() {
        let milvus = SimulatedMilvus::start(Script::new("2.3.5")).await;
        let inventory = milvus.client().await.inventory().await.unwrap();
        let ids: Vec<_> = inventory
            .collections
            .iter()
            .map(|c| c.description.collection_id)
            .collect();
        assert_eq!(
            ids,
            [
                inventory.collections[0].name.id,
                inventory.collections[1].name.id
            ]
        );
        assert_ne!(ids[0], ids[1]);
    }

    #[tokio::test]
    async fn a_collection_that_is_gone_is_not_found_simulated_milvus_2_6_8() {
        let milvus = SimulatedMilvus::start(Script::new("2.6.8")).await;
        let gone = CollectionName {
            database: "other".to_owned(),
            name: "gone".to_owned(),
            id: 0,
        };
        let error = milvus
            .client()
            .await
            .describe_collection(&gone)
            .await
            .unwrap_err();
        assert_eq!(error.cause(), Cause::NotFound);
        assert!(error.to_string().contains("other.gone"), "{error}");
    }
}
