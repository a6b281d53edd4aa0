//! Real etcd clusters whose members die, go mute, or lose their quorum.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use crate::base::env::Env;
use crate::base::poll::poll;
use crate::etcd::process::free_port;
use crate::etcd::{Applied, Condition, Etcd, LeaseState, Settings, Status, find_binary, scratch};
use crate::{Cause, Result, Side};

pub(crate) struct Cluster {
    members: Vec<(String, Child)>,
    directory: tempfile::TempDir,
    peers: Vec<String>,
}

impl Cluster {
    pub(crate) async fn start(size: usize) -> Self {
        let urls = |_| format!("http://127.0.0.1:{}", free_port().unwrap());
        let mut cluster = Self {
            members: vec![],
            directory: tempfile::tempdir().unwrap(),
            peers: (0..size).map(urls).collect(),
        };
        for at in 0..size {
            let url = urls(at);
            let child = cluster.spawn(at, &url);
            cluster.members.push((url, child));
        }
        let up = poll(
            Duration::from_mins(3),
            Duration::from_millis(100),
            async || {
                let connected = connect(&cluster.endpoints()).await;
                Ok(connected
                    .ok()
                    .filter(|(_, status)| status.silent.is_empty()))
            },
        );
        up.await.unwrap().unwrap();
        cluster
    }

    fn spawn(&self, at: usize, url: &str) -> Child {
        let peers = self.peers.iter().enumerate();
        let named: Vec<_> = peers.map(|(n, peer)| format!("m{n}={peer}")).collect();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.directory.path().join(format!("log{at}")))
            .unwrap();
        Command::new(find_binary(None).unwrap())
            .args(["--name", &format!("m{at}")])
            .arg("--data-dir")
            .arg(self.directory.path().join(format!("m{at}")))
            .args(["--listen-client-urls", url, "--advertise-client-urls", url])
            .args(["--listen-peer-urls", &self.peers[at]])
            .args(["--initial-advertise-peer-urls", &self.peers[at]])
            .args(["--initial-cluster", &named.join(",")])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|(url, _)| url.clone()).collect()
    }

    pub(crate) async fn kill(&mut self, at: usize) {
        self.members[at].1.kill().await.unwrap();
    }

    pub(crate) fn revive(&mut self, at: usize) {
        let url = self.members[at].0.clone();
        self.members[at].1 = self.spawn(at, &url);
    }

    pub(crate) fn signal(&self, at: usize, signal: Signal) {
        let pid = self.members[at].1.id().unwrap();
        kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
    }
}

pub(crate) async fn connect(endpoints: &[String]) -> Result<(Etcd, Status)> {
    Etcd::connect(&Settings {
        endpoints: endpoints.to_vec(),
        user: None,
        tls: None,
        side: Side::Target,
    })
    .await
}

async fn put(etcd: &mut Etcd, key: &str, value: &str) -> Result<Applied> {
    let pair = [(key.as_bytes().to_vec(), value.as_bytes().to_vec())];
    let absent = vec![Condition::Absent(key.as_bytes().to_vec())];
    etcd.put_all("putting a key", absent, &pair, None).await
}

/// An address where connections are taken and nothing is said, and how many were.
async fn mute() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = taken.clone();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            held.push(stream);
        }
    });
    (address, taken)
}

/// An address that nobody listens at.
fn dead() -> String {
    format!("127.0.0.1:{}", free_port().unwrap())
}

#[tokio::test]
async fn a_dead_and_a_mute_member_are_passed_over_and_named() {
    let (_, process, _directory) = scratch().await;
    let (mute, asked) = mute().await;
    let endpoints = [dead(), mute, process.endpoint().to_owned()];
    for turn in 0..3 {
        let mut turned = endpoints.clone();
        turned.rotate_left(turn);
        let (mut etcd, status) = connect(&turned).await.unwrap();
        assert_eq!(status.silent.len(), 2, "{:?}", status.silent);
        for silent in &endpoints[..2] {
            let named = status.silent.iter().any(|s| s.starts_with(silent));
            assert!(named, "{:?}", status.silent);
        }
        let before = asked.load(Ordering::Relaxed);
        for n in 0..10 {
            let key = format!("k{turn}-{n}");
            put(&mut etcd, &key, "v").await.unwrap();
        }
        let after = asked.load(Ordering::Relaxed);
        assert_eq!(before, after, "the silent one was asked");
    }
}

