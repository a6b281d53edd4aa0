//! The proxy's service of a simulated Milvus.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tonic::{Request, Response, Status};

use super::{Holdings, State, Writes, refusal};
use crate::base::env::lock;
use crate::milvus::catalog::DEFAULT_DATABASE;
use crate::milvus::inventory::{self, Inventory};
use crate::milvus::probe::PROBE_EXPRESSION;
use crate::milvus::proto::milvus::milvus_service_server::MilvusService;
use crate::milvus::proto::{common, milvus as api};

pub(super) struct Service(pub(super) Arc<State>);

type Answer<T> = Result<Response<T>, Status>;

impl Service {
    /// Records a call and lets it pass when this version knows it and the user may make it.
    async fn begin<T>(
        &self,
        call: &'static str,
        since: (u64, u64, u64),
        request: &Request<T>,
    ) -> Result<(), Status> {
        let (hangs, forbidden, user) = {
            let mut inner = lock(&self.0.inner);
            inner.calls.push(call);
            let script = &inner.script;
            (
                script.hang == Some(call),
                script.forbid == Some(call),
                script.user.clone(),
            )
        };
        if !self.0.version.at_least(since.0, since.1, since.2) {
            return Err(Status::unimplemented(format!(
                "unknown method {call} for service MilvusService"
            )));
        }
        if let Some((name, password)) = user {
            let Some(header) = request.metadata().get("authorization") else {
                return Err(Status::unauthenticated("missing authorization in header"));
            };
            if header.as_bytes() != STANDARD.encode(format!("{name}:{password}")).as_bytes() {
                return Err(Status::unauthenticated(
                    "auth check failure, please check username and password are correct",
                ));
            }
        }
        if hangs {
            std::future::pending::<()>().await;
        }
        if forbidden {
            return Err(Status::permission_denied(format!(
                "Privilege{call}: permission deny to bob"
            )));
        }
        Ok(())
    }

    fn since(&self, major: u64, minor: u64, patch: u64) -> bool {
        self.0.version.at_least(major, minor, patch)
    }

    /// The status as this version sends it: 2.2 knows the deprecated code only.
    fn status(&self, status: common::Status) -> common::Status {
        let code = if self.since(2, 3, 0) { status.code } else { 0 };
        common::Status { code, ..status }
    }

    fn tick(&self) -> u64 {
        let mut inner = lock(&self.0.inner);
        inner.clock += 1 << 18;
        inner.clock
    }

    /// What it holds now.
    async fn inventory(&self) -> Result<Arc<Inventory>, Status> {
        let held = self.0.holdings.inventory().await;
        held.map_err(|error| internal(&error))
    }

    async fn database(&self, name: &str) -> Result<Option<inventory::Database>, Status> {
        let held = self.inventory().await?;
        let found = held.databases.iter().find(|database| database.name == name);
        Ok(found.cloned())
    }

    /// A collection by name or alias; databases before 2.2.9 are all the default one.
    async fn collection(
        &self,
        database: &str,
        name: &str,
    ) -> Result<Result<inventory::Collection, common::Status>, Status> {
        let database = if database.is_empty() || !self.since(2, 2, 9) {
            DEFAULT_DATABASE
        } else {
            database
        };
        let held = self.inventory().await?;
        let found = held.collections.iter().find(|c| {
            let named = c.name.name == name || c.aliases.iter().any(|alias| alias == name);
            c.name.database == database && named
        });
        Ok(found.cloned().ok_or_else(|| {
            let what = format!("collection not found[database={database}][collection={name}]");
            self.status(refusal(100, &what))
        }))
    }

    fn next_refusal(&self) -> Option<common::Status> {
        let status = lock(&self.0.inner).refusals.pop_front()?;
        Some(self.status(status))
    }

    /// Whether the dynamic configuration denies writes.
    async fn is_configured_to_deny(&self) -> Result<bool, Status> {
        match &self.0.holdings {
            Holdings::Fixed(_) => Ok(false),
            Holdings::Etcd(backing, _) => backing.denies().await.map_err(|e| internal(&e)),
        }
    }

