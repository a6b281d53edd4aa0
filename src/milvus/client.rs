//! The gRPC client of a Milvus proxy.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use super::auth::{Credentials, Tls};
use super::proto::milvus::milvus_service_client::MilvusServiceClient;
use super::proto::{common, milvus as api};
use super::status::{Refusal, RefusalClass, broken_connection, concise, transport_error};
use super::version::MilvusVersion;
use crate::base::contact::FIRST_CONTACT;
use crate::{Cause, Error, Result, Side};

/// How long a connection may take by default: that of pymilvus.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a call may take by default; Milvus's own calls between components give up after 60 s
/// (grpc.client.dialTimeout and the default of its retries).
pub const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);
/// The largest answer that is read: what a proxy sends at most (proxy.grpc.serverMaxSendSize, 256 MiB).
pub const MAX_ANSWER: usize = 256 << 20;
/// The port of a proxy.
pub const DEFAULT_PORT: u16 = 19530;

/// How to reach a Milvus proxy.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// `host`, `host:port`, or either with `http://` or `https://` before it.
    pub address: String,
    /// As whom; `None` where `common.security.authorizationEnabled` is off.
    pub credentials: Option<Credentials>,
    /// TLS; an `https://` address turns it on with the system's authorities.
    pub tls: Option<Tls>,
    /// Whose Milvus it is: its errors are on that side.
    pub side: Side,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long one call may take, flushes excepted, which have their deadline.
    pub request_timeout: Duration,
}

impl ClientOptions {
    /// Options with the default time-outs, no user and no TLS.
    pub fn new(address: impl Into<String>, side: Side) -> Self {
        Self {
            side,
            address: address.into(),
            credentials: None,
            tls: None,
            connect_timeout: CONNECT_TIMEOUT,
            request_timeout: REQUEST_TIMEOUT,
        }
    }
}

/// A client of one Milvus proxy; clones share its connection.
#[derive(Debug, Clone)]
pub struct Client {
    grpc: Grpc,
    address: Arc<str>,
    user: Option<Arc<str>>,
    side: Side,
    request_timeout: Duration,
}

/// Who Milvus says that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The version.
    pub version: MilvusVersion,
    /// The commit that was built; empty where only `GetVersion` answers.
    pub git_commit: String,
    /// `STANDALONE` or `DISTRIBUTED`; empty where only `GetVersion` answers.
    pub deploy_mode: String,
}

/// How Milvus says that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether all components are healthy.
    pub healthy: bool,
    /// Why not, in Milvus's words; on 2.3 also why writes are denied.
    pub reasons: Vec<String>,
}

/// Why a call gave no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// gRPC failed.
    Transport(Status),
    /// Milvus refused.
    Refused(Refusal),
}

impl Failure {
    /// Whether this Milvus does not know the call.
    pub(super) fn is_unimplemented(&self) -> bool {
        match self {
            Self::Transport(status) => status.code() == Code::Unimplemented,
            Self::Refused(_) => false,
        }
    }

    /// What Milvus's refusal amounts to; `None` when gRPC failed.
    pub(super) fn class(&self) -> Option<RefusalClass> {
        match self {
            Self::Transport(_) => None,
            Self::Refused(refusal) => Some(refusal.class()),
        }
    }
}

