//! Key files: from a passphrase to the master key (section 4).

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::config::{check_sum, with_sum};
use super::crypto::Key;
use super::files::StoredFile;
use super::ids::{KeyId, RepositoryId};
use super::wire::damaged;
use crate::base::env::fill_secret;
use crate::base::secret::Secret;
use crate::{Cause, Error, Result, Side};

/// What opens a repository.
#[derive(Debug, Clone)]
pub enum Unlock {
    /// A passphrase, as typed.
    Passphrase(Secret),
    /// Nothing: the repository is not encrypted.
    None,
}

/// The cost of turning a passphrase into a key, with Argon2id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KdfCost {
    /// Memory, in KiB.
    pub m_kib: u32,
    /// Passes over the memory.
    pub t: u32,
    /// Lanes.
    pub p: u32,
}

impl Default for KdfCost {
    /// 64 MiB and three passes: the second recommendation of RFC 9106, with one lane.
    fn default() -> Self {
        Self {
            m_kib: 64 << 10,
            t: 3,
            p: 1,
        }
    }
}

impl KdfCost {
    /// Whether guessing costs enough: OWASP's least for Argon2id.
    fn is_enough(self) -> bool {
        self.m_kib >= COST_MIN.m_kib && self.t >= COST_MIN.t && self.p >= COST_MIN.p
    }

    /// Refuses a cost that makes guessing cheap. Tests may.
    fn check(self) -> Result<Self> {
        if self.is_enough() || cfg!(any(test, feature = "testing")) {
            return Ok(self);
        }
        let KdfCost { m_kib, t, p } = COST_MIN;
        Err(Error::new(
            Cause::Invalid,
            format!("a key file costs at least {m_kib} KiB, {t} passes and {p} lane"),
        ))
    }
}

/// The least that a writer makes a key file cost.
const COST_MIN: KdfCost = KdfCost {
    m_kib: 19 << 10,
    t: 2,
    p: 1,
};
/// The most a key file may ask for, so that a planted one cannot exhaust the machine.
const COST_MAX: KdfCost = KdfCost {
    m_kib: 1 << 20,
    t: 16,
    p: 16,
};
const ROLE: &str = "master";

#[derive(Debug, Serialize, Deserialize)]
struct KeyFile {
    v: u32,
    id: KeyId,
    repository: RepositoryId,
    role: String,
    created: Timestamp,
    label: String,
    kdf: Kdf,
    check: String,
    sealed: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "lowercase")]
enum Kdf {
    Argon2id {
        m_kib: u32,
        t: u32,
        p: u32,
        salt: String,
    },
    None,
}

/// What a new key file is made of.
pub(crate) struct NewKey<'a> {
    pub(crate) id: KeyId,
    pub(crate) repository: RepositoryId,
    pub(crate) created: Timestamp,
    pub(crate) label: &'a str,
    pub(crate) cost: KdfCost,
}

/// What trying a key file gave.
#[derive(Debug)]
pub(crate) enum Tried {
    /// The master key.
    Opened(Key),
    /// The file is for another unlocker, another repository or a newer eyrie.
    Foreign,
    /// The passphrase is not this file's.
    Wrong,
}

/// The path of a key file.
pub(crate) fn key_path(id: &KeyId) -> String {
    StoredFile::Key.path(id)
}

