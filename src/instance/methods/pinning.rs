//! A method for tests, of one file and no line: it leaves objects where they are and pins them by name.

use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};

use super::{CaptureMethod, Captured, Ended, Method, Pins};
use crate::base::env::lock;
use crate::instance::objects::LayerObject;
use crate::repo::{ObjectHash, Writer};
use crate::store::{GetOptions, Key, SharedStore, Store};
use crate::{Cause, Result, Side};

/// What is read of a pinned object at once, in bytes.
const READ: u64 = 1 << 10;

/// Pins the objects of one store.
#[derive(Debug)]
pub(crate) struct Pinning {
    pub(crate) store: SharedStore,
    /// What was asked of it, in order.
    pub(crate) asked: Mutex<Vec<String>>,
}

impl Pinning {
    pub(crate) fn new(store: SharedStore) -> Self {
        let asked = Mutex::default();
        Self { store, asked }
    }

    fn note(&self, what: impl Into<String>) {
        lock(&self.asked).push(what.into());
    }
}

/// The key of a pin, and its version where it has one.
fn pinned(pin: &Bytes) -> Result<(Key, Option<String>)> {
    let pin = String::from_utf8_lossy(pin);
    match pin.rsplit_once('?') {
        Some((key, version)) => Ok((Key::new(key)?, Some(version.to_owned()))),
        None => Ok((Key::new(&*pin)?, None)),
    }
}

#[async_trait]
impl CaptureMethod for Pinning {
    fn method(&self) -> Method {
        Method::Versions
    }

    async fn plan(&self, objects: &dyn Store) -> Result<()> {
        if objects.location() == self.store.location() {
            return Ok(());
        }
        let message = format!("{} is not where this method pins", objects.location());
        Err(Side::Source.error(Cause::Refused, message))
    }

    async fn take(&self, revision: i64) -> Result<()> {
        self.note(format!("take {revision}"));
        Ok(())
    }

    fn needs_versions(&self) -> bool {
        self.store.capabilities().versions
    }

    async fn capture(&self, object: &LayerObject, _: &Writer) -> Result<Captured> {
        let version = object.version.clone();
        let options = GetOptions {
            range: None,
            version: version.clone(),
        };
        let bytes = match self.store.get(&object.key, options).await {
            Err(error) if error.cause() == Cause::NotFound => return Ok(Captured::Gone),
            read => read?,
        };
        self.note(format!("capture {}", object.key));
        let version = version.map_or(String::new(), |version| format!("?{version}"));
        Ok(Captured::Pinned {
            hash: Some(ObjectHash(*blake3::hash(&bytes).as_bytes())),
            size: bytes.len() as u64,
            pin: format!("{}{version}", object.key).into(),
        })
    }

    async fn release(&self, ended: Ended) -> Result<()> {
        self.note(format!("release {ended:?}"));
        Ok(())
    }

    fn pins(&self) -> Option<&dyn Pins> {
        Some(self)
    }
}

#[async_trait]
impl Pins for Pinning {
    fn read(&self, pin: &Bytes, size: u64) -> BoxStream<'static, Result<Bytes>> {
        let (store, pin) = (self.store.clone(), pin.clone());
        let offsets = (0..size.div_ceil(READ)).map(|part| part * READ);
        let parts = stream::iter(offsets).then(move |offset| {
            let (store, pin) = (store.clone(), pin.clone());
            async move {
                let range = Some(offset..(offset + READ).min(size));
                let (key, version) = pinned(&pin)?;
                store.get(&key, GetOptions { range, version }).await
            }
        });
        parts.boxed()
    }

    async fn verify(&self, pin: &Bytes) -> Result<bool> {
        let (key, version) = pinned(pin)?;
        let range = Some(0..1);
        match self.store.get(&key, GetOptions { range, version }).await {
            Ok(_) => Ok(true),
            Err(error) if error.cause() == Cause::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn expire(&self, pin: &Bytes) -> Result<()> {
        let (key, version) = pinned(pin)?;
        self.note(format!("expire {key}"));
        self.store.delete(&key, version.as_deref()).await
    }
}