impl Client {
    /// Connects to the proxy that `options` name; no call is made yet, so a wrong password shows at
    /// [`identity`](Self::identity).
    ///
    /// # Errors
    ///
    /// [`Cause::Invalid`] for an address that is none; [`Cause::Unavailable`] when nothing answers there.
    pub async fn connect(options: ClientOptions) -> Result<Self> {
        let (uri, tls) = endpoint_uri(&options)?;
        let bad_address = |error: tonic::transport::Error| {
            Error::new(
                Cause::Invalid,
                format!("the milvus address {:?} is not usable", options.address),
            )
            .with_source(error)
        };
        let mut endpoint = Endpoint::from_shared(uri)
            .map_err(bad_address)?
            .user_agent(concat!("eyrie/", env!("CARGO_PKG_VERSION")))
            .map_err(bad_address)?
            .connect_timeout(options.connect_timeout)
            .tcp_keepalive(Some(Duration::from_secs(30)));
        if let Some(tls) = tls {
            endpoint = endpoint.tls_config(tls.grpc()).map_err(|error| {
                Error::new(Cause::Invalid, "the TLS settings of milvus are not usable")
                    .with_source(error)
            })?;
        }
        let channel = endpoint.connect().await.map_err(|error| {
            let what = format!("milvus at {} cannot be reached", options.address);
            broken_connection(&error, &what).on(options.side)
        })?;
        let attach = Attach {
            authorization: options
                .credentials
                .as_ref()
                .map(Credentials::header)
                .transpose()?,
        };
        Ok(Self {
            grpc: MilvusServiceClient::with_interceptor(channel, attach)
                .max_decoding_message_size(MAX_ANSWER),
            address: options.address.into(),
            user: options
                .credentials
                .map(|credentials| credentials.username().into()),
            side: options.side,
            request_timeout: options.request_timeout,
        })
    }

    /// The address, as it was given.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Asks who this is: `Connect`, and `GetVersion` where `Connect` is not known.
    ///
    /// # Errors
    ///
    /// [`Cause::AccessDenied`] when user or password are not accepted (the message names the user), otherwise
    /// as any call.
    pub async fn identity(&self) -> Result<Identity> {
        let doing = "ask milvus for its version";
        let request = api::ConnectRequest {
            client_info: Some(common::ClientInfo {
                sdk_type: "eyrie".to_owned(),
                sdk_version: env!("CARGO_PKG_VERSION").to_owned(),
                user: self.user.as_deref().unwrap_or_default().to_owned(),
                ..Default::default()
            }),
        };
        let answer = self.ask("", request).await;
        match answer {
            Ok(api::ConnectResponse {
                server_info: Some(info),
                ..
            }) if !info.build_tags.is_empty() => Ok(Identity {
                version: MilvusVersion::parse(&info.build_tags),
                git_commit: info.git_commit,
                deploy_mode: info.deploy_mode,
            }),
            Err(failure @ Failure::Transport(_)) if !failure.is_unimplemented() => {
                Err(self.error(failure, doing))
            }
            _ => {
                let answer = self
                    .ask("", api::GetVersionRequest {})
                    .await
                    .map_err(|failure| self.error(failure, doing))?;
                Ok(Identity {
                    version: MilvusVersion::parse(&answer.version),
                    git_commit: String::new(),
                    deploy_mode: String::new(),
                })
            }
        }
    }

    /// Makes sure that something answers, whatever it says: connecting proves only that a port is open. A Milvus
    /// that has just been started answers this at once, and other calls when its parts have found each other.
    ///
    /// # Errors
    ///
    /// [`Cause::Unavailable`] when nothing answers soon.
    pub async fn hear(&self) -> Result<()> {
        let soon = self.request_timeout.min(FIRST_CONTACT);
        match self.ask_within(soon, "", api::GetVersionRequest {}).await {
            Err(Failure::Transport(status)) if status.code() == Code::DeadlineExceeded => {
                Err(self.error(Failure::Transport(status), "ask milvus for its version"))
            }
            _ => Ok(()),
        }
    }

    /// Asks for the health of all components.
    pub async fn health(&self) -> Result<Health> {
        let answer = self
            .ask("", api::CheckHealthRequest {})
            .await
            .map_err(|failure| self.error(failure, "ask milvus for its health"))?;
        Ok(Health {
            healthy: answer.is_healthy,
            reasons: answer
                .reasons
                .iter()
                .map(|reason| concise(reason))
                .collect(),
        })
    }