/// The bytes of a key file that wraps `master`. Takes as long as the cost says.
pub(crate) fn wrap(new: &NewKey<'_>, unlock: &Unlock, master: &Key) -> Result<String> {
    let kdf = match unlock {
        Unlock::None => Kdf::None,
        Unlock::Passphrase(_) => {
            let mut salt = [0; 16];
            fill_secret(&mut salt);
            let KdfCost { m_kib, t, p } = new.cost.check()?;
            Kdf::Argon2id {
                m_kib,
                t,
                p,
                salt: hex::encode(salt),
            }
        }
    };
    let Some(key) = stretch(&kdf, &new.repository, unlock)? else {
        return Err(Side::Repository.error(Cause::Failed, "the key cannot be made"));
    };
    let sealed = key
        .derive("eyrie 1 key wrap")
        .seal(&wrap_aad(&new.repository, &new.id), &master.0)?;
    let file = KeyFile {
        v: 1,
        id: new.id,
        repository: new.repository,
        role: ROLE.into(),
        created: new.created,
        label: new.label.into(),
        kdf,
        check: check_value(&key),
        sealed: BASE64.encode(sealed),
    };
    let line = serde_json::to_string(&file).map_err(|error| {
        Side::Repository
            .error(Cause::Failed, "the key file cannot be written")
            .with_source(error)
    })?;
    Ok(with_sum(&line))
}

/// Tries to open the key file at `path`. Takes as long as the file's cost says.
///
/// # Errors
///
/// [`Cause::Damage`] when the file is damaged.
pub(crate) fn unwrap(
    path: &str,
    bytes: &[u8],
    repository: &RepositoryId,
    unlock: &Unlock,
) -> Result<Tried> {
    let Some(file) = read(path, bytes, repository)? else {
        return Ok(Tried::Foreign);
    };
    let bad = |why: &str| damaged(format!("{path} is damaged: {why}"));
    let Some(key) = stretch(&file.kdf, repository, unlock).map_err(|error| error.context(path))?
    else {
        return Ok(Tried::Foreign);
    };
    if check_value(&key) != file.check {
        return Ok(Tried::Wrong);
    }
    let master = BASE64
        .decode(&file.sealed)
        .ok()
        .and_then(|sealed| {
            key.derive("eyrie 1 key wrap")
                .open(&wrap_aad(repository, &file.id), &sealed)
        })
        .and_then(|master| <[u8; 32]>::try_from(master).ok())
        .ok_or_else(|| bad("its key does not open"))?;
    Ok(Tried::Opened(Key(master)))
}

/// Checks the key file at `path` as far as that is possible without a passphrase.
pub(crate) fn check(path: &str, bytes: &[u8], repository: &RepositoryId) -> Result<()> {
    read(path, bytes, repository).map(|_| ())
}

/// Reads a key file; `None` when it is of another repository, role or version.
fn read(path: &str, bytes: &[u8], repository: &RepositoryId) -> Result<Option<KeyFile>> {
    let (line, rest) = check_sum(path, bytes)?;
    let bad = |why: String| damaged(format!("{path} is damaged: {why}"));
    if !rest.is_empty() {
        return Err(bad("bytes follow its end".into()));
    }
    let value: serde_json::Value =
        serde_json::from_str(line).map_err(|error| bad(error.to_string()))?;
    let known_kdf = matches!(value["kdf"]["name"].as_str(), Some("argon2id" | "none"));
    if value["v"] != 1 || value["role"] != ROLE || !known_kdf {
        return Ok(None);
    }
    let file: KeyFile = serde_json::from_value(value).map_err(|error| bad(error.to_string()))?;
    if file.repository != *repository {
        return Ok(None);
    }
    if key_path(&file.id) != path {
        return Err(bad("it carries another name".into()));
    }
    Ok(Some(file))
}

/// The unlocker's key; `None` when the file wants another kind of unlocker.
fn stretch(kdf: &Kdf, repository: &RepositoryId, unlock: &Unlock) -> Result<Option<Key>> {
    match (kdf, unlock) {
        (Kdf::None, Unlock::None) => Ok(Some(Key(repository.0).derive("eyrie 1 no encryption"))),
        (Kdf::Argon2id { m_kib, t, p, salt }, Unlock::Passphrase(passphrase)) => {
            if *m_kib > COST_MAX.m_kib || *t > COST_MAX.t || *p > COST_MAX.p {
                return Err(damaged(
                    "it asks for more memory or time than any key file may",
                ));
            }
            let mut raw = [0; 16];
            let salted = hex::decode_to_slice(salt, &mut raw).is_ok();
            let params = Params::new(*m_kib, *t, *p, Some(32))
                .ok()
                .filter(|_| salted);
            let params = params.ok_or_else(|| damaged("its parameters are not possible"))?;
            let mut key = Key([0; 32]);
            Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                .hash_password_into(passphrase.expose().as_bytes(), &raw, &mut key.0)
                .map_err(|error| {
                    Side::Repository.error(Cause::Failed, format!("argon2id failed: {error}"))
                })?;
            Ok(Some(key))
        }
        _ => Ok(None),
    }
}

