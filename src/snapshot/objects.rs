//! How the `objects` map describes an object (docs/format.md, section 10).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::milvus::objects::ObjectRef;
use crate::repo::{Content, Entry};
use crate::{Cause, Error, Result};

/// How the value of a key in the `objects` map describes its object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ObjectEntry {
    /// The kind of object, e.g. `insert_log`.
    pub kind: String,
    /// The identity in the source when its bytes were read; equal identities mean equal bytes.
    pub identity: String,
}

/// The entry of `object` in the `objects` map.
///
/// # Errors
///
/// [`Cause::Failed`] when its description cannot be written.
pub fn object_entry(object: &ObjectRef, identity: String, content: Content) -> Result<Entry> {
    let kind = object.kind.to_string();
    let value = serde_json::to_vec(&ObjectEntry { kind, identity })
        .map_err(|error| Error::new(Cause::Failed, "describing an object").with_source(error))?;
    Ok(Entry {
        key: object.tree_key().into(),
        value: value.into(),
        content,
    })
}
