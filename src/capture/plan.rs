//! What a capture would do, and whether it can: everything is reached before anything is held.

use std::collections::BTreeSet;

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::Instant;
use tracing::debug;

use super::reach::{
    Reached, Running, belongs_together, nothing_under_root, open_objects, reach_etcd, reach_milvus,
    running_parts,
};
use super::{Context, Options, cold_source, full};
use crate::base::error::Context as _;
use crate::base::weakening::{self, Weakening};
use crate::config::WalKind;
use crate::etcd::{Anchor, Etcd, MAKE_ROOM};
use crate::instance::holds::{self, ConfigItem};
use crate::instance::methods::Method;
use crate::instance::neighbours;
use crate::instance::objects::{ObjectLayer, layer};
use crate::milvus::catalog::Catalog;
use crate::milvus::client::{Client, Identity};
use crate::milvus::keys::Roots;
use crate::milvus::validate::{FindingKind, Refusal, RefusalKind};
use crate::milvus::version::{GcGeneration, MilvusVersion, Rules};
use crate::snapshot::{Body, Counts, EtcdIdentity, MilvusIdentity, Mode, Wal, WalState};
use crate::{Cause, Error, Result, Side};

/// How long what ends by itself is waited for before anything is held: DDL takes seconds.
const PASSES_WAIT: Duration = Duration::from_secs(20);

/// Between two looks.
const PASSES_PAUSE: Duration = Duration::from_millis(500);

/// What a capture would do.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Plan {
    /// The instance's name.
    pub instance: String,
    /// How writes would be treated.
    pub mode: Mode,
    /// How objects would be captured.
    pub method: Method,
    /// Milvus.
    pub milvus: MilvusIdentity,
    /// etcd.
    pub etcd: EtcdIdentity,
    /// The etcd revision at which the plan was made.
    pub revision: i64,
    /// The object layer.
    pub objects: ObjectLayer,
    /// Whether deleted and replaced objects stay readable by version id.
    pub versioned: bool,
    /// The write-ahead log.
    pub wal: Wal,
    /// Proxies that writes are probed through.
    pub proxies: Vec<String>,
    /// What would be held, and how.
    pub holds: Vec<PlannedHold>,
    /// Databases, collections, live segments, rows and objects that the metadata names now.
    pub counts: Counts,
    /// What the snapshot would be less than the mode promises.
    pub weakenings: Vec<Weakening>,
    /// What a capture would find fault with or do otherwise than one may expect.
    pub notes: Vec<String>,
}

impl Plan {
    /// Whether a running Milvus would be captured as far as it has flushed by itself, since its etcd takes no
    /// writes.
    #[must_use]
    pub fn is_without_flush(&self) -> bool {
        let code = |weakening: &Weakening| weakening.code == weakening::NOT_FLUSHED;
        self.weakenings.iter().any(code)
    }
}

/// One hold of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PlannedHold {
    /// `writes`, `ddl`, `compaction` or `gc`.
    pub hold: String,
    /// How it would be held, or why it would not.
    pub how: String,
}

/// A capture that can start.
#[derive(Debug)]
pub struct Planned {
    /// What it would do.
    pub plan: Plan,
    pub(super) etcd: Reached,
    pub(super) milvus: Option<Running>,
    pub(super) roots: Roots,
    pub(super) version: MilvusVersion,
    /// What told the version of a stopped Milvus, where that may be wrong.
    pub(super) version_note: Option<String>,
    /// Roots of other instances below this one's.
    pub(super) neighbours: BTreeSet<String>,
    /// Objects that were gone at an earlier anchor of this capture.
    pub(super) missing_before: BTreeSet<String>,
}

/// Reaches everything and says what a capture would do. `previous` is the newest snapshot of this
/// instance, which tells the version of a Milvus that is stopped.
///
/// # Errors
///
/// [`Side::Source`] with the reason and the way out when no capture could start.
pub async fn plan(
    context: &Context,
    options: &Options,
    previous: Option<&Body>,
) -> Result<Planned> {
    Box::pin(make(context, options, previous))
        .await
        .on(Side::Source)
}

