//! Opens what the configuration names: etcd, Milvus, the object layer, a repository's store.

use std::path::Path;

use etcd_client::TlsOptions;
use tonic::transport::{Certificate, Identity};

use crate::config::{self, Switch};
use crate::etcd::{Etcd, Settings, Status};
use crate::{Error, Kind, Result};

/// Connects to an instance's etcd and asks for its status.
///
/// # Errors
///
/// [`Kind::Usage`] when a password or certificate cannot be read, [`Kind::Instance`] when etcd
/// does not answer or refuses the user.
pub async fn etcd(etcd: &config::Etcd) -> Result<(Etcd, Status)> {
    let user = match (&etcd.username, &etcd.password) {
        (Some(name), Some(password)) => Some((name.clone(), password.read()?)),
        _ => None,
    };
    Etcd::connect(&Settings {
        endpoints: etcd.endpoints.clone(),
        user,
        tls: etcd_tls(&etcd.tls)?,
    })
    .await
}

fn etcd_tls(tls: &config::Tls) -> Result<Option<TlsOptions>> {
    if tls.enabled == Switch::Off {
        return Ok(None);
    }
    let mut options = match &tls.ca_file {
        Some(file) => TlsOptions::new().ca_certificate(Certificate::from_pem(pem(file)?)),
        None => TlsOptions::new().with_native_roots(),
    };
    if let Some(client) = &tls.client {
        let identity = Identity::from_pem(pem(&client.cert_file)?, pem(&client.key_file)?);
        options = options.identity(identity);
    }
    if let Some(name) = &tls.server_name {
        options = options.domain_name(name);
    }
    Ok(Some(options))
}

/// Reads a certificate or key.
fn pem(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).map_err(|error| {
        Error::new(
            Kind::Usage,
            format!("cannot read the certificate {}", file.display()),
        )
        .with_source(error)
    })
}
