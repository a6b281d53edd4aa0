//! Repositories: a directory or an S3 prefix, and what opens them.

use std::path::PathBuf;

use super::super::model::{RepositorySection, S3Section};
use super::super::resolved::{Repository, Switch};
use super::super::source::Source;
use super::{MilvusTls, Resolver, Sourced, Variables, wrong};
use crate::Result;
use crate::base::secret::{MASK, SecretSource};
use crate::store::open::{Location, parse_location};
use crate::store::s3::{Addressing, S3Credentials, S3Settings};

impl Resolver<'_> {
    pub(super) fn repositories(
        &mut self,
        sections: &[RepositorySection],
        variables: &Variables,
    ) -> Result<Vec<Repository>> {
        let mut repositories: Vec<Repository> = Vec::new();
        for (index, section) in sections.iter().enumerate() {
            let at = format!("repositories.{index}");
            let source = self.explicit(&format!("{at}.name"));
            if section.name.is_empty() {
                let hint = "--repo needs a name to tell repositories apart";
                return Err(wrong(&source, "the repository has an empty name", hint));
            }
            if repositories.iter().any(|known| known.name == section.name) {
                let message = format!("a second repository is called {}", section.name);
                return Err(wrong(&source, &message, "give each its own name"));
            }
            repositories.push(self.repository(&at, section, variables)?);
        }
        Ok(repositories)
    }

    fn repository(
        &mut self,
        at: &str,
        section: &RepositorySection,
        variables: &Variables,
    ) -> Result<Repository> {
        self.note(&format!("{at}.name"), &section.name);
        let location = self.location(at, section)?;
        Ok(Repository {
            name: section.name.clone(),
            location,
            passphrase: self.passphrase(at, section, variables),
        })
    }

    fn location(&mut self, at: &str, section: &RepositorySection) -> Result<Location> {
        let key = format!("{at}.url");
        let source = self.explicit(&key);
        let mut location = parse_location(&section.url).map_err(|error| {
            let hint = error
                .hint()
                .unwrap_or("write a directory, or s3://bucket/prefix");
            wrong(&source, &error.to_string(), hint)
        })?;
        if let Location::S3(url) = &location {
            self.note(&key, &section.url);
            let s3 = section.s3.clone().unwrap_or_default();
            let s3 = self.bucket(at, (**url).clone(), &s3)?;
            return Ok(Location::S3(Box::new(s3)));
        }
        if section.s3.is_some() {
            let source = self.explicit(&format!("{at}.s3"));
            let message = format!("`s3:` does not belong to the directory {location}");
            return Err(wrong(
                &source,
                &message,
                "remove it, or write s3://bucket/prefix as url",
            ));
        }
        if let Location::Directory(path) = &mut location {
            *path = self.beside(path);
        }
        self.note(&key, &location.to_string());
        Ok(location)
    }

    fn bucket(&mut self, at: &str, url: S3Settings, s3: &S3Section) -> Result<S3Settings> {
        let key = |part: &str| format!("{at}.s3.{part}");
        let endpoint = self.text(&key("endpoint"), s3.endpoint.as_deref(), &[], None);
        let endpoint = match endpoint {
            Some(found) => Some(endpoint_url(&found, s3)?),
            None => None,
        };
        let region = self.text(&key("region"), s3.region.as_deref(), &[], None);
        // MinIO and its like want the bucket in the path; AWS itself has host names for buckets.
        let style = s3.path_style.unwrap_or(endpoint.is_some());
        let source = match s3.path_style {
            Some(_) => self.explicit(&key("path_style")),
            None => Source::Default,
        };
        self.record(&key("path_style"), Some(style.to_string()), &source);
        let keys = self.explicit_keys(
            &format!("{at}.s3"),
            s3.access_key_id.as_deref(),
            s3.secret_access_key_file.as_deref(),
            s3.session_token_file.as_deref(),
        )?;
        let credentials = keys.unwrap_or_else(|| {
            let chain = Some("the AWS credential chain".to_owned());
            self.record(&key("access_key_id"), chain, &Source::Default);
            S3Credentials::Chain
        });
        let secure = endpoint
            .as_ref()
            .is_none_or(|url| url.starts_with("https://"));
        let told = MilvusTls {
            enabled: Sourced {
                value: if secure { Switch::On } else { Switch::Off },
                source: Source::Derived("the endpoint".to_owned()),
            },
            ..MilvusTls::none()
        };
        let tls = self.tls_of_s3(&key("tls"), &s3.tls, &told)?;
        Ok(S3Settings {
            endpoint,
            region: region.map(|r| r.value),
            addressing: if style {
                Addressing::Path
            } else {
                Addressing::VirtualHost
            },
            credentials,
            ca_file: tls.ca_file,
            server_name: tls.server_name,
            ..url
        })
    }

    fn passphrase(
        &mut self,
        at: &str,
        section: &RepositorySection,
        variables: &Variables,
    ) -> Option<SecretSource> {
        let key = format!("{at}.passphrase_file");
        if let Some(path) = &section.passphrase_file {
            return self.secret(&key, Some(path), &[]);
        }
        let (file, text) = ("EYRIE_PASSPHRASE_FILE", "EYRIE_PASSPHRASE");
        if let Some(path) = variables.get(file) {
            let path = PathBuf::from(path.expose());
            let source = Source::Variable(file.to_owned());
            self.record(&key, Some(path.display().to_string()), &source);
            return Some(SecretSource::File {
                key: file.to_owned(),
                path,
            });
        }
        let secret = variables.get(text);
        let source = secret.map_or(Source::Default, |_| Source::Variable(text.to_owned()));
        self.record(&key, secret.map(|_| MASK.to_owned()), &source);
        secret.map(|secret| SecretSource::Inline {
            key: text.to_owned(),
            secret: secret.clone(),
        })
    }
}

fn endpoint_url(found: &Sourced<String>, s3: &S3Section) -> Result<String> {
    let url = found.value.trim_end_matches('/');
    let secure = s3.tls.enabled;
    let scheme = url.split_once("://").map(|(scheme, _)| scheme);
    let https = match scheme {
        None => {
            let scheme = if secure.unwrap_or(false) {
                "https"
            } else {
                "http"
            };
            return Ok(format!("{scheme}://{url}"));
        }
        Some("http") => false,
        Some("https") => true,
        Some(other) => {
            let message = format!("{other}:// is no S3 endpoint");
            let hint = "write http://host:port or https://host";
            return Err(wrong(&found.source, &message, hint));
        }
    };
    if secure.is_some_and(|on| on != https) {
        let message = format!("the endpoint is {url} but tls.enabled says otherwise");
        return Err(wrong(&found.source, &message, "correct one of them"));
    }
    Ok(url.to_owned())
}