#[tokio::test]
async fn every_write_is_made_once_while_members_die_and_come_back() {
    let mut cluster = Cluster::start(3).await;
    let (mut etcd, _) = connect(&cluster.endpoints()).await.unwrap();
    let mut writer = etcd.clone();
    let stop = Arc::new(AtomicBool::new(false));
    let ended = stop.clone();
    let writing = tokio::spawn(async move {
        let mut n = 0;
        while !ended.load(Ordering::Relaxed) {
            let applied = put(&mut writer, &format!("k/{n:06}"), &n.to_string()).await;
            // Only this writer makes these keys: that one is there would be its own lost answer.
            assert!(matches!(applied, Ok(Applied::At(_))), "{n}: {applied:?}");
            n += 1;
        }
        n
    });
    for at in [0, 1, 2, 0] {
        tokio::time::sleep(Duration::from_millis(700)).await;
        cluster.kill(at).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        cluster.revive(at);
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let written = writing.await.unwrap();
    let keys = etcd.read_prefix("k/").await.unwrap().keys;
    assert_eq!(keys.len(), written);
    assert!(keys.iter().all(|kv| kv.version == 1));
    assert!(written > 50, "{written}");
}

#[tokio::test]
async fn a_lease_outlives_the_member_that_it_was_granted_by() {
    let mut cluster = Cluster::start(3).await;
    let (mut etcd, _) = connect(&cluster.endpoints()).await.unwrap();
    let lease = etcd
        .lease(Duration::from_secs(20), &Env::system())
        .await
        .unwrap();
    let pair = [(b"held".to_vec(), b"v".to_vec())];
    etcd.put_all("putting", vec![], &pair, Some(&lease))
        .await
        .unwrap();
    // The first is killed, and later the second stops to answer.
    cluster.kill(0).await;
    tokio::time::sleep(Duration::from_secs(21)).await;
    cluster.revive(0);
    tokio::time::sleep(Duration::from_secs(3)).await;
    cluster.signal(1, Signal::SIGSTOP);
    tokio::time::sleep(Duration::from_secs(21)).await;
    assert_eq!(lease.state(), LeaseState::Held);
    assert!(etcd.get("held").await.unwrap().is_some());
    lease.release().await.unwrap();
    assert!(etcd.get("held").await.unwrap().is_none());
}

#[tokio::test]
async fn without_a_quorum_the_call_ends_and_all_members_are_named() {
    let mut cluster = Cluster::start(3).await;
    let (mut etcd, _) = connect(&cluster.endpoints()).await.unwrap();
    cluster.kill(0).await;
    cluster.kill(1).await;
    let named = |error: &crate::Error| {
        assert_eq!(error.cause(), Cause::Unavailable, "{error:?}");
        for endpoint in cluster.endpoints() {
            assert!(error.chain().contains(&endpoint), "{}", error.chain());
        }
    };
    named(&put(&mut etcd, "k", "v").await.unwrap_err());
    named(&connect(&cluster.endpoints()).await.unwrap_err());
    // Nobody answers at all.
    cluster.kill(2).await;
    let error = connect(&cluster.endpoints()).await.unwrap_err();
    assert_eq!(error.cause(), Cause::Unavailable, "{error:?}");
    // What the connections failed with, in words and not as the client's own structures.
    let said = error.chain();
    assert!(
        said.contains("Connection refused") && !said.contains("Os {"),
        "{said}"
    );
}

#[tokio::test]
async fn members_of_two_clusters_are_refused() {
    let (_, one, _directory) = scratch().await;
    let (_, other, _directory) = scratch().await;
    let endpoints = [one.endpoint().to_owned(), other.endpoint().to_owned()];
    let error = connect(&endpoints).await.unwrap_err();
    assert_eq!(error.cause(), Cause::Invalid, "{error:?}");
    assert!(error.chain().contains("two clusters"), "{}", error.chain());
}

/// Forwards to an etcd, and when it is told to, hands on what is sent and cuts the connection instead of
/// handing back the answer.
async fn forgetful(to: String) -> (String, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let forgets = Arc::new(AtomicBool::new(false));
    let told = forgets.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(to.trim_start_matches("http://"))
                .await
                .unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            let told = told.clone();
            tokio::spawn(async move {
                tokio::io::copy(&mut from_client, &mut to_server).await.ok();
            });
            tokio::spawn(async move {
                let mut buffer = vec![0; 65_536];
                while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
                    if told.swap(false, Ordering::Relaxed) {
                        return;
                    }
                    if to_client.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, forgets)
}

#[tokio::test]
async fn a_transaction_whose_answer_is_lost_is_looked_up() {
    let (_, process, _directory) = scratch().await;
    let (through, forgets) = forgetful(process.endpoint().to_owned()).await;
    let (mut etcd, _) = connect(&[through]).await.unwrap();
    put(&mut etcd, "first", "v").await.unwrap();

    forgets.store(true, Ordering::Relaxed);
    let applied = put(&mut etcd, "k", "v").await.unwrap();
    assert!(!forgets.load(Ordering::Relaxed));
    let found = etcd.get("k").await.unwrap().unwrap();
    assert_eq!(applied, Applied::At(found.mod_revision));

    // A key with this value that was there before is not taken for the lost transaction's.
    forgets.store(true, Ordering::Relaxed);
    assert_eq!(put(&mut etcd, "k", "v").await.unwrap(), Applied::No);

    forgets.store(true, Ordering::Relaxed);
    let exists = vec![Condition::Equals(b"k".to_vec(), b"v".to_vec())];
    let keys = [b"k".to_vec(), b"first".to_vec()];
    let deleted = etcd.delete_all("deleting keys", exists, &keys).await;
    assert!(matches!(deleted, Ok(Applied::At(_))), "{deleted:?}");

    forgets.store(true, Ordering::Relaxed);
    let lease = etcd
        .lease(Duration::from_secs(10), &Env::system())
        .await
        .unwrap();
    let pair = [(b"leased".to_vec(), b"v".to_vec())];
    etcd.put_all("putting", vec![], &pair, Some(&lease))
        .await
        .unwrap();
    assert_eq!(etcd.get("leased").await.unwrap().unwrap().lease, lease.id());
}
