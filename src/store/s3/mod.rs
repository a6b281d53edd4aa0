//! A bucket of S3, or of a server that speaks its language, as a store.
//!
//! The SDK's own retries are off: [`retry`](super::retry) is the one place for them. Listings are
//! those of `ListObjectsV2`, which tells no version ids, or of `ListObjectVersions`. All writes are
//! durable when they return.

mod credentials;
mod error;
mod list;
mod location;
mod parts;
mod settings;
mod verify;

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::get_object::{GetObjectError, GetObjectOutput};
use aws_sdk_s3::types::{ChecksumAlgorithm, StorageClass};
use aws_smithy_types::DateTime;
use aws_smithy_types::byte_stream::ByteStream;
use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use jiff::Timestamp;

pub use self::credentials::S3Credentials;
use self::error::classify;
use self::parts::S3Parts;
pub use self::settings::{
    Addressing, Checksum, ConditionalWrites, PayloadSigning, S3Settings, UploadChecksums,
    Versioning,
};
use self::verify::Unverified;
use super::{
    Capabilities, GetOptions, Key, ListOptions, Meta, Parts, Put, PutMode, PutOptions, Store,
    Unfinished,
};
use crate::base::env::lock;
use crate::{Cause, Error, Result};

/// A bucket, or what lies under a prefix of it.
#[derive(Clone)]
pub struct S3Store {
    client: Client,
    bucket: String,
    /// What full keys begin with: empty, or ending in `/`.
    prefix: String,
    /// Of uploads in one piece, and of parts.
    checksums: [Option<ChecksumAlgorithm>; 2],
    signs_payloads: bool,
    conditional_writes: ConditionalWrites,
    versioning: Versioning,
    /// Set where the endpoint is plain HTTP.
    unverified: Option<Unverified>,
    /// Uploads of parts that were begun and have not ended.
    open: Arc<Mutex<BTreeSet<Unfinished>>>,
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3Store({})", self.location())
    }
}

impl S3Store {
    /// Makes a store of `settings`. No request is made to the bucket; only the AWS chain may be
    /// asked for credentials and region.
    ///
    /// # Errors
    ///
    /// [`Cause::Invalid`] when the settings cannot be right.
    pub async fn open(settings: S3Settings) -> Result<Self> {
        if settings.bucket.is_empty() {
            return Err(Error::new(Cause::Invalid, "no S3 bucket is named"));
        }
        let prefix = settings.prefix.trim_matches('/');
        let prefix = match prefix {
            "" => String::new(),
            _ => format!("{}/", Key::new(prefix)?),
        };
        Ok(Self {
            client: settings.client().await?,
            prefix,
            checksums: settings.checksums(),
            signs_payloads: settings.signs_payloads(),
            conditional_writes: settings.conditional_writes,
            versioning: settings.versioning,
            unverified: settings.is_plain().then(Unverified::default),
            open: Arc::default(),
            bucket: settings.bucket,
        })
    }

    fn full(&self, key: &Key) -> String {
        format!("{}{key}", self.prefix)
    }

    fn describe(&self, key: &Key) -> String {
        format!("s3://{}/{}{key}", self.bucket, self.prefix)
    }

    fn doing(&self, what: &str, key: &Key) -> String {
        format!("{what} {}", self.describe(key))
    }

