//! What every backend must do, as a suite that any store can be put through.
//!
//! The suite needs an empty store (or prefix) and leaves it without objects. Failures come back as
//! errors that name the rule, so that the suite runs in unit tests and against real servers alike.

use std::future::Future;

use bytes::Bytes;
use futures::future;
use futures::stream::TryStreamExt as _;

use crate::base::error::Context;
use crate::store::{
    Durability, GetOptions, Key, ListOptions, MIN_PART_SIZE, Meta, Part, PutMode, PutOptions,
    Store, Unfinished,
};
use crate::{Cause, Error, Result};

/// How many writers race for one key.
const RACERS: usize = 8;

/// Puts `store` through all rules.
///
/// # Errors
///
/// The first rule that does not hold, or the store's own error under the rule's name.
pub async fn run(store: &dyn Store) -> Result<()> {
    rule("whole objects", whole_objects(store)).await?;
    rule("missing objects", missing_objects(store)).await?;
    rule("ranges", ranges(store)).await?;
    rule("replacing", replacing(store)).await?;
    rule("creating", creating(store)).await?;
    rule("a race of creators", creators_race(store)).await?;
    rule("uploads", uploads(store)).await?;
    rule("uploads that create", uploads_create(store)).await?;
    rule("aborted uploads", aborted_uploads(store)).await?;
    rule("unfinished uploads", unfinished_uploads(store)).await?;
    rule("odd keys", listing::odd_keys(store)).await?;
    rule("order of listings", listing::order(store)).await?;
    rule("long listings", listing::long(store)).await?;
    rule("versions", versions(store)).await?;
    rule("durability", durability(store)).await?;
    rule("an empty store at the end", is_empty(store)).await
}

async fn rule(name: &str, body: impl Future<Output = Result<()>>) -> Result<()> {
    body.await.context(|| format!("conformance: {name}"))
}

/// Fails with `claim` unless `holds`.
macro_rules! claim {
    ($holds:expr, $($claim:tt)+) => {
        if !$holds {
            return Err(Error::new(Cause::Failed, format!($($claim)+)));
        }
    };
}

mod listing;

fn kind_of<T>(result: &Result<T>) -> Option<Cause> {
    result.as_ref().err().map(Error::cause)
}

const OVERWRITE: PutOptions = PutOptions {
    mode: PutMode::Overwrite,
    durability: Durability::Synced,
    patience: None,
};

const CREATE: PutOptions = PutOptions {
    mode: PutMode::Create,
    durability: Durability::Synced,
    patience: None,
};

async fn read(store: &dyn Store, key: &Key) -> Result<Bytes> {
    store.get(key, GetOptions::default()).await
}

async fn list(store: &dyn Store, prefix: &str, after: Option<&str>) -> Result<Vec<Meta>> {
    let after = after.map(Key::new).transpose()?;
    let [told, untold] = [true, false].map(|versions| {
        let after = after.clone();
        let listed = store.list(prefix, ListOptions { after, versions });
        listed.try_collect::<Vec<_>>()
    });
    let (mut told, untold) = (told.await?, untold.await?);
    for meta in &mut told {
        claim!(
            meta.has_version() == store.capabilities().versions,
            "a listing with versions tells {:?} of {}",
            meta.version,
            meta.key
        );
        meta.version = None;
    }
    claim!(
        told == untold,
        "listings of {prefix:?} with and without versions differ: {told:?}, {untold:?}"
    );
    Ok(untold)
}

async fn listed_keys(store: &dyn Store, prefix: &str, after: Option<&str>) -> Result<Vec<String>> {
    let listed = list(store, prefix, after).await?;
    Ok(listed.into_iter().map(|meta| meta.key.0).collect())
}

