//! A simulated instance: scripted proxies on a real etcd and a directory of objects.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::CommandCargoExt as _;
use etcd_client::{EventType, Permission, WatchOptions};
use eyrie::Side;
use eyrie::base::env::Env;
use eyrie::base::secret::Secret;
use eyrie::etcd::{Etcd, Lease, Process, Settings, batches, find_binary};
use eyrie::milvus::catalog::Catalog;
use eyrie::milvus::keys::Roots;
use eyrie::milvus::simulated::keys::SimulatedKeys;
use eyrie::milvus::simulated::{Backing, Script, SimulatedMilvus, object_bytes};
use serde_json::Value;

use crate::fixture::Ran;

/// How long something that is waited for may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// An instance called `main` in a scratch directory, with a repository.
pub struct World {
    pub backing: Backing,
    pub proxies: Vec<SimulatedMilvus>,
    wal: &'static str,
    /// What the `etcd` section says about a user.
    etcd_user: &'static str,
    sessions: Option<Lease>,
    _etcd: Process,
    directory: tempfile::TempDir,
}

impl World {
    /// Starts an etcd, and puts the keys that `keys` makes for a storage root, and the objects that
    /// they require. Nobody serves them yet.
    pub async fn new(wal: &'static str, keys: impl FnOnce(&str) -> SimulatedKeys) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let installed =
            find_binary(None).expect("an etcd on PATH: run this under the lab's `exec`");
        // Under authentication a token is good for five minutes, longer than a test waits.
        let script = format!(
            "#!/bin/sh\nexec '{}' \"$@\" --auth-token-ttl 1\n",
            installed.display()
        );
        let binary = directory.path().join("etcd.sh");
        write_with_mode(&binary, &script, 0o700);
        let log = directory.path().join("etcd.log");
        let data = directory.path().join("etcd");
        let (process, etcd, _) = Process::start(&binary, &data, &log, Side::Source)
            .await
            .unwrap();
        let storage = directory.path().join("storage");
        std::fs::create_dir(&storage).unwrap();
        let mut set = keys(storage.to_str().unwrap());
        set.keys.retain(|kv| !is_session(&kv.key));
        let backing = Backing {
            etcd,
            roots: SimulatedKeys::roots(),
            version: set.version.clone(),
            storage,
        };
        backing.seed(&set).await.unwrap();
        let world = Self {
            backing,
            proxies: vec![],
            wal,
            etcd_user: "",
            sessions: None,
            _etcd: process,
            directory,
        };
        write_with_mode(&world.path("passphrase"), "white-tailed", 0o600);
        world
    }

    /// Lets only users into etcd: ours may touch the keys of the two instances and nothing else.
    pub async fn authenticate(&mut self) {
        let endpoint = self.backing.etcd.endpoints().to_owned();
        let mut client = etcd_client::Client::connect([&endpoint], None)
            .await
            .unwrap();
        client.role_add("root").await.unwrap();
        client.role_add("backup").await.unwrap();
        for prefix in ["by-dev/", "restored/"] {
            let permission = Permission::read_write(prefix).with_prefix();
            client
                .role_grant_permission("backup", permission)
                .await
                .unwrap();
        }
        for (user, password, role) in [("root", "osprey", "root"), ("eyrie", "kestrel", "backup")] {
            client.user_add(user, password, None).await.unwrap();
            client.user_grant_role(user, role).await.unwrap();
        }
        client.auth_enable().await.unwrap();
        self.backing.etcd = self.etcd_as("root", "osprey").await;
        self.set_etcd_password("kestrel");
        self.etcd_user = ", username: eyrie, password_file: etcd-password";
    }

    /// A connection of a user.
    pub async fn etcd_as(&self, user: &str, password: &str) -> Etcd {
        let settings = Settings {
            endpoints: vec![self.backing.etcd.endpoints().to_owned()],
            user: Some((user.to_owned(), Secret::new(password))),
            tls: None,
            side: Side::Source,
        };
        Etcd::connect(&settings).await.unwrap().0
    }

