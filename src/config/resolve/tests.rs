use std::fmt::Write as _;

use super::super::EXAMPLE;
use super::super::resolved::{CloudProvider, Objects, WalKind};
use super::*;
use crate::store::open::Location;
use crate::store::s3::{Addressing, S3Credentials};

/// The settings of the milvus.yaml in the package milvus==2.3.5 that matter here, filled in.
const MILVUS_2_3_5: &str = "\
etcd:
  endpoints: localhost:2379
  rootPath: by-dev
  metaSubPath: meta
  kvSubPath: kv
  ssl:
    enabled: false
    tlsCert: /path/to/etcd-client.pem
    tlsKey: /path/to/etcd-client-key.pem
    tlsCACert: /path/to/ca.pem
    tlsMinVersion: 1.3
  use:
    embed: true
  data:
    dir: /var/lib/milvus/etcd
metastore:
  type: etcd
localStorage:
  path: /var/lib/milvus/data/
minio:
  address: localhost
  port: 9000
  accessKeyID: minioadmin
  secretAccessKey: s3cr3t
  useSSL: false
  bucketName: a-bucket
  rootPath: files
  useIAM: false
  cloudProvider: aws
  iamEndpoint:
  region: \"\"
  useVirtualHost: false
mq:
  type: rocksmq
rocksmq:
  path: /var/lib/milvus/rdb_data
rootCoord:
  dmlChannelNum: 16
proxy:
  port: 19530
dataCoord:
  enableGarbageCollection: true
tls:
  serverPemPath: server.pem
  serverKeyPath: server.key
  caPemPath: ca.pem
common:
  chanNamePrefix:
    cluster: by-dev
  storageType: local
  security:
    authorizationEnabled: false
    tlsMode: 0
";

struct Case {
    dir: tempfile::TempDir,
}

impl Case {
    fn new(milvus: &str, env: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("milvus.yaml"), milvus).unwrap();
        std::fs::write(dir.path().join("milvus.env"), env).unwrap();
        Self { dir }
    }

    fn resolve(&self, text: &str) -> Result<Resolved> {
        let path = self.dir.path().join("eyrie.yaml");
        Resolved::from_text(text, &path, &Variables::default())
    }

    /// The settings as a table, without the scratch directory's name.
    fn table(&self, text: &str) -> String {
        let shown = match self.resolve(text) {
            Ok(resolved) => {
                let mut shown = String::new();
                for s in &resolved.settings {
                    let value = s.value.as_deref().unwrap_or("-");
                    writeln!(shown, "{:<40} {value:<40} {}", s.key, s.source).unwrap();
                }
                shown
            }
            Err(error) => {
                assert_eq!(error.cause(), Cause::Invalid);
                format!("{error}\nhint: {}\n", error.hint().unwrap_or("-"))
            }
        };
        shown.replace(&format!("{}/", self.dir.path().display()), "")
    }

    fn instance(&self, text: &str) -> Instance {
        self.resolve(text).unwrap().instance.unwrap()
    }
}

const SIX_LINES: &str = "\
instance:
  name: main
  milvus_yaml: milvus.yaml
repositories:
  - name: primary
    url: /backup/milvus
    passphrase_file: passphrase
";

const WITH_ENV: &str = "\
instance:
  name: main
  milvus_yaml: milvus.yaml
  milvus_env_file: milvus.env
  path_map: {/var/lib/milvus: /srv/volumes/milvus}
";

#[test]
fn six_lines_discover_an_embedded_instance() {
    let case = Case::new(MILVUS_2_3_5, "");
    insta::assert_snapshot!(case.table(SIX_LINES));
}

#[test]
fn the_environment_and_the_path_map_make_it_an_s3_instance() {
    let env = "ETCD_USE_EMBED=false\nETCD_ENDPOINTS=etcd-0:2379,etcd-1:2379\nETCD_ROOTPATH=prod\n\
               MINIO_ADDRESS=minio:9000\nMINIO_USESSL=true\nCOMMON_STORAGETYPE=minio\n\
               METRICS_PORT=9092\nDATACOORD_ENABLEGARBAGECOLLECTION=false\n";
    let case = Case::new(MILVUS_2_3_5, env);
    insta::assert_snapshot!(case.table(WITH_ENV));
    let instance = case.instance(WITH_ENV);
    assert_eq!(instance.etcd.endpoints, ["etcd-0:2379", "etcd-1:2379"]);
    assert!(!instance.garbage_collection);
    let Objects::S3(s3) = instance.objects else {
        panic!("not S3");
    };
    assert_eq!(
        (s3.at.endpoint.as_deref(), s3.at.prefix.as_str()),
        (Some("https://minio:9000"), "files")
    );
    assert_eq!(s3.at.addressing, Addressing::Path);
    let S3Credentials::Keys {
        secret_access_key, ..
    } = s3.at.credentials
    else {
        panic!("no keys");
    };
    assert_eq!(secret_access_key.read().unwrap().expose(), "s3cr3t");
}

