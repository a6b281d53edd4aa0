//! Proving that a Milvus is stopped, and what of it can be asked then.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::Context;
use crate::config::{self, WalKind};
use crate::etcd::{Anchor, Etcd, KeyValue, MEMBER, Status, find_binary};
use crate::instance::embedded::EtcdCopy;
use crate::instance::files::Files;
use crate::instance::installed::{Installed, installed};
use crate::instance::{OWN_AREA, liveness, neighbours, wal};
use crate::milvus::client::Identity;
use crate::milvus::keys::Roots;
use crate::milvus::version::MilvusVersion;
use crate::snapshot::Body;
use crate::{Cause, Error, Result, Side};

/// Starts an etcd on a copy of what an embedded etcd left in `data_dir`.
///
/// # Errors
///
/// [`Side::Source`] when an etcd holds the directory or it is none; [`Cause::Invalid`] when there is
/// no etcd program on this host.
pub(super) async fn etcd_copy(
    config: &config::Etcd,
    data_dir: &Path,
) -> Result<(EtcdCopy, Files, Etcd, Status)> {
    if liveness::etcd_directory_in_use(data_dir)? {
        return Err(Side::Source
            .error(
                Cause::Refused,
                format!(
                    "milvus is running: its embedded etcd holds {}",
                    data_dir.display()
                ),
            )
            .with_hint("stop Milvus for a cold capture, or use --mode hot"));
    }
    if !data_dir.join(MEMBER).is_dir() {
        return Err(Side::Source
            .error(
                Cause::Refused,
                format!(
                    "{} is no etcd data directory: it has no {MEMBER}/",
                    data_dir.display()
                ),
            )
            .with_hint("set instance.etcd.data_dir to Milvus's etcd.data.dir on this host"));
    }
    let binary = find_binary(config.binary.as_deref())?;
    let files = Files::below(vec![data_dir.join(MEMBER)]).await?;
    let (copy, etcd, status) = EtcdCopy::start(&binary, data_dir, Side::Source).await?;
    Ok((copy, files, etcd, status))
}

/// Refuses what shows at once that no cold capture can be made.
///
/// # Errors
///
/// [`Side::Source`] naming the sign of life, or a queue that cannot be captured.
pub(super) async fn refuse_running(context: &Context) -> Result<()> {
    wal_directories(context)?;
    no_sign_of_life(context).await
}

/// Proves that Milvus is stopped; waits for the sessions of a killed one to run out.
///
/// # Errors
///
/// [`Side::Source`] naming the sign of life, or a queue that cannot be captured.
pub(super) async fn prove_stopped(
    context: &Context,
    etcd: &mut Etcd,
    roots: &Roots,
    on_copy: bool,
) -> Result<()> {
    refuse_running(context).await?;
    if on_copy {
        // Leases in the copy count anew from its start; the directory's lock was the proof.
        return Ok(());
    }
    let prefix = liveness::sessions_prefix(roots);
    let (_, left) = liveness::wait_for_sessions_to_expire(etcd, roots, &prefix).await?;
    // A key without a lease is nobody's who lives: a copy of etcd's keys may have brought it.
    let live = left.iter().filter(|session| session.lease != 0);
    let live: Vec<&str> = live.map(|session| session.name.as_str()).collect();
    if live.is_empty() {
        return Ok(());
    }
    Err(alive(&format!(
        "etcd has live sessions: {}",
        live.join(", ")
    )))
}

/// Fails when something shows, without asking etcd, that Milvus runs.
async fn no_sign_of_life(context: &Context) -> Result<()> {
    let instance = &context.instance;
    if let Some(sign) = liveness::signs_of_life(instance).await?.first() {
        return Err(alive(sign));
    }
    if let Some(embedded) = &instance.etcd.embedded
        && liveness::etcd_directory_in_use(&embedded.data_dir)?
    {
        let directory = embedded.data_dir.display();
        return Err(alive(&format!("a process holds {directory}")));
    }
    Ok(())
}

fn alive(sign: &str) -> Error {
    Side::Source
        .error(Cause::Refused, format!("milvus is not stopped: {sign}"))
        .with_hint("stop Milvus and wait until its process is gone, or use --mode quiesced or hot")
}

/// The directories of rocksmq, both of them.
///
/// # Errors
///
/// [`Side::Source`] for a queue that is not in directories of this host.
pub(super) fn wal_directories(context: &Context) -> Result<Vec<PathBuf>> {
    match &context.instance.wal.kind {
        kind @ WalKind::Rocksmq { .. } => Ok(wal::directories(kind)),
        other => Err(Side::Source.error(Cause::Refused,
            format!("a cold capture needs the message queue with it, and {} is not in directories of this host", other.name()),
        )
        .with_hint("use --mode quiesced (or hot) while Milvus runs: its flush makes the queue unnecessary")),
    }
}

