//! Cutting objects into pieces, and their hashes: subtrees of one BLAKE3 tree (section 6).

use blake3::hazmat::{
    HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};
use serde::{Deserialize, Serialize};

use super::ids::{Cv, ObjectHash};
use super::wire::damaged;
use crate::Result;

/// Where objects are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunking {
    /// The size of an object's pieces, in bytes: 1,024 times a power of two.
    #[serde(rename = "object_cut")]
    pub cut: u32,
    /// Objects of at most this many bytes are one piece; at least `cut`.
    #[serde(rename = "object_whole")]
    pub whole: u32,
}

impl Default for Chunking {
    fn default() -> Self {
        Self {
            cut: 16 << 20,
            whole: 24 << 20,
        }
    }
}

/// A piece never exceeds this many bytes: it is in memory whole wherever it is sealed or opened.
pub(crate) const PIECE_MAX: u32 = 64 << 20;

impl Chunking {
    /// Checks that the cuts are such that every piece is a complete subtree.
    pub(crate) fn check(self) -> Result<Self> {
        let power = self.cut >= 1024 && self.cut.is_power_of_two();
        if power && self.whole >= self.cut && self.whole <= PIECE_MAX {
            return Ok(self);
        }
        Err(damaged(format!(
            "the object cuts {} and {} are not possible",
            self.cut, self.whole
        )))
    }

    /// The number of pieces of an object of `size` bytes.
    #[must_use]
    pub fn count(self, size: u64) -> u64 {
        if size <= u64::from(self.whole) {
            u64::from(size > 0)
        } else {
            size.div_ceil(u64::from(self.cut))
        }
    }

    /// Offset and length of each piece of an object of `size` bytes, in order.
    pub fn pieces(self, size: u64) -> impl Iterator<Item = (u64, u32)> + Send {
        let (cut, count) = (u64::from(self.cut), self.count(size));
        let step = if count == 1 { size } else { cut };
        (0..count).map(move |n| {
            let offset = n * step;
            let length = step.min(size - offset);
            (offset, u32::try_from(length).unwrap_or(u32::MAX))
        })
    }
}

/// One piece of an object: a complete subtree of its BLAKE3 tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PieceRef {
    /// The subtree's chaining value.
    pub cv: Cv,
    /// Where the piece begins in its object, in bytes.
    pub offset: u64,
    /// Its length, in bytes; never 0.
    pub length: u32,
}

/// The chaining value of `bytes` as the subtree at `offset`, and the hash that `bytes` would have
/// as a whole object (which means something at offset 0 only).
///
/// `bytes` must not be empty, `offset` must be a multiple of 1,024, and the subtree must not reach
/// to the left of `offset`: what [`Chunking`] yields.
pub(crate) fn piece_hashes(bytes: &[u8], offset: u64) -> (Cv, Option<ObjectHash>) {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset);
    hasher.update(bytes);
    let cv = Cv(hasher.finalize_non_root());
    let whole = (offset == 0).then(|| ObjectHash(hasher.finalize().into()));
    (cv, whole)
}

/// Whether a piece of `length` bytes may begin at `offset`; what is read from a repository is
/// asked first, as the hasher panics where it may not.
pub(crate) fn piece_possible(offset: u64, length: u64) -> bool {
    length > 0
        && offset.is_multiple_of(1024)
        && blake3::hazmat::max_subtree_len(offset).is_none_or(|most| length <= most)
}

/// The hash of an object of `size` bytes from the chaining values of its pieces, two or more, in
/// order.
pub(crate) fn merge(pieces: &[PieceRef], size: u64) -> Result<ObjectHash> {
    let Some((left, right)) = split(pieces, size) else {
        return Err(damaged("the pieces of an object do not make a whole"));
    };
    let (left_cv, right_cv) = (subtree(left.0, left.1)?, subtree(right.0, right.1)?);
    Ok(ObjectHash(
        merge_subtrees_root(&left_cv.0, &right_cv.0, Mode::Hash).into(),
    ))
}