    /// Allocates a timestamp (hybrid: milliseconds since 1970 shifted left by 18 bits); `None` before
    /// 2.2.13, which does not know the call.
    pub async fn alloc_timestamp(&self) -> Result<Option<u64>> {
        let answer = self.ask("", api::AllocTimestampRequest {}).await;
        match answer {
            Ok(answer) => Ok(Some(answer.timestamp)),
            Err(failure) if failure.is_unimplemented() => Ok(None),
            Err(failure) => Err(self.error(failure, "allocate a timestamp")),
        }
    }

    /// Makes one call within the time-out of requests.
    pub(super) async fn ask<R: Call>(
        &self,
        database: &str,
        request: R,
    ) -> Result<R::Answer, Failure> {
        self.ask_within(self.request_timeout, database, request)
            .await
    }

    /// Makes one call within `timeout`; a `database` that is not empty goes into the metadata `dbname`
    /// also.
    pub(super) async fn ask_within<R: Call>(
        &self,
        timeout: Duration,
        database: &str,
        request: R,
    ) -> Result<R::Answer, Failure> {
        let mut request = Request::new(request);
        if !database.is_empty() {
            let value = MetadataValue::try_from(database).map_err(|_| {
                Failure::Transport(Status::invalid_argument(format!(
                    "the database name {database:?} cannot be sent"
                )))
            })?;
            request.metadata_mut().insert("dbname", value);
        }
        let answer = tokio::time::timeout(timeout, R::send(request, self.grpc.clone()))
            .await
            .unwrap_or_else(|_| {
                Err(Status::deadline_exceeded(format!(
                    "no answer within {} ms",
                    timeout.as_millis()
                )))
            })
            .map_err(Failure::Transport)?
            .into_inner();
        match Refusal::of(R::status(&answer)) {
            None => Ok(answer),
            Some(refusal) => Err(Failure::Refused(refusal)),
        }
    }

    /// The error of this crate for `failure`; `doing` says what was asked.
    pub(super) fn error(&self, failure: Failure, doing: &str) -> Error {
        let error = match failure {
            Failure::Transport(status) => {
                transport_error(&status, doing, &self.address, self.user.as_deref())
            }
            Failure::Refused(refusal) => refusal.into_error(doing),
        };
        error.on(self.side)
    }

    /// Whose Milvus this is.
    pub(super) const fn side(&self) -> Side {
        self.side
    }
}

pub(super) type Grpc = MilvusServiceClient<InterceptedService<Channel, Attach>>;

/// Adds to each call what it is authorized by.
#[derive(Debug, Clone)]
pub(super) struct Attach {
    authorization: Option<MetadataValue<Ascii>>,
}

impl Interceptor for Attach {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(authorization) = &self.authorization {
            request
                .metadata_mut()
                .insert("authorization", authorization.clone());
        }
        Ok(request)
    }
}

/// A call of the proxy, which its request names.
pub(super) trait Call: Sized {
    type Answer;

    fn send(
        request: Request<Self>,
        grpc: Grpc,
    ) -> impl Future<Output = Result<Response<Self::Answer>, Status>> + Send;

    /// Milvus's own status in an answer; a missing one is a success.
    fn status(answer: &Self::Answer) -> Option<&common::Status>;
}

macro_rules! calls {
    ($($request:ident $method:ident $answer:ident;)*) => {
        $(impl Call for api::$request {
            type Answer = api::$answer;

            async fn send(
                request: Request<Self>,
                mut grpc: Grpc,
            ) -> Result<Response<Self::Answer>, Status> {
                grpc.$method(request).await
            }

            fn status(answer: &Self::Answer) -> Option<&common::Status> {
                answer.status.as_ref()
            }
        })*
    };
}

