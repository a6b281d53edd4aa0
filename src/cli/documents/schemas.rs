//! The schemas of all documents, as `docs/schemas/` has them.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};

use super::{
    BackupDocument, BackupPlanDocument, CheckDocument, ConfigShowDocument, DiffDocument,
    ForgetDocument, InitDocument, LsEntry, PruneDocument, RestoreDocument, RestorePlanDocument,
    ShowDocument, SnapshotDocument, VerifyDocument,
};
use crate::cli::progress::ProgressLine;
use crate::cli::report::ErrorDocument;
use crate::config::model::File;
use crate::snapshot::Body;

/// Every schema with the name of its file, without `.json`.
#[must_use]
pub fn schemas() -> Vec<(&'static str, Schema)> {
    vec![
        ("backup", output::<BackupDocument>()),
        ("backup-plan", output::<BackupPlanDocument>()),
        ("check", output::<CheckDocument>()),
        ("config", schemars::schema_for!(File)),
        ("config-show", output::<ConfigShowDocument>()),
        ("diff", output::<DiffDocument>()),
        ("error", output::<ErrorDocument>()),
        ("forget", output::<ForgetDocument>()),
        ("init", output::<InitDocument>()),
        ("ls", output::<Vec<LsEntry>>()),
        // What a manifest says beside what the repository keeps in it (docs/format.md, section 10).
        ("manifest", output::<Body>()),
        ("progress", output::<ProgressLine>()),
        ("prune", output::<PruneDocument>()),
        ("restore", output::<RestoreDocument>()),
        ("restore-plan", output::<RestorePlanDocument>()),
        ("show", output::<ShowDocument>()),
        ("snapshots", output::<Vec<SnapshotDocument>>()),
        ("verify", output::<VerifyDocument>()),
    ]
}

/// The schema of what is written, in which every field is always there.
fn output<T: JsonSchema>() -> Schema {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    settings.into_generator().into_root_schema_for::<T>()
}
