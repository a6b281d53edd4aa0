//! Which Milvus is installed on this host: what tells the version of one that is stopped, before there is any
//! snapshot of it.
//!
//! The container that it ran in is asked for first: of the runtimes on this host, the one whose volumes hold this
//! instance's files. Then the program `milvus` on `PATH` is looked at, which was built with its version in it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use memchr::memmem;
use serde::Deserialize;
use tracing::debug;

use crate::base::file_system::program_on_path;
use crate::config::{Instance, Objects};
use crate::instance::wal;
use crate::milvus::version::MilvusVersion;
use crate::{Cause, Error, Result, Side};

/// Where container runtimes listen that speak the API of Docker.
const SOCKETS: [&str; 2] = ["/var/run/docker.sock", "/run/podman/podman.sock"];

/// How long such a runtime may take to answer: it is on this host.
const PATIENCE: Duration = Duration::from_secs(3);

/// The label of an image that names the version of what is in it.
const VERSION_LABEL: &str = "org.opencontainers.image.version";

/// What Go's linker was told of the version (Milvus's Makefile, `-X '…/cmd/milvus.BuildTags=v2.3.5'`).
const BUILD_TAGS: &[u8] = b"/cmd/milvus.BuildTags=";

/// Bytes of a program that are looked at together.
const BLOCK: usize = 4 << 20;

/// Bytes that a version has at most.
const VERSION_LENGTH: usize = 64;

/// A version, and where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Installed {
    pub(crate) version: MilvusVersion,
    /// The container or the program, for people.
    pub(crate) place: String,
}

/// The Milvus of this instance as it is installed on this host, where something tells.
///
/// # Errors
///
/// [`Cause::Refused`] when containers of several versions have the instance's files.
pub(crate) async fn installed(instance: &Instance) -> Result<Option<Installed>> {
    let directories = directories(instance);
    for socket in SOCKETS.map(Path::new).into_iter().filter(|s| s.exists()) {
        match of_container(socket, &directories).await {
            Ok(Some(found)) => return Ok(Some(found)),
            Ok(None) => {}
            Err(error) if error.cause() == Cause::Refused => return Err(error),
            Err(error) => debug!(socket = %socket.display(), "not asked: {}", error.chain()),
        }
    }
    let Some(program) = program_on_path("milvus") else {
        return Ok(None);
    };
    let read = {
        let program = program.clone();
        tokio::task::spawn_blocking(move || of_program(&program)).await
    };
    let version = match read {
        Ok(Ok(version)) => version,
        Ok(Err(error)) => {
            debug!(program = %program.display(), "not read: {}", error.chain());
            None
        }
        Err(_) => None,
    };
    Ok(version.map(|version| Installed {
        version,
        place: program.display().to_string(),
    }))
}

/// Directories of this host that hold files of the instance.
fn directories(instance: &Instance) -> Vec<PathBuf> {
    let mut directories = wal::directories(&instance.wal.kind);
    if let Objects::Local(local) = &instance.objects {
        directories.push(local.path.clone());
    }
    let embedded = instance.etcd.embedded.iter();
    directories.extend(embedded.map(|embedded| embedded.data_dir.clone()));
    directories
}

/// A container, as the API of Docker lists it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    #[serde(default)]
    names: Vec<String>,
    image: String,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    mounts: Vec<Mount>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Mount {
    #[serde(default)]
    source: PathBuf,
}

impl Container {
    /// How deep the path of its volume is that holds one of the directories, if one does: the deepest is the
    /// instance's own.
    fn holds(&self, directories: &[PathBuf]) -> Option<usize> {
        let sources = self.mounts.iter().map(|mount| &mount.source);
        let sources = sources.filter(|source| source.parent().is_some());
        let ours = sources.filter(|source| directories.iter().any(|d| d.starts_with(source)));
        ours.map(|source| source.components().count()).max()
    }

    /// The version of Milvus in its image, by the image's tag or label.
    fn version(&self) -> Option<MilvusVersion> {
        let name = self.image.split('@').next().unwrap_or_default();
        let name = name.rsplit('/').next().unwrap_or_default();
        let (repository, tag) = name.split_once(':').unwrap_or((name, ""));
        if repository != "milvus" {
            return None;
        }
        let label = self.labels.as_ref().and_then(|l| l.get(VERSION_LABEL));
        release(tag).or_else(|| release(label?))
    }
}

