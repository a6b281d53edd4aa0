//! Credentials that are read again once a server does not take them any more.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_config::BehaviorVersion;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, Result, future};
use aws_sdk_s3::config::Intercept;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::AfterDeserializationInterceptorContextRef;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::error::display::DisplayErrorContext;
use tokio::sync::Mutex;

use super::error::EXPIRED;
use crate::base::secret::SecretSource;

/// Credentials of an S3 endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum S3Credentials {
    /// The AWS credential chain: variables, profile, web identity, instance role.
    #[default]
    Chain,
    /// Keys.
    Keys {
        /// The access key id.
        access_key_id: String,
        /// The secret access key.
        secret_access_key: SecretSource,
        /// A session token of temporary keys.
        session_token: Option<SecretSource>,
    },
}

/// Credentials are asked for again so long before they expire, as the SDK does it.
const BEFORE_EXPIRY: Duration = Duration::from_mins(5);

impl S3Credentials {
    /// The keys; `None` for the AWS chain.
    pub(super) fn read(&self) -> crate::Result<Option<Credentials>> {
        let Self::Keys {
            access_key_id,
            secret_access_key,
            session_token,
        } = self
        else {
            return Ok(None);
        };
        let secret = secret_access_key.read()?;
        let token = session_token.as_ref().map(SecretSource::read).transpose()?;
        let token = token.map(|token| token.expose().to_owned());
        let credentials = Credentials::new(access_key_id, secret.expose(), token, None, "eyrie");
        Ok(Some(credentials))
    }
}

/// The credentials of a client, kept until they expire or are refused. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Renewed {
    from: S3Credentials,
    held: Arc<Mutex<Held>>,
}

#[derive(Debug, Default)]
struct Held {
    credentials: Option<Credentials>,
    refused: bool,
}

impl Held {
    fn fresh(&self) -> Option<&Credentials> {
        let soon = SystemTime::now() + BEFORE_EXPIRY;
        let fresh = |expiry| expiry > soon;
        let held = self.credentials.as_ref().filter(|_| !self.refused);
        held.filter(|credentials| credentials.expiry().is_none_or(fresh))
    }
}

impl Renewed {
    pub(super) fn new(from: S3Credentials) -> Self {
        let held = Arc::default();
        Self { from, held }
    }

    async fn provide(&self) -> Result {
        let mut held = self.held.lock().await;
        if let Some(credentials) = held.fresh() {
            return Ok(credentials.clone());
        }
        match (self.read().await, &held.credentials) {
            (Ok(read), _) => {
                held.refused = false;
                Ok(held.credentials.insert(read).clone())
            }
            // Who renews them may be writing the file: the call fails with what the server says, and is made again.
            (Err(error), Some(old)) => {
                let why = DisplayErrorContext(&error);
                tracing::warn!("the credentials cannot be read again: {why}");
                Ok(old.clone())
            }
            (Err(error), None) => Err(error),
        }
    }

    async fn read(&self) -> Result {
        if let Some(keys) = self.from.read().map_err(CredentialsError::provider_error)? {
            return Ok(keys);
        }
        // A new chain reads the files of profiles again.
        let chain = aws_config::defaults(BehaviorVersion::latest()).load().await;
        let none = || CredentialsError::not_loaded("the AWS chain has no credentials provider");
        let provider = chain.credentials_provider().ok_or_else(none)?;
        provider.provide_credentials().await
    }
}

impl ProvideCredentials for Renewed {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.provide())
    }
}

/// Looks at each answer, and has credentials that have expired read again for the next call.
impl Intercept for Renewed {
    fn name(&self) -> &'static str {
        "Renewed"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> std::result::Result<(), BoxError> {
        let answer = context.response();
        let refused = matches!(answer.status().as_u16(), 400 | 401 | 403);
        let body = answer.body().bytes().unwrap_or_default();
        // HEAD has no body.
        let expired = body.is_empty() || EXPIRED.iter().any(|code| contains(body, code.as_bytes()));
        // Who holds the lock is reading them.
        if refused
            && expired
            && let Ok(mut held) = self.held.try_lock()
        {
            held.refused = true;
        }
        Ok(())
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
