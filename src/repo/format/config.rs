//! The `config` file: identity and features, authenticated plain text (section 3).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::hash::Chunking;
use super::ids::RepositoryId;
use super::sealer::Sealer;
use super::wire::damaged;
use crate::{Cause, Error, Result, Side};

/// Path of the file.
pub(crate) const CONFIG: &str = "config";
/// The format that this code reads and writes.
pub(crate) const FORMAT: u64 = 1;
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
    pub(crate) required_read: Vec<String>,
    pub(crate) required_write: Vec<String>,
    #[serde(default)]
    pub(crate) store: serde_json::Value,
}

/// A config that was read but is not authenticated yet.
pub(crate) struct Unproven {
    pub(crate) config: Config,
    line: String,
    mac: String,
}

impl Config {
    /// The bytes of the file.
    pub(crate) fn seal(&self, sealer: &Sealer) -> Result<String> {
        let line = serde_json::to_string(self).map_err(|error| {
            Side::Repository
                .error(Cause::Failed, "the repository's config cannot be written")
                .with_source(error)
        })?;
        let mac = mac(sealer, &line);
        Ok(format!("{}{mac}\n", with_sum(&line)))
    }

    /// Reads the file; its MAC is checked by [`Unproven::prove`] once the keyring is open.
    pub(crate) fn read(bytes: &[u8]) -> Result<Unproven> {
        let (line, rest) = check_sum(CONFIG, bytes)?;
        let bad = |why: String| damaged(format!("{CONFIG} is damaged: {why}"));
        let value: serde_json::Value =
            serde_json::from_str(line).map_err(|error| bad(error.to_string()))?;
        let format = value.get("format").and_then(serde_json::Value::as_u64);
        if let Some(format) = format.filter(|format| *format > FORMAT) {
            return Err(newer(&format!(
                "its format is {format}; this eyrie knows {FORMAT}"
            )));
        }
        let config: Self = serde_json::from_value(value).map_err(|error| bad(error.to_string()))?;
        if config.format != FORMAT {
            return Err(bad(format!("there is no format {}", config.format)));
        }
        knows("read", &config.required_read, &KNOWN_READ)?;
        config.cuts.check()?;
        let mac = rest
            .strip_suffix('\n')
            .ok_or_else(|| bad("it ends early".into()))?;
        Ok(Unproven {
            config,
            line: line.to_owned(),
            mac: mac.to_owned(),
        })
    }

    /// Refuses a repository that needs a newer writer.
    pub(crate) fn check_writable(&self) -> Result<()> {
        knows("write", &self.required_write, &KNOWN_WRITE)
    }
}

impl Unproven {
    /// Checks the MAC.
    pub(crate) fn prove(self, sealer: &Sealer) -> Result<Config> {
        if mac(sealer, &self.line) == self.mac {
            return Ok(self.config);
        }
        Err(damaged(format!("{CONFIG} is damaged: its MAC is wrong")))
    }
}

fn mac(sealer: &Sealer, line: &str) -> String {
    hex::encode(sealer.config_key().keyed(&[line.as_bytes()]))
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