/// A version with three numbers: the base of an image may have put its own into the label, such as `22.04`.
fn release(text: &str) -> Option<MilvusVersion> {
    let version = MilvusVersion::parse(text);
    let numbers = text.trim_start_matches('v').split(['-', '+']).next()?;
    let three = numbers.split('.').count() == 3;
    (three && version.series().is_some()).then_some(version)
}

/// Asks a container runtime for the container, running or not, that has the instance's files.
async fn of_container(socket: &Path, directories: &[PathBuf]) -> Result<Option<Installed>> {
    let failed = |error: reqwest::Error| {
        let message = format!("asking {} for its containers", socket.display());
        Error::new(Cause::Unavailable, message).with_source(error)
    };
    let client = reqwest::Client::builder()
        .unix_socket(socket)
        .timeout(PATIENCE)
        .build()
        .map_err(failed)?;
    let answer = client
        .get("http://localhost/containers/json?all=true")
        .send()
        .await;
    let answer = answer
        .and_then(reqwest::Response::error_for_status)
        .map_err(failed)?;
    let containers: Vec<Container> = answer.json().await.map_err(failed)?;
    let told = containers.iter().filter_map(|container| {
        let depth = container.holds(directories)?;
        let name = container.names.first();
        let name = name.map_or("", |name| name.trim_start_matches('/'));
        let installed = Installed {
            version: container.version()?,
            place: format!("the image {} of container {name}", container.image),
        };
        Some((depth, installed))
    });
    let told: Vec<_> = told.collect();
    let deepest = told.iter().map(|(depth, _)| *depth).max();
    let ours = told
        .into_iter()
        .filter(|(depth, _)| Some(*depth) == deepest);
    let mut found: Vec<Installed> = ours.map(|(_, installed)| installed).collect();
    found.sort_by(|a, b| a.version.as_str().cmp(b.version.as_str()));
    found.dedup_by(|a, b| a.version == b.version);
    match &found[..] {
        [] | [_] => Ok(found.pop()),
        several => {
            let places: Vec<&str> = several.iter().map(|found| found.place.as_str()).collect();
            let message = format!(
                "containers of several versions have the files of this Milvus, and nothing tells which one ran last: {}",
                places.join(", ")
            );
            Err(Side::Source.error(Cause::Refused, message))
        }
    }
}

