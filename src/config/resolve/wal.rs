//! The write-ahead log: which queue Milvus chose, and where it keeps its data.

use super::super::model::WalSection;
use super::super::resolved::{Deploy, Objects, Wal, WalKind, WoodpeckerStorage};
use super::super::source::Source;
use super::{Resolver, Sourced, wrong};
use crate::Result;
use crate::milvus::catalog::WalKind as Kind;

/// The defaults of the `milvus.yaml` that Milvus ships; a key that is there and empty disables its
/// queue.
const ROCKSMQ_PATH: &str = "/var/lib/milvus/rdb_data";
const PULSAR_ADDRESS: &str = "localhost";
const NATSMQ_PATH: &str = "/var/lib/milvus/nats";

/// The channel prefix; the older key is tried second, as Milvus does.
const CHANNEL_KEYS: &[&str] = &[
    "msgChannel.chanNamePrefix.cluster",
    "common.chanNamePrefix.cluster",
];

impl Resolver<'_> {
    pub(super) fn wal(
        &mut self,
        section: &WalSection,
        deploy: Deploy,
        objects: &Objects,
    ) -> Result<Wal> {
        let kind = self.wal_type(section, deploy)?;
        let kind = match kind.value {
            Kind::Rocksmq => WalKind::Rocksmq {
                path: self.wal_path(section, &kind.source, "rocksmq.path", ROCKSMQ_PATH)?,
            },
            Kind::Natsmq => WalKind::Natsmq {
                path: self.wal_path(
                    section,
                    &kind.source,
                    "natsmq.server.storeDir",
                    NATSMQ_PATH,
                )?,
            },
            Kind::Kafka => {
                let brokers = self.text("kafka.brokerList", None, &["kafka.brokerList"], None);
                WalKind::Kafka {
                    brokers: brokers.map(|b| b.value).unwrap_or_default(),
                }
            }
            Kind::Pulsar => self.pulsar(),
            Kind::Woodpecker => self.woodpecker(section, objects),
        };
        let given = section.channel_prefix.as_deref();
        let prefix = self.required("instance.wal.channel_prefix", given, CHANNEL_KEYS, "by-dev")?;
        let key = "rootCoord.dmlChannelNum";
        let number = self.required(key, None, &[key], "16")?;
        let dml_channel_num = number.value.parse().map_err(|_| {
            let message = format!("{key} is {}", number.value);
            wrong(
                &number.source,
                &message,
                "it is the number of channels, 16 by default",
            )
        })?;
        Ok(Wal {
            kind,
            channel_prefix: prefix.value,
            dml_channel_num,
        })
    }

    fn wal_type(&mut self, section: &WalSection, deploy: Deploy) -> Result<Sourced<Kind>> {
        let key = "instance.wal.kind";
        if let Some(value) = section.kind {
            let source = self.explicit(key);
            self.record(key, Some(value.name().to_owned()), &source);
            return Ok(Sourced { value, source });
        }
        let told = self.milvus.get(&["mq.type"]).cloned();
        let named = told.as_ref().map(|found| found.text.as_str());
        let value = match named {
            None | Some("" | "default") => None,
            Some(name) if let Some(kind) = Kind::from_name(name) => Some(kind),
            Some(other) => {
                let source = told.as_ref().map_or(Source::Default, |f| f.source.clone());
                let message = format!("mq.type is {other:?}");
                let hint = "Milvus knows default, rocksmq, kafka, pulsar, woodpecker and natsmq";
                return Err(wrong(&source, &message, hint));
            }
        };
        let Some(value) = value else {
            let (value, why) = self.default_wal(deploy);
            self.derive(key, value.name(), &why);
            let source = Source::Derived(why);
            return Ok(Sourced { value, source });
        };
        let source = told.map_or(Source::Default, |found| found.source);
        if deploy == Deploy::Cluster && matches!(value, Kind::Rocksmq | Kind::Natsmq) {
            let message = format!(
                "mq.type is {}, but DEPLOY_MODE says that Milvus is a cluster",
                value.name()
            );
            let hint = "that queue lives inside one process: correct one of them";
            return Err(wrong(&source, &message, hint));
        }
        self.record(key, Some(value.name().to_owned()), &source);
        Ok(Sourced { value, source })
    }

    /// What Milvus takes when `mq.type` is `default`: a standalone one rocksmq, then, as a cluster,
    /// pulsar, kafka, woodpecker, whichever is configured first (2.3 to 2.6; docs/milvus.md 5.2).
    fn default_wal(&self, deploy: Deploy) -> (Kind, String) {
        let on = |key: &str, default: &str| {
            let text = self
                .milvus
                .get(&[key])
                .map_or(default, |found| found.text.as_str());
            !text.is_empty()
        };
        if deploy != Deploy::Cluster && on("rocksmq.path", ROCKSMQ_PATH) {
            let why = match deploy {
                Deploy::Standalone => "mq.type is default, Milvus is standalone",
                _ => "mq.type is default; if Milvus is a cluster, set instance.wal.kind",
            };
            return (Kind::Rocksmq, why.to_owned());
        }
        let why = "mq.type is default, the first queue with an address".to_owned();
        if on("pulsar.address", PULSAR_ADDRESS) {
            (Kind::Pulsar, why)
        } else if on("kafka.brokerList", "") {
            (Kind::Kafka, why)
        } else {
            (
                Kind::Woodpecker,
                "mq.type is default, no other queue is set".to_owned(),
            )
        }
    }

    fn wal_path(
        &mut self,
        section: &WalSection,
        kind: &Source,
        milvus: &str,
        default: &str,
    ) -> Result<std::path::PathBuf> {
        let key = "instance.wal.path";
        let given = section.path.as_deref();
        let found = self
            .path(key, given, &[milvus], Some(default))
            .ok_or_else(|| {
                let message = format!("the queue needs {milvus}, which is empty");
                wrong(kind, &message, &format!("set {key}"))
            })?;
        if found.value.is_absolute() {
            return Ok(found.value);
        }
        let message = format!(
            "{milvus} is {}, relative to a directory that only Milvus knows",
            found.value.display()
        );
        Err(wrong(
            &found.source,
            &message,
            &format!("set {key} to the whole path"),
        ))
    }

    fn pulsar(&mut self) -> WalKind {
        let mut text = |key: &str, default: &str| {
            let found = self.text(key, None, &[key], Some(default));
            found.map(|found| found.value).unwrap_or_default()
        };
        let address = text("pulsar.address", PULSAR_ADDRESS);
        let port = text("pulsar.port", "6650");
        WalKind::Pulsar {
            address: if address.contains(':') {
                address
            } else {
                format!("pulsar://{address}:{port}")
            },
            tenant: text("pulsar.tenant", "public"),
            namespace: text("pulsar.namespace", "default"),
        }
    }

    fn woodpecker(&mut self, section: &WalSection, objects: &Objects) -> WalKind {
        let key = "woodpecker.meta.prefix";
        let meta_prefix = self.text(key, None, &[key], Some("woodpecker"));
        let key = "woodpecker.storage.type";
        let kind = self
            .text(key, None, &[key], None)
            .map(|k| k.value)
            .unwrap_or_default();
        let local = match objects {
            Objects::Local(local) => Some(local.path.join("wp")),
            Objects::S3(_) => None,
        };
        let storage = if kind == "local" || local.is_some() || section.path.is_some() {
            let key = "woodpecker.storage.rootPath";
            let given = section.path.as_deref();
            let told = self
                .path("instance.wal.path", given, &[key], None)
                .map(|p| p.value);
            told.or(local)
                .map_or(WoodpeckerStorage::Objects, WoodpeckerStorage::Local)
        } else {
            WoodpeckerStorage::Objects
        };
        WalKind::Woodpecker {
            meta_prefix: meta_prefix.map(|m| m.value).unwrap_or_default(),
            storage,
        }
    }
}
