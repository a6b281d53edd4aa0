//! Secrets: where they come from, wiped from memory when dropped, masked wherever they might be
//! printed (I9).

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use zeroize::Zeroizing;

use crate::{Cause, Error, Result};

/// What a secret looks like wherever it is printed.
pub const MASK: &str = "********";

/// A secret text. Debug output and serialisation show [`MASK`].
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a secret in.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The secret itself, for the call that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl serde::Serialize for Secret {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(MASK)
    }
}

/// Permission bits that let others than the owner and the group read a file.
const OTHERS_READ: u32 = 0o004;

/// Where a secret comes from; it is read only by who needs it, so that `config show` and a restore
/// need no password that they do not use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// Given as text by `milvus.yaml` or a variable; `key` names it in messages.
    Inline {
        /// What names it in messages.
        key: String,
        /// The text.
        secret: Secret,
    },
    /// The content of a file without its trailing line break.
    File {
        /// The configuration key that names the file.
        key: String,
        /// The file.
        path: PathBuf,
    },
}

impl SecretSource {
    /// Reads the secret. A file that everyone on the host may read is warned about.
    ///
    /// # Errors
    ///
    /// [`Cause::Invalid`], naming the key and the file, when the file cannot be read, is not UTF-8, or
    /// holds nothing but a line break.
    pub fn read(&self) -> Result<Secret> {
        match self {
            Self::Inline { secret, .. } => Ok(secret.clone()),
            Self::File { key, path } => read_file(key, path),
        }
    }
}

fn read_file(key: &str, path: &Path) -> Result<Secret> {
    let name = format!("{key}: {}", path.display());
    let bytes = fs::read(path).map_err(|error| {
        Error::new(Cause::Invalid, format!("cannot read the secret of {name}"))
            .with_source(error)
            .with_hint(format!(
                "write the secret into that file, or point {key} at the right one"
            ))
    })?;
    let bytes = Zeroizing::new(bytes);
    let text = std::str::from_utf8(&bytes).map_err(|_| {
        Error::new(
            Cause::Invalid,
            format!("the secret of {name} is not UTF-8 text"),
        )
    })?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        let message = format!("the secret of {name} is empty");
        return Err(Error::new(Cause::Invalid, message));
    }
    let mode = fs::metadata(path).map_or(0, |m| m.permissions().mode());
    if mode & OTHERS_READ != 0 {
        tracing::warn!(
            "everyone on this host may read {} ({key}); chmod 600 it",
            path.display()
        );
    }
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8]) -> (tempfile::TempDir, SecretSource) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, content).unwrap();
        let key = "repositories.primary.passphrase_file".to_owned();
        (dir, SecretSource::File { key, path })
    }

    #[test]
    fn one_line_break_is_trimmed_and_nothing_else() {
        for (content, expected) in [
            (&b" pass word \n"[..], " pass word "),
            (b"x\r\n", "x"),
            (b"x\n\n", "x\n"),
        ] {
            let (_dir, source) = file(content);
            assert_eq!(source.read().unwrap().expose(), expected);
        }
    }

    #[test]
    fn empty_and_missing_files_are_usage_errors_that_name_the_key() {
        let (dir, empty) = file(b"\n");
        let missing = SecretSource::File {
            key: "instance.etcd.password_file".into(),
            path: dir.path().join("none"),
        };
        for (source, key) in [(empty, "passphrase_file"), (missing, "password_file")] {
            let error = source.read().unwrap_err();
            assert_eq!(error.cause(), Cause::Invalid);
            assert!(error.to_string().contains(key), "{error}");
        }
    }

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?}"), MASK);
        assert_eq!(
            serde_json::to_string(&secret).unwrap(),
            format!("\"{MASK}\"")
        );
    }
}
