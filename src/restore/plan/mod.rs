//! What a restore would do: everything is looked at and nothing is touched (I5).

pub(crate) mod document;
pub(crate) mod guard;
pub(crate) mod inputs;
pub(crate) mod keys;
pub(crate) mod marker;
pub(crate) mod missing_data;
pub(crate) mod nesting;
pub(crate) mod render;
pub(crate) mod room;
pub(crate) mod survey;
pub(crate) mod target;
pub(crate) mod target_keys;
pub(crate) mod transform;
