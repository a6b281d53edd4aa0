//! The `config` file: identity and features, authenticated plain text (section 3).

use std::ops::RangeInclusive;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::crypto::Key;
use super::hash::Chunking;
use super::ids::RepositoryId;
use super::sealer::Sealer;
use super::wire::damaged;
use crate::{Cause, Error, Result, Side};

/// Path of the file.
pub(crate) const CONFIG: &str = "config";
/// The format that this code reads and writes.
pub(crate) const FORMAT: u64 = 1;
/// A pack is closed at this size unless `init` was told another, in bytes.
pub(crate) const PACK_SIZE: u32 = 64 << 20;
/// What `init` may be told, in bytes: positions in a pack have 32 bits, and an open pack's records are
/// in memory.
const PACK_SIZES: RangeInclusive<u32> = 1 << 20..=1 << 30;
/// Features that this code knows how to read.
const KNOWN_READ: [&str; 0] = [];
/// Features that this code knows how to write.
const KNOWN_WRITE: [&str; 0] = [];

/// What `config` says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Config {
    pub(crate) format: u64,
    pub(crate) repository: RepositoryId,
    pub(crate) created: Timestamp,
    pub(crate) encrypted: bool,
    #[serde(flatten)]
    pub(crate) cuts: Chunking,
    /// A pack is closed when it has reached this many bytes.
    pub(crate) pack_size: u32,
    pub(crate) required_read: Vec<String>,
    pub(crate) required_write: Vec<String>,
    #[serde(default)]
    pub(crate) store: serde_json::Value,
}

/// A config that was read but is not authenticated yet.
pub(crate) struct Unproven {
    pub(crate) config: Config,
    lines: Authenticated,
}

impl Config {
    /// The bytes of the file.
    pub(crate) fn seal(&self, sealer: &Sealer) -> Result<String> {
        Authenticated::write(CONFIG, self, &sealer.config_key())
    }

    /// Reads the file; its MAC is checked by [`Unproven::prove`] once the keyring is open.
    pub(crate) fn read(bytes: &[u8]) -> Result<Unproven> {
        let lines = Authenticated::read(CONFIG, bytes)?;
        let bad = |why: String| damaged(format!("{CONFIG} is damaged: {why}"));
        let value: serde_json::Value = lines.parse(CONFIG)?;
        let format = value.get("format").and_then(serde_json::Value::as_u64);
        if let Some(format) = format.filter(|format| *format > FORMAT) {
            return Err(newer(&format!(
                "its format is {format}; this eyrie knows {FORMAT}"
            )));
        }
        let config: Self = lines.parse(CONFIG)?;
        if config.format != FORMAT {
            return Err(bad(format!("there is no format {}", config.format)));
        }
        knows_to_read(&config.required_read)?;
        config.cuts.check()?;
        check_pack_size(config.pack_size)?;
        Ok(Unproven { config, lines })
    }

    /// Refuses a repository that needs a newer writer.
    pub(crate) fn check_writable(&self) -> Result<()> {
        knows_to_write(&self.required_write)
    }
}

impl Unproven {
    /// Checks the MAC.
    pub(crate) fn prove(self, sealer: &Sealer) -> Result<Config> {
        self.lines.prove(CONFIG, &sealer.config_key())?;
        Ok(self.config)
    }
}

/// Checks the size at which packs are closed.
pub(crate) fn check_pack_size(size: u32) -> Result<u32> {
    if PACK_SIZES.contains(&size) {
        return Ok(size);
    }
    Err(damaged(format!(
        "packs of {size} bytes are not possible: they have {} to {}",
        PACK_SIZES.start(),
        PACK_SIZES.end()
    )))
}

/// Refuses features that this code does not know how to read.
pub(crate) fn knows_to_read(required: &[String]) -> Result<()> {
    knows("read", required, &KNOWN_READ)
}

/// Refuses features that this code does not know how to write.
pub(crate) fn knows_to_write(required: &[String]) -> Result<()> {
    knows("write", required, &KNOWN_WRITE)
}

fn knows(verb: &str, required: &[String], known: &[&str]) -> Result<()> {
    match required
        .iter()
        .find(|feature| !known.contains(&feature.as_str()))
    {
        Some(feature) => Err(newer(&format!(
            "to {verb} it one must know {feature:?}, which this eyrie does not"
        ))),
        None => Ok(()),
    }
}

fn newer(why: &str) -> Error {
    Side::Repository
        .error(
            Cause::NewerFormat,
            format!("the repository was written by a newer eyrie: {why}"),
        )
        .with_hint("use the newest eyrie that has written to this repository, or a later one")
}

