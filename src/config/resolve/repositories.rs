//! Repositories: a directory or an S3 prefix, and what opens them.

use std::path::PathBuf;

use super::super::model::{RepositorySection, S3Section};
use super::super::resolved::Repository;
use super::super::retention::Retention;
use super::super::source::Source;
use super::s3::{CHAIN, ToldOfS3};
use super::{Resolver, Sourced, Variables, wrong};
use crate::Result;
use crate::base::secret::{MASK, SecretSource};
use crate::store::open::{Location, parse_location};
use crate::store::s3::{S3Credentials, S3Settings};

impl Resolver<'_> {
    pub(super) fn repositories(
        &mut self,
        sections: &[RepositorySection],
        retention: Option<&Retention>,
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
            repositories.push(self.repository(&at, section, retention, variables)?);
        }
        Ok(repositories)
    }

    fn repository(
        &mut self,
        at: &str,
        section: &RepositorySection,
        retention: Option<&Retention>,
        variables: &Variables,
    ) -> Result<Repository> {
        self.note(&format!("{at}.name"), &section.name);
        let location = self.location(at, section)?;
        Ok(Repository {
            name: section.name.clone(),
            location,
            passphrase: self.passphrase(at, section, variables),
            retention: match &section.retention {
                Some(own) => Some(self.retention(&format!("{at}.retention"), own)?),
                None => retention.cloned(),
            },
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
        let at = &format!("{at}.s3");
        let endpoint = self.text(&format!("{at}.endpoint"), s3.endpoint.as_deref(), &[], None);
        let endpoint = match endpoint {
            Some(address) => {
                let secure = Sourced::new(false, Source::Default);
                Some(self.s3_endpoint(at, &address, s3, secure)?)
            }
            None => None,
        };
        let told = ToldOfS3 {
            // MinIO and its like want the bucket in the path; AWS itself has host names for buckets.
            path_style: Sourced::new(endpoint.is_some(), Source::Default),
            endpoint,
            region: &[],
            ca: &[],
            keys: |resolver, at| {
                let key = format!("{at}.access_key_id");
                resolver.record(&key, Some(CHAIN.to_owned()), &Source::Default);
                S3Credentials::Chain
            },
        };
        self.s3(at, url, s3, told)
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
