//! A scripted Milvus for tests: a gRPC server and a management HTTP server on loopback that answer as
//! one version does, as far as facts about it are known from its sources.
//!
//! What a version does not know it does not answer or ignores, as protobuf has it. A test that uses this
//! says `simulated` in its name.

mod backing;
mod contents;
mod http;
pub mod keys;
mod service;

pub use backing::{Backing, object_bytes};
#[cfg(test)]
pub(crate) use contents::inventory_of;

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use super::client::{Client, ClientOptions};
use super::inventory::Inventory;
use super::management::Management;
use super::proto::common;
use super::proto::milvus::milvus_service_server::MilvusServiceServer;
use super::version::MilvusVersion;
use crate::base::env::lock;
use crate::{Result, Side};

/// What a simulated Milvus is and does.
#[derive(Debug, Clone)]
pub struct Script {
    /// The version that it says it is.
    pub version: String,
    /// User and password that it asks for; `None`: no authorization.
    pub user: Option<(String, String)>,
    /// What becomes of writes.
    pub writes: Writes,
    /// Whether clients go on writing: what they may write lies beside each flush.
    pub busy: bool,
    /// What the next flushes answer before one succeeds.
    pub flush_refusals: Vec<common::Status>,
    /// How often a flush is not done yet when it is asked for its state.
    pub polls_until_flushed: u32,
    /// A call that is never answered.
    pub hang: Option<&'static str>,
    /// A call that the user may not make.
    pub forbid: Option<&'static str>,
    /// How often a pause of garbage collection fails.
    pub gc_failures: u32,
    /// How pauses of garbage collection are answered.
    pub gc: GcRoute,
    /// What the health check says.
    pub healthy: bool,
}

/// The route of the management interface that pauses garbage collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GcRoute {
    /// As the version has it.
    AsOfVersion,
    /// Not there, although the version has it.
    Absent,
    /// Never answered.
    Hangs,
}

/// What becomes of writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// They are taken.
    Accepted,
    /// They are denied exactly while the dynamic configuration in etcd says so.
    AsConfigured,
    /// A probe is denied while the dynamic configuration says so, and other writes are taken.
    ProbesDenied,
    /// They are denied by the setting `forceDeny`.
    ForceDenied,
    /// They are denied as the disk quota is used up.
    DiskFull,
    /// They come too fast.
    RateLimited,
}

impl Script {
    /// A healthy Milvus of `version` without authorization; it holds a collection `docs` in the database
    /// `default`, and from 2.2.9 on another one in the database `other`.
    pub fn new(version: impl Into<String>) -> Self {
        Self {
            version: version.into(),
            user: None,
            writes: Writes::Accepted,
            busy: false,
            flush_refusals: Vec::new(),
            polls_until_flushed: 0,
            hang: None,
            forbid: None,
            gc_failures: 0,
            gc: GcRoute::AsOfVersion,
            healthy: true,
        }
    }
}

/// A status as Milvus refuses with it; code 8 and 9 carry the deprecated code of 2.2 also.
#[must_use]
pub fn refusal(code: i32, reason: &str) -> common::Status {
    let error_code = match code {
        8 => 49,
        9 => 48,
        100 => 4,
        1100 => 5,
        _ => 1,
    };
    common::Status {
        code,
        error_code,
        reason: reason.to_owned(),
        retriable: code == 8,
        ..Default::default()
    }
}

/// A running simulated Milvus; it stops when it is dropped.
#[derive(Debug)]
pub struct SimulatedMilvus {
    address: SocketAddr,
    management: SocketAddr,
    state: Arc<State>,
    servers: Vec<JoinHandle<()>>,
}

