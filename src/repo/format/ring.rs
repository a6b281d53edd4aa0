//! Keyring files: from the master key to the keys of what is stored (section 4).

use super::crypto::Key;
use super::files::StoredFile;
use super::ids::RepositoryId;
use super::sealer::Keyring;
use super::wire::damaged;
use crate::{Cause, Result, Side};

/// Which ring: a ring stands in two files, which have this in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RingName {
    pub(crate) sequence: u32,
    /// 16 random hexadecimal digits: two rings that were made at once have one sequence.
    random: String,
}

/// The paths of the two files of a new ring.
pub(crate) fn ring_paths(
    sequence: u32,
    repository: &RepositoryId,
    random: &[u8; 32],
) -> [String; 2] {
    let (repository, random) = (digits(repository), hex::encode(&random[..8]));
    ["a", "b"]
        .map(|copy| StoredFile::Ring.path(&format!("{sequence:08x}-{repository}-{random}-{copy}")))
}

/// Which ring of `repository` the file at `path` is of.
pub(crate) fn ring_name(path: &str, repository: &RepositoryId) -> Option<RingName> {
    let mut parts = StoredFile::Ring.id(path)?.split('-');
    let (sequence, of, random) = (parts.next()?, parts.next()?, parts.next()?);
    (of == digits(repository)).then_some(RingName {
        sequence: u32::from_str_radix(sequence, 16).ok()?,
        random: random.to_owned(),
    })
}

fn digits(repository: &RepositoryId) -> String {
    hex::encode(&repository.0[..4])
}

/// The bytes of the keyring file at `path`.
pub(crate) fn seal_ring(
    ring: &Keyring,
    master: &Key,
    repository: &RepositoryId,
    path: &str,
) -> Result<Vec<u8>> {
    let json = serde_json::to_vec(ring)
        .map(zeroize::Zeroizing::new)
        .map_err(|error| {
            Side::Repository
                .error(Cause::Failed, "the keyring cannot be written")
                .with_source(error)
        })?;
    master
        .derive("eyrie 1 keyring")
        .seal(&ring_aad(repository, path), &json)
}

/// Opens the keyring file at `path`.
pub(crate) fn open_ring(
    bytes: &[u8],
    master: &Key,
    repository: &RepositoryId,
    path: &str,
) -> Result<Keyring> {
    let json = master
        .derive("eyrie 1 keyring")
        .open(&ring_aad(repository, path), bytes)
        .map(zeroize::Zeroizing::new)
        .ok_or_else(|| damaged(format!("{path} is damaged: it is not authentic")))?;
    let ring: Keyring = serde_json::from_slice(&json)
        .map_err(|error| damaged(format!("{path} is damaged: {error}")))?;
    let ascending = ring.data.is_sorted_by(|a, b| a.epoch <= b.epoch);
    if ring.data.first().is_some_and(|first| first.epoch > 0) && ascending {
        return Ok(ring);
    }
    Err(damaged(format!("{path} is damaged: its epochs are wrong")))
}

fn ring_aad(repository: &RepositoryId, path: &str) -> Vec<u8> {
    let name = path
        .strip_prefix(StoredFile::Ring.row().directory)
        .unwrap_or(path);
    [&b"eyrie 1 keyring"[..], &repository.0, name.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    const ID: RepositoryId = RepositoryId([3; 32]);

    #[test]
    fn a_keyring_opens_under_its_own_name_only() {
        let master = Key::generate();
        let [path, twin] = ring_paths(7, &ID, &[5; 32]);
        let name = ring_name(&path, &ID).unwrap();
        assert_eq!(
            (name.sequence, Some(&name)),
            (7, ring_name(&twin, &ID).as_ref())
        );
        assert_eq!(ring_name(&path, &RepositoryId([4; 32])), None);
        let ring = Keyring::generate(Timestamp::UNIX_EPOCH);
        let bytes = seal_ring(&ring, &master, &ID, &path).unwrap();
        open_ring(&bytes, &master, &ID, &path).unwrap();
        let [other, _] = ring_paths(1, &ID, &[5; 32]);
        for other in [other, twin] {
            let error = open_ring(&bytes, &master, &ID, &other).unwrap_err();
            assert_eq!(error.cause(), Cause::Damage);
        }
    }
}