#[test]
fn explicit_values_win_and_say_their_line() {
    let text = "\
instance:
  name: main
  milvus_yaml: milvus.yaml
  milvus: {address: 'milvus:1', management: 'milvus:2', version: v2.3.5, username: root, password_file: pw}
  etcd: {endpoints: [a:1, 'https://b:2'], root_path: /x/, username: u, password_file: pw, data_dir: etcd-data}
  objects: {type: s3, endpoint: 'http://s3:9', bucket: b, prefix: p/q/, region: r, path_style: false, access_key_id: k, secret_access_key_file: sk, session_token_file: st}
  wal: {kind: kafka, channel_prefix: ch}
repositories:
  - name: far
    url: s3://backups/milvus/
    s3: {endpoint: 's3.example:1', region: eu, access_key_id: k, secret_access_key_file: sk, tls: {enabled: true, ca_file: ca.pem}}
  - {name: aws, url: 's3://aws'}
accept: [milvus-differs]
";
    let case = Case::new(MILVUS_2_3_5, "");
    insta::assert_snapshot!(case.table(text));
    let resolved = case.resolve(text).unwrap();
    let Location::S3(far) = &resolved.repository(None).unwrap().location else {
        panic!("not S3");
    };
    assert_eq!(far.endpoint.as_deref(), Some("https://s3.example:1"));
    assert_eq!(far.addressing, Addressing::Path);
    let aws = resolved.repository(Some("aws")).unwrap();
    assert_eq!(aws.location.to_string(), "s3://aws");
    let error = resolved.repository(Some("awss")).unwrap_err();
    assert_eq!(error.hint(), Some("did you mean aws?"));
}

#[test]
fn a_word_that_names_no_weakening_is_refused_with_the_nearest() {
    let case = Case::new(MILVUS_2_3_5, "");
    let base = "instance: {name: main, milvus_yaml: milvus.yaml}\n";
    for (text, says, nearest) in [
        (
            "accept:\n  - milvus-differs\n  - missing-object\n",
            ":4: accept: missing-object is no weakening",
            "missing-objects",
        ),
        (
            "accept: [hot]\n",
            ":2: accept: hot is no weakening",
            "hot-straddle",
        ),
    ] {
        let error = case.resolve(&format!("{base}{text}")).unwrap_err();
        assert_eq!(error.cause(), Cause::Invalid);
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(error.hint(), Some(&*format!("did you mean {nearest}?")));
    }
    let error = case
        .resolve("instance: {name: main, milvus_yaml: milvus.yaml, accept: [everything]}\n")
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains(":1: instance.accept: everything is no weakening"),
        "{error}"
    );
}

#[test]
fn contradictions_say_what_and_the_way_out() {
    let change = |from: &str, to: &str| {
        assert!(MILVUS_2_3_5.contains(from), "{from}");
        MILVUS_2_3_5.replace(from, to)
    };
    let cluster = "DEPLOY_MODE=DISTRIBUTED\n";
    let s3 = change("storageType: local", "storageType: minio");
    let outside = s3.replace("embed: true", "embed: false");
    let cases = [
        (MILVUS_2_3_5.to_owned(), cluster),
        (change("embed: true", "embed: false"), cluster),
        (outside, cluster),
        (s3.replace("address: localhost\n", "address:\n"), ""),
        (s3.replace("bucketName: a-bucket", "bucketName: ''"), ""),
        (change("path: /var/lib/milvus/data/", "path: data"), ""),
        (change("path: /var/lib/milvus/data/", "path:"), ""),
        (change("storageType: local", "storageType: tape"), ""),
        (change("type: rocksmq", "type: zeromq"), ""),
        (change("path: /var/lib/milvus/rdb_data", "path:"), ""),
        (change("rootPath: by-dev", "rootPath:"), ""),
        (change("dmlChannelNum: 16", "dmlChannelNum: many"), ""),
        (MILVUS_2_3_5.to_owned(), "ETCD_AUTH_ENABLED=true\n"),
        (MILVUS_2_3_5.to_owned(), "DEPLOY_MODE=BOTH\n"),
        (MILVUS_2_3_5.to_owned(), "just words\n"),
        ("- not a mapping\n".to_owned(), ""),
        ("etcd: [\n".to_owned(), ""),
    ];
    let mut report = String::new();
    for (yaml, env) in cases {
        writeln!(report, "{}", Case::new(&yaml, env).table(WITH_ENV)).unwrap();
    }
    insta::assert_snapshot!(report);
}