async fn make(context: &Context, options: &Options, previous: Option<&Body>) -> Result<Planned> {
    let instance = &context.instance;
    if let Some(refusal) = instance.refusals().into_iter().next() {
        return Err(refusal);
    }
    if options.mode == Mode::Cold {
        // Before an etcd inside Milvus is copied.
        cold_source::refuse_running(context).await?;
    }
    let (mut reached, status) = reach_etcd(context, options.mode).await?;
    let full = status.no_space && options.mode != Mode::Cold;
    if full && options.mode == Mode::Quiesced {
        return Err(full::refused(instance));
    }
    let mut client = reached.client.clone();
    let roots = instance.etcd.roots();
    let mut anchor = client.read_prefix(&roots.prefix()).await?;
    if anchor.keys.is_empty() {
        return Err(nothing_under_root(&mut client, &roots).await);
    }
    let (running, identity, version_note) =
        identified(context, options, &mut reached, &anchor, previous).await?;
    let version = identity.version.clone();
    let mut catalog = Catalog::decode(&roots, &anchor.keys, &version)?;
    if options.mode == Mode::Cold {
        refuse_stopped(&catalog)?;
    } else if full {
        refuse_full(&catalog)?;
    } else {
        (anchor, catalog) = without_ddl(&mut client, anchor, catalog).await?;
        refuse(&catalog)?;
        for item in held_items(options.mode, &version.rules()) {
            holds::allowed(&anchor.keys, &roots.root, item)?;
        }
    }
    let running = match running {
        Some(client) => Some(running_parts(context, client, &version, &catalog).await?),
        None => None,
    };
    let (versioned, mut notes) = storage(context, options, &catalog).await?;
    notes.extend(version_note.clone());
    let others = neighbours::other_roots(&roots, &anchor.keys);
    if let Some(others) = neighbours::said(&roots, &others) {
        notes.push(format!(
            "{others}; a restore leaves its keys out of what it writes, and refuses to replace this root while they are there"
        ));
    }
    notes.extend(lasting(&catalog));
    if let Some(doubt) = write_hold(context, options.mode, &version.rules()) {
        notes.push(format!("{doubt}; the backup finds out by trying to write"));
    }
    let mut holds = planned_holds(context, options, running.as_ref().map(|r| &r.rules));
    let mut weakenings = Vec::new();
    if full {
        let compaction = holds.iter_mut().find(|hold| hold.hold == "compaction");
        if let Some(hold) = compaction {
            "not held: etcd is at its quota and takes no key, Milvus's neither"
                .clone_into(&mut hold.how);
        }
        weakenings.push(full::not_flushed(&catalog, context.env.now()));
    }
    let proxies = running
        .iter()
        .flat_map(|r| r.proxies.iter().map(|p| p.address().to_owned()));
    let plan = Plan {
        instance: instance.name.clone(),
        mode: options.mode,
        method: options.method.method(),
        milvus: MilvusIdentity {
            version: version.to_string(),
            commit: Some(identity.git_commit).filter(|c| !c.is_empty()),
            deploy_mode: Some(identity.deploy_mode).filter(|d| !d.is_empty()),
        },
        etcd: EtcdIdentity::new(&instance.etcd, &status.version, status.cluster_id),
        revision: anchor.revision,
        objects: layer(&instance.objects, Side::Source, &context.env).record(),
        versioned,
        wal: wal(context, options.mode),
        proxies: proxies.collect(),
        holds,
        counts: Counts {
            objects: catalog.objects().count() as u64,
            ..Counts::of(&catalog)
        },
        weakenings,
        notes,
    };
    Ok(Planned {
        plan,
        etcd: reached,
        milvus: running,
        roots,
        version,
        version_note,
        neighbours: others,
        missing_before: BTreeSet::new(),
    })
}