calls! {
    ConnectRequest connect ConnectResponse;
    GetVersionRequest get_version GetVersionResponse;
    CheckHealthRequest check_health CheckHealthResponse;
    AllocTimestampRequest alloc_timestamp AllocTimestampResponse;
    ListDatabasesRequest list_databases ListDatabasesResponse;
    DescribeDatabaseRequest describe_database DescribeDatabaseResponse;
    ShowCollectionsRequest show_collections ShowCollectionsResponse;
    DescribeCollectionRequest describe_collection DescribeCollectionResponse;
    ShowPartitionsRequest show_partitions ShowPartitionsResponse;
    ListAliasesRequest list_aliases ListAliasesResponse;
    DescribeIndexRequest describe_index DescribeIndexResponse;
    ListCredUsersRequest list_cred_users ListCredUsersResponse;
    SelectRoleRequest select_role SelectRoleResponse;
    SelectGrantRequest select_grant SelectGrantResponse;
    FlushRequest flush FlushResponse;
    FlushAllRequest flush_all FlushAllResponse;
    GetFlushAllStateRequest get_flush_all_state GetFlushAllStateResponse;
    DeleteRequest delete MutationResult;
}

/// The endpoint's URI, and TLS where the address or the options ask for it.
fn endpoint_uri(options: &ClientOptions) -> Result<(String, Option<Tls>)> {
    let bad = |why: &str| {
        Error::new(
            Cause::Invalid,
            format!("the milvus address {:?} {why}", options.address),
        )
        .with_hint("write host:port, for example localhost:19530")
    };
    let address = options.address.trim().trim_end_matches('/');
    let (secure, host) = match address.split_once("://") {
        None => (options.tls.is_some(), address),
        Some(("http", _)) if options.tls.is_some() => {
            return Err(bad("says http, but TLS is enabled"));
        }
        Some(("http", host)) => (false, host),
        Some(("https", host)) => (true, host),
        Some(_) => return Err(bad("is neither http nor https")),
    };
    if host.is_empty() || host.contains(['/', '@', ' ']) {
        return Err(bad("is not a host and port"));
    }
    let has_port = host.rsplit_once(':').is_some_and(|(name, port)| {
        port.parse::<u16>().is_ok() && (!name.contains(':') || name.ends_with(']'))
    });
    let scheme = if secure { "https" } else { "http" };
    let uri = if has_port {
        format!("{scheme}://{host}")
    } else {
        format!("{scheme}://{host}:{DEFAULT_PORT}")
    };
    let tls = secure.then(|| options.tls.clone().unwrap_or_default());
    Ok((uri, tls))
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::super::simulated::{Script, SimulatedMilvus};
    use super::*;

    #[test]
    fn addresses_are_read_in_every_form() {
        for (address, tls, expected) in [
            ("localhost:19530", None, Ok("http://localhost:19530")),
            ("localhost", None, Ok("http://localhost:19530")),
            ("http://milvus:1", None, Ok("http://milvus:1")),
            ("https://milvus/", None, Ok("https://milvus:19530")),
            ("milvus:7", Some(Tls::default()), Ok("https://milvus:7")),
            ("[::1]:19530", None, Ok("http://[::1]:19530")),
            ("[::1]", None, Ok("http://[::1]:19530")),
            (
                "http://milvus:1",
                Some(Tls::default()),
                Err("says http, but TLS is enabled"),
            ),
            ("ftp://milvus", None, Err("neither http nor https")),
            ("", None, Err("not a host and port")),
            ("user@milvus", None, Err("not a host and port")),
        ] {
            let options = ClientOptions {
                tls,
                ..ClientOptions::new(address, Side::Source)
            };
            match (endpoint_uri(&options), expected) {
                (Ok((uri, tls)), Ok(expected)) => {
                    assert_eq!(uri, expected);
                    assert_eq!(tls.is_some(), uri.starts_with("https"));
                }
                (Err(error), Err(expected)) => {
                    assert_eq!(error.cause(), Cause::Invalid);
                    assert!(error.to_string().contains(expected), "{error}");
                }
                (result, _) => panic!("{address}: {result:?}"),
            }
        }
    }

    #[tokio::test]
    async fn identity_is_that_of_connect_simulated_milvus_2_6_13() {
        let milvus = SimulatedMilvus::start(Script::new("2.6.13")).await;
        let identity = milvus.client().await.identity().await.unwrap();
        assert_eq!(identity.version, MilvusVersion::parse("v2.6.13"));
        assert_eq!(identity.deploy_mode, "STANDALONE");
        assert_eq!(milvus.calls(), ["Connect"]);
        assert!(milvus.client().await.health().await.unwrap().healthy);
    }

    #[tokio::test]
    async fn identity_falls_back_to_get_version_simulated_milvus_2_2_8() {
        let milvus = SimulatedMilvus::start(Script::new("2.2.8")).await;
        let client = milvus.client().await;
        let identity = client.identity().await.unwrap();
        assert_eq!(identity.version.series(), Some((2, 2)));
        assert_eq!(milvus.calls(), ["Connect", "GetVersion"]);
        assert_eq!(client.alloc_timestamp().await.unwrap(), None);
    }

    #[tokio::test]
    async fn timestamps_grow_simulated_milvus_2_3_5() {
        let milvus = SimulatedMilvus::start(Script::new("2.3.5")).await;
        let client = milvus.client().await;
        let first = client.alloc_timestamp().await.unwrap();
        assert!(first.is_some() && client.alloc_timestamp().await.unwrap() > first);
    }

    #[tokio::test]
    async fn a_wrong_password_names_the_user_simulated_milvus_2_4_24() {
        let mut script = Script::new("2.4.24");
        script.user = Some(("backup".to_owned(), "right".to_owned()));
        let milvus = SimulatedMilvus::start(script).await;
        let connect = |credentials| {
            Client::connect(ClientOptions {
                credentials,
                ..ClientOptions::new(milvus.address(), Side::Source)
            })
        };
        let password =
            |text: &str| Some(Credentials::new("backup", Zeroizing::new(text.to_owned())));

        let error = connect(None).await.unwrap().identity().await.unwrap_err();
        assert!(
            error.to_string().contains("asks for a user and password"),
            "{error}"
        );
        let error = connect(password("wrong"))
            .await
            .unwrap()
            .identity()
            .await
            .unwrap_err();
        assert_eq!(error.cause(), Cause::AccessDenied);
        assert_eq!(error.exit_code(), 20);
        assert!(error.to_string().contains("user \"backup\""), "{error}");
        assert!(
            !error.chain().contains("wrong"),
            "no secret in {}",
            error.chain()
        );
        let identity = connect(password("right"))
            .await
            .unwrap()
            .identity()
            .await
            .unwrap();
        assert_eq!(identity.version.patch(), Some(24));
    }

    #[tokio::test]
    async fn nobody_there_is_an_error_of_the_instance_that_names_the_address() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = Client::connect(ClientOptions::new(&address, Side::Source))
            .await
            .unwrap_err();
        assert_eq!(error.cause(), Cause::Unavailable);
        assert_eq!(error.exit_code(), 20);
        assert!(error.to_string().contains(&address));
        assert!(error.hint().is_some());
    }

    #[tokio::test]
    async fn a_call_that_hangs_is_given_up_simulated_milvus_2_5_27() {
        let mut script = Script::new("2.5.27");
        script.hang = Some("CheckHealth");
        let milvus = SimulatedMilvus::start(script).await;
        let options = ClientOptions {
            request_timeout: Duration::from_millis(50),
            ..ClientOptions::new(milvus.address(), Side::Source)
        };
        let error = Client::connect(options)
            .await
            .unwrap()
            .health()
            .await
            .unwrap_err();
        assert_eq!(error.cause(), Cause::Unavailable);
        assert!(
            error.to_string().contains("no answer within 50 ms"),
            "{error}"
        );
    }
}
