//! Reading every key under a prefix at one revision.

use etcd_client::{GetOptions, GetResponse, SortOrder, SortTarget};
use tracing::{debug, info};

use super::pages::{Pages, prefix_end};
use super::{Etcd, KeyValue};
use crate::base::error::Context as _;
use crate::{Cause, Error, Result};

/// How often a paged read begins anew when compaction overtakes it, before one unpaged read.
///
/// A busy Milvus burns the 1,000 revisions that compose files retain in minutes.
const PAGED_ATTEMPTS: usize = 3;

/// The revision that stands for the newest one.
const NEWEST: i64 = 0;

/// Every key under a prefix at one revision.
#[derive(Debug, Clone)]
pub struct Anchor {
    /// The revision R at which all keys were read.
    pub revision: i64,
    /// The keys in byte order.
    pub keys: Vec<KeyValue>,
}

enum Paged {
    Read(Anchor),
    Compacted,
}

impl Etcd {
    /// Reads every key under `prefix` at one revision, the newest at the time of the call.
    ///
    /// Pages are read at a fixed revision. When compaction overtakes the read it begins anew, and
    /// after a few attempts the whole prefix is asked for in one range call, which etcd answers
    /// from one revision and compaction cannot overtake.
    pub async fn read_prefix(&mut self, prefix: &str) -> Result<Anchor> {
        for attempt in 1..=PAGED_ATTEMPTS {
            match self.read_paged(prefix, NEWEST).await? {
                Paged::Read(anchor) => return Ok(anchor),
                Paged::Compacted => info!(attempt, prefix, "compaction overtook the read of etcd"),
            }
        }
        self.read_whole(prefix).await
    }

    /// Reads every key under `prefix` as it was at `revision`, in pages; `None` when etcd has
    /// compacted that revision.
    pub async fn read_at(&mut self, prefix: &str, revision: i64) -> Result<Option<Vec<KeyValue>>> {
        Ok(match self.read_paged(prefix, revision).await? {
            Paged::Read(anchor) => Some(anchor.keys),
            Paged::Compacted => None,
        })
    }

    /// Reads the keys under `prefix` that were put after the revision `since`, as they are now.
    ///
    /// etcd picks them after it has looked at the whole range, whatever the limit: pages would each
    /// cost as much as the one answer.
    pub async fn read_put_after(&mut self, prefix: &str, since: i64) -> Result<Vec<KeyValue>> {
        let options = GetOptions::new()
            .with_range(prefix_end(prefix.as_bytes()))
            .with_min_mod_revision(since + 1);
        let read = self.range(prefix.as_bytes(), options).await;
        let mut answer = read.map_err(|error| self.error(&error, &reading(prefix)))?;
        Ok(answer.take_kvs().into_iter().map(convert).collect())
    }

    /// Reads at `revision`, or for [`NEWEST`] at the one of the first page.
    async fn read_paged(&mut self, prefix: &str, revision: i64) -> Result<Paged> {
        let mut pages = Pages::of(prefix);
        let mut anchor = Anchor {
            revision,
            keys: Vec::new(),
        };
        while !pages.is_over() {
            let options = pages.options().with_revision(anchor.revision);
            let mut page = match self.range(pages.from(), options).await {
                Ok(page) => page,
                Err(error) if is_compacted(&error) => return Ok(Paged::Compacted),
                Err(error) => return Err(self.error(&error, &reading(prefix))),
            };
            if anchor.revision == NEWEST {
                anchor.revision = revision_of(&page).on(self.side)?;
            }
            pages.turn(&page);
            anchor.keys.extend(page.take_kvs().into_iter().map(convert));
        }
        let keys = anchor.keys.len();
        debug!(prefix, keys, anchor.revision, "read etcd");
        Ok(Paged::Read(anchor))
    }

    async fn read_whole(&mut self, prefix: &str) -> Result<Anchor> {
        let options = GetOptions::new()
            .with_range(prefix_end(prefix.as_bytes()))
            .with_sort(SortTarget::Key, SortOrder::Ascend);
        let mut answer = self
            .range(prefix.as_bytes(), options)
            .await
            .map_err(|e| self.error(&e, &reading(prefix)))?;
        Ok(Anchor {
            revision: revision_of(&answer).on(self.side)?,
            keys: answer.take_kvs().into_iter().map(convert).collect(),
        })
    }

    /// The next page, of the newest revision at its time; `None` when there is no more. A page may be empty.
    pub async fn page(&mut self, pages: &mut Pages) -> Result<Option<Vec<KeyValue>>> {
        if pages.is_over() {
            return Ok(None);
        }
        let page = self.range(pages.from(), pages.options()).await;
        let mut page = page.map_err(|e| self.error(&e, &reading(pages.prefix())))?;
        pages.turn(&page);
        Ok(Some(page.take_kvs().into_iter().map(convert).collect()))
    }

    /// Reads from a member that answers.
    pub(super) async fn range(
        &self,
        from: &[u8],
        options: GetOptions,
    ) -> Result<GetResponse, etcd_client::Error> {
        let read = |client: etcd_client::Client| {
            let (from, options) = (from.to_vec(), options.clone());
            async move {
                // Pages may exceed tonic's default limit of 4 MiB for one answer.
                let mut client = client.kv_client().max_decoding_message_size(usize::MAX);
                client.get(from, Some(options)).await
            }
        };
        let answer = self.members.call(read).await?;
        self.noted(answer.header());
        Ok(answer)
    }

    /// The first key at or after `from`; `None` when there is none.
    pub async fn first_key(&mut self, from: &[u8]) -> Result<Option<Vec<u8>>> {
        let options = GetOptions::new()
            .with_from_key()
            .with_keys_only()
            .with_limit(1)
            .with_sort(SortTarget::Key, SortOrder::Ascend);
        let mut answer = self
            .range(from, options)
            .await
            .map_err(|e| self.error(&e, "looking for keys in etcd"))?;
        Ok(answer.take_kvs().pop().map(|kv| kv.into_key_value().0))
    }

    /// Reads one key; `None` when it does not exist.
    pub async fn get(&mut self, key: &str) -> Result<Option<KeyValue>> {
        let mut answer = self
            .range(key.as_bytes(), GetOptions::new())
            .await
            .map_err(|e| self.error(&e, &reading(key)))?;
        Ok(answer.take_kvs().pop().map(convert))
    }
}

fn reading(what: &str) -> String {
    format!("reading {what} from etcd")
}

fn revision_of(answer: &etcd_client::GetResponse) -> Result<i64> {
    answer
        .header()
        .map(etcd_client::ResponseHeader::revision)
        .ok_or_else(|| Error::new(Cause::Failed, "etcd answered a read without a revision"))
}

pub(super) fn is_compacted(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status) if status.message().contains("compacted"))
}

pub(super) fn convert(kv: etcd_client::KeyValue) -> KeyValue {
    let (create_revision, mod_revision) = (kv.create_revision(), kv.mod_revision());
    let (version, lease) = (kv.version(), kv.lease());
    let (key, value) = kv.into_key_value();
    KeyValue {
        key,
        value,
        create_revision,
        mod_revision,
        version,
        lease,
    }
}
