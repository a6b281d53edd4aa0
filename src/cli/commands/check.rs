//! `eyrie check`: reach everything and say what a backup would do.

mod findings;

use super::how::How;
use crate::capture::{self, Options, Survey};
use crate::cli::context::Context;
use crate::cli::documents::{
    self, CheckDocument, CheckedEtcd, CheckedMilvus, CheckedObjects, CheckedRepository, CheckedWal,
    Choice, Finding, HexId, Severity,
};
use crate::cli::output::{Page, Render, count};
use crate::cli::stored::Stored;
use crate::config::{self, Deploy, WalKind};
use crate::instance::methods::Method;
use crate::instance::objects::layer;
use crate::milvus::MilvusVersion;
use crate::milvus::version::FreshWal;
use crate::snapshot::{Body, Mode};
use crate::{Cause, Error, Result, Side};

/// Reach everything and say what a backup would do
///
/// Connects to Milvus, etcd, the object layer and the repository, proves that they belong
/// together, and changes nothing. The exit code is 0 only if a backup could start now in the mode and by
/// the method that are asked for, else 20; which others would work is said too.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Args {
    /// The capture that is asked about.
    #[command(flatten)]
    pub how: How,
}

/// Reaches everything, one thing after the failure of another too, and says what was found.
///
/// # Errors
///
/// [`Cause::Invalid`] when the configuration is wrong. What is found wrong outside is in the document.
pub fn run(args: &Args, context: &Context) -> Result<u8> {
    let options = args.how.options()?;
    let config = context.config()?;
    let repository = context.repository(&config)?;
    let work = capture::Context {
        instance: config.instance()?.clone(),
        env: context.env.clone(),
        progress: context.progress(),
        cancel: context.cancel.clone(),
        accept: config.accept.clone(),
        resources: context.resources(&config.limits)?,
    };
    let document = context.run(context.cancel.run(async {
        work.progress.begin("reach", None);
        let stored = Stored::open(context, &config).await;
        let newest = stored.as_ref().ok();
        let newest = newest.and_then(|s| s.snapshots.newest_of(&work.instance.name));
        let previous = newest.and_then(|manifest| Body::of(manifest).ok());
        let survey = Box::pin(capture::survey(&work, &options, previous.as_ref())).await;
        Ok(document(&work, &options, repository, &survey, &stored))
    }))?;
    work.progress.end();
    context.output.show(&document)?;
    Ok(document.exit_code)
}

fn document(
    work: &capture::Context,
    options: &Options,
    repository: &config::Repository,
    survey: &Survey,
    stored: &Result<Stored>,
) -> CheckDocument {
    let instance = &work.instance;
    let findings = findings::all(work, options, survey, stored);
    let exit_code = exit_code(&findings, stored.as_ref().err());
    let newest = |s: &Stored| s.snapshots.newest_of(&instance.name).cloned();
    let newest = stored.as_ref().ok().and_then(newest);
    let plan = survey.plan.as_ref().ok().filter(|_| exit_code == 0);
    CheckDocument {
        instance: instance.name.clone(),
        ready: exit_code == 0,
        milvus: milvus(work, survey),
        etcd: etcd(work, survey),
        objects: objects(work, survey),
        wal: wal(work, survey),
        repository: checked(repository, &instance.name, stored),
        backup: plan.map(|plan| {
            documents::backup_plan(
                plan,
                options,
                &repository.name,
                newest.as_ref(),
                &work.accept,
            )
        }),
        modes: modes(survey, &findings),
        methods: methods(survey),
        findings,
        exit_code,
        mode: options.mode,
        method: options.method.method(),
    }
}

/// Whether the instance is in the way.
fn is_refused(findings: &[Finding]) -> bool {
    let refuses = |f: &Finding| f.severity == Severity::Refusal && f.kind != findings::REPOSITORY;
    findings.iter().any(refuses)
}

/// Each mode, the gentlest first, and whether a backup could start in it.
fn modes(survey: &Survey, findings: &[Finding]) -> Vec<Choice> {
    let asked = || {
        let refusal = findings
            .iter()
            .find(|f| is_refused(std::slice::from_ref(f)));
        refusal.map(|finding| finding.what.clone())
    };
    let choice = |mode: &Mode| {
        let mut others = survey.other_modes.iter();
        let other = others.find_map(|(other, tried)| (other == mode).then_some(tried));
        let (works, why) = match other {
            Some(Some(Ok(()))) => (Some(true), None),
            Some(Some(Err(why))) => (Some(false), Some(why.clone())),
            Some(None) => {
                let why = format!("eyrie check --mode {mode} tells");
                (None, Some(why))
            }
            None => {
                let why = asked();
                (Some(why.is_none()), why)
            }
        };
        Choice {
            name: mode.word().to_owned(),
            works,
            why,
        }
    };
    Mode::ALL.iter().map(choice).collect()
}