/// What validation finds that the flush of the capture does not change.
fn lasting(catalog: &Catalog) -> Vec<String> {
    let findings = catalog.validate().into_iter();
    let lasting = findings.filter(|finding| finding.kind != FindingKind::Unflushed);
    lasting.map(|finding| finding.to_string()).collect()
}

/// Who the Milvus is: it answers, or is proved stopped. The note says what told the version of a stopped one,
/// where that may be wrong.
async fn identified(
    context: &Context,
    options: &Options,
    reached: &mut Reached,
    anchor: &Anchor,
    previous: Option<&Body>,
) -> Result<(Option<Client>, Identity, Option<String>)> {
    if options.mode != Mode::Cold {
        let (client, identity) = reach_milvus(context, options).await?;
        return Ok((Some(client), identity, None));
    }
    let roots = context.instance.etcd.roots();
    // What has to be asked for is asked for before sessions are waited for.
    let (identity, note) = cold_source::identity(context, anchor, &roots, previous).await?;
    let on_copy = reached.copy.is_some();
    cold_source::prove_stopped(context, &mut reached.client, &roots, on_copy).await?;
    reached.files.add(cold_source::queue_files(context).await?);
    Ok((None, identity, note))
}

/// Whether the object storage keeps versions, and what is worth a note, once it is proved that it belongs
/// to the metadata.
async fn storage(
    context: &Context,
    options: &Options,
    catalog: &Catalog,
) -> Result<(bool, Vec<String>)> {
    match open_objects(context, catalog).await? {
        Some(store) => {
            options.method.plan(&*store).await?;
            belongs_together(&store, catalog).await
        }
        None => Ok((false, Vec::new())),
    }
}

/// Why writes cannot be denied while this Milvus runs, as far as that is known beforehand; a
/// capture goes by its probes.
pub(super) fn write_hold(context: &Context, mode: Mode, rules: &Rules) -> Option<Error> {
    if mode != Mode::Quiesced {
        return None;
    }
    let why = match rules.write_hold {
        None => "this version of Milvus reads the setting at its start only",
        Some(_) if context.instance.etcd.embedded.is_some() => {
            "etcd runs inside Milvus, which then does not read dynamic configuration (seen on 2.3.5)"
        }
        Some(_) => return None,
    };
    let error = Side::Source.error(Cause::Refused, format!("writes cannot be denied: {why}"));
    Some(error.with_hint("use --mode hot, which needs no hold, or stop Milvus and use --mode cold"))
}

/// Refuses what cannot be captured: at planning, and again on the anchor itself.
pub(super) fn refuse(catalog: &Catalog) -> Result<()> {
    match catalog.refusals().into_iter().next() {
        None => Ok(()),
        Some(refusal) => Err(refused(&refusal)),
    }
}

/// As [`refuse`], of an etcd at its quota: what would end by itself ends only once Milvus can write its keys.
pub(super) fn refuse_full(catalog: &Catalog) -> Result<()> {
    refuse_endless(catalog, MAKE_ROOM).map_err(|error| {
        if error.hint() != Some(MAKE_ROOM) {
            return error;
        }
        error
            .context("etcd is at its quota (alarm NOSPACE), so Milvus cannot end what it has begun")
    })
}

/// As [`refuse`], with a hint of its own for what would end by itself if Milvus could go on.
fn refuse_endless(catalog: &Catalog, hint: &str) -> Result<()> {
    match catalog.refusals().into_iter().next() {
        None => Ok(()),
        Some(refusal) if refusal.kind.passes() || refusal.kind == RefusalKind::Import => {
            Err(refused(&Refusal {
                hint: hint.to_owned(),
                ..refusal
            }))
        }
        Some(refusal) => Err(refused(&refusal)),
    }
}

