//! What clients feel of a capture, for instances of two sizes: the whole of a quiesced capture against a real
//! etcd with the keys of a simulated Milvus 2.4.24, whose flush costs next to nothing.
//!
//! `cargo bench --bench window` needs an etcd 3.5 on `PATH`. What counts are the ratios: the time that is
//! spent on reading while writes are denied to that of reading all keys, and the larger instance to the
//! smaller. `EYRIE_BENCH_COLLECTIONS` sets how many collections the larger one has (default 10,000, with
//! 1,040,000 keys of logs; the smaller has a hundredth), `TMPDIR` where etcd's data lies.

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use eyrie::base::env::Env;
use eyrie::etcd::{Lease, Process, find_binary};
use eyrie::milvus::MilvusVersion;
use eyrie::milvus::catalog::Catalog;
use eyrie::milvus::proto::meta::CollectionState;
use eyrie::milvus::simulated::keys::SimulatedKeys;
use eyrie::milvus::simulated::{Backing, Script, SimulatedMilvus, Writes, object_bytes};
use eyrie::{Cause, Error, Result, Side};
use serde_json::Value;

/// How many collections the larger instance has, unless something else is asked for.
const COLLECTIONS: usize = 10_000;

/// How many times smaller the smaller one is.
const SMALLER: usize = 100;

/// Segments of a collection, each with eight keys of logs.
const SEGMENTS: i64 = 13;

/// Collections whose keys are made at once.
const AT_ONCE: usize = 100;

fn main() -> Result<()> {
    let asked = std::env::var("EYRIE_BENCH_COLLECTIONS").ok();
    let larger = asked
        .and_then(|text| text.parse().ok())
        .unwrap_or(COLLECTIONS);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        println!(
            "{:>11} {:>10} {:>13} {:>9} {:>9} {:>9} {:>9} {:>9} {:>14}",
            "collections",
            "keys",
            "read and know",
            "hold",
            "denial",
            "flush",
            "reading",
            "quiet",
            "reading/read"
        );
        let smaller = measure(larger / SMALLER).await?;
        let larger = measure(larger).await?;
        println!(
            "larger to smaller: keys {:.1}, reading all of them {:.1}, hold {:.2}, reading in it {:.1}",
            larger.keys / smaller.keys,
            larger.whole / smaller.whole,
            larger.hold / smaller.hold,
            larger.reading / smaller.reading,
        );
        Ok(())
    })
}

/// What was measured of one instance; times are in seconds.
struct Measured {
    keys: f64,
    /// Reading and decoding all keys.
    whole: f64,
    hold: f64,
    reading: f64,
}

async fn measure(collections: usize) -> Result<Measured> {
    let folder = tempfile::tempdir()?;
    let (data, log) = (folder.path().join("etcd"), folder.path().join("etcd.log"));
    let storage = folder.path().join("storage");
    std::fs::create_dir(&storage)?;
    let binary = find_binary(None)?;
    let (_process, etcd, _) = Process::start(&binary, &data, &log, Side::Source).await?;
    let backing = Backing {
        etcd,
        roots: SimulatedKeys::roots(),
        version: MilvusVersion::new(2, 4, 24),
        storage,
    };
    fill(&backing, collections).await?;
    let script = Script {
        writes: Writes::AsConfigured,
        ..Script::new("2.4.24")
    };
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let milvus = SimulatedMilvus::start_on(&backing, script, any_port).await;
    let _sessions = sessions(&backing).await?;

    let began = Instant::now();
    let read = backing
        .etcd
        .clone()
        .read_prefix(&backing.roots.prefix())
        .await?;
    let catalog = Catalog::decode(&backing.roots, &read.keys, &backing.version)?;
    let whole = began.elapsed().as_secs_f64();
    // What clients feel is over before objects are copied; one proves that the storage is the instance's.
    if let Some(object) = catalog.objects().next() {
        let path = backing.storage.join(&object.path);
        std::fs::create_dir_all(path.parent().unwrap_or(&path))?;
        std::fs::write(&path, object_bytes(&object))?;
    }
    let keys = read.keys.len();
    drop((read, catalog));

    configure(folder.path(), &backing, &milvus)?;
    eyrie(folder.path(), &["init"])?;
    let backup = eyrie(folder.path(), &["backup", "--allow-missing"])?;
    let seconds = |value: &Value| {
        let ms = value.as_u64().unwrap_or(0);
        Duration::from_millis(ms).as_secs_f64()
    };
    let spent = &backup["write_hold_spent"];
    let (hold, reading) = (
        seconds(&backup["write_hold_ms"]),
        seconds(&spent["reading_ms"]),
    );
    println!(
        "{collections:>11} {keys:>10} {whole:>11.2} s {hold:>7.2} s {:>7.2} s {:>7.2} s {reading:>7.2} s {:>7.2} s {:>14.3}",
        seconds(&spent["denial_ms"]),
        seconds(&spent["flush_ms"]),
        seconds(&spent["quiet_ms"]),
        reading / whole
    );
    Ok(Measured {
        keys: count(keys),
        whole,
        hold,
        reading,
    })
}