    /// Writes the password of etcd that is configured.
    pub fn set_etcd_password(&self, password: &str) {
        write_with_mode(&self.path("etcd-password"), password, 0o600);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts a proxy for each script, on one port of addresses that count up from 127.0.0.1, with
    /// their sessions in etcd.
    pub async fn start(&mut self, scripts: impl IntoIterator<Item = Script>) {
        let mut port = 0;
        let mut sessions = vec![
            session("rootcoord", 5, "127.0.0.1"),
            session("datacoord", 6, "127.0.0.1"),
        ];
        for (number, script) in (1..).zip(scripts) {
            let address = SocketAddr::from(([127, 0, 0, number], port));
            let proxy = SimulatedMilvus::start_on(&self.backing, script, address).await;
            let (host, bound) = proxy.address().rsplit_once(':').map(owned).unwrap();
            port = bound.parse().unwrap();
            sessions.push(session(
                &format!("proxy-{}", 10 + number),
                10 + u32::from(number),
                &host,
            ));
            self.proxies.push(proxy);
        }
        let mut etcd = self.backing.etcd.clone();
        let lease = etcd
            .lease(Duration::from_mins(1), &Env::system())
            .await
            .unwrap();
        let put = etcd.put_all("simulating", vec![], &sessions, Some(&lease));
        put.await.unwrap();
        self.sessions = Some(lease);
        let address = self.proxies[0].address();
        let management = self.proxies[0].management_address();
        self.configure(
            "main",
            &format!("{{address: '{address}', management: 'http://{management}'}}"),
            &self.backing.roots.root,
        );
    }

    /// Configures the instance as one that is stopped.
    pub fn stopped(&self) {
        std::fs::create_dir_all(self.path("main-wal")).unwrap();
        std::fs::create_dir_all(self.path("main-wal_meta_kv")).unwrap();
        std::fs::write(
            self.path("main-wal/000004.log"),
            "rows that no flush has written",
        )
        .unwrap();
        self.configure(
            "main",
            &nobody(&self.backing.version.to_string()),
            &self.backing.roots.root,
        );
    }

    /// Configures an empty instance of that version and queue beside this one.
    pub fn target(&mut self, version: &str, wal: &'static str) {
        let source = std::mem::replace(&mut self.wal, wal);
        self.configure("target", &nobody(version), "restored");
        self.wal = source;
    }

    fn configure(&self, name: &str, milvus: &str, root: &str) {
        let storage = if name == "main" {
            "storage"
        } else {
            "target-storage"
        };
        let wal = match self.wal {
            "rocksmq" => format!("{{kind: rocksmq, path: {name}-wal}}"),
            other => format!("{{kind: {other}}}"),
        };
        let endpoint = self.backing.etcd.endpoints();
        let user = self.etcd_user;
        let text = format!(
            "instance:
  name: {name}
  milvus: {milvus}
  etcd: {{endpoints: ['{endpoint}'], root_path: {root}{user}}}
  objects: {{type: local, path: {storage}}}
  wal: {wal}
repositories:
  - {{name: primary, url: repo, passphrase_file: passphrase}}
"
        );
        std::fs::write(self.path(&format!("{name}.yaml")), text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::cargo_bin("eyrie").unwrap();
        for (key, _) in std::env::vars().filter(|(key, _)| key.starts_with("EYRIE_")) {
            command.env_remove(key);
        }
        command
            .env("HOME", self.directory.path())
            .stdin(Stdio::null());
        command
            .arg("--config")
            .arg(self.path("main.yaml"))
            .args(arguments);
        command
    }

    /// Runs the command to its end.
    pub async fn run(&self, arguments: &[&str]) -> Ran {
        self.start_command(arguments).await
    }

    /// Starts the command; it runs while other things are done.
    pub fn start_command(&self, arguments: &[&str]) -> impl Future<Output = Ran> + 'static {
        let mut command = self.command(arguments);
        let running = tokio::task::spawn_blocking(move || Ran(command.output().unwrap()));
        async { running.await.unwrap() }
    }

    /// The one document that a command prints.
    pub async fn json(&self, schema: &str, arguments: &[&str]) -> Value {
        let arguments: Vec<&str> = std::iter::once("--json")
            .chain(arguments.iter().copied())
            .collect();
        self.run(&arguments).await.expect(0).json(schema)
    }

    /// How often a call was made, by all proxies.
    pub fn calls(&self, name: &str) -> usize {
        let calls = self.proxies.iter().flat_map(SimulatedMilvus::calls);
        calls.filter(|call| *call == name).count()
    }

    /// Everything that ever happened to the dynamic configuration, in order.
    pub async fn config_history(&self) -> Vec<String> {
        let prefix = format!("{}/config/", self.backing.roots.root);
        let last = format!("{prefix}zz-end-of-the-test");
        let mut client = etcd_client::Client::connect([self.backing.etcd.endpoints()], None)
            .await
            .unwrap();
        client.put(last.as_str(), "", None).await.unwrap();
        let options = WatchOptions::new().with_prefix().with_start_revision(1);
        let mut watch = client.watch(prefix.as_str(), Some(options)).await.unwrap();
        let mut history = vec![];
        loop {
            for event in watch.message().await.unwrap().unwrap().events() {
                let kv = event.kv().unwrap();
                let name = kv.key_str().unwrap().strip_prefix(&prefix).unwrap();
                if kv.key_str().unwrap() == last {
                    client.delete(last.as_str(), None).await.unwrap();
                    return history;
                }
                let lease = if kv.lease() == 0 {
                    ""
                } else {
                    " under a lease"
                };
                history.push(match event.event_type() {
                    EventType::Put => format!("{name} = {}{lease}", kv.value_str().unwrap()),
                    EventType::Delete => format!("{name} removed"),
                });
            }
        }
    }

    /// Waits until the dynamic configuration has an item.
    pub async fn until_set(&self, item: &str) {
        self.until_put(&format!("config/{item}")).await;
    }

    /// Waits until there is a key below the root.
    pub async fn until_put(&self, key: &str) {
        let item = key;
        let key = format!("{}/{key}", self.backing.roots.root);
        let give_up = Instant::now() + PATIENCE;
        while self.backing.etcd.clone().get(&key).await.unwrap().is_none() {
            assert!(Instant::now() < give_up, "{item} was not put");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Puts what `change` adds to a set of keys.
    pub async fn put(&self, change: impl FnOnce(&mut SimulatedKeys)) {
        let mut set = SimulatedKeys::empty(self.backing.version.clone());
        change(&mut set);
        let keys: Vec<_> = set.keys.into_iter().map(|kv| (kv.key, kv.value)).collect();
        for batch in batches(&keys, eyrie::etcd::TxnLimits::default()) {
            let mut etcd = self.backing.etcd.clone();
            etcd.put_all("simulating", vec![], &batch, None)
                .await
                .unwrap();
        }
    }

    /// The paths of a snapshot's objects.
    pub async fn listed(&self) -> BTreeSet<String> {
        let listed = self.json("ls", &["ls", "latest"]).await;
        let paths = listed.as_array().unwrap().iter();
        paths
            .map(|entry| entry["path"].as_str().unwrap().to_owned())
            .collect()
    }

    /// What the keys of the restored root say, for a Milvus of that version.
    pub async fn restored(&self) -> Catalog {
        let read = self
            .backing
            .etcd
            .clone()
            .read_prefix("restored/")
            .await
            .unwrap();
        Catalog::decode(&Roots::new("restored"), &read.keys, &self.backing.version).unwrap()
    }

    /// Every object that the restored keys require is there, with the bytes that Milvus wrote, and no
    /// other file.
    pub fn restored_objects_are_those_of(&self, catalog: &Catalog) {
        let expected = catalog
            .objects()
            .map(|object| (object.path.clone(), object_bytes(&object)));
        let expected: BTreeMap<_, _> = expected.collect();
        let root = self.path("target-storage");
        let found = files(&root).into_iter().map(|path| {
            let bytes = std::fs::read(&path).unwrap();
            (
                path.strip_prefix(&root)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned(),
                bytes,
            )
        });
        let found: BTreeMap<_, _> = found.collect();
        assert_eq!(
            found.keys().collect::<Vec<_>>(),
            expected.keys().collect::<Vec<_>>()
        );
        assert!(found == expected, "some object has other bytes");
    }
}

/// Nothing listens on port 1.
fn nobody(version: &str) -> String {
    format!("{{address: '127.0.0.1:1', management: 'http://127.0.0.1:1', version: {version}}}")
}

fn write_with_mode(path: &Path, text: &str, mode: u32) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn files(root: &Path) -> Vec<PathBuf> {
    let files = walkdir::WalkDir::new(root).sort_by_file_name().into_iter();
    let files = files.map(|file| file.unwrap().into_path());
    files.filter(|path| path.is_file()).collect()
}

fn is_session(key: &[u8]) -> bool {
    let key = String::from_utf8_lossy(key);
    key.contains("/session/") && !key.ends_with("/id") && !key.ends_with("/version")
}

fn session(name: &str, id: u32, host: &str) -> (Vec<u8>, Vec<u8>) {
    let key = format!("by-dev/meta/session/{name}");
    let value = format!(r#"{{"ServerID":{id},"Address":"{host}:53100"}}"#);
    (key.into(), value.into())
}

fn owned((a, b): (&str, &str)) -> (String, String) {
    (a.to_owned(), b.to_owned())
}
