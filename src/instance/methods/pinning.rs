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

fn key_of(pin: &Bytes) -> Result<Key> {
    Key::new(String::from_utf8_lossy(pin).into_owned())
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

    async fn capture(&self, object: &LayerObject, _: &Writer) -> Result<Captured> {
        let bytes = match self.store.get(&object.key, GetOptions::default()).await {
            Err(error) if error.cause() == Cause::NotFound => return Ok(Captured::Gone),
            read => read?,
        };
        self.note(format!("capture {}", object.key));
        Ok(Captured::Pinned {
            hash: Some(ObjectHash(*blake3::hash(&bytes).as_bytes())),
            size: bytes.len() as u64,
            pin: Bytes::copy_from_slice(object.key.as_str().as_bytes()),
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
                let options = GetOptions {
                    range,
                    version: None,
                };
                store.get(&key_of(&pin)?, options).await
            }
        });
        parts.boxed()
    }

    async fn verify(&self, pin: &Bytes) -> Result<bool> {
        match self.store.head(&key_of(pin)?).await {
            Ok(_) => Ok(true),
            Err(error) if error.cause() == Cause::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn expire(&self, pin: &Bytes) -> Result<()> {
        self.note(format!("expire {}", key_of(pin)?));
        self.store.delete(&key_of(pin)?, None).await
    }
}