/// Each method, and whether a backup could start by it.
fn methods(survey: &Survey) -> Vec<Choice> {
    let choice = |method: &Method| {
        let mut others = survey.other_methods.iter();
        let other = others.find_map(|(other, why)| (other == method).then_some(why.as_ref()));
        // What the one that was asked for needs are the objects.
        let why = other.unwrap_or_else(|| survey.objects.as_ref().err());
        Choice {
            name: method.word().to_owned(),
            works: Some(why.is_none()),
            why: why.map(Error::chain),
        }
    };
    Method::ALL.iter().map(choice).collect()
}

/// 20 when the instance is in the way, else what the repository fails with.
fn exit_code(findings: &[Finding], repository: Option<&Error>) -> u8 {
    match repository {
        _ if is_refused(findings) => Cause::Refused.exit_code(Some(Side::Source)),
        Some(error) => error.exit_code(),
        None => 0,
    }
}

fn milvus(work: &capture::Context, survey: &Survey) -> CheckedMilvus {
    let answered = survey.milvus.as_ref().ok();
    let told = answered.map(|m| m.identity.deploy_mode.to_ascii_lowercase());
    let configured = match work.instance.deploy {
        Deploy::Standalone => Some("standalone".to_owned()),
        Deploy::Cluster => Some("cluster".to_owned()),
        Deploy::Unknown => None,
    };
    CheckedMilvus {
        address: work.instance.milvus.address.clone(),
        reachable: answered.is_some(),
        version: survey.version(work).map(|version| version.to_string()),
        deploy: told.filter(|mode| !mode.is_empty()).or(configured),
        proxies: survey.plan.as_ref().map_or(0, |p| p.proxies.len() as u64),
        collections: answered.map(|m| m.collections),
        gc_pause: survey.gc_pause(work),
    }
}

fn etcd(work: &capture::Context, survey: &Survey) -> CheckedEtcd {
    let etcd = &work.instance.etcd;
    let answered = survey.etcd.as_ref().ok();
    CheckedEtcd {
        endpoints: etcd.endpoints.clone(),
        reachable: answered.is_some(),
        version: answered.map(|e| e.status.version.clone()),
        embedded: etcd.embedded.is_some(),
        root_path: etcd.root_path.clone(),
        keys: answered.map(|e| e.keys),
        revision: answered.map(|e| e.status.revision),
    }
}

fn objects(work: &capture::Context, survey: &Survey) -> CheckedObjects {
    let layer = layer(&work.instance.objects, Side::Source, &work.env);
    let planned = survey.plan.as_ref().ok().map(|plan| plan.versioned);
    CheckedObjects {
        kind: layer.record().kind().word().to_owned(),
        location: layer.place(),
        reachable: survey.objects.is_ok(),
        versions: survey
            .objects
            .as_ref()
            .ok()
            .and_then(|o| o.versions)
            .or(planned),
    }
}

fn wal(work: &capture::Context, survey: &Survey) -> CheckedWal {
    let wal = &work.instance.wal;
    CheckedWal {
        kind: wal.kind.name().to_owned(),
        path: match &wal.kind {
            WalKind::Rocksmq { path } | WalKind::Natsmq { path } => {
                Some(path.display().to_string())
            }
            _ => None,
        },
        channel_prefix: wal.channel_prefix.clone(),
        reset_proven: reset_proven(work, survey),
    }
}

/// Whether a restore onto a fresh queue of this kind was ever run against a real one, for the version
/// that answers or is declared.
fn reset_proven(work: &capture::Context, survey: &Survey) -> bool {
    let version = survey.version(work);
    let version = version.unwrap_or_else(|| MilvusVersion::parse("unknown"));
    version.on_fresh_wal(work.instance.wal.kind.kind()) == FreshWal::Starts
}

fn checked(
    repository: &config::Repository,
    instance: &str,
    stored: &Result<Stored>,
) -> CheckedRepository {
    let opened = stored.as_ref().ok();
    let of_instance = |s: &Stored| {
        let manifests = s.snapshots.manifests.iter();
        manifests.filter(|m| m.instance == instance).count() as u64
    };
    let newest = opened.and_then(|s| s.snapshots.newest_of(instance));
    CheckedRepository {
        name: repository.name.clone(),
        location: repository.location.to_string(),
        opens: opened.is_some(),
        encrypted: opened.map(|s| s.repository.encrypted()),
        snapshots: opened.map(of_instance),
        latest: newest.map(|manifest| HexId(manifest.snapshot.to_string())),
        snapshots_of_all: opened.map(|s| s.snapshots.manifests.len() as u64),
    }
}