/// The version that a program of Milvus was built with.
fn of_program(path: &Path) -> Result<Option<MilvusVersion>> {
    let mut file = File::open(path).map_err(Error::from)?;
    let finder = memmem::Finder::new(BUILD_TAGS);
    let mut block = Vec::with_capacity(BLOCK + VERSION_LENGTH + BUILD_TAGS.len());
    loop {
        let kept = block.len();
        (&mut file).take(BLOCK as u64).read_to_end(&mut block)?;
        for at in finder.find_iter(&block) {
            let rest = &block[at + BUILD_TAGS.len()..];
            let end = rest
                .iter()
                .position(|byte| !byte.is_ascii_graphic() || *byte == b'\'');
            let text = end.and_then(|end| std::str::from_utf8(&rest[..end]).ok());
            if let Some(version) = text.and_then(release) {
                return Ok(Some(version));
            }
        }
        if block.len() == kept {
            return Ok(None);
        }
        // What was cut off at the end of this block is found with the next.
        let tail = block
            .len()
            .saturating_sub(BUILD_TAGS.len() + VERSION_LENGTH);
        block.drain(..tail);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use rstest::rstest;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    use super::*;

    #[rstest]
    #[case("milvusdb/milvus:v2.4.15", None, Some("v2.4.15"))]
    #[case(
        "registry.example:5000/milvusdb/milvus:v2.3.5-gpu",
        None,
        Some("v2.3.5-gpu")
    )]
    #[case("milvusdb/milvus:latest", None, None)]
    #[case("milvusdb/milvus:latest", Some("2.5.3"), Some("2.5.3"))]
    #[case("milvusdb/milvus@sha256:00", Some("22.04"), None)]
    #[case("minio/minio:v2.4.15", Some("2.4.15"), None)]
    #[case("milvusdb/milvus-backup:v0.4.28", None, None)]
    fn an_image_tells_its_version_by_tag_or_label(
        #[case] image: &str,
        #[case] label: Option<&str>,
        #[case] version: Option<&str>,
    ) {
        let labels = label.map(|label| [(VERSION_LABEL.to_owned(), label.to_owned())].into());
        let container = Container {
            names: vec![],
            image: image.to_owned(),
            labels,
            mounts: vec![],
        };
        assert_eq!(
            container.version().as_ref().map(MilvusVersion::as_str),
            version
        );
    }

    /// Answers one request as the API of Docker does.
    async fn simulated_runtime(listener: UnixListener, containers: &'static str) {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut request = [0; 1 << 10];
        let read = client.read(&mut request).await.unwrap();
        assert!(request[..read].starts_with(b"GET /containers/json?all=true "));
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{containers}",
            containers.len()
        );
        client.write_all(answer.as_bytes()).await.unwrap();
    }

    #[rstest]
    #[case(
        r#"[{"Names":["/other"],"Image":"milvusdb/milvus:v2.2.9","Mounts":[{"Source":"/srv/other"}]},
            {"Names":["/all"],"Image":"milvusdb/milvus:v2.5.1","Mounts":[{"Source":"/srv"}]},
            {"Names":["/watch"],"Image":"exporter:v1.2.3","Mounts":[{"Source":"/srv/milvus/data"}]},
            {"Names":["/milvus"],"Image":"milvusdb/milvus:v2.4.15","Labels":null,"Mounts":[{"Source":"/srv/milvus"}]}]"#,
        Ok(Some("v2.4.15"))
    )]
    #[case(
        r#"[{"Names":["/a"],"Image":"milvusdb/milvus:v2.4.1","Mounts":[{"Source":"/srv/milvus"}]},
            {"Names":["/b"],"Image":"milvusdb/milvus:v2.5.1","Mounts":[{"Source":"/srv/milvus"}]},
            {"Names":["/c"],"Image":"milvusdb/milvus:v2.4.1","Mounts":[{"Source":"/srv/milvus"}]}]"#,
        Err(())
    )]
    #[case(r#"[{"Names":["/a"],"Image":"milvusdb/milvus:v2.4.1","Mounts":[{"Source":"/srv/milv"},{}]}]"#, Ok(None))]
    #[tokio::test]
    async fn simulated_the_container_with_the_files_of_the_instance_tells(
        #[case] containers: &'static str,
        #[case] version: std::result::Result<Option<&str>, ()>,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let runtime = tokio::spawn(simulated_runtime(
            UnixListener::bind(&socket).unwrap(),
            containers,
        ));
        let directories = [PathBuf::from("/srv/milvus/data/rdb_data")];
        let found = of_container(&socket, &directories).await;
        match version {
            Ok(version) => {
                let found = found.unwrap();
                assert_eq!(found.as_ref().map(|found| found.version.as_str()), version);
            }
            Err(()) => assert_eq!(found.unwrap_err().cause(), Cause::Refused),
        }
        runtime.await.unwrap();
    }

    #[rstest]
    #[case(
        "-X 'github.com/milvus-io/milvus/cmd/milvus.BuildTags=v2.3.5-lite' -X",
        Some("v2.3.5-lite")
    )]
    #[case(
        "-X 'github.com/milvus-io/milvus/cmd/milvus.BuildTags=9aceff5' -X",
        None
    )]
    #[case("another program", None)]
    fn a_program_tells_its_version_wherever_it_stands(
        #[case] text: &str,
        #[case] version: Option<&str>,
    ) {
        for at in [0, BLOCK - 70, BLOCK - 20, BLOCK, 2 * BLOCK - 5] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(&vec![1; at]).unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file.write_all(&[1; 100]).unwrap();
            let found = of_program(file.path()).unwrap();
            assert_eq!(
                found.as_ref().map(MilvusVersion::as_str),
                version,
                "at {at}"
            );
        }
    }
}