/// Deletes an object with all versions that the suite knows of.
async fn clean(store: &dyn Store, key: &Key) -> Result<()> {
    if !store.capabilities().versions {
        return store.delete(key, None).await;
    }
    loop {
        match store.head(key).await {
            Ok(meta) => store.delete(key, meta.version.as_deref()).await?,
            Err(error) if error.cause() == Cause::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

async fn whole_objects(store: &dyn Store) -> Result<()> {
    for (path, size) in [
        ("whole/empty", 0_usize),
        ("whole/one", 1),
        ("whole/large", 3 << 20),
    ] {
        let key = Key::new(path)?;
        let bytes = pattern(size, 7);
        store.put(&key, bytes.clone(), OVERWRITE).await?;
        claim!(
            read(store, &key).await? == bytes,
            "{key} does not read back"
        );
        let meta = store.head(&key).await?;
        claim!(meta.key == key, "the head of {key} names {}", meta.key);
        claim!(
            meta.size == size as u64,
            "the head of {key} tells {} bytes",
            meta.size
        );
        claim!(!meta.identity.is_empty(), "{key} has no identity");
        let listed = list(store, path, None).await?;
        claim!(
            listed.len() == 1 && listed[0].identity == meta.identity,
            "head and list differ about {key}: {meta:?}, {listed:?}"
        );
        clean(store, &key).await?;
        claim!(
            kind_of(&store.head(&key).await) == Some(Cause::NotFound),
            "{key} is there after its deletion"
        );
    }
    Ok(())
}

async fn missing_objects(store: &dyn Store) -> Result<()> {
    let key = Key::new("missing/far/below")?;
    claim!(
        kind_of(&read(store, &key).await) == Some(Cause::NotFound),
        "a missing object reads"
    );
    claim!(
        kind_of(&store.head(&key).await) == Some(Cause::NotFound),
        "a missing object has a head"
    );
    let range = GetOptions {
        range: Some(0..4),
        version: None,
    };
    claim!(
        kind_of(&store.get(&key, range).await) == Some(Cause::NotFound),
        "a range of a missing object reads"
    );
    let empty = GetOptions {
        range: Some(4..4),
        version: None,
    };
    claim!(
        kind_of(&store.get(&key, empty).await) == Some(Cause::NotFound),
        "an empty range of a missing object reads"
    );
    if !store.capabilities().versions {
        store
            .delete(&key, None)
            .await
            .context(|| "delete a missing key")?;
    }
    claim!(
        list(store, "missing/", None).await?.is_empty(),
        "a missing prefix lists something"
    );
    Ok(())
}

async fn ranges(store: &dyn Store) -> Result<()> {
    let key = Key::new("ranges/object")?;
    let bytes = pattern(1_000, 3);
    store.put(&key, bytes.clone(), OVERWRITE).await?;
    for (start, end) in [
        (0, 1),
        (0, 1_000),
        (10, 20),
        (999, 1_000),
        (990, 2_000),
        (0, u64::MAX),
        (1_000, 1_001),
        (5_000, 6_000),
        (5, 5),
        (2_000, 2_000),
    ] {
        let cut = |at: u64| usize::try_from(at.min(1_000)).unwrap_or(1_000);
        let options = GetOptions {
            range: Some(start..end),
            version: None,
        };
        let part = store
            .get(&key, options)
            .await
            .context(|| format!("range {start}..{end}"))?;
        claim!(
            part == bytes[cut(start)..cut(end)],
            "range {start}..{end} has {} bytes or wrong ones",
            part.len()
        );
    }
    store.put(&key, Bytes::new(), OVERWRITE).await?;
    let options = GetOptions {
        range: Some(0..10),
        version: None,
    };
    claim!(
        store.get(&key, options).await?.is_empty(),
        "a range of an empty object has bytes"
    );
    clean(store, &key).await
}

async fn replacing(store: &dyn Store) -> Result<()> {
    let key = Key::new("replaced/object")?;
    store.put(&key, pattern(2_000, 1), OVERWRITE).await?;
    let before = store.head(&key).await?;
    store.put(&key, pattern(2_000, 2), OVERWRITE).await?;
    let after = store.head(&key).await?;
    claim!(
        before.identity != after.identity,
        "the identity is the same for other bytes"
    );
    claim!(
        read(store, &key).await? == pattern(2_000, 2),
        "the old bytes read"
    );
    store.put(&key, pattern(3, 2), OVERWRITE).await?;
    claim!(
        read(store, &key).await? == pattern(3, 2),
        "a shorter object leaves a rest"
    );
    clean(store, &key).await
}

async fn creating(store: &dyn Store) -> Result<()> {
    let key = Key::new("created/object")?;
    store.put(&key, pattern(10, 1), CREATE).await?;
    let again = store.put(&key, pattern(10, 2), CREATE).await;
    claim!(
        kind_of(&again) == Some(Cause::AlreadyExists),
        "creating an object that exists answers {again:?}"
    );
    claim!(
        read(store, &key).await? == pattern(10, 1),
        "a refused creation changed the object"
    );
    clean(store, &key).await?;
    store
        .put(&key, pattern(10, 3), CREATE)
        .await
        .context(|| "create after a deletion")?;
    clean(store, &key).await
}

async fn creators_race(store: &dyn Store) -> Result<()> {
    if !store.capabilities().conditional_create {
        return Ok(());
    }
    for round in 0..5 {
        let key = Key::new(format!("raced/{round}/object"))?;
        let race = |racer| store.put(&key, pattern(100, racer), CREATE);
        let results = future::join_all((0..RACERS).map(race)).await;
        let winners: Vec<usize> = (0..RACERS)
            .filter(|racer| results[*racer].is_ok())
            .collect();
        claim!(
            winners.len() == 1,
            "{} of {RACERS} creators won",
            winners.len()
        );
        let refused = |result: &Result<_>| {
            matches!(
                kind_of(result),
                None | Some(Cause::AlreadyExists | Cause::Unavailable)
            )
        };
        claim!(
            results.iter().all(refused),
            "a loser was told otherwise: {results:?}"
        );
        claim!(
            read(store, &key).await? == pattern(100, winners[0]),
            "the object is not the winner's"
        );
        clean(store, &key).await?;
    }
    Ok(())
}

async fn uploads(store: &dyn Store) -> Result<()> {
    let large = [MIN_PART_SIZE, MIN_PART_SIZE + 1, 2 * MIN_PART_SIZE, 17];
    let small: Vec<usize> = (0..100).collect();
    for (number, sizes) in [&[][..], &[0], &[5], &small, &large]
        .into_iter()
        .enumerate()
    {
        let key = Key::new(format!("uploads/{number}"))?;
        let mut upload = store.upload(&key, OVERWRITE).await?;
        let mut whole = Vec::new();
        for (piece, size) in sizes.iter().enumerate() {
            let bytes = pattern(*size, piece);
            whole.extend_from_slice(&bytes);
            upload.write(bytes).await?;
        }
        claim!(
            kind_of(&store.head(&key).await) == Some(Cause::NotFound),
            "an upload is visible before it is finished"
        );
        claim!(
            list(store, "", None).await?.is_empty(),
            "an unfinished upload is listed"
        );
        upload.finish().await?;
        claim!(
            read(store, &key).await? == whole,
            "an upload of {sizes:?} does not read back"
        );
        let size = store.head(&key).await?.size;
        claim!(
            size == whole.len() as u64,
            "an upload of {} bytes has {size}",
            whole.len()
        );
        clean(store, &key).await?;
    }
    Ok(())
}

async fn uploads_create(store: &dyn Store) -> Result<()> {
    for size in [10, MIN_PART_SIZE + 10] {
        let key = Key::new("uploads/created")?;
        let upload = async |seed| -> Result<_> {
            let mut upload = store.upload(&key, CREATE).await?;
            upload.write(pattern(size, seed)).await?;
            upload.write(pattern(10, seed)).await?;
            upload.finish().await
        };
        upload(1).await?;
        let again = upload(2).await;
        claim!(
            kind_of(&again) == Some(Cause::AlreadyExists),
            "an upload of {size} bytes over an object that exists answers {again:?}"
        );
        let begins = GetOptions {
            range: Some(0..10),
            version: None,
        };
        claim!(
            store.get(&key, begins).await? == pattern(10, 1),
            "a refused upload changed the object"
        );
        clean(store, &key).await?;
    }
    Ok(())
}

/// What a store tells of an upload is enough to remove it.
async fn unfinished_uploads(store: &dyn Store) -> Result<()> {
    let key = Key::new("unfinished/object")?;
    let parts = store.parts(&key, CREATE).await?;
    let part = |number, bytes| Part {
        number,
        offset: 0,
        bytes,
    };
    parts.part(part(1, pattern(MIN_PART_SIZE, 1))).await?;
    let ours = |left: &Unfinished| left.key.as_deref() == Some(key.as_str());
    let all: Vec<Unfinished> = store.unfinished().into_iter().filter(ours).collect();
    for left in &all {
        store.remove_unfinished(left).await?;
        store.remove_unfinished(left).await?;
    }
    if !all.is_empty() {
        let end = Part {
            offset: MIN_PART_SIZE as u64,
            ..part(2, Bytes::new())
        };
        let finished = parts.finish(end).await;
        claim!(finished.is_err(), "an upload that was removed is finished");
        claim!(
            kind_of(&store.head(&key).await) == Some(Cause::NotFound),
            "an upload that was removed left an object"
        );
    }
    parts.abort().await?;
    store.delete(&key, None).await?;
    let left = store.unfinished();
    claim!(
        left.iter()
            .all(|left| left.key.as_deref() != Some(key.as_str())),
        "an upload that has ended is told of"
    );
    Ok(())
}

async fn aborted_uploads(store: &dyn Store) -> Result<()> {
    for sizes in [&[][..], &[10], &[MIN_PART_SIZE, MIN_PART_SIZE, 10]] {
        let key = Key::new("aborted/object")?;
        let mut upload = store.upload(&key, OVERWRITE).await?;
        for size in sizes {
            upload.write(pattern(*size, 1)).await?;
        }
        upload.abort().await?;
        claim!(
            kind_of(&store.head(&key).await) == Some(Cause::NotFound),
            "an aborted upload left an object"
        );
    }
    is_empty(store).await
}

async fn versions(store: &dyn Store) -> Result<()> {
    let key = Key::new("versions/object")?;
    let first = store.put(&key, pattern(10, 1), OVERWRITE).await?.version;
    let second = store.put(&key, pattern(20, 2), OVERWRITE).await?.version;
    let head = store.head(&key).await?.version;
    if !store.capabilities().versions {
        return clean(store, &key).await;
    }
    claim!(
        first.is_some() && first != second,
        "two writes have versions {first:?}, {second:?}"
    );
    claim!(
        head == second,
        "the head tells version {head:?}, the write {second:?}"
    );
    let options = ListOptions {
        versions: true,
        ..ListOptions::default()
    };
    let listed = store.list("versions/", options).try_next().await?;
    claim!(
        listed.as_ref().is_some_and(|meta| meta.version == second),
        "of two versions {first:?} and {second:?} the listing tells {listed:?}"
    );
    let old = GetOptions {
        range: Some(2..6),
        version: first.clone(),
    };
    claim!(
        store.get(&key, old).await? == pattern(10, 1)[2..6],
        "an old version does not read"
    );
    store.delete(&key, second.as_deref()).await?;
    claim!(
        store.head(&key).await?.version == first,
        "deleting a version does not uncover the last"
    );
    store.delete(&key, first.as_deref()).await?;
    let gone = GetOptions {
        range: None,
        version: first,
    };
    claim!(
        kind_of(&store.get(&key, gone).await) == Some(Cause::NotFound),
        "a deleted version reads"
    );
    Ok(())
}

async fn durability(store: &dyn Store) -> Result<()> {
    let key = Key::new("deferred/object")?;
    let options = PutOptions {
        mode: PutMode::Create,
        durability: Durability::Deferred,
        ..PutOptions::default()
    };
    store.put(&key, pattern(10, 1), options).await?;
    claim!(
        read(store, &key).await? == pattern(10, 1),
        "a deferred write does not read back"
    );
    store.sync().await?;
    clean(store, &key).await
}

async fn is_empty(store: &dyn Store) -> Result<()> {
    let left = listed_keys(store, "", None).await?;
    claim!(left.is_empty(), "objects stay: {left:?}");
    Ok(())
}

/// `size` bytes that differ for each `seed` and repeat with a period that no power of two divides.
fn pattern(size: usize, seed: usize) -> Bytes {
    const PERIOD: usize = 4_099;
    let byte = |at: usize| u8::try_from((at * 31 + at / 251 + seed * 97) % 256).unwrap_or_default();
    let block: Vec<u8> = (0..PERIOD).map(byte).collect();
    let mut bytes = block.repeat(size.div_ceil(PERIOD));
    bytes.truncate(size);
    bytes.into()
}
