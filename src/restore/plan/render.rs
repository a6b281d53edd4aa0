//! A plan as text, for `--dry-run`.

use std::fmt::{self, Display, Formatter};

use crate::base::text::Bytes;
use crate::instance::objects::LayerKind;
use crate::restore::options::Ttl;
use crate::restore::plan::document::{
    ASSUMED_BYTES_PER_SECOND, ASSUMED_OBJECTS_PER_SECOND, RestorePlan,
};
use crate::restore::plan::inputs::{Known, TargetVersion};

impl Display for TargetVersion {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let known = match self.known {
            Known::Declared => "declared",
            Known::Recorded => "recorded in etcd",
            Known::Assumed => "assumed",
            Known::Not => return f.write_str("Milvus of unknown version"),
        };
        write!(f, "Milvus {} ({known})", self.version)
    }
}

impl Display for RestorePlan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let target = &self.target;
        writeln!(f, "snapshot  {}", self.snapshot)?;
        writeln!(
            f,
            "          {} at {}, Milvus {}",
            self.source, self.time, self.milvus_version
        )?;
        writeln!(f, "target    {}, {}", target.instance, target.version)?;
        let etcd = &target.etcd;
        let embedded = if etcd.embedded { ", embedded" } else { "" };
        writeln!(f, "  etcd    {} root {}{embedded}", etcd.place, etcd.root)?;
        if !etcd.room.version.is_empty() {
            let quota = match (etcd.embedded, etcd.room.quota) {
                (true, _) => " prepares it".to_owned(),
                (false, quota) => {
                    let of = quota.map_or_else(
                        || "a quota that it does not tell".to_owned(),
                        |quota| format!("a quota of {}", Bytes(quota)),
                    );
                    format!(", {} of {of}", Bytes(etcd.room.size))
                }
            };
            writeln!(f, "          etcd {}{quota}", etcd.room.version)?;
        }
        let layer = match target.storage.layer {
            LayerKind::Local => "directory",
            LayerKind::S3 => "bucket",
        };
        writeln!(f, "  objects {} ({layer})", target.storage.place)?;
        if let Some(on) = &target.storage.file_system {
            let (kind, mount) = (&on.kind, on.mount.display());
            writeln!(f, "          {} free on {mount} ({kind})", Bytes(on.free))?;
        }
        let queue = match self.wal.state.as_str() {
            "captured" => format!(
                "{} files, {}, from the snapshot",
                self.wal.files,
                Bytes(self.wal.bytes)
            ),
            _ => "a fresh one; positions are rewritten".to_owned(),
        };
        writeln!(f, "  queue   {}: {queue}", self.wal.kind)?;
        for (directory, _) in &target.wal.directories {
            writeln!(f, "          {}", directory.display())?;
        }
        if let Some(stage) = self.resumes {
            writeln!(
                f,
                "resumes   an interrupted restore of this snapshot, stage {}",
                stage.as_str()
            )?;
        }
        writeln!(
            f,
            "writes    {} objects, {}, {} of them index files; {} keys",
            self.objects,
            Bytes(self.bytes),
            self.index_files,
            self.etcd_keys
        )?;
        writeln!(
            f,
            "takes     about {} s (assumed: {}/s and {} objects/s)",
            self.expected_seconds,
            Bytes(ASSUMED_BYTES_PER_SECOND),
            ASSUMED_OBJECTS_PER_SECOND
        )?;
        writeln!(f, "loaded    {}", self.load)?;
        self.lists(f)
    }
}

impl RestorePlan {
    fn lists(&self, f: &mut Formatter<'_>) -> fmt::Result {
        section(
            f,
            "keys",
            self.changes
                .iter()
                .filter(|c| c.action != "keep")
                .map(|c| format!("{:8} {:5} {}: {}", c.action, c.keys, c.family, c.why)),
        )?;
        let suspended = match self.ttl {
            Ttl::Keep => "rows expire",
            Ttl::Suspend => "suspended: set to 0",
        };
        section(
            f,
            "time to live",
            self.expiring.iter().map(|e| {
                format!(
                    "{}.{}: {} s, {suspended}",
                    e.database, e.collection, e.ttl_seconds
                )
            }),
        )?;
        section(
            f,
            "wipes",
            self.wipes.iter().map(|wipe| {
                let size = match wipe.bytes {
                    0 => String::new(),
                    bytes => format!(", {}", Bytes(bytes)),
                };
                format!("{}: {} entries{size}", wipe.place, wipe.entries)
            }),
        )?;
        section(
            f,
            "weakened",
            self.weakened.iter().map(|weak| {
                let items = if weak.items.is_empty() {
                    String::new()
                } else {
                    format!(": {}", weak.items.join(", "))
                };
                format!("{}: {}{items}", weak.code, weak.message)
            }),
        )?;
        section(
            f,
            "to be stopped first",
            self.target.to_stop.iter().cloned(),
        )?;
        section(f, "lacking", self.lacking.iter().map(ToString::to_string))?;
        section(f, "notes", self.notes.iter().cloned())?;
        section(f, "steps", numbered(&self.steps))?;
        section(f, "afterwards", numbered(&self.next_steps))?;
        section(
            f,
            "refused",
            self.refusals
                .iter()
                .map(|refusal| format!("{}\n    {}", refusal.found, refusal.hint)),
        )
    }
}

fn numbered(lines: &[String]) -> impl Iterator<Item = String> {
    lines
        .iter()
        .enumerate()
        .map(|(n, line)| format!("{}. {line}", n + 1))
}

fn section(f: &mut Formatter<'_>, title: &str, lines: impl Iterator<Item = String>) -> fmt::Result {
    for (n, line) in lines.enumerate() {
        if n == 0 {
            writeln!(f, "{title}")?;
        }
        writeln!(f, "  {line}")?;
    }
    Ok(())
}
