//! What a check noticed, the gravest first.

use crate::base::text::Bytes;
use crate::capture::{self, Options, Survey};
use crate::cli::documents::{Finding, Severity};
use crate::cli::output::count;
use crate::cli::stored::Stored;
use crate::etcd::MAKE_ROOM;
use crate::milvus::version::GcGeneration;
use crate::snapshot::{Body, Mode};
use crate::{Error, Result};

/// The kind of a finding that is the repository's, whose exit code is its own.
pub(super) const REPOSITORY: &str = "repository";

/// All findings, the gravest first.
pub(super) fn all(
    work: &capture::Context,
    options: &Options,
    survey: &Survey,
    stored: &Result<Stored>,
) -> Vec<Finding> {
    let mut all = Findings::default();
    all.of_configuration(survey);
    if options.mode == Mode::Cold {
        // Milvus is to be stopped, and an etcd inside it is then: what is in the way the plan says.
        all.of_stopped(survey);
    } else {
        all.of_etcd(work, survey);
        all.of_milvus(work, survey);
    }
    all.of_alarms(survey);
    all.of_objects(survey);
    all.of_wal(work, survey);
    all.of_plan(survey);
    all.of_repository(work, stored);
    let mut all = all.0;
    all.sort_by_key(|finding| finding.severity);
    all
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, severity: Severity, kind: &str, what: impl Into<String>) {
        self.add_with(severity, kind, what, None);
    }

    fn add_with(
        &mut self,
        severity: Severity,
        kind: &str,
        what: impl Into<String>,
        hint: Option<&str>,
    ) {
        self.0.push(Finding {
            severity,
            kind: kind.to_owned(),
            what: what.into(),
            hint: hint.map(ToOwned::to_owned),
        });
    }

    /// An error as a finding, once: the parts of the instance and the plan fail for one reason.
    fn error(&mut self, severity: Severity, kind: &str, error: &Error) {
        let what = error.chain();
        if !self.0.iter().any(|known| known.what == what) {
            self.add_with(severity, kind, what, error.hint());
        }
    }

    fn of_configuration(&mut self, survey: &Survey) {
        for refusal in &survey.refusals {
            self.error(Severity::Refusal, "not-supported", refusal);
        }
    }

    fn of_etcd(&mut self, work: &capture::Context, survey: &Survey) {
        for silent in survey.etcd.iter().flat_map(|etcd| &etcd.status.silent) {
            let message = format!("a member is passed over: {silent}");
            self.add(Severity::Note, "etcd", message);
        }
        let sized = survey.etcd.as_ref().ok();
        if let Some((size, quota)) = sized.and_then(|etcd| Some((etcd.size, etcd.quota?))) {
            let used = format!(
                "etcd's database has {} of a quota of {}",
                Bytes(size),
                Bytes(quota)
            );
            if size >= quota - quota / 10 {
                let what = format!(
                    "{used}; at its quota it takes no writes, neither a hold nor a restore: compact and defragment it"
                );
                self.add(Severity::Note, "etcd-quota", what);
            } else {
                self.add(Severity::Ok, "etcd-quota", used);
            }
        }
        match &survey.etcd {
            Err(error) => self.error(Severity::Refusal, "etcd", error),
            Ok(etcd) if etcd.keys > 0 => {
                let keys = count(etcd.keys, "key");
                let root = &work.instance.etcd.root_path;
                self.add(Severity::Ok, "etcd", format!("{keys} under {root}/"));
            }
            // The plan says which root there is instead.
            Ok(_) => {}
        }
    }

    fn of_alarms(&mut self, survey: &Survey) {
        for alarm in survey.etcd.iter().flat_map(|etcd| &etcd.alarms) {
            let hint = alarm.contains("NOSPACE").then_some(MAKE_ROOM);
            let what = format!("etcd says: {alarm}");
            self.add_with(Severity::Note, "etcd-alarm", what, hint);
        }
    }

    fn of_stopped(&mut self, survey: &Survey) {
        if survey.milvus.is_err() {
            self.add(
                Severity::Ok,
                "milvus",
                "it does not answer, as a stopped one",
            );
        }
    }

    fn of_milvus(&mut self, work: &capture::Context, survey: &Survey) {
        match &survey.milvus {
            Err(error) => {
                self.error(Severity::Refusal, "milvus", error);
                self.add(
                    Severity::Note,
                    "cold",
                    "if Milvus is stopped on purpose: eyrie backup --mode cold",
                );
            }
            Ok(milvus) if milvus.unhealthy.is_empty() => {
                let collections = count(milvus.collections, "collection");
                self.add(Severity::Ok, "milvus", format!("healthy, {collections}"));
            }
            // The plan says that it is not healthy, and why.
            Ok(_) => {}
        }
        if let Some(error) = &survey.write_hold {
            self.error(Severity::Refusal, "write-hold", error);
        }
        if let Err(error) = &survey.management {
            let what = format!(
                "garbage collection could not be held, and a backup would do without: {}",
                error.chain()
            );
            self.add_with(Severity::Note, "management", what, error.hint());
        }
        if !work.instance.garbage_collection {
            self.add(
                Severity::Ok,
                "gc-pause",
                "garbage collection is switched off",
            );
        } else if let Some(version) = survey.version(work).filter(|_| survey.management.is_ok()) {
            self.of_gc(version.rules().gc);
        }
    }

    fn of_gc(&mut self, gc: GcGeneration) {
        match gc {
            GcGeneration::Absent => self.add(
                Severity::Note,
                "gc-pause-missing",
                "this version cannot pause garbage collection; where an object vanishes during \
                 the copy, the capture takes another anchor",
            ),
            GcGeneration::Unknown => self.add(
                Severity::Note,
                "gc-pause-unknown",
                "whether this version can pause garbage collection shows when it is asked to",
            ),
            GcGeneration::Blocking | GcGeneration::Simple | GcGeneration::Tickets => {
                self.add(Severity::Ok, "gc-pause", "garbage collection can be paused");
            }
        }
    }

    fn of_objects(&mut self, survey: &Survey) {
        match &survey.objects {
            Err(error) => self.error(Severity::Refusal, "objects", error),
            Ok(_) => self.add(Severity::Ok, "objects", "the object layer can be read"),
        }
    }

    fn of_wal(&mut self, work: &capture::Context, survey: &Survey) {
        let kind = &work.instance.wal.kind;
        if !super::reset_proven(work, survey) {
            let what = format!(
                "a restore onto a fresh {} was never run against a real one: it asks for \
                 --accept-unproven-wal",
                kind.name()
            );
            self.add(Severity::Note, "wal-reset-unproven", what);
        }
    }

    fn of_plan(&mut self, survey: &Survey) {
        match &survey.plan {
            Err(error) => self.error(Severity::Refusal, "capture", error),
            Ok(plan) => {
                for weakening in &plan.weakenings {
                    self.add(Severity::Weakening, &weakening.code, &weakening.message);
                }
                for note in &plan.notes {
                    self.add(Severity::Note, "metadata", note);
                }
            }
        }
    }

    fn of_repository(&mut self, work: &capture::Context, stored: &Result<Stored>) {
        let opened = match stored {
            Err(error) => return self.error(Severity::Refusal, REPOSITORY, error),
            Ok(opened) => opened,
        };
        for damage in &opened.snapshots.damage {
            self.add(Severity::Weakening, "damage", damage.what.clone());
        }
        if let Some(newest) = opened.snapshots.newest_of(&work.instance.name)
            && let Ok(body) = Body::of(newest)
            && !body.weakenings.is_empty()
        {
            let codes: Vec<&str> = body.weakenings.iter().map(|w| w.code.as_str()).collect();
            let what = format!(
                "the newest snapshot, {}, is weakened: {}",
                newest.snapshot.short(),
                codes.join(", ")
            );
            self.add(Severity::Note, "newest-weakened", what);
        }
    }
}