    async fn denial(&self) -> Result<Option<common::Status>, Status> {
        let writes = lock(&self.0.inner).script.writes;
        let administrator = if self.since(2, 4, 0) {
            "access has been disabled by the administrator"
        } else {
            "the writing has been deactivated by the administrator"
        };
        let forced = refusal(9, &format!("quota exceeded[reason={administrator}]"));
        let status = match writes {
            Writes::Accepted => return Ok(None),
            Writes::AsConfigured | Writes::ProbesDenied => {
                if !self.is_configured_to_deny().await? {
                    return Ok(None);
                }
                forced
            }
            Writes::ForceDenied => forced,
            Writes::DiskFull => refusal(
                9,
                "quota exceeded[reason=disk quota exceeded, please allocate more resources]",
            ),
            Writes::RateLimited => refusal(8, "rate limit exceeded[rate=0.1]"),
        };
        Ok(Some(self.status(status)))
    }

    /// Whether a flush is done, after another poll.
    fn poll_flushed(&self) -> bool {
        let left = &mut lock(&self.0.inner).script.polls_until_flushed;
        let flushed = *left == 0;
        if *left != u32::MAX {
            *left = left.saturating_sub(1);
        }
        flushed
    }

    /// Flushes collections: `timestamp` is the flush's.
    async fn reach(&self, reached: &[inventory::Collection], timestamp: u64) -> Result<(), Status> {
        // On keys in etcd a flush that is not done yet moves no checkpoint.
        let done = match self.0.holdings {
            Holdings::Fixed(_) => true,
            Holdings::Etcd(..) => self.poll_flushed(),
        };
        for collection in reached {
            let name = collection.name.to_string();
            lock(&self.0.inner).unflushed.remove(&name);
        }
        if let (Holdings::Etcd(backing, _), true) = (&self.0.holdings, done) {
            let flushed = backing.flush(reached, timestamp);
            flushed.await.map_err(|e| internal(&e))?;
        }
        let (busy, writes) = {
            let script = &lock(&self.0.inner).script;
            (script.busy, script.writes)
        };
        let denied = writes != Writes::ProbesDenied && self.denial().await?.is_some();
        if let (Holdings::Etcd(backing, _), Some(first), true) =
            (&self.0.holdings, reached.first(), busy && !denied)
        {
            let written = backing.write_rows(first.name.id, self.tick());
            written.await.map_err(|e| internal(&e))?;
        }
        Ok(())
    }
}

fn internal(error: &crate::Error) -> Status {
    Status::internal(error.chain())
}

#[tonic::async_trait]
impl MilvusService for Service {
    async fn connect(&self, request: Request<api::ConnectRequest>) -> Answer<api::ConnectResponse> {
        self.begin("Connect", (2, 2, 9), &request).await?;
        let version = lock(&self.0.inner).script.version.clone();
        let numbered = version.starts_with(|c: char| c.is_ascii_digit());
        Ok(Response::new(api::ConnectResponse {
            server_info: Some(common::ServerInfo {
                build_tags: if numbered {
                    format!("v{version}")
                } else {
                    version
                },
                git_commit: "9aceff5a6".to_owned(),
                deploy_mode: "STANDALONE".to_owned(),
                ..Default::default()
            }),
            identifier: 1,
            ..Default::default()
        }))
    }

    async fn get_version(
        &self,
        request: Request<api::GetVersionRequest>,
    ) -> Answer<api::GetVersionResponse> {
        self.begin("GetVersion", (2, 2, 0), &request).await?;
        let version = lock(&self.0.inner).script.version.clone();
        Ok(Response::new(api::GetVersionResponse {
            version,
            ..Default::default()
        }))
    }

    async fn check_health(
        &self,
        request: Request<api::CheckHealthRequest>,
    ) -> Answer<api::CheckHealthResponse> {
        self.begin("CheckHealth", (2, 2, 0), &request).await?;
        let is_healthy = lock(&self.0.inner).script.healthy;
        Ok(Response::new(api::CheckHealthResponse {
            is_healthy,
            ..Default::default()
        }))
    }

