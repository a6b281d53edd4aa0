//! The rules about keys and listings.

use bytes::Bytes;
use futures::future;
use futures::stream::TryStreamExt;

use super::{OVERWRITE, clean, list, listed_keys, pattern, read};
use crate::base::error::Context;
use crate::store::{Durability, Key, ListOptions, PutMode, PutOptions, Store};
use crate::{Cause, Error, Result};

/// How many objects the long listing has: more than the 1,000 of an S3 page.
const LISTED: usize = 1_030;

/// How many requests the long listing keeps in flight.
const IN_FLIGHT: usize = 32;

pub(super) async fn odd_keys(store: &dyn Store) -> Result<()> {
    let odd = [
        "odd/a b",
        "odd/a+b",
        "odd/a%20b",
        "odd/a%2Fb",
        "odd/%",
        "odd/ä/ö",
        "odd/語",
        "odd/😀",
        "odd/a&b=c?d#e",
        "odd/'\"`",
        "odd/~!@$^*(){}[]|<>,;:",
        "odd/...",
        "odd/.hidden",
        "odd/-1/2",
        "odd/by-dev-rootcoord-dml_0_445001v0",
    ];
    for (number, path) in odd.iter().enumerate() {
        let key = Key::new(*path)?;
        store
            .put(&key, pattern(20, number), OVERWRITE)
            .await
            .context(|| format!("write {path:?}"))?;
    }
    let mut sorted: Vec<String> = odd.iter().map(ToString::to_string).collect();
    sorted.sort_unstable();
    let listed = listed_keys(store, "odd/", None).await?;
    claim!(listed == sorted, "odd keys are listed as {listed:?}");
    for (number, path) in odd.iter().enumerate() {
        let key = Key::new(*path)?;
        claim!(
            read(store, &key).await? == pattern(20, number),
            "{path:?} does not read back"
        );
        claim!(
            listed_keys(store, path, None).await?.contains(&key.0),
            "{path:?} is no prefix"
        );
        store.head(&key).await?;
        clean(store, &key).await?;
    }
    claim!(
        list(store, "odd/", None).await?.is_empty(),
        "odd keys stay after their deletion"
    );
    Ok(())
}

pub(super) async fn order(store: &dyn Store) -> Result<()> {
    // `-` and `.` sort before `/`, digits and letters after it.
    let sorted = [
        "order/a!",
        "order/a-b",
        "order/a-b-c/d",
        "order/a.b",
        "order/a/a",
        "order/a/b/c",
        "order/a/b0",
        "order/a0/b",
        "order/ab",
        "order/b/1",
        "order0",
    ];
    for path in sorted.iter().rev() {
        store
            .put(&Key::new(*path)?, Bytes::new(), OVERWRITE)
            .await?;
    }
    claim!(
        listed_keys(store, "", None).await? == sorted,
        "the order is not that of bytes"
    );
    for prefix in [
        "order",
        "order/",
        "order/a",
        "order/a/",
        "order/a/b",
        "order/a-",
        "order/c",
        "p",
        "order//",
    ] {
        let expected: Vec<_> = sorted
            .iter()
            .filter(|path| path.starts_with(prefix))
            .collect();
        let listed = listed_keys(store, prefix, None).await?;
        claim!(
            listed.iter().eq(expected.iter().copied()),
            "prefix {prefix:?} lists {listed:?}"
        );
        for after in sorted
            .iter()
            .chain(&["o", "order/a", "order/a/", "order/a/b", "z"])
        {
            let Ok(after) = Key::new(*after) else {
                continue;
            };
            let follows = |path: &&&str| **path > after.as_str();
            let expected: Vec<_> = expected.iter().filter(|path| follows(path)).collect();
            let listed = listed_keys(store, prefix, Some(after.as_str())).await?;
            let equal = listed.iter().eq(expected.iter().map(|path| ***path));
            claim!(equal, "prefix {prefix:?} after {after} lists {listed:?}");
        }
    }
    for path in sorted {
        clean(store, &Key::new(path)?).await?;
    }
    Ok(())
}

pub(super) async fn long(store: &dyn Store) -> Result<()> {
    let keys: Vec<String> = (0..LISTED)
        .map(|n| format!("long/{:02}/{n:05}", n / 100))
        .collect();
    for chunk in keys.chunks(IN_FLIGHT) {
        let options = PutOptions {
            mode: PutMode::Overwrite,
            durability: Durability::Deferred,
            ..PutOptions::default()
        };
        future::try_join_all(chunk.iter().map(async |path| {
            store
                .put(&Key::new(path)?, Bytes::from_static(b"x"), options)
                .await
        }))
        .await?;
    }
    claim!(
        listed_keys(store, "long/", None).await? == keys,
        "a long listing is not whole"
    );
    let half = listed_keys(store, "long/", Some(&keys[LISTED / 2])).await?;
    claim!(half == keys[LISTED / 2 + 1..], "half a listing is not that");
    let first = store
        .list("long/", ListOptions::default())
        .try_next()
        .await?;
    claim!(
        first.is_some_and(|meta| meta.key.0 == keys[0]),
        "a listing cannot be left early"
    );
    for chunk in keys.chunks(IN_FLIGHT) {
        future::try_join_all(
            chunk
                .iter()
                .map(async |path| clean(store, &Key::new(path)?).await),
        )
        .await?;
    }
    Ok(())
}
