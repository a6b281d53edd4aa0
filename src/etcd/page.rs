//! Reading keys page by page, where not all of them are to be in memory.

use etcd_client::{GetOptions, SortOrder, SortTarget};

use super::read::{PAGE_KEYS, convert, prefix_end};
use super::{Etcd, KeyValue};
use crate::Result;

impl Etcd {
    /// The keys under `prefix` that follow `after`, in byte order, at most [`PAGE_KEYS`] of them; none
    /// when there are no more. Each page is of the newest revision at its time.
    pub async fn page(&mut self, prefix: &str, after: Option<&[u8]>) -> Result<Vec<KeyValue>> {
        let from = match after {
            None => prefix.as_bytes().to_vec(),
            Some(after) => [after, &[0]].concat(),
        };
        let options = GetOptions::new()
            .with_range(prefix_end(prefix.as_bytes()))
            .with_limit(PAGE_KEYS)
            .with_sort(SortTarget::Key, SortOrder::Ascend);
        let mut answer = self
            .range(&from, options)
            .await
            .map_err(|e| self.error(&e, &format!("reading {prefix} from etcd")))?;
        Ok(answer.take_kvs().into_iter().map(convert).collect())
    }
}