fn or_unknown<T: ToString>(value: Option<&T>) -> String {
    value.map_or_else(|| "unknown".to_owned(), ToString::to_string)
}

fn answer(reachable: bool) -> &'static str {
    if reachable { "" } else { ", NOT REACHED" }
}

/// A mode or a method, for people.
fn choice_line(choice: &Choice) -> String {
    let (name, why) = (&choice.name, choice.why.as_deref().unwrap_or("unknown"));
    match choice.works {
        Some(true) => format!("{name}: would work"),
        Some(false) => format!("{name}: no, {why}"),
        None => format!("{name}: not known, {why}"),
    }
}

impl Render for CheckDocument {
    fn render(&self, page: &mut Page) {
        let (milvus, etcd, repository) = (&self.milvus, &self.etcd, &self.repository);
        let inside = if etcd.embedded { ", inside Milvus" } else { "" };
        let versions = match self.objects.versions {
            Some(true) => ", keeps versions",
            Some(false) => ", keeps no versions",
            None => "",
        };
        let unproven = if self.wal.reset_proven {
            ""
        } else {
            ", reset unproven"
        };
        let at = self
            .wal
            .path
            .as_ref()
            .map(|path| format!(" in {path}"))
            .unwrap_or_default();
        page.pairs(&[
            ("instance", self.instance.clone()),
            (
                "milvus",
                format!(
                    "{} at {}{}",
                    or_unknown(milvus.version.as_ref()),
                    milvus.address,
                    answer(milvus.reachable)
                ),
            ),
            (
                "etcd",
                format!(
                    "{} at {}{inside}{}, root {} with {} keys at revision {}",
                    or_unknown(etcd.version.as_ref()),
                    etcd.endpoints.join(","),
                    answer(etcd.reachable),
                    etcd.root_path,
                    or_unknown(etcd.keys.as_ref()),
                    or_unknown(etcd.revision.as_ref()),
                ),
            ),
            (
                "objects",
                format!(
                    "{} {}{versions}{}",
                    self.objects.kind,
                    self.objects.location,
                    answer(self.objects.reachable)
                ),
            ),
            ("wal", format!("{}{at}{unproven}", self.wal.kind)),
            (
                "repository",
                format!(
                    "{} at {}, {}",
                    repository.name,
                    repository.location,
                    match (repository.opens, repository.snapshots) {
                        (true, Some(snapshots)) => count(snapshots, "snapshot"),
                        (true, None) => "opens".to_owned(),
                        (false, _) => "DOES NOT OPEN".to_owned(),
                    }
                ),
            ),
        ]);
        let word = |severity| match severity {
            Severity::Refusal => "REFUSED",
            Severity::Weakening => "weakens",
            Severity::Note => "note",
            Severity::Ok => "ok",
        };
        let findings = self.findings.iter().map(|finding| {
            let hint = finding.hint.as_ref().map(|hint| format!(" ({hint})"));
            let hint = hint.unwrap_or_default();
            format!("{}: {}{hint}", word(finding.severity), finding.what)
        });
        page.list("findings", findings);
        for (heading, choices) in [("modes", &self.modes), ("methods", &self.methods)] {
            page.list(heading, choices.iter().map(choice_line));
        }
        match &self.backup {
            Some(plan) => {
                page.heading("a backup would");
                plan.render(page);
            }
            None => {
                page.heading(&format!(
                    "no {} backup by {} can start (exit {})",
                    self.mode.word(),
                    self.method.word(),
                    self.exit_code
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_instance_comes_before_the_repository() {
        let finding = |severity, kind: &str| Finding {
            severity,
            kind: kind.to_owned(),
            what: String::new(),
            hint: None,
        };
        let repository = Error::new(Cause::WrongKey, "wrong passphrase");
        let own = finding(Severity::Refusal, findings::REPOSITORY);
        let note = finding(Severity::Note, "metadata");
        assert_eq!(exit_code(std::slice::from_ref(&note), None), 0);
        assert_eq!(exit_code(&[own.clone(), note], Some(&repository)), 12);
        let milvus = finding(Severity::Refusal, "milvus");
        assert_eq!(exit_code(&[own, milvus], Some(&repository)), 20);
    }
}
