//! What was said of a snapshot after it was made.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;

use super::support::*;
use crate::Result;
use crate::repo::format::files::StoredFile;
use crate::repo::format::sealed::FileKind;
use crate::repo::{
    Amendment, AmendmentId, Change, CheckBytes, Content, Entry, KeyRange, Manifest, ManifestHash,
    NodeRef, ObjectHash, Repository, Roots, SnapshotId, Values, View,
};
use crate::store::testing::memory::MemoryStore;

fn pinned(n: u32, hash: Option<u8>) -> Entry {
    Entry {
        key: format!("object/{n:05}").into(),
        value: "about".into(),
        content: Content::External {
            hash: hash.map(|n| ObjectHash([n; 32])),
            size: u64::from(n),
            pin: Bytes::from("pin"),
        },
    }
}

fn lost(n: u32) -> Entry {
    Entry {
        value: r#"{"lost":"a rule expired it"}"#.into(),
        content: Content::None,
        ..pinned(n, None)
    }
}

async fn map(repo: &Repository, entries: &[Entry]) -> Result<Option<NodeRef>> {
    let writer = writer(repo, "a").await?;
    let mut map = writer.map(Values::Inline);
    for entry in entries {
        map.push(entry.clone()).await?;
    }
    let root = map.finish().await?;
    writer.flush().await?;
    writer.finish().await?;
    Ok(root)
}

struct Said<'a> {
    of: &'a Manifest,
    known_as: ManifestHash,
    requires: Vec<String>,
}

/// Writes an amendment of the snapshot's objects.
async fn say(repo: &Repository, said: Said<'_>, number: u8, entries: &[Entry]) -> Result<()> {
    let amendment = Amendment {
        format: 1,
        amendment: AmendmentId([number; 32]),
        snapshot: said.of.snapshot,
        manifest: said.known_as,
        session: said.of.session,
        time: said.of.time,
        roots: Roots::from([("objects".into(), map(repo, entries).await?)]),
        requires: said.requires,
    };
    let path = StoredFile::Amendment.path(&amendment.amendment);
    let kind = FileKind::Amendment;
    let bytes = repo.sealer().seal_json(kind, &path, &amendment)?;
    repo.put_once(&path, bytes).await
}

fn objects_of(view: &View, manifest: &Manifest) -> crate::repo::Map {
    let of = |roots: &Roots| roots["objects"];
    let map = view.map(of(&manifest.roots));
    map.amended(manifest.amended.iter().filter_map(of))
}

async fn newest(repo: &Repository) -> Manifest {
    let all = repo.snapshots().await.unwrap();
    assert_eq!(all.damage, []);
    all.newest_of("a").unwrap().clone()
}

#[tokio::test]
async fn owed_hashes_are_paid_and_lost_pins_told() -> Result<()> {
    let store = MemoryStore::new();
    let repo = init(Arc::new(store.clone())).await;
    let owed: Vec<Entry> = (0..3000).map(|n| pinned(n, None)).collect();
    let writer = writer(&repo, "a").await?;
    let mut objects = writer.map(Values::Inline);
    for entry in &owed {
        objects.push(entry.clone()).await?;
    }
    let roots = Roots::from([("objects".into(), objects.finish().await?)]);
    let manifest = writer.commit(draft(roots)).await?;
    writer.finish().await?;
    let says = |requires| Said {
        of: &manifest,
        known_as: manifest.known_as(),
        requires,
    };

    // Two payments, which overlap; a loss; and what is of other keys, another file, another snapshot.
    let paid = |range: std::ops::Range<u32>| -> Vec<Entry> {
        range.step_by(2).map(|n| pinned(n, Some(7))).collect()
    };
    say(&repo, says(vec![]), 1, &paid(0..2000)).await?;
    let mut second = paid(1000..2600);
    second.insert(0, lost(1));
    second.push(pinned(4000, Some(1)));
    say(&repo, says(vec![]), 2, &second).await?;
    let another = Said {
        known_as: ManifestHash([1; 32]),
        ..says(vec![])
    };
    say(&repo, another, 3, &[pinned(3, Some(9))]).await?;
    let mut nobody = manifest.clone();
    nobody.snapshot = SnapshotId([5; 32]);
    let of_nobody = Said {
        of: &nobody,
        ..says(vec![])
    };
    say(&repo, of_nobody, 4, &[pinned(3, Some(9))]).await?;

    let amended = newest(&repo).await;
    assert_eq!(amended.amended.len(), 2);
    let view = repo.view().await?;
    let map = objects_of(&view, &amended);
    let read: Vec<Entry> = map.scan(KeyRange::all()).try_collect().await?;
    let part: Vec<Entry> = map
        .scan(KeyRange::prefix("object/01"))
        .try_collect()
        .await?;
    assert_eq!(part, read[1000..2000]);
    for (n, entry) in (0..).zip(&read) {
        assert_eq!(map.get(&entry.key).await?.as_ref(), Some(entry));
        let hash = (n % 2 == 0 && n < 2600).then_some(7);
        let expected = match n {
            1 => Entry {
                content: Content::Lost {
                    hash: None,
                    size: 1,
                    why: "a rule expired it".into(),
                },
                ..pinned(1, None)
            },
            _ => pinned(n, hash),
        };
        assert_eq!(*entry, expected);
    }
    assert_eq!(read.len(), 3000);

    // A comparison sees the same: all that changed is what was said.
    let changes: Vec<Change> = view.map(map.root()).diff(&map).try_collect().await?;
    assert_eq!(changes.len(), 1301);
    let same: Vec<Change> = map.diff(&map).try_collect().await?;
    assert_eq!(same, []);
    let all: Vec<Change> = view.map(None).diff(&map).try_collect().await?;
    assert_eq!(all.len(), 3000);
    let none: Vec<Change> = map.diff(&view.map(None)).try_collect().await?;
    assert!(
        none.iter()
            .all(|change| matches!(change, Change::Removed(_)))
            && none.len() == 3000
    );

    // Its trees are checked, and needed.
    let trees = paths(&store, "tree/").await;
    let mut hurt = 0;
    for path in &trees {
        let bad = store.fork();
        damage(&bad, path, |bytes| bytes[200] ^= 1).await;
        let repo = open(Arc::new(bad)).await?;
        let report = repo.check(&[], CheckBytes::None).await?;
        hurt += usize::from(
            report
                .damage
                .iter()
                .any(|d| d.snapshots == [manifest.snapshot]),
        );
    }
    assert_eq!(hurt, 3, "the manifest's tree and those of two amendments");

    // One that replaces a hash is damage where it is read.
    say(&repo, says(vec![]), 5, &[pinned(2, Some(8))]).await?;
    let map = objects_of(&repo.view().await?, &newest(&repo).await);
    let read: Result<Vec<Entry>> = map.scan(KeyRange::all()).try_collect().await;
    assert_eq!(read.unwrap_err().cause(), crate::Cause::Damage);

    say(&repo, says(vec!["later".into()]), 6, &[]).await?;
    let all = repo.snapshots().await?;
    assert_eq!(all.find("latest", None).unwrap_err().exit_code(), 13);
    Ok(())
}