    async fn alloc_timestamp(
        &self,
        request: Request<api::AllocTimestampRequest>,
    ) -> Answer<api::AllocTimestampResponse> {
        self.begin("AllocTimestamp", (2, 2, 13), &request).await?;
        Ok(Response::new(api::AllocTimestampResponse {
            timestamp: self.tick(),
            ..Default::default()
        }))
    }

    async fn list_databases(
        &self,
        request: Request<api::ListDatabasesRequest>,
    ) -> Answer<api::ListDatabasesResponse> {
        self.begin("ListDatabases", (2, 2, 9), &request).await?;
        Ok(Response::new(api::ListDatabasesResponse {
            db_names: names(self.inventory().await?.as_ref()),
            ..Default::default()
        }))
    }

    async fn describe_database(
        &self,
        request: Request<api::DescribeDatabaseRequest>,
    ) -> Answer<api::DescribeDatabaseResponse> {
        self.begin("DescribeDatabase", (2, 4, 3), &request).await?;
        let db_name = request.into_inner().db_name;
        let db_id = self.database(&db_name).await?.and_then(|d| d.id);
        let db_id = db_id.unwrap_or(0);
        Ok(Response::new(api::DescribeDatabaseResponse {
            db_name,
            db_id,
            ..Default::default()
        }))
    }

    async fn show_collections(
        &self,
        request: Request<api::ShowCollectionsRequest>,
    ) -> Answer<api::ShowCollectionsResponse> {
        self.begin("ShowCollections", (2, 2, 0), &request).await?;
        let database = match request.into_inner().db_name {
            name if name.is_empty() || !self.since(2, 2, 9) => DEFAULT_DATABASE.to_owned(),
            name => name,
        };
        if self.database(&database).await?.is_none() {
            return Ok(Response::new(api::ShowCollectionsResponse {
                status: Some(self.status(refusal(800, "database not found"))),
                ..Default::default()
            }));
        }
        let mut answer = api::ShowCollectionsResponse::default();
        for collection in &self.inventory().await?.collections {
            if collection.name.database == database {
                answer.collection_names.push(collection.name.name.clone());
                answer.collection_ids.push(collection.name.id);
            }
        }
        Ok(Response::new(answer))
    }

    async fn describe_collection(
        &self,
        request: Request<api::DescribeCollectionRequest>,
    ) -> Answer<api::DescribeCollectionResponse> {
        self.begin("DescribeCollection", (2, 2, 0), &request)
            .await?;
        let request = request.into_inner();
        let found = self.collection(&request.db_name, &request.collection_name);
        Ok(Response::new(match found.await? {
            Ok(collection) => collection.description,
            Err(status) => api::DescribeCollectionResponse {
                status: Some(status),
                ..Default::default()
            },
        }))
    }

    async fn show_partitions(
        &self,
        request: Request<api::ShowPartitionsRequest>,
    ) -> Answer<api::ShowPartitionsResponse> {
        self.begin("ShowPartitions", (2, 2, 0), &request).await?;
        let request = request.into_inner();
        let found = self.collection(&request.db_name, &request.collection_name);
        Ok(Response::new(match found.await? {
            Ok(collection) => {
                let (partition_names, partition_ids) = collection.partitions.into_iter().unzip();
                api::ShowPartitionsResponse {
                    partition_names,
                    partition_ids,
                    ..Default::default()
                }
            }
            Err(status) => api::ShowPartitionsResponse {
                status: Some(status),
                ..Default::default()
            },
        }))
    }

    async fn list_aliases(
        &self,
        request: Request<api::ListAliasesRequest>,
    ) -> Answer<api::ListAliasesResponse> {
        self.begin("ListAliases", (2, 3, 0), &request).await?;
        let request = request.into_inner();
        let found = self.collection(&request.db_name, &request.collection_name);
        Ok(Response::new(match found.await? {
            Ok(collection) => api::ListAliasesResponse {
                aliases: collection.aliases,
                ..Default::default()
            },
            Err(status) => api::ListAliasesResponse {
                status: Some(status),
                ..Default::default()
            },
        }))
    }

