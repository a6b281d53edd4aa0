//! The vectors of docs/format.md, section 13: what the page says is what the code makes.

use crate::repo::format::blob::{BlobKind, Codec, PackKind};
use crate::repo::format::crypto::Key;
use crate::repo::format::files::StoredFile;
use crate::repo::format::hash::{merge, piece_hashes};
use crate::repo::format::ids::{BlobId, IndexId, PackId, RepositoryId};
use crate::repo::format::lineage::Lineage;
use crate::repo::format::pack::PackEntry;
use crate::repo::format::sealer::{Keyring, Sealer};
use crate::repo::format::segment::{PackInfo, Record, Segment};
use crate::repo::format::tree::encode::NodeWriter;
use crate::repo::format::tree::node::Shape;
use crate::repo::format::wire::put_varint;
use crate::repo::{Chunking, Content, Entry, PieceRef, Values};

const PAGE: &str = include_str!("../../../docs/format.md");

fn sealer() -> Sealer {
    Sealer {
        repository: RepositoryId([1; 32]),
        ring: Keyring {
            id_key: Key([2; 32]),
            meta_key: Key([3; 32]),
            data: vec![],
        },
    }
}

/// Fails unless the page has the line. With `EYRIE_VECTORS` set it prints the line instead.
fn page(line: &str) {
    if std::env::var_os("EYRIE_VECTORS").is_some() {
        return println!("{}", line.trim_end());
    }
    assert!(PAGE.contains(line), "docs/format.md lacks:\n{line}");
}

#[test]
fn pieces_blobs_and_merging() {
    let sealer = sealer();
    let bytes = [b'a'; 2148];
    let cuts = Chunking {
        cut: 1024,
        whole: 1536,
    };
    let mut pieces = Vec::new();
    for (offset, length) in cuts.pieces(2148) {
        let start = usize::try_from(offset).unwrap();
        let (cv, _) = piece_hashes(&bytes[start..start + length as usize], offset);
        let id = sealer.blob_id(BlobKind::Data, &cv, offset, length);
        page(&format!("offset {offset:<4} length {length:<4}  CV {cv}\n"));
        page(&format!("blob id {id}\n"));
        pieces.push(PieceRef { cv, offset, length });
    }
    let hash = merge(&pieces, 2148).unwrap();
    assert_eq!(&hash.0, blake3::hash(&bytes).as_bytes());
    page(&format!("object  {hash}\n"));
}

#[test]
fn splits() {
    let ends = |key: &String| blake3::hash(key.as_bytes()).as_bytes()[0] == 0;
    let keys = (0..2000).map(|n| format!("key/{n:06}"));
    let keys: Vec<String> = keys.filter(ends).take(3).collect();
    page(&format!("`{}`", keys.join("`, `")));
}

#[test]
fn leaves() {
    let sealer = sealer();
    let entry = |key: &'static str, value: &'static str| Entry {
        key: key.into(),
        value: value.into(),
        content: Content::None,
    };
    for values in [Values::Inline, Values::Apart] {
        let mut leaf = NodeWriter::leaf(values);
        leaf.push_entry(&entry("user/a", "one"), None);
        leaf.push_entry(&entry("user/bc", "two"), None);
        let apart = leaf.take_values().map(|apart| {
            assert_eq!(apart, b"onetwo");
            let (cv, _) = piece_hashes(&apart, 0);
            let (offset, length) = (0, 6);
            let id = sealer.blob_id(BlobKind::Values, &cv, offset, length);
            page(&format!("values  {cv}\n"));
            page(&format!("blob id {id}\n"));
            PieceRef { cv, offset, length }
        });
        let node = leaf.finish(0, Shape::Leaf, apart.as_ref());
        page(&format!("leaf    {}\n", hex::encode(&node)));
        page(&format!("CV      {}\n", piece_hashes(&node, 0).0));
    }
}

#[test]
fn an_anchor_value() {
    let mut value = Vec::new();
    for number in [5, 778, 52, 0] {
        put_varint(&mut value, number);
    }
    value.extend(b"value");
    page(&format!("`{}`", hex::encode(value)));
}

#[test]
fn names_and_keys_of_files() {
    let sealer = sealer();
    let path = StoredFile::Manifest.path(&"4f".repeat(32));
    page(&format!(
        "file key  {}\n",
        hex::encode(sealer.file_key(&path).0)
    ));
    let lineage = Lineage {
        origin: RepositoryId([1; 32]),
        instance: "main".into(),
    };
    page(&format!("claim     {}\n", sealer.claim_name(&lineage, 7)));
}

#[test]
fn a_superseding_segment() {
    let sealer = sealer();
    let mut segment = Segment {
        packs: vec![PackInfo {
            id: PackId([5; 32]),
            hash: [6; 32],
            size: 1000,
            kind: PackKind::Tree,
            blobs: 2,
        }],
        supersedes: vec![IndexId([7; 32])],
        records: vec![Record {
            entry: PackEntry {
                kind: BlobKind::Values,
                id: BlobId([8; 32]),
                position: 16,
                stored: 192,
                plain: 100,
                codec: Codec::Raw,
                epoch: 1,
            },
            pack: 0,
        }],
    };
    let name = StoredFile::Index.path(&IndexId([9; 32]));
    let file = segment.seal(&sealer, &name).unwrap();
    let (key, aad) = (sealer.file_key(&name), sealer.file_aad(&file[..8], &name));
    let block = [&aad[..], b"block", &0_u32.to_le_bytes()].concat();
    let footer = [&aad[..], b"footer"].concat();
    let end = file.len() - 12;
    let length = u32::from_le_bytes(file[end..end + 4].try_into().unwrap()) as usize;
    let start = end - length;
    let open = |aad: &[u8], sealed: &[u8]| hex::encode(key.open(aad, sealed).unwrap());
    page(&format!("record  {}\n", open(&block, &file[8..start])));
    page(&format!("footer  {}\n", open(&footer, &file[start..end])));
}

#[test]
fn the_hash_of_a_manifest() {
    let root = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/golden-v1/plain/snapshots"
    );
    let mut files: Vec<_> = std::fs::read_dir(root)
        .unwrap()
        .map(|f| f.unwrap().path())
        .collect();
    files.sort();
    let file = &files[0];
    let hash = blake3::hash(&std::fs::read(file).unwrap()).to_hex();
    let name = file.file_name().unwrap().to_str().unwrap();
    page(&format!("manifest  {name}\nhash      {hash}\n"));
}