#[test]
fn our_own_file_can_contradict_itself_too() {
    let case = Case::new(MILVUS_2_3_5, "");
    let with =
        |lines: &str| format!("instance:\n  name: main\n  milvus_yaml: milvus.yaml\n{lines}");
    let repository = |lines: &str| format!("repositories:\n  - name: r\n{lines}");
    let cases = [
        "instance: {name: 'a b'}\n".to_owned(),
        with("  objects: {bucket: b}\n"),
        with("  objects: {type: s3, path: /x}\n"),
        with("  objects: {type: s3, access_key_id: k}\n"),
        with("  objects: {type: s3, session_token_file: k}\n"),
        with("  objects: {type: s3, endpoint: 'http://h', tls: {enabled: true}}\n"),
        with("  objects: {type: s3, endpoint: 'ftp://h'}\n"),
        with("  objects: {type: s3, tls: {cert_file: c, key_file: k}}\n"),
        with("  objects: {type: s3, endpoint: 'http://h', tls: {ca_file: c}}\n"),
        with("  etcd: {tls: {enabled: true, cert_file: c}}\n"),
        with("  etcd: {username: u}\n"),
        with("  milvus: {version: '2.3'}\n"),
        with("  milvus_env_file: none.env\n"),
        repository("    url: gs://bucket\n"),
        repository("    url: s3:///prefix\n"),
        repository("    url: /x\n    s3: {region: r}\n"),
        repository("    url: s3://bbb\n    s3:\n      tls: {key_file: k}\n"),
        repository("    url: /x\n  - name: r\n    url: /y\n"),
        repository("    url: ''\n"),
    ];
    let mut report = String::new();
    for text in cases {
        writeln!(report, "{text}=> {}", case.table(&text)).unwrap();
    }
    insta::assert_snapshot!(report);
}

#[test]
fn the_default_queue_follows_the_deployment() {
    let base = MILVUS_2_3_5
        .replace("type: rocksmq", "type: default")
        .replace("storageType: local", "storageType: remote")
        .replace("embed: true", "embed: false");
    let kind = |yaml: &str, env: &str| {
        let wal = Case::new(yaml, env).instance(WITH_ENV).wal.kind;
        wal.name()
    };
    let cluster = "DEPLOY_MODE=DISTRIBUTED\n";
    assert_eq!(kind(&base, ""), "rocksmq");
    assert_eq!(kind(&base, "DEPLOY_MODE=STANDALONE\n"), "rocksmq");
    assert_eq!(kind(&base, cluster), "pulsar");
    assert_eq!(
        kind(&format!("{base}pulsar: {{address: ''}}\n"), cluster),
        "woodpecker"
    );
    let kafka = format!("{base}pulsar: {{address: ''}}\nkafka: {{brokerList: 'k:9092'}}\n");
    assert_eq!(kind(&kafka, cluster), "kafka");
    assert_eq!(
        kind(&base.replace("/var/lib/milvus/rdb_data", ""), ""),
        "pulsar"
    );
}

#[test]
fn container_paths_become_host_paths_and_stay_known() {
    let instance = Case::new(MILVUS_2_3_5, "").instance(WITH_ENV);
    let Objects::Local(local) = &instance.objects else {
        panic!("not local");
    };
    assert_eq!(local.path, Path::new("/srv/volumes/milvus/data"));
    assert_eq!(local.milvus_path, Path::new("/var/lib/milvus/data"));
    let path = PathBuf::from("/srv/volumes/milvus/rdb_data");
    assert_eq!(instance.wal.kind, WalKind::Rocksmq { path });
    let embedded = instance.etcd.embedded.unwrap();
    assert_eq!(embedded.data_dir, Path::new("/srv/volumes/milvus/etcd"));
    assert_eq!(instance.deploy, Deploy::Standalone);
}

#[test]
fn an_embedded_etcd_listens_where_its_own_file_says() {
    let case = Case::new(MILVUS_2_3_5, "");
    let own = case.dir.path().join("embedEtcd.yaml");
    std::fs::write(&own, "listen-client-urls: http://0.0.0.0:2479\n").unwrap();
    let env = format!("ETCD_CONFIG_PATH={}\n", own.display());
    std::fs::write(case.dir.path().join("milvus.env"), env).unwrap();
    assert_eq!(case.instance(WITH_ENV).etcd.endpoints, ["127.0.0.1:2479"]);
}

