//! The kinds of stored files (section 2): one table, which making, listing and checking walk.

use std::fmt::Display;

use super::blob::PackKind;
use super::damage::DamageKind;
use super::sealed::FileKind;

/// How the files of a kind are called in their directory. Other names are foreign and left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    /// There is one, called so.
    One(&'static str),
    /// 64 hexadecimal digits.
    Id,
    /// The same, in a directory called by the first two of them.
    FannedOut,
    /// `ring-<8 digits>-<8 digits>-<16 digits>-<a or b>`, hexadecimal.
    Ring,
}

/// What makes the files of a kind authentic, and mostly secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seal {
    /// Plain text with a MAC (section 3).
    Mac,
    /// The key of an unlocker, such as a passphrase (section 4).
    Unlocker,
    /// The master key (section 4).
    Master,
    /// The meta key (section 5).
    Meta(FileKind),
    /// The keys of the blobs in it (section 7).
    Blobs(PackKind),
}

/// What opens the files of a kind in a check of the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CheckedBy {
    /// They open by themselves.
    Opening,
    /// Reading the snapshots.
    Snapshots,
    /// Reading the index.
    Index,
    /// Comparing the blobs that are referred to with what is there.
    References,
}

/// What the table says of a kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    /// The directory, with a slash at its end; empty for the repository itself.
    pub(crate) directory: &'static str,
    pub(crate) names: Names,
    pub(crate) seal: Seal,
    pub(crate) checked_by: CheckedBy,
    /// What a damaged one is called in reports.
    pub(crate) damage: DamageKind,
    /// Whether any of them keeps `init` from making a repository: it holds what somebody stored.
    pub(crate) bars_init: bool,
}

