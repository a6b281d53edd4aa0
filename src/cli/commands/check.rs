//! `eyrie check`: reach everything and say what a backup would do.

use crate::Kind;
use crate::cli::documents::{CheckDocument, Severity};
use crate::cli::output::{Page, Render, count};

/// Reach everything and say what a backup would do
///
/// Connects to Milvus, etcd, the object layer and the repository, proves that they belong
/// together, and changes nothing. The exit code is 0 only if a backup could start now, else 20.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Args {}

/// The exit code of a check.
#[must_use]
pub const fn exit_code(document: &CheckDocument) -> u8 {
    if document.ready {
        0
    } else {
        Kind::Instance.exit_code()
    }
}

fn or_unknown<T: ToString>(value: Option<&T>) -> String {
    value.map_or_else(|| "unknown".to_owned(), ToString::to_string)
}

fn answer(reachable: bool) -> &'static str {
    if reachable { "" } else { ", NOT REACHED" }
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
        match &self.backup {
            Some(plan) => {
                page.heading("a backup would");
                plan.render(page);
            }
            None => {
                page.heading("no backup can start");
            }
        }
    }
}
