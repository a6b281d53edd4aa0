//! What `forget` prints.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::{HexId, Time};

/// `eyrie forget --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ForgetDocument {
    /// Whether this is only what would be done.
    pub dry_run: bool,
    /// The policy that was applied; `null` when snapshots were named.
    pub policy: Option<PolicyDocument>,
    /// How many snapshots go.
    pub forgotten: u64,
    /// How many stay, of those that the policy was applied to.
    pub kept: u64,
    /// Every snapshot that the policy was applied to, or that was named, by instance in the order in which
    /// they were made.
    pub snapshots: Vec<ToldSnapshot>,
}

/// A policy of retention.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PolicyDocument {
    /// How many periods each rule keeps a snapshot of, a number or `all`, by the rule's name: `last`, `hourly`,
    /// `daily`, `weekly`, `monthly`, `yearly`.
    pub keep: BTreeMap<String, String>,
    /// How much older than the newest snapshot others may be that all stay.
    pub within: Option<String>,
    /// Snapshots with one of these labels stay.
    pub labels: Vec<String>,
    /// The time zone of the periods.
    pub time_zone: String,
}

/// What becomes of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ToldSnapshot {
    /// The snapshot's id.
    pub snapshot: HexId,
    /// The point in time that it stands for.
    pub time: Time,
    /// The instance's name.
    pub instance: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it goes.
    pub forgotten: bool,
    /// Why it stays, or why no rule keeps it.
    pub reasons: Vec<String>,
}