/// Who a stopped Milvus is, and a note of what told it where that may be wrong. The configuration tells the
/// version, else etcd (2.6.8 and later), else the snapshot before and the Milvus that is installed on this host.
///
/// # Errors
///
/// [`Side::Source`] when nothing tells the version, or two tell different ones.
pub(super) async fn identity(
    context: &Context,
    anchor: &Anchor,
    roots: &Roots,
    previous: Option<&Body>,
) -> Result<(Identity, Option<String>)> {
    let declared = context.instance.milvus.version.clone();
    let key = liveness::sessions_prefix(roots) + "version";
    let recorded = anchor.keys.iter().find(|kv| kv.key == key.as_bytes());
    let recorded = recorded.map(|kv| MilvusVersion::parse(&String::from_utf8_lossy(&kv.value)));
    let (version, note) = match declared.or(recorded) {
        Some(version) => (version, None),
        None => version_told(installed(&context.instance).await, previous)?,
    };
    let identity = Identity {
        version,
        git_commit: String::new(),
        deploy_mode: String::new(),
    };
    Ok((identity, note))
}

/// The version by what is installed and by the snapshot before, and a note where that may be wrong. Milvus itself
/// told the snapshot before, so that counts unless what is installed is a later patch.
fn version_told(
    installed: Result<Option<Installed>>,
    previous: Option<&Body>,
) -> Result<(MilvusVersion, Option<String>)> {
    let before = previous.map(|body| MilvusVersion::parse(&body.milvus.version));
    let hint = "set instance.milvus.version to what it ran last, such as 2.3.5";
    let refuse = |message: String| Err(Side::Source.error(Cause::Refused, message).with_hint(hint));
    let installed = installed.map_err(|error| error.with_hint(hint))?;
    let Some(Installed { version, place }) = installed else {
        return match before {
            Some(before) => Ok((before, None)),
            None => refuse(
                "the version of this Milvus is not known: it is stopped, there is no earlier snapshot of it, and neither etcd nor a container or program on this host tells it".to_owned(),
            ),
        };
    };
    let note = format!(
        "that Milvus is {version} was read from {place}; if another version ran last, set instance.milvus.version and run the backup again"
    );
    match before {
        Some(before) if before.series().is_none() => Ok((before, None)),
        Some(before) if version.series() != before.series() => refuse(format!(
            "which version this stopped Milvus has is not known: {place} says {version}, and the snapshot before is of {before}"
        )),
        Some(before) if version.patch() == before.patch() => Ok((before, None)),
        Some(before) if version.patch() < before.patch() => {
            let note = format!(
                "Milvus was taken for {before}, as in the snapshot before, though {place} says {version}; if that ran last, set instance.milvus.version and run the backup again"
            );
            Ok((before, Some(note)))
        }
        _ => Ok((version, Some(note))),
    }
}

/// The files of the queue of a Milvus that is proved stopped, before and after they were looked at.
///
/// # Errors
///
/// [`Side::Source`] when it was started meanwhile.
pub(super) async fn queue_files(context: &Context) -> Result<Files> {
    let files = Files::below(wal::directories(&context.instance.wal.kind)).await?;
    no_sign_of_life(context).await?;
    Ok(files)
}

/// The same files as they are now, and those of an embedded etcd.
async fn files_now(context: &Context) -> Result<Files> {
    let instance = &context.instance;
    let mut directories = wal::directories(&instance.wal.kind);
    let embedded = instance.etcd.embedded.iter();
    directories.extend(embedded.map(|embedded| embedded.data_dir.join(MEMBER)));
    Files::below(directories).await
}

/// What there was when the anchor of a stopped Milvus was taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before<'a> {
    pub(super) revision: i64,
    pub(super) files: &'a Files,
    /// Roots of other instances below this one's.
    pub(super) neighbours: &'a BTreeSet<String>,
}

/// Proves that nothing ran while the snapshot was taken: there is no sign of life now, the files are what they
/// were, and nobody put a key below the root after the anchor's revision. A Milvus that ran in
/// between has put some: sessions, counters, checkpoints.
///
/// # Errors
///
/// [`Side::Source`] naming the sign of life.
pub(super) async fn still_stopped(
    context: &Context,
    etcd: &mut Etcd,
    roots: &Roots,
    anchored: Before<'_>,
) -> Result<()> {
    let proof = async {
        no_sign_of_life(context).await?;
        if let Some(path) = anchored.files.first_change(&files_now(context).await?) {
            return Err(alive(&format!("{} was written", path.display())));
        }
        let prefix = roots.prefix();
        let put = etcd.read_put_after(&prefix, anchored.revision).await?;
        // Instances below this root live on.
        let mut neighbours = neighbours::other_roots(roots, &put);
        neighbours.extend(anchored.neighbours.iter().cloned());
        let own = format!("{prefix}{OWN_AREA}");
        let ours = |kv: &&KeyValue| {
            !kv.key.starts_with(own.as_bytes()) && !neighbours::is_of(&neighbours, &kv.key)
        };
        match put.iter().find(ours) {
            None => Ok(()),
            Some(kv) => {
                let key = String::from_utf8_lossy(&kv.key);
                Err(alive(&format!("the key {key} was put into etcd")))
            }
        }
    };
    proof.await.map_err(|error: Error| {
        error.context("milvus was started during the cold capture, so no snapshot was made")
    })
}
