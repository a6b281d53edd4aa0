//! How to reach a bucket: of the object layer, and of a repository.

use super::super::model::{ChecksumChoice, S3Section};
use super::super::parse::shown;
use super::super::source::Source;
use super::{MilvusTls, Resolver, Sourced, wrong};
use crate::Result;
use crate::store::s3::{Addressing, Checksum, S3Credentials, S3Settings};

/// What `config show` says where no keys are set.
pub(super) const CHAIN: &str = "the AWS credential chain";

/// What holds where our own section says nothing.
pub(super) struct ToldOfS3<'a> {
    /// A URL and who decided between http and https; AWS when there is none.
    pub(super) endpoint: Option<Sourced<String>>,
    pub(super) path_style: Sourced<bool>,
    /// Milvus's keys of the region and of the certificates to trust.
    pub(super) region: &'static [&'static str],
    pub(super) ca: &'static [&'static str],
    pub(super) keys: fn(&mut Resolver<'a>, &str) -> S3Credentials,
}

impl<'a> Resolver<'a> {
    /// The endpoint under `at` as a URL, and who decided between http and https; `secure` does for an
    /// address without a scheme, unless `tls.enabled` says something.
    pub(super) fn s3_endpoint(
        &mut self,
        at: &str,
        address: &Sourced<String>,
        s3: &S3Section,
        secure: Sourced<bool>,
    ) -> Result<Sourced<String>> {
        let (key, tls_key) = (format!("{at}.endpoint"), format!("{at}.tls.enabled"));
        let url = address.value.trim_end_matches('/');
        let (url, source) = match url.split_once("://") {
            Some((scheme @ ("http" | "https"), _)) => {
                if s3.tls.enabled.is_some_and(|on| on != (scheme == "https")) {
                    let (key, tls_key) = (shown(&key), shown(&tls_key));
                    let message = format!("{key} is {url} but {tls_key} says otherwise");
                    return Err(wrong(&address.source, &message, "correct one of them"));
                }
                (url.to_owned(), address.source.clone())
            }
            Some((scheme, _)) => {
                let message = format!("{}: {scheme}:// is no S3 endpoint", shown(&key));
                let hint = "write http://host:port or https://host";
                return Err(wrong(&address.source, &message, hint));
            }
            None => {
                let secure = match s3.tls.enabled {
                    Some(on) => Sourced::new(on, self.explicit(&tls_key)),
                    None => secure,
                };
                let scheme = if secure.value { "https" } else { "http" };
                (format!("{scheme}://{url}"), secure.source)
            }
        };
        let key = shown(&key);
        self.settings.retain(|setting| setting.key != key);
        self.record(&key, Some(url.clone()), &address.source);
        Ok(Sourced::new(url, source))
    }

    /// How to reach the bucket `url`, whose section is `at`.
    pub(super) fn s3(
        &mut self,
        at: &str,
        url: S3Settings,
        s3: &S3Section,
        told: ToldOfS3<'a>,
    ) -> Result<S3Settings> {
        let key = |part: &str| format!("{at}.{part}");
        let region = self.text(&key("region"), s3.region.as_deref(), told.region, None);
        let style = match s3.path_style {
            Some(style) => Sourced::new(style, self.explicit(&key("path_style"))),
            None => told.path_style,
        };
        let shown = Some(style.value.to_string());
        self.record(&key("path_style"), shown, &style.source);
        let credentials = match self.explicit_keys(at, s3)? {
            Some(keys) => keys,
            None => (told.keys)(self, at),
        };
        let enabled = if let Some(url) = &told.endpoint {
            Sourced::new(url.value.starts_with("https://"), url.source.clone())
        } else {
            let why = "without an endpoint it is AWS".to_owned();
            Sourced::new(true, Source::Derived(why))
        };
        let of_milvus = MilvusTls {
            ca: told.ca,
            ..MilvusTls::without_files(enabled)
        };
        let tls = self.tls_of_s3(&key("tls"), &s3.tls, &of_milvus)?;
        let (checksum, word) = match s3.checksum {
            None | Some(ChecksumChoice::Auto) => (Checksum::Auto, "auto"),
            Some(ChecksumChoice::Crc32c) => (Checksum::Crc32c, "crc32c"),
            Some(ChecksumChoice::Crc64nvme) => (Checksum::Crc64Nvme, "crc64nvme"),
            Some(ChecksumChoice::None) => (Checksum::None, "none"),
        };
        let set = s3.checksum.map(|_| self.explicit(&key("checksum")));
        let source = set.unwrap_or(Source::Default);
        self.record(&key("checksum"), Some(word.to_owned()), &source);
        Ok(S3Settings {
            endpoint: told.endpoint.map(|endpoint| endpoint.value),
            region: region.map(|r| r.value).filter(|r| !r.is_empty()),
            addressing: if style.value {
                Addressing::Path
            } else {
                Addressing::VirtualHost
            },
            credentials,
            ca_file: tls.ca_file,
            server_name: tls.server_name,
            checksum,
            ..url
        })
    }

    /// Keys that our own file gives under `at`, all or none.
    fn explicit_keys(&mut self, at: &str, s3: &S3Section) -> Result<Option<S3Credentials>> {
        let key = |part: &str| format!("{at}.{part}");
        let id = s3.access_key_id.as_deref();
        let secret = s3.secret_access_key_file.as_deref();
        let token = s3.session_token_file.as_deref();
        match (id, secret) {
            (Some(id), Some(secret)) => {
                self.note(&key("access_key_id"), id);
                let secret = self.secret(&key("secret_access_key_file"), Some(secret), &[]);
                let token = match token {
                    Some(file) => self.secret(&key("session_token_file"), Some(file), &[]),
                    None => None,
                };
                Ok(secret.map(|secret_access_key| S3Credentials::Keys {
                    access_key_id: id.to_owned(),
                    secret_access_key,
                    session_token: token,
                }))
            }
            (None, None) if token.is_none() => Ok(None),
            (id, _) => {
                let (has, lacks) = match (id, secret) {
                    (Some(_), _) => ("access_key_id", "secret_access_key_file"),
                    (None, Some(_)) => ("secret_access_key_file", "access_key_id"),
                    (None, None) => ("session_token_file", "access_key_id"),
                };
                let source = self.explicit(&key(has));
                let message = format!("{} is set without {lacks}", shown(&key(has)));
                Err(wrong(
                    &source,
                    &message,
                    &format!("set {} too", shown(&key(lacks))),
                ))
            }
        }
    }
}