fn subtree(pieces: &[PieceRef], length: u64) -> Result<Cv> {
    if let [piece] = pieces
        && u64::from(piece.length) == length
    {
        return Ok(piece.cv);
    }
    let Some((left, right)) = split(pieces, length) else {
        return Err(damaged("the pieces of an object do not make a whole"));
    };
    let (left_cv, right_cv) = (subtree(left.0, left.1)?, subtree(right.0, right.1)?);
    Ok(Cv(merge_subtrees_non_root(
        &left_cv.0,
        &right_cv.0,
        Mode::Hash,
    )))
}

type Half<'a> = (&'a [PieceRef], u64);

/// Splits a subtree of `length` bytes where BLAKE3 does, if a piece begins there.
fn split(pieces: &[PieceRef], length: u64) -> Option<(Half<'_>, Half<'_>)> {
    let start = pieces.first()?.offset;
    if length <= 1024 {
        return None;
    }
    let left = left_subtree_len(length);
    let middle = start.checked_add(left)?;
    let at = pieces
        .binary_search_by_key(&middle, |piece| piece.offset)
        .ok()?;
    Some(((&pieces[..at], left), (&pieces[at..], length - left)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hash_in_pieces(data: &[u8], cuts: Chunking) -> ObjectHash {
        let size = data.len() as u64;
        let mut only = None;
        let pieces: Vec<_> = cuts
            .pieces(size)
            .map(|(offset, length)| {
                let from = usize::try_from(offset).unwrap();
                let (cv, whole) = piece_hashes(&data[from..from + length as usize], offset);
                only = whole;
                PieceRef { cv, offset, length }
            })
            .collect();
        assert_eq!(pieces.len() as u64, cuts.count(size));
        assert!(
            pieces
                .iter()
                .all(|p| piece_possible(p.offset, u64::from(p.length)))
        );
        match pieces.len() {
            0 => ObjectHash(blake3::hash(b"").into()),
            1 => only.unwrap(),
            _ => merge(&pieces, size).unwrap(),
        }
    }

    fn data(len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut out);
        out
    }

    proptest! {
        #[test]
        fn pieces_give_the_hash_of_the_whole(
            power in 0_u32..4, whole in 0_u32..3000, around in 0_u32..24, by in -2_i64..=2, extra in 0_usize..1024,
        ) {
            let cut = 1024 << power;
            let cuts = Chunking { cut, whole: cut + whole }.check().unwrap();
            for size in [
                i64::from(cut * around) + by,
                i64::from(cuts.whole) + by,
                i64::from(cut * around) + i64::try_from(extra).unwrap(),
            ] {
                let data = data(usize::try_from(size.max(0)).unwrap());
                prop_assert_eq!(hash_in_pieces(&data, cuts).0, *blake3::hash(&data).as_bytes());
            }
        }
    }

    #[test]
    fn the_default_cuts_are_those_of_the_format() {
        let cuts = Chunking::default().check().unwrap();
        let sizes = |size| {
            cuts.pieces(size)
                .map(|(_, length)| length >> 20)
                .collect::<Vec<_>>()
        };
        assert_eq!(sizes(0), [0; 0]);
        assert_eq!(sizes(24 << 20), [24]);
        assert_eq!(sizes(25 << 20), [16, 9]);
        assert_eq!(sizes(48 << 20), [16, 16, 16]);
    }

    #[test]
    fn impossible_cuts_and_pieces_are_damage() {
        assert!(
            Chunking {
                cut: 3 << 10,
                whole: 1 << 20
            }
            .check()
            .is_err()
        );
        assert!(
            Chunking {
                cut: 4096,
                whole: 1024
            }
            .check()
            .is_err()
        );
        assert!(!piece_possible(100, 10) && !piece_possible(1024, 1025) && !piece_possible(0, 0));
        let one = PieceRef {
            cv: Cv([1; 32]),
            offset: 0,
            length: 1024,
        };
        assert!(merge(&[one], 4096).is_err());
        assert!(merge(&[], 4096).is_err());
    }
}