    /// For a store without conditional writes: fails when `key` exists.
    async fn refuse_existing(&self, key: &Key) -> Result<()> {
        match self.head(key).await {
            Ok(_) => {
                let said = format!("{} exists already", self.describe(key));
                Err(Error::new(Cause::AlreadyExists, said))
            }
            Err(error) if error.cause() == Cause::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn put_bytes(&self, key: &Key, bytes: Bytes, options: PutOptions) -> Result<Put> {
        let create = options.mode == PutMode::Create;
        let honoured = self.conditional_writes == ConditionalWrites::Honoured;
        if create && !honoured {
            self.refuse_existing(key).await?;
        }
        let request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(self.full(key))
            .set_checksum_algorithm(self.checksums[0].clone())
            .set_if_none_match((create && honoured).then(|| "*".to_owned()))
            .body(ByteStream::from(bytes));
        let answer = if self.signs_payloads {
            request.send().await
        } else {
            request.customize().disable_payload_signing().send().await
        };
        let answer = answer.map_err(|error| classify(&self.doing("write", key), error))?;
        Ok(Put {
            version: answer.version_id,
        })
    }

    /// The bytes of an answer over plain HTTP: where it tells their MD5, these are the bytes. A store whose
    /// `ETag` only looks like one answers twice with the same bytes.
    ///
    /// # Errors
    ///
    /// [`Cause::Unavailable`] when they are others, and come otherwise each time.
    async fn verified(
        &self,
        key: &Key,
        options: GetOptions,
        bytes: Bytes,
        told: Option<[u8; 16]>,
        unverified: &Unverified,
    ) -> Result<Bytes> {
        let Some(told) = told else {
            unverified.add(bytes.len());
            return Ok(bytes);
        };
        let found = verify::md5(bytes.clone()).await?;
        if found == told {
            return Ok(bytes);
        }
        let answer = self.ask(key, &options).await;
        let answer = answer.map_err(|error| classify(&self.doing("read", key), error))?;
        let again = self.collect(key, answer).await?;
        if again == bytes {
            unverified.add(bytes.len());
            return Ok(bytes);
        }
        if verify::md5(again.clone()).await? == told {
            return Ok(again);
        }
        let message = format!(
            "{}: the bytes that came are not those of its ETag; does something between here and the store change them?",
            self.doing("read", key)
        );
        Err(Error::new(Cause::Unavailable, message))
    }

    async fn ask(
        &self,
        key: &Key,
        options: &GetOptions,
    ) -> std::result::Result<GetObjectOutput, SdkError<GetObjectError>> {
        let request = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(self.full(key))
            .set_version_id(options.version.clone());
        let request = match &options.range {
            // HTTP has no empty range; what is left to find out is whether the object exists.
            Some(range) if range.is_empty() => request.range("bytes=0-0"),
            Some(range) => request.range(format!("bytes={}-{}", range.start, range.end - 1)),
            None => request,
        };
        request.send().await
    }

    /// The bytes of an answer, in one buffer of the announced size.
    async fn collect(&self, key: &Key, answer: GetObjectOutput) -> Result<Bytes> {
        let broken = || self.doing("read", key);
        let announced = answer.content_length.unwrap_or_default();
        let size = usize::try_from(announced)
            .map_err(|_| Error::new(Cause::Failed, format!("{}: it exceeds memory", broken())))?;
        let mut body = answer.body;
        let mut whole = BytesMut::new();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| {
                Error::new(
                    Cause::Unavailable,
                    format!("{}: the answer broke off", broken()),
                )
                .with_source(error)
            })?;
            if chunk.len() == size {
                return Ok(chunk);
            }
            whole.reserve(size.saturating_sub(whole.len()));
            whole.extend_from_slice(&chunk);
        }
        if whole.len() != size {
            let got = whole.len();
            return Err(Error::new(
                Cause::Unavailable,
                format!("{}: {got} of {size} bytes came", broken()),
            ));
        }
        Ok(whole.freeze())
    }
}

/// Whether objects of a storage class have to be brought back before they can be read
/// (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/restoring-objects.html>).
fn is_archive(class: Option<&str>) -> bool {
    matches!(class, Some("GLACIER" | "DEEP_ARCHIVE"))
}

