//! Whether the bytes of an answer are those that the store has, where nothing below HTTP protects them.
//!
//! The `ETag` of an object that was uploaded in one piece and is not encrypted is its MD5
//! (<https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html>).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use bytes::Bytes;
use md5::{Digest as _, Md5};

use crate::{Cause, Error, Result};

/// Bytes that were read and that nothing vouches for.
#[derive(Debug, Clone, Default)]
pub(super) struct Unverified(Arc<AtomicU64>);

impl Unverified {
    pub(super) fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The MD5 of the whole object that is in `answer`, as its `ETag` tells it; `None` when the answer is a part of an
/// object, or its `ETag` is none.
pub(super) fn told_md5(answer: &GetObjectOutput) -> Option<[u8; 16]> {
    let encrypted =
        answer.server_side_encryption.is_some() || answer.sse_customer_algorithm.is_some();
    if encrypted || !is_whole(answer) {
        return None;
    }
    let etag = answer.e_tag.as_deref()?.trim_matches('"');
    let mut md5 = [0; 16];
    hex::decode_to_slice(etag, &mut md5).ok()?;
    Some(md5)
}

/// Whether an answer to a ranged read has the whole object: `bytes 0-9/10`.
fn is_whole(answer: &GetObjectOutput) -> bool {
    let Some(range) = answer.content_range.as_deref() else {
        return true;
    };
    let parsed = || {
        let (range, size) = range.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last, size): (u64, u64, u64) =
            (first.parse().ok()?, last.parse().ok()?, size.parse().ok()?);
        Some(first == 0 && last + 1 == size)
    };
    parsed() == Some(true)
}

/// The MD5 of `bytes`.
///
/// # Errors
///
/// [`Cause::Failed`] when this process ends meanwhile.
pub(super) async fn md5(bytes: Bytes) -> Result<[u8; 16]> {
    let hashed = tokio::task::spawn_blocking(move || Md5::digest(&bytes).into()).await;
    hashed.map_err(|error| Error::new(Cause::Failed, "hashing").with_source(error))
}
