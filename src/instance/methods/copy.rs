//! `copy`: every byte goes into the repository.

use async_trait::async_trait;

use super::{CaptureMethod, Captured, Method};
use crate::instance::objects::LayerObject;
use crate::repo::Writer;
use crate::{Cause, Result, Side};

/// Copies objects.
#[derive(Debug)]
pub(super) struct Copy;

#[async_trait]
impl CaptureMethod for Copy {
    fn method(&self) -> Method {
        Method::Copy
    }

    async fn capture(&self, object: &LayerObject, writer: &Writer) -> Result<Captured> {
        match writer.store_object(object).await {
            // The repository's store may miss something too, which is not this object.
            Err(error)
                if (error.cause(), error.side()) == (Cause::NotFound, Some(Side::Source)) =>
            {
                Ok(Captured::Gone)
            }
            stored => Ok(Captured::Stored(stored?)),
        }
    }
}