    async fn describe_index(
        &self,
        request: Request<api::DescribeIndexRequest>,
    ) -> Answer<api::DescribeIndexResponse> {
        self.begin("DescribeIndex", (2, 2, 0), &request).await?;
        let request = request.into_inner();
        let refused = |status| {
            Ok(Response::new(api::DescribeIndexResponse {
                status: Some(status),
                ..Default::default()
            }))
        };
        let found = self.collection(&request.db_name, &request.collection_name);
        let collection = match found.await? {
            Ok(collection) => collection,
            Err(status) => return refused(status),
        };
        if collection.indexes.is_empty() {
            let what = format!("index not found[collection={}]", request.collection_name);
            let status = self.status(refusal(700, &what));
            // 2.2 answers its own code for it.
            return refused(match status.code {
                0 => common::Status {
                    error_code: 25,
                    ..status
                },
                _ => status,
            });
        }
        Ok(Response::new(api::DescribeIndexResponse {
            index_descriptions: collection.indexes.into_values().collect(),
            ..Default::default()
        }))
    }

    async fn list_cred_users(
        &self,
        request: Request<api::ListCredUsersRequest>,
    ) -> Answer<api::ListCredUsersResponse> {
        self.begin("ListCredUsers", (2, 2, 0), &request).await?;
        Ok(Response::new(api::ListCredUsersResponse {
            usernames: self.inventory().await?.users.clone(),
            ..Default::default()
        }))
    }

    async fn select_role(
        &self,
        request: Request<api::SelectRoleRequest>,
    ) -> Answer<api::SelectRoleResponse> {
        self.begin("SelectRole", (2, 2, 0), &request).await?;
        let user = |name| api::UserEntity { name };
        let role = |held: &inventory::Role| api::RoleResult {
            role: Some(api::RoleEntity {
                name: held.name.clone(),
            }),
            users: held.users.iter().cloned().map(user).collect(),
        };
        let held = self.inventory().await?;
        Ok(Response::new(api::SelectRoleResponse {
            results: held.roles.iter().map(role).collect(),
            ..Default::default()
        }))
    }

    async fn select_grant(
        &self,
        request: Request<api::SelectGrantRequest>,
    ) -> Answer<api::SelectGrantResponse> {
        self.begin("SelectGrant", (2, 2, 0), &request).await?;
        let entity = request.into_inner().entity.unwrap_or_default();
        let grant = |database: &str| api::GrantEntity {
            role: entity.role.clone(),
            object_name: "docs".to_owned(),
            db_name: database.to_owned(),
            ..Default::default()
        };
        let mut entities = vec![grant("*")];
        if entity.db_name.is_empty() || entity.db_name == "default" {
            entities.push(grant("default"));
        }
        Ok(Response::new(api::SelectGrantResponse {
            entities,
            ..Default::default()
        }))
    }

    async fn flush(&self, request: Request<api::FlushRequest>) -> Answer<api::FlushResponse> {
        self.begin("Flush", (2, 2, 0), &request).await?;
        if let Some(status) = self.next_refusal() {
            return Ok(Response::new(api::FlushResponse {
                status: Some(status),
                ..Default::default()
            }));
        }
        let request = request.into_inner();
        let database = if self.since(2, 2, 9) {
            request.db_name.as_str()
        } else {
            "default"
        };
        let timestamp = self.tick();
        let mut answer = api::FlushResponse::default();
        for name in &request.collection_names {
            match self.collection(database, name).await? {
                Ok(collection) => self.reach(&[collection], timestamp).await?,
                Err(status) => {
                    answer.status = Some(status);
                    return Ok(Response::new(answer));
                }
            }
            let seconds = i64::try_from((timestamp >> 18) / 1000).unwrap_or(0);
            answer.coll_seal_times.insert(name.clone(), seconds);
            if self.since(2, 3, 1) {
                answer.coll_flush_ts.insert(name.clone(), timestamp);
            }
        }
        Ok(Response::new(answer))
    }

