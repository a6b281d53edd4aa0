//! Multipart uploads, begun with the first part: a small object stays one PUT.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;

use async_trait::async_trait;
use aws_sdk_s3::config::{Builder, RequestChecksumCalculation};
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use aws_smithy_types::byte_stream::ByteStream;
use tokio::sync::OnceCell;

use super::settings::ConditionalWrites;
use super::{S3Store, classify};
use crate::base::env::lock;
use crate::store::{Key, Part, Parts, Put, PutMode, PutOptions, Unfinished};
use crate::{Cause, Error, Result};

/// An upload to S3.
pub(super) struct S3Parts {
    store: S3Store,
    key: Key,
    options: PutOptions,
    /// The upload's id, once a part was sent.
    upload: OnceCell<String>,
    sent: Mutex<BTreeMap<u32, CompletedPart>>,
    ended: Mutex<bool>,
}

impl fmt::Debug for S3Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3Parts({})", self.store.describe(&self.key))
    }
}

impl S3Parts {
    pub(super) fn new(store: S3Store, key: Key, options: PutOptions) -> Self {
        Self {
            store,
            key,
            options,
            upload: OnceCell::new(),
            sent: Mutex::default(),
            ended: Mutex::new(false),
        }
    }

    async fn begin(&self) -> Result<String> {
        let begun = self
            .store
            .client
            .create_multipart_upload()
            .bucket(&self.store.bucket)
            .key(self.store.full(&self.key))
            .set_checksum_algorithm(self.store.checksum())
            .send()
            .await
            .map_err(|error| classify(&self.doing("begin to upload"), error))?;
        let upload = begun.upload_id.ok_or_else(|| {
            let said = format!(
                "{}: the server names no upload",
                self.doing("begin to upload")
            );
            Error::new(Cause::Failed, said)
        })?;
        lock(&self.store.open).insert(self.unfinished(&upload));
        Ok(upload)
    }

    fn unfinished(&self, upload: &str) -> Unfinished {
        Unfinished {
            key: Some(self.key.to_string()),
            id: upload.to_owned(),
        }
    }

    fn doing(&self, what: &str) -> String {
        format!("{what} {}", self.store.describe(&self.key))
    }

    fn check_open(&self) -> Result<()> {
        if *lock(&self.ended) {
            let said = format!("the upload of {} has ended", self.store.describe(&self.key));
            return Err(Error::new(Cause::NotFound, said));
        }
        Ok(())
    }

    async fn send(&self, upload: &str, part: Part) -> Result<()> {
        let number = i32::try_from(part.number)
            .map_err(|_| Error::new(Cause::Failed, "a part's number is too large"))?;
        let request = self
            .store
            .client
            .upload_part()
            .bucket(&self.store.bucket)
            .key(self.store.full(&self.key))
            .upload_id(upload)
            .part_number(number)
            .set_checksum_algorithm(self.store.checksum())
            .body(ByteStream::from(part.bytes));
        let mut request = request.customize();
        if self.store.checksum().is_none() {
            // Otherwise the SDK brings one of its own choice.
            let required = RequestChecksumCalculation::WhenRequired;
            let without = Builder::new().request_checksum_calculation(required);
            request = request.config_override(without);
        }
        if !self.store.signs_payloads {
            request = request.disable_payload_signing();
        }
        let answer = request.send().await;
        let answer = answer.map_err(|error| classify(&self.doing("upload a part of"), error))?;
        let completed = CompletedPart::builder()
            .part_number(number)
            .set_e_tag(answer.e_tag)
            .set_checksum_crc32_c(answer.checksum_crc32_c)
            .set_checksum_crc64_nvme(answer.checksum_crc64_nvme)
            .build();
        lock(&self.sent).insert(part.number, completed);
        Ok(())
    }

    async fn complete(&self, upload: &str) -> Result<Put> {
        if self.options.mode == PutMode::Create
            && self.store.conditional_writes == ConditionalWrites::Missing
        {
            self.store.refuse_existing(&self.key).await?;
        }
        let create = self.options.mode == PutMode::Create
            && self.store.conditional_writes == ConditionalWrites::Honoured;
        let parts = lock(&self.sent).values().cloned().collect();
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts));
        let answer = self
            .store
            .client
            .complete_multipart_upload()
            .bucket(&self.store.bucket)
            .key(self.store.full(&self.key))
            .upload_id(upload)
            .multipart_upload(parts.build())
            .set_if_none_match(create.then(|| "*".to_owned()))
            .send()
            .await
            .map_err(|error| classify(&self.doing("finish the upload of"), error))?;
        lock(&self.store.open).remove(&self.unfinished(upload));
        Ok(Put {
            version: answer.version_id,
        })
    }
}

#[async_trait]
impl Parts for S3Parts {
    async fn part(&self, part: Part) -> Result<()> {
        self.check_open()?;
        let upload = self.upload.get_or_try_init(|| self.begin()).await?;
        self.send(upload, part).await
    }

    async fn finish(&self, last: Part) -> Result<Put> {
        self.check_open()?;
        let put = match self.upload.get() {
            None => {
                self.store
                    .put_bytes(&self.key, last.bytes, self.options)
                    .await?
            }
            Some(upload) => {
                if !last.bytes.is_empty() {
                    self.send(upload, last).await?;
                }
                let completed = self.complete(upload).await;
                if matches!(&completed, Err(error) if error.cause() == Cause::AlreadyExists)
                    && let Err(error) = self.abort().await
                {
                    tracing::debug!(%error, "an upload that lost stays behind");
                }
                completed?
            }
        };
        *lock(&self.ended) = true;
        Ok(put)
    }

    async fn abort(&self) -> Result<()> {
        let ended = std::mem::replace(&mut *lock(&self.ended), true);
        let Some(upload) = self.upload.get().filter(|_| !ended) else {
            return Ok(());
        };
        let aborted = self.store.abort(&self.key, upload).await;
        match &aborted {
            Ok(()) => _ = lock(&self.store.open).remove(&self.unfinished(upload)),
            Err(_) => *lock(&self.ended) = false,
        }
        aborted
    }
}

impl S3Store {
    /// Gives an upload of parts up; one that is gone is no error.
    pub(super) async fn abort(&self, key: &Key, upload: &str) -> Result<()> {
        let aborted = self
            .client
            .abort_multipart_upload()
            .bucket(&self.bucket)
            .key(self.full(key))
            .upload_id(upload)
            .send()
            .await
            .map_err(|error| {
                let doing = format!("give up the upload of {}", self.describe(key));
                classify(&doing, error)
            });
        match aborted {
            Err(error) if error.cause() != Cause::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// That of parts.
    fn checksum(&self) -> Option<ChecksumAlgorithm> {
        self.checksums[1].clone()
    }
}
