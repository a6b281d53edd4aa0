//! Reading every key under a prefix at one revision.

use etcd_client::{GetOptions, SortOrder, SortTarget};
use tracing::{debug, info};

use super::{Etcd, KeyValue, classify};
use crate::{Error, Kind, Result};

/// Keys a page holds: a page of Milvus keys is then well below etcd's 1.5 MiB request default.
pub const PAGE_KEYS: i64 = 2_000;

/// How often a paged read begins anew when compaction overtakes it, before one unpaged read.
///
/// A busy Milvus burns the 1,000 revisions that compose files retain in minutes.
const PAGED_ATTEMPTS: usize = 3;

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
            match self.read_paged(prefix).await? {
                Paged::Read(anchor) => return Ok(anchor),
                Paged::Compacted => info!(attempt, prefix, "compaction overtook the read of etcd"),
            }
        }
        self.read_whole(prefix).await
    }

    async fn read_paged(&mut self, prefix: &str) -> Result<Paged> {
        let end = prefix_end(prefix.as_bytes());
        let mut from = prefix.as_bytes().to_vec();
        let mut anchor = Anchor {
            revision: 0,
            keys: Vec::new(),
        };
        loop {
            let mut options = GetOptions::new()
                .with_range(end.clone())
                .with_limit(PAGE_KEYS)
                .with_sort(SortTarget::Key, SortOrder::Ascend);
            if anchor.revision > 0 {
                options = options.with_revision(anchor.revision);
            }
            let mut page = match self.client.get(from.clone(), Some(options)).await {
                Ok(page) => page,
                Err(error) if is_compacted(&error) => return Ok(Paged::Compacted),
                Err(error) => return Err(classify(&error, &reading(prefix))),
            };
            if anchor.revision == 0 {
                anchor.revision = revision_of(&page)?;
            }
            let more = page.more();
            anchor.keys.extend(page.take_kvs().into_iter().map(convert));
            let Some(last) = anchor.keys.last().filter(|_| more) else {
                debug!(
                    prefix,
                    keys = anchor.keys.len(),
                    anchor.revision,
                    "read etcd"
                );
                return Ok(Paged::Read(anchor));
            };
            from.clone_from(&last.key);
            from.push(0);
        }
    }

    async fn read_whole(&mut self, prefix: &str) -> Result<Anchor> {
        let options = GetOptions::new()
            .with_range(prefix_end(prefix.as_bytes()))
            .with_sort(SortTarget::Key, SortOrder::Ascend);
        let mut client = self
            .client
            .kv_client()
            .max_decoding_message_size(usize::MAX);
        let mut answer = client
            .get(prefix, Some(options))
            .await
            .map_err(|e| classify(&e, &reading(prefix)))?;
        Ok(Anchor {
            revision: revision_of(&answer)?,
            keys: answer.take_kvs().into_iter().map(convert).collect(),
        })
    }

    /// The first key at or after `from`; `None` when there is none.
    pub async fn first_key(&mut self, from: &[u8]) -> Result<Option<Vec<u8>>> {
        let options = GetOptions::new()
            .with_from_key()
            .with_keys_only()
            .with_limit(1)
            .with_sort(SortTarget::Key, SortOrder::Ascend);
        let mut answer = self
            .client
            .get(from, Some(options))
            .await
            .map_err(|e| classify(&e, "looking for keys in etcd"))?;
        Ok(answer.take_kvs().pop().map(|kv| kv.into_key_value().0))
    }

    /// Reads one key; `None` when it does not exist.
    pub async fn get(&mut self, key: &str) -> Result<Option<KeyValue>> {
        let mut answer = self
            .client
            .get(key, None)
            .await
            .map_err(|e| classify(&e, &reading(key)))?;
        Ok(answer.take_kvs().pop().map(convert))
    }
}

/// The first key after all keys that begin with `prefix`.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

fn reading(what: &str) -> String {
    format!("reading {what} from etcd")
}

fn revision_of(answer: &etcd_client::GetResponse) -> Result<i64> {
    answer
        .header()
        .map(etcd_client::ResponseHeader::revision)
        .ok_or_else(|| Error::new(Kind::Failed, "etcd answered a read without a revision"))
}

fn is_compacted(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status) if status.message().contains("compacted"))
}

fn convert(kv: etcd_client::KeyValue) -> KeyValue {
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

#[cfg(test)]
mod tests {
    use super::prefix_end;

    #[test]
    fn prefix_end_is_the_next_key_after_the_prefix() {
        assert_eq!(prefix_end(b"by-dev/"), b"by-dev0");
        assert_eq!(prefix_end(&[1, 0xff]), [2]);
        assert_eq!(prefix_end(&[0xff, 0xff]), [0]);
    }
}
