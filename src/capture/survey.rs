//! What a capture would meet: everything is reached by itself, so that one failure hides no other.

use futures::TryStreamExt;
use futures::future::join_all;
use tracing::debug;

use super::plan::{Plan, plan, write_hold};
use super::{Context, Options, cold_source};
use crate::base::contact::FIRST_CONTACT;
use crate::etcd::Status;
use crate::instance::connect;
use crate::instance::methods::Method;
use crate::instance::objects::layer;
use crate::milvus::client::{Client, Identity};
use crate::milvus::version::{GcGeneration, MilvusVersion};
use crate::snapshot::{Body, Mode};
use crate::store::ListOptions;
use crate::{Error, Result, Side};

/// What was found of an instance.
#[derive(Debug)]
pub struct Survey {
    /// What the configuration says that cannot be captured.
    pub refusals: Vec<Error>,
    /// Its etcd.
    pub etcd: Result<SurveyedEtcd>,
    /// A proxy of its Milvus.
    pub milvus: Result<SurveyedMilvus>,
    /// Its management interface, which garbage collection is paused through.
    pub management: Result<()>,
    /// Its object layer.
    pub objects: Result<SurveyedObjects>,
    /// Why writes cannot be denied as the mode asks.
    pub write_hold: Option<Error>,
    /// What a capture would do, or the first reason why none can start.
    pub plan: Result<Plan>,
    /// The other modes, and why no capture could start in them; `None` where that is not known.
    pub other_modes: Vec<(Mode, Option<std::result::Result<(), String>>)>,
    /// The other methods, and why none could start by them.
    pub other_methods: Vec<(Method, Option<Error>)>,
}

/// The etcd of an instance.
#[derive(Debug, Clone)]
pub struct SurveyedEtcd {
    /// What it says of itself.
    pub status: Status,
    /// Keys under the instance's root.
    pub keys: u64,
    /// Bytes of its database.
    pub size: u64,
    /// Its quota in bytes, where it tells it.
    pub quota: Option<u64>,
    /// Alarms in force, as it words them.
    pub alarms: Vec<String>,
}

/// The Milvus of an instance.
#[derive(Debug, Clone)]
pub struct SurveyedMilvus {
    /// Who it is.
    pub identity: Identity,
    /// Why it is not healthy; empty when it is.
    pub unhealthy: Vec<String>,
    /// Collections that it shows.
    pub collections: u64,
}

/// The object layer of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SurveyedObjects {
    /// Whether deleted and replaced objects stay readable by version id; unknown while there is no
    /// object.
    pub versions: Option<bool>,
}

impl Survey {
    /// The version of Milvus that captures go by, where it is known.
    #[must_use]
    pub fn version(&self, context: &Context) -> Option<MilvusVersion> {
        let answered = self.milvus.as_ref().ok();
        let declared = context.instance.milvus.version.clone();
        let planned = self.plan.as_ref().ok().map(|plan| &plan.milvus.version);
        declared
            .or_else(|| answered.map(|m| m.identity.version.clone()))
            .or_else(|| planned.map(|version| MilvusVersion::parse(version)))
    }

    /// What the parts and the plan of the mode that was `asked` for say already of another `mode`: quiesced needs all
    /// that hot needs, and both need an etcd and a Milvus that answer.
    fn running_mode(&self, asked: Mode, mode: Mode) -> Option<std::result::Result<(), String>> {
        if mode == Mode::Cold {
            return None;
        }
        let unheard = self.etcd.as_ref().err().or(self.milvus.as_ref().err());
        match unheard {
            Some(error) => Some(Err(error.chain())),
            None if (asked, mode) == (Mode::Quiesced, Mode::Hot) && self.plan.is_ok() => {
                Some(Ok(()))
            }
            None => None,
        }
    }

    /// Whether garbage collection can be paused; unknown where neither version nor interface tells.
    #[must_use]
    pub fn gc_pause(&self, context: &Context) -> Option<bool> {
        match self.version(context)?.rules().gc {
            GcGeneration::Absent => Some(false),
            GcGeneration::Unknown => None,
            _ => self.management.is_ok().then_some(true),
        }
    }
}