fn count(keys: usize) -> f64 {
    u32::try_from(keys).map_or(f64::INFINITY, f64::from)
}

/// Puts the keys of an instance with so many collections.
async fn fill(backing: &Backing, collections: usize) -> Result<()> {
    backing
        .put(&SimulatedKeys::new(backing.version.clone()))
        .await?;
    let ids: Vec<i64> = (1..).map(|n| n * 1_000).take(collections).collect();
    for some in ids.chunks(AT_ONCE) {
        let mut set = SimulatedKeys::empty(backing.version.clone());
        for &id in some {
            set.collection(id, &format!("c{id}"), CollectionState::Created);
            for segment in 0..SEGMENTS {
                let segment = set.segment_of(id, id + 10 + segment);
                set.whole(&segment);
            }
        }
        backing.put(&set).await?;
    }
    Ok(())
}

/// Puts the sessions of a running Milvus, which end with the lease.
async fn sessions(backing: &Backing) -> Result<Lease> {
    let mut etcd = backing.etcd.clone();
    let lease = etcd.lease(Duration::from_mins(1), &Env::system()).await?;
    let session = |name: &str, id: u32| {
        let key = format!("{}meta/session/{name}", backing.roots.prefix());
        // The port of a proxy is the configured one.
        let value = format!(r#"{{"ServerID":{id},"Address":"127.0.0.1:53100"}}"#);
        (key.into_bytes(), value.into_bytes())
    };
    let put = [
        session("rootcoord", 5),
        session("datacoord", 6),
        session("proxy-10", 10),
    ];
    etcd.put_all("simulating", vec![], &put, Some(&lease))
        .await?;
    Ok(lease)
}

/// Writes eyrie's configuration for the instance.
fn configure(folder: &Path, backing: &Backing, milvus: &SimulatedMilvus) -> Result<()> {
    let text = format!(
        "instance:
  name: main
  milvus: {{address: '{}', management: 'http://{}'}}
  etcd: {{endpoints: ['{}'], root_path: {}}}
  objects: {{type: local, path: storage}}
  wal: {{kind: rocksmq, path: wal}}
repositories:
  - {{name: primary, url: repo, passphrase_file: passphrase}}
",
        milvus.address(),
        milvus.management_address(),
        backing.etcd.endpoints(),
        backing.roots.root,
    );
    std::fs::write(folder.join("eyrie.yaml"), text)?;
    let mut passphrase = std::fs::OpenOptions::new();
    let mut passphrase = passphrase
        .write(true)
        .create(true)
        .mode(0o600)
        .open(folder.join("passphrase"))?;
    passphrase.write_all(b"white-tailed")?;
    Ok(())
}

/// Runs the command; gives the document that it prints.
fn eyrie(folder: &Path, arguments: &[&str]) -> Result<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_eyrie"))
        .env("HOME", folder)
        .arg("--config")
        .arg(folder.join("eyrie.yaml"))
        .arg("--json")
        .args(arguments)
        .stdin(Stdio::null())
        .output()?;
    let failed = |_| {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Error::new(
            Cause::Failed,
            format!("eyrie {}: {said}", arguments.join(" ")),
        )
    };
    serde_json::from_slice(&output.stdout).map_err(failed)
}