fn meta(
    key: Key,
    size: Option<i64>,
    etag: Option<&str>,
    modified: Option<DateTime>,
    version: Option<String>,
    archived: bool,
) -> Meta {
    let size = size
        .and_then(|size| u64::try_from(size).ok())
        .unwrap_or_default();
    let etag = etag.unwrap_or_default().trim_matches('"');
    let seconds = modified.map_or(0, |at| at.secs());
    Meta {
        key,
        size,
        modified: modified.and_then(|at| {
            let nanoseconds = i32::try_from(at.subsec_nanos()).ok()?;
            Timestamp::new(at.secs(), nanoseconds).ok()
        }),
        version,
        identity: format!("{etag}:{size}:{seconds}"),
        archived,
    }
}

#[async_trait]
impl Store for S3Store {
    fn location(&self) -> String {
        let place = format!("s3://{}/{}", self.bucket, self.prefix);
        place.trim_end_matches('/').to_owned()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            conditional_create: self.conditional_writes == ConditionalWrites::Honoured,
            versions: self.versioning == Versioning::On,
            any_part_size: false,
        }
    }

    fn unverified_bytes(&self) -> u64 {
        self.unverified.as_ref().map_or(0, Unverified::bytes)
    }

    async fn get(&self, key: &Key, options: GetOptions) -> Result<Bytes> {
        match self.ask(key, &options).await {
            Ok(_) if options.range.as_ref().is_some_and(Range::is_empty) => Ok(Bytes::new()),
            Ok(answer) => {
                let told = verify::told_md5(&answer);
                let bytes = self.collect(key, answer).await?;
                match &self.unverified {
                    None => Ok(bytes),
                    Some(unverified) => {
                        let verified = self.verified(key, options, bytes, told, unverified);
                        Box::pin(verified).await
                    }
                }
            }
            // A range that begins at the end or after it.
            Err(error)
                if error
                    .raw_response()
                    .is_some_and(|r| r.status().as_u16() == 416) =>
            {
                Ok(Bytes::new())
            }
            Err(error) => Err(classify(&self.doing("read", key), error)),
        }
    }

    async fn put(&self, key: &Key, bytes: Bytes, options: PutOptions) -> Result<Put> {
        self.put_bytes(key, bytes, options).await
    }

    async fn parts(&self, key: &Key, options: PutOptions) -> Result<Arc<dyn Parts>> {
        Ok(Arc::new(S3Parts::new(self.clone(), key.clone(), options)))
    }

    async fn head(&self, key: &Key) -> Result<Meta> {
        let answer = self
            .client
            .head_object()
            .bucket(&self.bucket)
            .key(self.full(key))
            .send()
            .await
            .map_err(|error| classify(&self.doing("look at", key), error))?;
        let etag = answer.e_tag.as_deref();
        let (size, modified) = (answer.content_length, answer.last_modified);
        let class = answer.storage_class.as_ref().map(StorageClass::as_str);
        // What is brought back for a while has no request for it any more.
        let back = answer.restore.as_deref();
        let back = back.is_some_and(|state| state.contains("ongoing-request=\"false\""));
        let archived = is_archive(class) && !back;
        let version = answer.version_id;
        Ok(meta(key.clone(), size, etag, modified, version, archived))
    }

    fn list(&self, prefix: &str, options: ListOptions) -> BoxStream<'_, Result<Meta>> {
        list::stream(self, prefix, options)
    }

    async fn delete(&self, key: &Key, version: Option<&str>) -> Result<()> {
        let deleted = self
            .client
            .delete_object()
            .bucket(&self.bucket)
            .key(self.full(key))
            .set_version_id(version.map(ToOwned::to_owned))
            .send()
            .await
            .map_err(|error| classify(&self.doing("delete", key), error));
        match deleted {
            Err(error) if error.cause() != Cause::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    async fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn unfinished(&self) -> Vec<Unfinished> {
        lock(&self.open).iter().cloned().collect()
    }

    async fn remove_unfinished(&self, left: &Unfinished) -> Result<()> {
        let Some(key) = &left.key else { return Ok(()) };
        self.abort(&Key::new(key.as_str())?, &left.id).await
    }
}

#[cfg(test)]
mod tests;
