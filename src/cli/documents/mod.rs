//! The documents that `--json` prints: a contract. Fields are added, never changed.
//!
//! Times are RFC 3339 UTC, sizes bytes, durations milliseconds where the name ends in `_ms`, ids
//! lower-case hexadecimal. Each document's schema is in `docs/schemas/`.

mod backup;
mod forget;
mod from_body;
mod from_plan;
mod look;
mod prune;
mod restore;
mod schemas;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Serialize, Serializer};

pub use crate::restore::{KeyChange, Lacking, LackingFiles, LackingObject, Outcome};
pub use backup::{
    BackupDocument, BackupPlanDocument, CheckDocument, CheckedEtcd, CheckedMilvus, CheckedObjects,
    CheckedRepository, CheckedWal, Choice, Finding, InitDocument, PlanStep, Severity,
};
pub use forget::{ForgetDocument, PolicyDocument, ToldSnapshot};
pub use from_body::{notes, snapshot, weakened, weakened_by};
pub use from_plan::backup_plan;
pub use look::{
    Change, ConfigShowDocument, DiffDocument, DiffEntry, DiffSummary, LsEntry, ShowDocument,
    ShownCollection, ShownCut, ShownHold, ShownIndex, ShownLoad, SnapshotDocument, ValueDocument,
    VerifiedDocument,
};
pub use prune::{PackCount, PruneDocument};
pub use restore::{
    DamageDocument, DestroyedDocument, RestoreDocument, RestorePlanDocument, VerifyDocument,
};
pub use schemas::schemas;

/// A point in time, written as RFC 3339 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Timestamp);

impl Time {
    /// To the second, in UTC, as tables show it.
    #[must_use]
    pub fn to_second(self) -> String {
        self.0.strftime("%Y-%m-%d %H:%M:%S").to_string()
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl JsonSchema for Time {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "format": "date-time",
            "description": "A point in time, RFC 3339 in UTC."
        })
    }
}

/// A lower-case hexadecimal id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct HexId(pub String);

impl HexId {
    /// How many digits tables show.
    const SHORT: usize = 12;

    /// The beginning that tables show.
    #[must_use]
    pub fn short(&self) -> &str {
        self.0.get(..Self::SHORT).unwrap_or(&self.0)
    }
}

impl JsonSchema for HexId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Id".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^[0-9a-f]+$",
            "description": "A lower-case hexadecimal id."
        })
    }
}

/// Something less than the promise that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Weakening {
    /// Its name, as `accept:` takes it.
    pub kind: String,
    /// What it means here.
    pub what: String,
    /// Whether it was asked for, by a flag or `accept:`; one that was not makes the exit code 3.
    pub accepted: bool,
}

impl Weakening {
    /// A weakening, accepted when its kind is among `accept`.
    #[must_use]
    pub fn new(kind: &str, what: impl Into<String>, accept: &[String]) -> Self {
        Self {
            kind: kind.to_owned(),
            what: what.into(),
            accepted: accept.iter().any(|accepted| accepted == kind),
        }
    }
}

/// A fallback that kept the promise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Note {
    /// Its name.
    pub kind: String,
    /// What happened.
    pub what: String,
}

impl Note {
    /// A note of that name.
    #[must_use]
    pub fn new(kind: &str, what: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            what: what.to_owned(),
        }
    }
}

/// The exit code of work that was done: 3 when weakened in a way that nobody asked for, else 0.
#[must_use]
pub fn exit_code(weakened: &[Weakening]) -> u8 {
    if weakened.iter().all(|weakening| weakening.accepted) {
        0
    } else {
        3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_weakening_nobody_asked_for_is_exit_3() {
        let accept = ["hot-straddle".to_owned()];
        let hot = Weakening::new("hot-straddle", "", &accept);
        let missing = Weakening::new("missing-objects", "", &accept);
        assert_eq!(exit_code(&[]), 0);
        assert_eq!(exit_code(std::slice::from_ref(&hot)), 0);
        assert_eq!(exit_code(&[hot, missing]), 3);
    }

    #[test]
    fn times_are_rfc_3339_utc() {
        let time = Time("2026-11-23T04:10:22.5+01:00".parse().unwrap());
        assert_eq!(
            serde_json::to_string(&time).unwrap(),
            "\"2026-11-23T03:10:22.5Z\""
        );
    }
}