/// A JSON object in plain text with its sum and its MAC: three lines.
pub(crate) struct Authenticated {
    line: String,
    /// What follows the sum: the MAC. Later formats may have something else there.
    rest: String,
}

impl Authenticated {
    /// The bytes of the file at path `name`.
    pub(crate) fn write(name: &str, value: &impl Serialize, key: &Key) -> Result<String> {
        let line = serde_json::to_string(value).map_err(|error| {
            Side::Repository
                .error(Cause::Failed, format!("{name} cannot be written as JSON"))
                .with_source(error)
        })?;
        let mac = hex::encode(key.keyed(&[line.as_bytes()]));
        Ok(format!("{}{mac}\n", with_sum(&line)))
    }

    /// Reads the file and checks its sum.
    pub(crate) fn read(name: &str, bytes: &[u8]) -> Result<Self> {
        let (line, rest) = check_sum(name, bytes)?;
        Ok(Self {
            line: line.to_owned(),
            rest: rest.to_owned(),
        })
    }

    /// What the object says.
    pub(crate) fn parse<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        serde_json::from_str(&self.line)
            .map_err(|error| damaged(format!("{name} is damaged: {error}")))
    }

    /// Checks the MAC.
    pub(crate) fn prove(&self, name: &str, key: &Key) -> Result<()> {
        let mac = hex::encode(key.keyed(&[self.line.as_bytes()]));
        if self.rest.strip_suffix('\n') == Some(&*mac) {
            return Ok(());
        }
        Err(damaged(format!("{name} is damaged: its MAC is wrong")))
    }
}

/// `line` and a second line with its plain BLAKE3, which tells damage from a wrong key.
pub(crate) fn with_sum(line: &str) -> String {
    format!("{line}\n{}\n", blake3::hash(line.as_bytes()).to_hex())
}

/// Takes apart what [`with_sum`] made: the line, and what follows the sum.
pub(crate) fn check_sum<'a>(name: &str, bytes: &'a [u8]) -> Result<(&'a str, &'a str)> {
    std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| {
            let (line, rest) = text.split_once('\n')?;
            let (sum, rest) = rest.split_once('\n')?;
            (sum == blake3::hash(line.as_bytes()).to_hex().as_str()).then_some((line, rest))
        })
        .ok_or_else(|| damaged(format!("{name} is damaged: its sum is wrong")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::format::sealer::Keyring;

    fn config() -> (Config, Sealer) {
        let ring = Keyring::generate(Timestamp::UNIX_EPOCH);
        let config = Config {
            format: FORMAT,
            repository: RepositoryId([1; 32]),
            created: Timestamp::UNIX_EPOCH,
            encrypted: true,
            cuts: Chunking::default(),
            pack_size: PACK_SIZE,
            required_read: vec![],
            required_write: vec![],
            store: serde_json::json!({"conditional_create": true}),
        };
        (
            config,
            Sealer {
                repository: RepositoryId([1; 32]),
                ring,
            },
        )
    }

    #[test]
    fn every_flipped_bit_is_damage() {
        let (config, sealer) = config();
        let good = config.seal(&sealer).unwrap().into_bytes();
        Config::read(&good).unwrap().prove(&sealer).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let read = Config::read(&bad).and_then(|unproven| unproven.prove(&sealer));
            assert_eq!(read.unwrap_err().cause(), Cause::Damage, "bit {bit}");
        }
    }

    #[test]
    fn a_rewritten_config_does_not_pass() {
        let (mut config, sealer) = config();
        let other = Sealer {
            repository: sealer.repository,
            ring: Keyring::generate(Timestamp::UNIX_EPOCH),
        };
        config.required_write.push("x".into());
        let forged = config.seal(&other).unwrap();
        let error = Config::read(forged.as_bytes())
            .unwrap()
            .prove(&sealer)
            .unwrap_err();
        assert_eq!(error.cause(), Cause::Damage);
    }

    #[test]
    fn newer_formats_and_features_are_refused_as_such() {
        let (mut config, sealer) = config();
        config.required_write.push("prune-2".into());
        let text = config.seal(&sealer).unwrap();
        let read = Config::read(text.as_bytes())
            .unwrap()
            .prove(&sealer)
            .unwrap();
        assert_eq!(
            read.check_writable().unwrap_err().cause(),
            Cause::NewerFormat
        );

        config.required_read.push("tree-2".into());
        let text = config.seal(&sealer).unwrap();
        let error = Config::read(text.as_bytes()).err().unwrap();
        assert_eq!(error.exit_code(), 13);
        assert!(error.to_string().contains("tree-2"));

        let future = with_sum(r#"{"format":2,"something":"else"}"#);
        assert_eq!(
            Config::read(future.as_bytes()).err().unwrap().cause(),
            Cause::NewerFormat
        );
    }
}
