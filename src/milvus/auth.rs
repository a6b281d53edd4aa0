//! Who eyrie is to Milvus, and how the connection is secured.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};
use zeroize::Zeroizing;

use crate::{Cause, Error, Result};

/// A user and its password; the password never shows in logs or errors (I9).
#[derive(Clone)]
pub struct Credentials {
    username: String,
    password: Zeroizing<String>,
}

impl Credentials {
    /// Takes a user and its password.
    pub fn new(username: impl Into<String>, password: Zeroizing<String>) -> Self {
        Self {
            username: username.into(),
            password,
        }
    }

    /// The user's name.
    #[must_use]
    pub fn username(&self) -> &str {
        &self.username
    }

    /// The value of the `authorization` metadata: base64 of `user:password` without a scheme
    /// (docs/milvus.md 1.1).
    pub(super) fn header(&self) -> Result<MetadataValue<Ascii>> {
        let plain = Zeroizing::new(format!("{}:{}", self.username, self.password.as_str()));
        let encoded = Zeroizing::new(STANDARD.encode(plain.as_bytes()));
        let mut value = MetadataValue::try_from(encoded.as_str())
            .map_err(|_| Error::new(Cause::Invalid, "the milvus credentials cannot be sent"))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// How TLS is spoken; without an authority of one's own the system's are trusted.
#[derive(Clone, Default)]
pub struct Tls {
    /// Certificates of the authority that signed the server's, PEM.
    pub ca: Option<Vec<u8>>,
    /// The client's certificate and key, PEM, where the server asks for them.
    pub identity: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
    /// The name that the server's certificate must carry; the address's host when `None`.
    pub server_name: Option<String>,
}

impl Tls {
    pub(super) fn grpc(&self) -> ClientTlsConfig {
        let mut config = match &self.ca {
            Some(ca) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        if let Some((certificate, key)) = &self.identity {
            config = config.identity(Identity::from_pem(certificate, key.as_slice()));
        }
        if let Some(name) = &self.server_name {
            config = config.domain_name(name);
        }
        config
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("own_ca", &self.ca.is_some())
            .field("client_certificate", &self.identity.is_some())
            .field("server_name", &self.server_name)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_base64_without_a_scheme_and_is_never_shown() {
        let credentials = Credentials::new("root", Zeroizing::new("Milvus".to_owned()));
        let header = credentials.header().unwrap();
        assert_eq!(header.to_str().unwrap(), STANDARD.encode("root:Milvus"));
        assert_eq!(format!("{header:?}"), "Sensitive");
        assert!(!format!("{credentials:?}").contains("Milvus"));
    }
}
