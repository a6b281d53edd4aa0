//! Which packs go, and which of them are repacked before: a pure function of what is in them.

use crate::repo::format::ids::PackId;

/// A pack that may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PackUse {
    pub(super) id: PackId,
    /// Its file, in bytes.
    pub(super) size: u64,
    /// The stored bytes of blobs in it that are needed and that no other pack keeps.
    pub(super) needed: u64,
    /// What every pack has beside its blobs, in bytes.
    pub(super) frame: u64,
    /// Whether its bytes can be read without bringing them back from an archive.
    pub(super) readable: bool,
}

impl PackUse {
    fn unused(&self) -> u64 {
        self.size.saturating_sub(self.needed + self.frame)
    }
}

/// How much is repacked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Limits {
    /// Bytes of packs that may stay unused, as a part of those that are needed, in percent.
    pub(super) max_unused: f64,
    /// Bytes that are stored again at most.
    pub(super) max_repack: u64,
}

/// What goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Chosen {
    /// Packs of which nothing is needed.
    pub(super) unneeded: Vec<PackId>,
    /// Packs of which something is stored again before they go, those with the most waste first.
    pub(super) repacked: Vec<PackId>,
    /// Bytes in packs that stay although nobody needs them.
    pub(super) unused_left: u64,
}

/// Chooses the packs that go. Those that waste the largest part of their bytes are repacked first, until what is
/// left unused is within the limit.
pub(super) fn choose(packs: &[PackUse], limits: Limits) -> Chosen {
    let (unneeded, used): (Vec<PackUse>, Vec<PackUse>) = packs.iter().partition(|p| p.needed == 0);
    let needed: u64 = used.iter().map(|pack| pack.needed).sum();
    let mut left: u64 = used.iter().map(PackUse::unused).sum();
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a limit in bytes need not be exact to the byte"
    )]
    let allowed = (needed as f64 * limits.max_unused / 100.0) as u64;
    let mut wasteful: Vec<&PackUse> = used.iter().filter(|pack| pack.readable).collect();
    // a.unused / a.size descending, without fractions.
    wasteful.sort_by(|a, b| {
        let part =
            |one: &PackUse, other: &PackUse| u128::from(one.unused()) * u128::from(other.size);
        part(b, a).cmp(&part(a, b)).then(a.id.cmp(&b.id))
    });
    let mut room = limits.max_repack;
    let mut repacked = Vec::new();
    for pack in wasteful {
        if left <= allowed || pack.unused() == 0 {
            break;
        }
        if let Some(rest) = room.checked_sub(pack.needed) {
            room = rest;
            left -= pack.unused();
            repacked.push(pack.id);
        }
    }
    Chosen {
        unneeded: unneeded.iter().map(|pack| pack.id).collect(),
        repacked,
        unused_left: left,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(n: u8, size: u64, needed: u64) -> PackUse {
        PackUse {
            id: PackId([n; 32]),
            size,
            needed,
            frame: 0,
            readable: true,
        }
    }

    fn ids(packs: &[PackId]) -> Vec<u8> {
        packs.iter().map(|pack| pack.0[0]).collect()
    }

    const ALL: Limits = Limits {
        max_unused: 0.0,
        max_repack: u64::MAX,
    };

    #[test]
    fn what_nobody_needs_goes_and_what_wastes_most_is_repacked_first() {
        let packs = [
            pack(1, 1_000, 0),
            pack(2, 1_000, 900),
            pack(3, 1_000, 100),
            pack(4, 1_000, 1_000),
            pack(5, 100, 20),
        ];
        let chosen = choose(&packs, ALL);
        assert_eq!(ids(&chosen.unneeded), [1]);
        assert_eq!(ids(&chosen.repacked), [3, 5, 2]);
        assert_eq!(chosen.unused_left, 0);
        // Of 2,020 bytes that are needed 202 may stay unused.
        let some = Limits {
            max_unused: 10.0,
            ..ALL
        };
        let chosen = choose(&packs, some);
        assert_eq!(ids(&chosen.repacked), [3]);
        assert_eq!(chosen.unused_left, 180);
    }

    #[test]
    fn no_more_is_stored_again_than_allowed_and_nothing_that_is_archived() {
        let packs = [pack(1, 1_000, 400), pack(2, 1_000, 450), pack(3, 100, 50)];
        let few = Limits {
            max_repack: 460,
            ..ALL
        };
        assert_eq!(ids(&choose(&packs, few).repacked), [1, 3]);
        let archived = packs.map(|pack| PackUse {
            readable: false,
            ..pack
        });
        let chosen = choose(&archived, ALL);
        assert_eq!((chosen.repacked.len(), chosen.unused_left), (0, 1_200));
    }

    #[test]
    fn the_ends_of_packs_are_no_waste() {
        let whole = PackUse {
            frame: 200,
            ..pack(1, 1 << 20, (1 << 20) - 200)
        };
        let chosen = choose(&[whole], ALL);
        assert_eq!((chosen.repacked, chosen.unused_left), (vec![], 0));
    }
}