macro_rules! stored_files {
    ($($(#[doc = $doc:literal])* $file:ident $row:tt)*) => {
        /// A kind of stored file.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum StoredFile { $($(#[doc = $doc])* $file,)* }

        impl StoredFile {
            /// Every kind.
            pub(crate) const ALL: &'static [Self] = &[$(Self::$file,)*];

            /// What the table says of it.
            pub(crate) const fn row(self) -> Row {
                match self { $(Self::$file => Row $row,)* }
            }
        }
    };
}

stored_files! {
    /// Identity and features.
    Config {
        directory: "", names: Names::One("config"), seal: Seal::Mac,
        checked_by: CheckedBy::Opening, damage: DamageKind::Config, bars_init: true,
    }
    /// Features that were added later.
    Features {
        directory: "features/", names: Names::Id, seal: Seal::Mac,
        checked_by: CheckedBy::Opening, damage: DamageKind::Features, bars_init: true,
    }
    /// The master key, wrapped for one unlocker.
    Key {
        directory: "keys/", names: Names::Id, seal: Seal::Unlocker,
        checked_by: CheckedBy::Opening, damage: DamageKind::Key, bars_init: false,
    }
    /// The keyring.
    Ring {
        directory: "keys/", names: Names::Ring, seal: Seal::Master,
        checked_by: CheckedBy::Opening, damage: DamageKind::Key, bars_init: false,
    }
    /// A pack of data blobs.
    Data {
        directory: "data/", names: Names::FannedOut, seal: Seal::Blobs(PackKind::Data),
        checked_by: CheckedBy::References, damage: DamageKind::Pack, bars_init: true,
    }
    /// A pack of tree blobs and values.
    Tree {
        directory: "tree/", names: Names::FannedOut, seal: Seal::Blobs(PackKind::Tree),
        checked_by: CheckedBy::References, damage: DamageKind::Pack, bars_init: true,
    }
    /// An index segment.
    Index {
        directory: "index/", names: Names::Id, seal: Seal::Meta(FileKind::Index),
        checked_by: CheckedBy::Index, damage: DamageKind::Index, bars_init: true,
    }
    /// The manifest of a snapshot.
    Manifest {
        directory: "snapshots/", names: Names::Id, seal: Seal::Meta(FileKind::Manifest),
        checked_by: CheckedBy::Snapshots, damage: DamageKind::Manifest, bars_init: true,
    }
    /// Who takes a number of a lineage.
    Claim {
        directory: "claims/", names: Names::Id, seal: Seal::Meta(FileKind::Claim),
        checked_by: CheckedBy::Opening, damage: DamageKind::Claim, bars_init: false,
    }
    /// Snapshots that were forgotten.
    Forgotten {
        directory: "forgotten/", names: Names::Id, seal: Seal::Meta(FileKind::Forgotten),
        checked_by: CheckedBy::Snapshots, damage: DamageKind::Forgotten, bars_init: true,
    }
    /// What a snapshot owed, or has lost, since it was made.
    Amendment {
        directory: "amendments/", names: Names::Id, seal: Seal::Meta(FileKind::Amendment),
        checked_by: CheckedBy::Snapshots, damage: DamageKind::Amendment, bars_init: true,
    }
    /// What a writer has stored so far, for when it is killed.
    Checkpoint {
        directory: "checkpoints/", names: Names::Id, seal: Seal::Meta(FileKind::Checkpoint),
        checked_by: CheckedBy::Opening, damage: DamageKind::Checkpoint, bars_init: false,
    }
    /// The lease of a session.
    Lease {
        directory: "leases/", names: Names::Id, seal: Seal::Meta(FileKind::Lease),
        checked_by: CheckedBy::Opening, damage: DamageKind::Lease, bars_init: false,
    }
    /// Packs that are about to go.
    Mark {
        directory: "marks/", names: Names::Id, seal: Seal::Meta(FileKind::Mark),
        checked_by: CheckedBy::Opening, damage: DamageKind::Mark, bars_init: false,
    }
    /// The result of a verification.
    Verification {
        directory: "verified/", names: Names::Id, seal: Seal::Meta(FileKind::Verification),
        checked_by: CheckedBy::Opening, damage: DamageKind::Verification, bars_init: false,
    }
}

impl StoredFile {
    /// The path of the file with this id, or for a keyring with what follows `ring-`.
    pub(crate) fn path(self, id: &impl Display) -> String {
        let Row {
            directory, names, ..
        } = self.row();
        match names {
            Names::One(name) => format!("{directory}{name}"),
            Names::Id => format!("{directory}{id}"),
            Names::FannedOut => {
                let id = id.to_string();
                format!("{directory}{}/{id}", &id[..2])
            }
            Names::Ring => format!("{directory}ring-{id}"),
        }
    }

    /// What [`path`](Self::path) made the path of; `None` when it is of no file of this kind.
    pub(crate) fn id(self, path: &str) -> Option<&str> {
        let name = path.strip_prefix(self.row().directory)?;
        match self.row().names {
            Names::One(one) => (name == one).then_some(name),
            Names::Id => is_hex(name, 64).then_some(name),
            Names::FannedOut => {
                let (fan, id) = name.split_once('/')?;
                (is_hex(id, 64) && fan == &id[..2]).then_some(id)
            }
            Names::Ring => {
                let id = name.strip_prefix("ring-")?;
                let parts: Vec<&str> = id.split('-').collect();
                let [sequence, repository, random, copy] = parts[..] else {
                    return None;
                };
                let digits = is_hex(sequence, 8) && is_hex(repository, 8) && is_hex(random, 16);
                (digits && matches!(copy, "a" | "b")).then_some(id)
            }
        }
    }

    /// The packs of this kind.
    pub(crate) const fn packs(kind: PackKind) -> Self {
        match kind {
            PackKind::Data => Self::Data,
            PackKind::Tree => Self::Tree,
        }
    }
}

fn is_hex(text: &str, digits: usize) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.len() == digits && text.bytes().all(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_each_kind_is_of_that_kind_alone() {
        for file in StoredFile::ALL {
            let id = match file.row().names {
                Names::Ring => {
                    format!("{}-{}-{}-a", "0".repeat(8), "ab".repeat(4), "c".repeat(16))
                }
                Names::One(name) => name.to_owned(),
                Names::Id | Names::FannedOut => "4f".repeat(32),
            };
            let path = file.path(&id);
            assert_eq!(file.id(&path), Some(&*id), "{path}");
            for other in StoredFile::ALL.iter().filter(|other| *other != file) {
                assert_eq!(other.id(&path), None, "{path} is of {other:?} too");
            }
        }
    }

    #[test]
    fn other_names_are_foreign() {
        let id = "4f".repeat(32);
        for path in [
            "config.bak".to_owned(),
            format!("snapshots/{}", &id[1..]),
            format!("snapshots/{}", id.to_uppercase()),
            format!("snapshots/old/{id}"),
            format!("data/{id}"),
            format!("data/00/{id}"),
            "keys/ring-1-2-3-a".to_owned(),
            format!(
                "keys/ring-{}-{}-{}-c",
                "0".repeat(8),
                "ab".repeat(4),
                "c".repeat(16)
            ),
            id,
        ] {
            let of = StoredFile::ALL.iter().find(|file| file.id(&path).is_some());
            assert_eq!(of, None, "{path}");
        }
    }

    #[test]
    fn the_page_on_the_format_has_every_kind() {
        let page = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/format.md"));
        for file in StoredFile::ALL {
            let shown = match file.row().names {
                Names::One(name) => name.to_owned(),
                Names::Id => format!("{}<", file.row().directory),
                Names::FannedOut => format!("{}<xx>/<", file.row().directory),
                Names::Ring => format!("{}ring-<", file.row().directory),
            };
            assert!(page.contains(&format!("| `{shown}")), "{shown}");
        }
        let rows = page.split("## 2. Files").nth(1).unwrap();
        let rows = rows.split("\n\n").nth(1).unwrap().lines().skip(2);
        assert_eq!(
            rows.count(),
            StoredFile::ALL.len(),
            "the page has another kind"
        );
    }
}