    async fn flush_all(
        &self,
        request: Request<api::FlushAllRequest>,
    ) -> Answer<api::FlushAllResponse> {
        self.begin("FlushAll", (2, 2, 5), &request).await?;
        if let Some(status) = self.next_refusal() {
            return Ok(Response::new(api::FlushAllResponse {
                status: Some(status),
                ..Default::default()
            }));
        }
        let request = request.into_inner();
        let whole = !self.since(2, 3, 1) || self.since(2, 6, 8) || request.db_name.is_empty();
        let only_default = self.since(2, 6, 0) && !self.since(2, 6, 3);
        let timestamp = self.tick();
        let mut reached = self.inventory().await?.collections.clone();
        reached.retain(|collection| {
            let database = &collection.name.database;
            let asked = whole || *database == request.db_name;
            asked && !(only_default && database != DEFAULT_DATABASE)
        });
        self.reach(&reached, timestamp).await?;
        let mut answer = api::FlushAllResponse {
            flush_all_ts: timestamp,
            ..Default::default()
        };
        if self.since(2, 6, 8) {
            for channel in 0..2 {
                let properties = BTreeMap::from([("_tt".to_owned(), base36(timestamp - channel))]);
                let message = common::ImmutableMessage {
                    properties,
                    ..Default::default()
                };
                answer
                    .flush_all_msgs
                    .insert(format!("by-dev-rootcoord-dml_{channel}"), message);
            }
        } else if self.since(2, 6, 3) || (self.since(2, 5, 19) && !self.since(2, 6, 0)) {
            answer.flush_results = names(self.inventory().await?.as_ref())
                .into_iter()
                .map(|db_name| api::FlushAllResult {
                    db_name,
                    ..Default::default()
                })
                .collect();
        }
        Ok(Response::new(answer))
    }

    async fn get_flush_all_state(
        &self,
        request: Request<api::GetFlushAllStateRequest>,
    ) -> Answer<api::GetFlushAllStateResponse> {
        self.begin("GetFlushAllState", (2, 2, 5), &request).await?;
        let request = request.into_inner();
        let ticks = self.since(2, 6, 8) && !request.flush_all_tss.is_empty();
        if !ticks && request.flush_all_ts == 0 {
            let status = self.status(refusal(1100, "FlushAllTss or FlushAllTs is required"));
            return Ok(Response::new(api::GetFlushAllStateResponse {
                status: Some(status),
                ..Default::default()
            }));
        }
        let mut inner = lock(&self.0.inner);
        inner.flush_state_channels.push(request.flush_all_tss.len());
        drop(inner);
        let flushed = self.poll_flushed();
        Ok(Response::new(api::GetFlushAllStateResponse {
            flushed,
            ..Default::default()
        }))
    }

    async fn delete(&self, request: Request<api::DeleteRequest>) -> Answer<api::MutationResult> {
        self.begin("Delete", (2, 2, 0), &request).await?;
        let request = request.into_inner();
        let refused = |status| {
            Ok(Response::new(api::MutationResult {
                status: Some(status),
                ..Default::default()
            }))
        };
        let found = self.collection(&request.db_name, &request.collection_name);
        if let Err(status) = found.await? {
            return refused(status);
        }
        if let Some(status) = self.denial().await? {
            return refused(status);
        }
        if request.expr == PROBE_EXPRESSION {
            return refused(self.status(if self.since(2, 4, 0) {
                refusal(
                    1100,
                    "failed to create delete plan: cannot parse expression",
                )
            } else {
                refusal(65535, "failed to create expr plan, expr = eyrie")
            }));
        }
        lock(&self.0.inner).rows_deleted += 1;
        Ok(Response::new(api::MutationResult {
            delete_cnt: 1,
            ..Default::default()
        }))
    }
}

fn names(held: &Inventory) -> Vec<String> {
    held.databases.iter().map(|d| d.name.clone()).collect()
}

fn base36(mut value: u64) -> String {
    let mut digits = Vec::new();
    loop {
        digits.push(char::from_digit(u32::try_from(value % 36).unwrap_or(0), 36).unwrap_or('0'));
        value /= 36;
        if value == 0 {
            return digits.into_iter().rev().collect();
        }
    }
}