/// Reads the keys again while something is in the way that ends by itself, for a while.
async fn without_ddl(
    etcd: &mut Etcd,
    mut anchor: Anchor,
    mut catalog: Catalog,
) -> Result<(Anchor, Catalog)> {
    let give_up = Instant::now() + PASSES_WAIT;
    while passes(&catalog) && Instant::now() < give_up {
        debug!("something is under way in Milvus; looking again");
        tokio::time::sleep(PASSES_PAUSE).await;
        anchor = etcd.read_prefix(&catalog.roots.prefix()).await?;
        catalog = Catalog::decode(&catalog.roots, &anchor.keys, &catalog.version)?;
    }
    Ok((anchor, catalog))
}

/// Whether something is in the way of a capture, and all of it ends by itself.
fn passes(catalog: &Catalog) -> bool {
    let refusals = catalog.refusals();
    !refusals.is_empty() && refusals.iter().all(|refusal| refusal.kind.passes())
}

/// As [`refuse`], of a Milvus that is stopped: what would end by itself ends only once it runs again.
pub(super) fn refuse_stopped(catalog: &Catalog) -> Result<()> {
    let hint = "start Milvus, let it finish that, stop it again and run the backup again; or use --mode quiesced while it runs";
    refuse_endless(catalog, hint)
}

/// Why an anchor is not captured, and the way out.
pub(super) fn refused(refusal: &Refusal) -> Error {
    Side::Source
        .error(Cause::Refused, refusal.what.clone())
        .with_hint(refusal.hint.clone())
}

fn wal(context: &Context, mode: Mode) -> Wal {
    let wal = &context.instance.wal;
    let captured = mode == Mode::Cold && matches!(wal.kind, WalKind::Rocksmq { .. });
    let state = if captured {
        WalState::Captured
    } else {
        WalState::Reset
    };
    Wal::new(wal, state)
}

/// The items of dynamic configuration that a capture would put.
fn held_items(mode: Mode, rules: &Rules) -> Vec<ConfigItem> {
    let mut items = vec![
        (rules.compaction_hold, holds::COMPACTION),
        (rules.sort_compaction_hold, holds::SORT_COMPACTION),
    ];
    if mode == Mode::Quiesced {
        items.push((rules.write_hold, holds::WRITES));
        items.push((rules.ddl_hold, holds::DDL));
    }
    let supported = items.into_iter().filter(|(key, _)| key.is_some());
    supported.map(|(_, item)| item).collect()
}

fn planned_holds(context: &Context, options: &Options, rules: Option<&Rules>) -> Vec<PlannedHold> {
    let Some(rules) = rules else {
        return Vec::new();
    };
    let config = |key: Option<&'static str>, absent: &str| match key {
        Some(key) => format!(
            "{}/config/{key} under a lease of 30 s",
            context.instance.etcd.root_path
        ),
        None => absent.to_owned(),
    };
    let mut holds = vec![
        PlannedHold {
            hold: "gc".to_owned(),
            how: describe(rules.gc).to_owned(),
        },
        PlannedHold {
            hold: "compaction".to_owned(),
            how: config(
                rules.compaction_hold,
                "this version has no switch; the anchor is validated instead",
            ),
        },
    ];
    if options.mode == Mode::Quiesced {
        holds.push(PlannedHold {
            hold: "writes".to_owned(),
            how: config(
                rules.write_hold,
                "this version cannot deny writes while it runs",
            ),
        });
        holds.push(PlannedHold {
            hold: "ddl".to_owned(),
            how: config(
                rules.ddl_hold,
                "this version has no switch; DDL that is unfinished at the anchor voids it",
            ),
        });
    }
    holds
}

/// How garbage collection is held.
const fn describe(gc: GcGeneration) -> &'static str {
    match gc {
        GcGeneration::Absent => {
            "not held: this version cannot pause it; an object that vanishes makes the capture take another anchor"
        }
        GcGeneration::Blocking => "paused for 10 min at a time; a running pass is waited for",
        GcGeneration::Simple => "paused for 10 min at a time; the last pause runs out by itself",
        GcGeneration::Tickets => "paused under a ticket, and resumed with it",
        GcGeneration::Unknown => "paused where Milvus has the route",
    }
}