#[test]
fn what_cannot_be_captured_is_a_fact_with_a_reason() {
    let yaml = MILVUS_2_3_5
        .replace("storageType: local", "storageType: remote")
        .replace("cloudProvider: aws", "cloudProvider: azure")
        .replace("type: etcd", "type: tikv");
    let instance = Case::new(&yaml, "").instance(WITH_ENV);
    assert_eq!(instance.metastore, Metastore::Other("tikv".into()));
    let Objects::S3(s3) = &instance.objects else {
        panic!("not S3");
    };
    assert_eq!(s3.provider, CloudProvider::Azure);
    let refusals = instance.refusals();
    assert_eq!(refusals.len(), 2);
    assert!(
        refusals
            .iter()
            .all(|r| r.exit_code() == 20 && r.hint().is_some())
    );
    assert!(
        Case::new(MILVUS_2_3_5, "")
            .instance(WITH_ENV)
            .refusals()
            .is_empty()
    );
}

#[test]
fn authorization_without_a_user_fails_when_milvus_is_called() {
    let yaml = MILVUS_2_3_5.replace("authorizationEnabled: false", "authorizationEnabled: true");
    let case = Case::new(&yaml, "");
    let error = case
        .instance(SIX_LINES)
        .milvus
        .credentials()
        .map(|_| ())
        .unwrap_err();
    assert_eq!(error.cause(), Cause::Invalid);
    let user = "  milvus: {username: root, password_file: pw}\nrepositories: []\n";
    let text = SIX_LINES.split("repositories").next().unwrap().to_owned() + user;
    let instance = case.instance(&text);
    assert_eq!(instance.milvus.credentials().unwrap().unwrap().0, "root");
}

#[test]
fn variables_give_a_passphrase_only_where_the_file_gives_none() {
    let text =
        "repositories:\n  - {name: a, url: /a}\n  - {name: b, url: /b, passphrase_file: p}\n";
    let path = Path::new("/etc/eyrie/eyrie.yaml");
    let pairs = [
        ("EYRIE_PASSPHRASE", "secret"),
        ("MILVUS_PORT", "tcp://10.0.0.1:19530"),
    ];
    let pairs = pairs.map(|(k, v)| (k.to_owned(), v.to_owned()));
    let resolved = Resolved::from_text(text, path, &Variables::from_pairs(pairs)).unwrap();
    let a = resolved.repository(None).unwrap();
    assert_eq!(a.require_passphrase().unwrap().expose(), "secret");
    let b = resolved.repository(Some("b")).unwrap();
    let file = SecretSource::File {
        key: "repositories[1].passphrase_file".into(),
        path: "/etc/eyrie/p".into(),
    };
    assert_eq!(b.passphrase, Some(file));
    assert!(!format!("{resolved:?}").contains("secret\""));
    let none = Resolved::from_text(text, path, &Variables::default()).unwrap();
    let error = none
        .repository(None)
        .unwrap()
        .require_passphrase()
        .map(|_| ())
        .unwrap_err();
    assert_eq!(error.cause(), Cause::Invalid);
}

#[test]
fn the_example_parses_as_it_is_and_with_every_line_uncommented() {
    let path = Path::new("/etc/eyrie/eyrie.yaml");
    let parsed: File = parse(EXAMPLE, "example").unwrap();
    assert_eq!(parsed.repositories.len(), 1);
    let mut objects = 0;
    let lines = EXAMPLE.lines().filter(|line| {
        // The S3 form of `objects:` and the list form of `milvus_yaml:` are alternatives.
        objects += usize::from(line.trim_start().starts_with("# objects:"));
        let local = objects == 1 && !line.contains("wal:");
        !(local || line.contains("# milvus_yaml: ["))
    });
    let uncommented = lines.map(|line| match line.trim_start().strip_prefix("# ") {
        Some(rest) if rest.contains(": ") || rest.ends_with(':') || rest.starts_with("- ") => {
            let indent = line.len() - line.trim_start().len();
            format!("{}{rest}\n", " ".repeat(indent))
        }
        _ => format!("{line}\n"),
    });
    let prose = |line: &String| {
        let key = line.trim_start().split(':').next().unwrap_or("");
        let key = key.strip_prefix("- ").unwrap_or(key);
        line.trim_start().starts_with('#') || key.is_empty() || !key.trim().contains(' ')
    };
    let text: String = uncommented.filter(prose).collect();
    let file: File = parse(&text, "example").unwrap();
    assert_eq!(file.repositories.len(), 2, "{text}");
    let instance = file.instance.unwrap();
    assert!(instance.wal.kind.is_some() && instance.etcd.binary.is_some());
    assert!(instance.objects.session_token_file.is_some());
    assert!(Resolved::from_text(EXAMPLE, path, &Variables::default()).is_err());
}
