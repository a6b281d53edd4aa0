//! Listings of a bucket, with and without version ids.

use std::collections::VecDeque;

use aws_sdk_s3::types::ObjectStorageClass;
use aws_smithy_types::DateTime;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use super::error::classify;
use super::{S3Store, is_archive, meta};
use crate::store::{Key, ListOptions, Meta, may_begin_a_key};
use crate::{Error, Result};

pub(super) fn stream<'s>(
    store: &'s S3Store,
    prefix: &str,
    options: ListOptions,
) -> BoxStream<'s, Result<Meta>> {
    let next = match (may_begin_a_key(prefix), options.versions) {
        (false, _) => Next::End,
        (true, true) => match options.after.as_ref().map(Key::as_str) {
            // MinIO takes no key that does not begin with the prefix.
            Some(after) if after.starts_with(prefix) => {
                Next::Versions(Some(format!("{}{after}", store.prefix)), None)
            }
            Some(after) if after > prefix => Next::End,
            _ => Next::Versions(None, None),
        },
        (true, false) => Next::Objects(None),
    };
    let walk = Walk {
        store,
        prefix: format!("{}{prefix}", store.prefix),
        after: options.after,
        next,
        found: VecDeque::new(),
    };
    stream::try_unfold(walk, |mut walk| async move {
        while walk.found.is_empty() && walk.next != Next::End {
            walk.page().await?;
        }
        Ok::<_, Error>(walk.found.pop_front().map(|meta| (meta, walk)))
    })
    .into_stream()
    .boxed()
}

/// How far a listing has come.
struct Walk<'s> {
    store: &'s S3Store,
    prefix: String,
    after: Option<Key>,
    next: Next,
    found: VecDeque<Meta>,
}

/// The next page.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Of current objects, after the token of the page before.
    Objects(Option<String>),
    /// Of versions, after a key and a version of it.
    Versions(Option<String>, Option<String>),
    /// There is none.
    End,
}

impl Walk<'_> {
    async fn page(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.next, Next::End) {
            Next::Objects(token) => self.page_of_objects(token).await,
            Next::Versions(key, version) => self.page_of_versions(key, version).await,
            Next::End => Ok(()),
        }
    }

    fn doing(&self) -> String {
        format!("list s3://{}/{}", self.store.bucket, self.prefix)
    }

    async fn page_of_objects(&mut self, token: Option<String>) -> Result<()> {
        let after = self.after.as_ref().filter(|_| token.is_none());
        let request = self.store.client.list_objects_v2();
        let answer = request
            .bucket(&self.store.bucket)
            .prefix(&self.prefix)
            .set_start_after(after.map(|after| self.store.full(after)))
            .set_continuation_token(token)
            .send()
            .await
            .map_err(|error| classify(&self.doing(), error))?;
        for object in answer.contents.unwrap_or_default() {
            let class = object
                .storage_class
                .as_ref()
                .map(ObjectStorageClass::as_str);
            let archived = is_archive(class);
            self.take(
                object.key,
                object.size,
                object.e_tag.as_deref(),
                object.last_modified,
                None,
                archived,
            );
        }
        let token = answer.next_continuation_token;
        if answer.is_truncated.unwrap_or_default() && token.is_some() {
            self.next = Next::Objects(token);
        }
        Ok(())
    }

    /// A page has versions of objects and delete markers together, so one may hold no current object.
    async fn page_of_versions(
        &mut self,
        key: Option<String>,
        version: Option<String>,
    ) -> Result<()> {
        let request = self.store.client.list_object_versions();
        let answer = request
            .bucket(&self.store.bucket)
            .prefix(&self.prefix)
            .set_key_marker(key)
            .set_version_id_marker(version)
            .send()
            .await
            .map_err(|error| classify(&self.doing(), error))?;
        for one in answer.versions.unwrap_or_default() {
            if one.is_latest.unwrap_or_default() {
                self.take(
                    one.key,
                    one.size,
                    one.e_tag.as_deref(),
                    one.last_modified,
                    one.version_id,
                    false,
                );
            }
        }
        let key = answer.next_key_marker;
        if answer.is_truncated.unwrap_or_default() && key.is_some() {
            self.next = Next::Versions(key, answer.next_version_id_marker);
        }
        Ok(())
    }

    /// Takes what a page says of an object, unless it is no key of ours, as `directory/` is none.
    fn take(
        &mut self,
        key: Option<String>,
        size: Option<i64>,
        etag: Option<&str>,
        modified: Option<DateTime>,
        version: Option<String>,
        archived: bool,
    ) {
        let below = |key: String| Key::new(key.strip_prefix(&self.store.prefix)?).ok();
        // Ceph lists versions from the key that is given on, and not those after it.
        let follows = |key: &Key| self.after.as_ref().is_none_or(|after| key > after);
        if let Some(key) = key.and_then(below).filter(follows) {
            let meta = meta(key, size, etag, modified, version, archived);
            self.found.push_back(meta);
        }
    }
}