impl SimulatedMilvus {
    /// Starts one on free ports of loopback; what it holds is made up.
    ///
    /// # Panics
    ///
    /// When there is no free port.
    pub async fn start(script: Script) -> Self {
        let version = numbered(&script.version);
        let held = contents::example(&version);
        let holdings = Holdings::Fixed(Arc::new(held.clone()));
        let state = State::new(script, version, holdings, &held);
        Self::listen(state, SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// Starts one proxy at `address` (port 0: any) of a Milvus that works on `backing`.
    ///
    /// # Panics
    ///
    /// When the port is taken, or when etcd does not answer.
    pub async fn start_on(backing: &Backing, script: Script, address: SocketAddr) -> Self {
        let held = backing.inventory().await.expect("an etcd with keys");
        let version = numbered(&script.version);
        let holdings = Holdings::Etcd(Box::new(backing.clone()), tokio::sync::Mutex::default());
        let state = State::new(script, version, holdings, &held);
        let mut milvus = Self::listen(state, address).await;
        milvus.servers.push(tokio::spawn(backing.clone().compact()));
        milvus
    }

    async fn listen(state: State, address: SocketAddr) -> Self {
        let bind = |address| TcpListener::bind(address);
        let grpc = bind(address).await.expect("a port");
        let http = bind(SocketAddr::new(address.ip(), 0))
            .await
            .expect("a port");
        let address = grpc.local_addr().expect("a bound socket");
        let management = http.local_addr().expect("a bound socket");
        let state = Arc::new(state);
        let service = MilvusServiceServer::new(service::Service(state.clone()));
        let servers = vec![
            tokio::spawn(async move {
                let server = Server::builder().add_service(service);
                server
                    .serve_with_incoming(TcpIncoming::from(grpc))
                    .await
                    .expect("a server");
            }),
            tokio::spawn(http::serve(http, state.clone())),
        ];
        Self {
            address,
            management,
            state,
            servers,
        }
    }

    /// The address of the proxy.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The address of the management interface.
    #[must_use]
    pub fn management_address(&self) -> String {
        self.management.to_string()
    }

    /// A connected client without user.
    ///
    /// # Panics
    ///
    /// When it cannot connect.
    pub async fn client(&self) -> Client {
        Client::connect(ClientOptions::new(self.address(), Side::Source))
            .await
            .expect("a connection")
    }

    /// A client of the management interface.
    ///
    /// # Panics
    ///
    /// When the address is not usable.
    #[must_use]
    pub fn management(&self) -> Management {
        Management::new(&self.management_address(), None, Side::Source).expect("an address")
    }

    /// The gRPC calls so far, by name.
    #[must_use]
    pub fn calls(&self) -> Vec<&'static str> {
        lock(&self.state.inner).calls.clone()
    }

    /// How many deletes were written.
    #[must_use]
    pub fn rows_deleted(&self) -> u64 {
        lock(&self.state.inner).rows_deleted
    }

    /// How many pauses of garbage collection are in force.
    #[must_use]
    pub fn gc_pauses(&self) -> usize {
        lock(&self.state.inner).gc_pauses.len()
    }

    /// Every pause and resumption of garbage collection that was asked for, in order.
    #[must_use]
    pub fn gc_calls(&self) -> Vec<String> {
        lock(&self.state.inner).gc_calls.clone()
    }

    /// For each question after the state of a flush, for how many channels it had a timestamp.
    #[must_use]
    pub fn flush_state_channels(&self) -> Vec<usize> {
        lock(&self.state.inner).flush_state_channels.clone()
    }

    /// Collections (`database.name`) that no flush has reached.
    #[must_use]
    pub fn unflushed(&self) -> Vec<String> {
        lock(&self.state.inner).unflushed.iter().cloned().collect()
    }

    /// Changes how often a flush is not done yet from now on.
    pub fn set_polls_until_flushed(&self, polls: u32) {
        lock(&self.state.inner).script.polls_until_flushed = polls;
    }

    /// Changes what becomes of writes from now on.
    pub fn set_writes(&self, writes: Writes) {
        lock(&self.state.inner).script.writes = writes;
    }
}

impl Drop for SimulatedMilvus {
    fn drop(&mut self) {
        for server in &self.servers {
            server.abort();
        }
    }
}

/// What it holds.
#[derive(Debug)]
enum Holdings {
    /// Always the same.
    Fixed(Arc<Inventory>),
    /// What etcd has, and what it had at a revision.
    Etcd(
        Box<Backing>,
        tokio::sync::Mutex<Option<(i64, Arc<Inventory>)>>,
    ),
}

impl Holdings {
    /// What they are now.
    async fn inventory(&self) -> Result<Arc<Inventory>> {
        let (backing, known) = match self {
            Self::Fixed(held) => return Ok(held.clone()),
            Self::Etcd(backing, known) => (backing, known),
        };
        let revision = backing.revision().await?;
        let mut known = known.lock().await;
        if let Some((at, held)) = &*known
            && *at == revision
        {
            return Ok(held.clone());
        }
        let held = Arc::new(backing.inventory().await?);
        *known = Some((revision, held.clone()));
        Ok(held)
    }
}

#[derive(Debug)]
struct State {
    version: MilvusVersion,
    holdings: Holdings,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    script: Script,
    calls: Vec<&'static str>,
    refusals: VecDeque<common::Status>,
    clock: u64,
    unflushed: BTreeSet<String>,
    rows_deleted: u64,
    gc_pauses: Vec<String>,
    gc_tickets: u32,
    gc_calls: Vec<String>,
    flush_state_channels: Vec<usize>,
}

/// The version as it behaves: a build of master as the newest.
fn numbered(said: &str) -> MilvusVersion {
    let said = MilvusVersion::parse(said);
    if said.series().is_some() {
        said
    } else {
        MilvusVersion::parse("3.0.0")
    }
}

impl State {
    fn new(script: Script, version: MilvusVersion, holdings: Holdings, held: &Inventory) -> Self {
        let names = held.collections.iter().map(|c| c.name.to_string());
        let unflushed = names.collect();
        let refusals = script.flush_refusals.clone().into();
        let inner = Inner {
            script,
            calls: Vec::new(),
            refusals,
            clock: 1_795_000_000_000 << 18,
            unflushed,
            rows_deleted: 0,
            gc_pauses: Vec::new(),
            gc_tickets: 0,
            gc_calls: Vec::new(),
            flush_state_channels: Vec::new(),
        };
        Self {
            version,
            holdings,
            inner: Mutex::new(inner),
        }
    }
}