/// Reaches every part of the instance and changes nothing.
pub async fn survey(context: &Context, options: &Options, previous: Option<&Body>) -> Survey {
    let (etcd, milvus, management, objects, plan, other_methods) = tokio::join!(
        etcd(context),
        milvus(context),
        management(context),
        objects(context),
        plan(context, options, previous),
        other_methods(context, options),
    );
    let version = context.instance.milvus.version.clone();
    let version = version.or_else(|| milvus.as_ref().ok().map(|m| m.identity.version.clone()));
    let write_hold = |mode| write_hold(context, mode, &version.as_ref()?.rules());
    let mut survey = Survey {
        refusals: context.instance.refusals(),
        write_hold: write_hold(options.mode),
        other_modes: Vec::new(),
        other_methods,
        etcd,
        milvus,
        management,
        objects,
        plan: plan.map(|planned| planned.plan),
    };
    for mode in Mode::ALL.iter().filter(|mode| **mode != options.mode) {
        let tried = match survey.running_mode(options.mode, *mode) {
            Some(told) => Some(told),
            None => try_mode(context, options, previous, *mode).await,
        };
        let tried = tried.map(|tried| match (tried, write_hold(*mode)) {
            (Ok(()), Some(error)) => Err(error.chain()),
            (tried, _) => tried,
        });
        survey.other_modes.push((*mode, tried));
    }
    survey
}

/// Plans a capture in another mode. What is not known within the time of a first contact is left open, as whether
/// the sessions of a killed Milvus run out; and so is all that a copy of an embedded etcd would have to be made for.
async fn try_mode(
    context: &Context,
    options: &Options,
    previous: Option<&Body>,
    mode: Mode,
) -> Option<std::result::Result<(), String>> {
    let tried = async {
        if mode == Mode::Cold && context.instance.etcd.embedded.is_some() {
            let refused = cold_source::refuse_running(context).await.err();
            return refused.map(|error| Err(error.chain()));
        }
        let options = Options {
            mode,
            ..options.clone()
        };
        let planned = plan(context, &options, previous).await;
        Some(planned.map(|_| ()).map_err(|error| error.chain()))
    };
    tokio::time::timeout(FIRST_CONTACT, tried)
        .await
        .ok()
        .flatten()
}

/// Asks each other method whether it can capture these objects.
async fn other_methods(context: &Context, options: &Options) -> Vec<(Method, Option<Error>)> {
    let asked = options.method.method();
    let others = Method::ALL.iter().filter(|method| **method != asked);
    let tried = others.map(|method| async move {
        let planned = async {
            let opened = method.open()?;
            let layer = layer(&context.instance.objects, Side::Source, &context.env);
            opened.plan(&*layer.open().await?).await
        };
        (*method, planned.await.err())
    });
    join_all(tried).await
}

async fn etcd(context: &Context) -> Result<SurveyedEtcd> {
    let etcd = &context.instance.etcd;
    let (mut client, status) = connect::etcd(etcd, Side::Source).await?;
    let anchor = client.read_prefix(&format!("{}/", etcd.root_path)).await?;
    let capacity = connect::etcd_capacity(etcd, &client).await;
    Ok(SurveyedEtcd {
        status,
        keys: anchor.keys.len() as u64,
        size: capacity.size,
        quota: capacity.quota,
        alarms: capacity.alarms,
    })
}

async fn milvus(context: &Context) -> Result<SurveyedMilvus> {
    let client = connect::milvus(&context.instance.milvus, Side::Source).await?;
    let health = client.health().await?;
    let unhealthy = if health.healthy {
        Vec::new()
    } else {
        health.reasons
    };
    Ok(SurveyedMilvus {
        identity: client.identity().await?,
        unhealthy,
        collections: collections(&client).await?,
    })
}

async fn collections(client: &Client) -> Result<u64> {
    let mut collections = 0;
    for database in client.list_databases().await? {
        collections += client.show_collections(&database).await?.len() as u64;
    }
    Ok(collections)
}

async fn management(context: &Context) -> Result<()> {
    let management = connect::management(&context.instance.milvus, Side::Source)?;
    let health = management.health().await.map_err(|error| {
        error
            .with_hint("check instance.milvus.management (metrics.port of Milvus, 9091 by default)")
    })?;
    if !health.healthy {
        debug!(
            detail = health.detail,
            "the management interface answers that something is not well"
        );
    }
    Ok(())
}

/// Reads the first name of the object layer, and whether it has a version.
///
/// Milvus makes its directory with the first object, so one that is missing is the plan's to judge.
async fn objects(context: &Context) -> Result<SurveyedObjects> {
    let layer = layer(&context.instance.objects, Side::Source, &context.env);
    if !layer.is_made() {
        return Ok(SurveyedObjects { versions: None });
    }
    let store = layer.open().await?;
    if store.capabilities().versions {
        let versions = Some(true);
        return Ok(SurveyedObjects { versions });
    }
    let first = store.list("", ListOptions::default()).try_next().await?;
    let Some(first) = first else {
        return Ok(SurveyedObjects { versions: None });
    };
    let versions = Some(store.head(&first.key).await?.has_version());
    Ok(SurveyedObjects { versions })
}