fn check_value(key: &Key) -> String {
    hex::encode(key.derive("eyrie 1 key check").0)
}

fn wrap_aad(repository: &RepositoryId, key: &KeyId) -> Vec<u8> {
    [&b"eyrie 1 key"[..], &repository.0, &key.0].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: KdfCost = KdfCost {
        m_kib: 8,
        t: 1,
        p: 1,
    };
    const ID: RepositoryId = RepositoryId([3; 32]);

    fn new_key(cost: KdfCost) -> NewKey<'static> {
        NewKey {
            id: KeyId([7; 32]),
            repository: ID,
            created: Timestamp::UNIX_EPOCH,
            label: "l",
            cost,
        }
    }

    fn passphrase(text: &str) -> Unlock {
        Unlock::Passphrase(Secret::new(text))
    }

    #[test]
    fn a_cheap_cost_is_not_enough_and_that_of_init_is() {
        assert!(KdfCost::default().is_enough() && COST_MIN.is_enough() && COST_MAX.is_enough());
        for less in [
            KdfCost {
                m_kib: COST_MIN.m_kib - 1,
                ..COST_MIN
            },
            KdfCost {
                t: COST_MIN.t - 1,
                ..COST_MIN
            },
            KdfCost { p: 0, ..COST_MIN },
            CHEAP,
        ] {
            assert!(!less.is_enough(), "{less:?}");
        }
    }

    #[test]
    fn only_the_right_passphrase_opens_a_key_file() {
        let master = Key::generate();
        let path = key_path(&KeyId([7; 32]));
        let file = wrap(&new_key(CHEAP), &passphrase("p"), &master).unwrap();
        let open = |unlock: &Unlock| unwrap(&path, file.as_bytes(), &ID, unlock).unwrap();
        assert!(matches!(open(&passphrase("p")), Tried::Opened(key) if key == master));
        assert!(matches!(open(&passphrase("q")), Tried::Wrong));
        assert!(matches!(open(&Unlock::None), Tried::Foreign));
        let other = unwrap(
            &path,
            file.as_bytes(),
            &RepositoryId([4; 32]),
            &passphrase("p"),
        );
        assert!(matches!(other.unwrap(), Tried::Foreign));
    }

    #[test]
    fn every_flipped_bit_is_damage_and_not_a_wrong_passphrase() {
        let path = key_path(&KeyId([7; 32]));
        let file = wrap(&new_key(CHEAP), &passphrase("p"), &Key::generate())
            .unwrap()
            .into_bytes();
        for bit in 0..file.len() * 8 {
            let mut bad = file.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let error = unwrap(&path, &bad, &ID, &passphrase("p")).unwrap_err();
            assert_eq!(error.cause(), Cause::Damage, "bit {bit}");
        }
    }

    #[test]
    fn a_planted_key_file_cannot_ask_for_terabytes() {
        let path = key_path(&KeyId([7; 32]));
        let file = wrap(&new_key(CHEAP), &passphrase("p"), &Key::generate()).unwrap();
        let line = file
            .lines()
            .next()
            .unwrap()
            .replace("\"m_kib\":8,", "\"m_kib\":4000000000,");
        let error = unwrap(&path, with_sum(&line).as_bytes(), &ID, &passphrase("p")).unwrap_err();
        assert_eq!(error.cause(), Cause::Damage);
    }
}
