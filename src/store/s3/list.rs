//! Listings of a bucket, with and without version ids.
//!
//! A listing is whole or an error: what is not in it is not there. A page that says that there is more and
//! not where is followed from its last key on.

use std::collections::VecDeque;

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::{Object, ObjectStorageClass};
use aws_smithy_types::DateTime;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use super::error::classify;
use super::{S3Store, is_archive, meta};
use crate::store::{Key, ListOptions, Meta, may_begin_a_key};
use crate::{Cause, Error, Result};

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
        last: None,
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
    /// The last key that a page had, whatever it is of, as the bucket has it.
    last: Option<String>,
    found: VecDeque<Meta>,
}

/// The next page.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Of current objects, after the token of the page before.
    Objects(Option<String>),
    /// Of current objects after a key, as the page before gave no token.
    After(String),
    /// The same from a store that lists all from the beginning when asked for those after a key, as one
    /// does that knows the first version of this request alone.
    Marker(String),
    /// Of versions, after a key and a version of it.
    Versions(Option<String>, Option<String>),
    /// There is none.
    End,
}

impl Walk<'_> {
    async fn page(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.next, Next::End) {
            Next::Objects(token) => self.page_of_objects(token).await,
            Next::After(last) => self.page_after(last).await,
            Next::Marker(last) => self.page_after_marker(last).await,
            Next::Versions(key, version) => self.page_of_versions(key, version).await,
            Next::End => Ok(()),
        }
    }

    fn doing(&self) -> String {
        format!("list s3://{}/{}", self.store.bucket, self.prefix)
    }

    async fn page_of_objects(&mut self, token: Option<String>) -> Result<()> {
        let after = self.after.as_ref().filter(|_| token.is_none());
        let after = after.map(|after| self.store.full(after));
        let answer = self.ask(after, token.clone()).await?;
        // The same token again would lead here again.
        let next = answer.next_continuation_token;
        let next = next.filter(|next| token.as_ref() != Some(next));
        self.take_page(answer.contents, answer.is_truncated, next, Next::After)
    }

    async fn ask(
        &self,
        after: Option<String>,
        token: Option<String>,
    ) -> Result<ListObjectsV2Output> {
        let request = self.store.client.list_objects_v2();
        request
            .bucket(&self.store.bucket)
            .prefix(&self.prefix)
            .set_start_after(after)
            .set_continuation_token(token)
            .send()
            .await
            .map_err(|error| classify(&self.doing(), error))
    }

    async fn page_after(&mut self, last: String) -> Result<()> {
        let answer = self.ask(Some(last.clone()), None).await?;
        let first = answer.contents().first().and_then(Object::key);
        if first.is_some_and(|first| *first <= *last) {
            self.next = Next::Marker(last);
            return Ok(());
        }
        let next = answer.next_continuation_token;
        self.take_page(answer.contents, answer.is_truncated, next, Next::After)
    }

    async fn page_after_marker(&mut self, last: String) -> Result<()> {
        let request = self.store.client.list_objects();
        let answer = request
            .bucket(&self.store.bucket)
            .prefix(&self.prefix)
            .marker(last)
            .send()
            .await
            .map_err(|error| classify(&self.doing(), error))?;
        self.take_page(answer.contents, answer.is_truncated, None, Next::Marker)
    }

    /// Takes the objects of a page, and finds out where the next one begins: at the token, or else by
    /// `follow` after the last key. A page that does not say whether it is the last one is followed until
    /// one is empty.
    fn take_page(
        &mut self,
        objects: Option<Vec<Object>>,
        is_truncated: Option<bool>,
        token: Option<String>,
        follow: fn(String) -> Next,
    ) -> Result<()> {
        let objects = objects.unwrap_or_default();
        let any = !objects.is_empty();
        let more = is_truncated.unwrap_or(any || token.is_some());
        for object in objects {
            self.advance(object.key.as_deref())?;
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
        self.next = match (more, token, &self.last) {
            (false, _, _) => Next::End,
            (true, Some(token), _) => Next::Objects(Some(token)),
            (true, None, Some(last)) if any => follow(last.clone()),
            (true, None, _) => return Err(self.incomplete("says that there is more and not where")),
        };
        Ok(())
    }

    /// Notes the key of an object that a page has.
    fn advance(&mut self, key: Option<&str>) -> Result<()> {
        let Some(key) = key else { return Ok(()) };
        if self.last.as_deref().is_some_and(|last| key <= last) {
            return Err(self.incomplete("lists keys twice or out of their order"));
        }
        self.last = Some(key.to_owned());
        Ok(())
    }

    /// What a listing fails with that may lack something.
    fn incomplete(&self, what: &str) -> Error {
        let doing = self.doing();
        Error::new(
            Cause::Failed,
            format!("{doing}: the listing may be incomplete: the store {what}"),
        )
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
            .set_key_marker(key.clone())
            .set_version_id_marker(version.clone())
            .send()
            .await
            .map_err(|error| classify(&self.doing(), error))?;
        let versions = answer.versions.unwrap_or_default();
        let deleted = answer.delete_markers.unwrap_or_default();
        let of_version = versions.last().and_then(|version| version.key());
        let of_marker = deleted.last().and_then(|marker| marker.key());
        let last = of_version.max(of_marker).map(str::to_owned);
        for one in versions {
            if one.key < self.last {
                return Err(self.incomplete("lists keys out of their order"));
            }
            // A page that begins at the last key of the one before has its versions again.
            let new = one.key > self.last;
            if one.is_latest.unwrap_or_default() && new {
                self.last.clone_from(&one.key);
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
        let more = answer.is_truncated.unwrap_or(last.is_some());
        let next = match (answer.next_key_marker, last) {
            _ if !more => Next::End,
            (Some(key), _) => Next::Versions(Some(key), answer.next_version_id_marker),
            // The current version of a key is the first of its versions, so that no other is missed.
            (None, Some(last)) => Next::Versions(Some(last), None),
            (None, None) => return Err(self.incomplete("says that there is more and not where")),
        };
        if next == Next::Versions(key, version) {
            return Err(self.incomplete("lists the same page again"));
        }
        self.next = next;
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
