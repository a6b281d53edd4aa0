//! The S3 backend against a real server.
//!
//! `make test` starts one and sets `EYRIE_TEST_S3_ENDPOINT`, `EYRIE_TEST_S3_ACCESS_KEY_ID` and
//! `EYRIE_TEST_S3_SECRET_ACCESS_KEY`; each test makes buckets of its own.

use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Region};
use aws_sdk_s3::types::{
    BucketVersioningStatus, ChecksumMode, DefaultRetention, ObjectLockConfiguration,
    ObjectLockEnabled, ObjectLockRetentionMode, ObjectLockRule, VersioningConfiguration,
};
use bytes::Bytes;
use eyrie::Cause;
use eyrie::base::env::Env;
use eyrie::base::secret::{Secret, SecretSource};
use eyrie::store::open::{Location, OpenSettings, open};
use eyrie::store::probe::{ConditionalCreate, Deletion, VersionsKept, probe};
use eyrie::store::s3::{
    Checksum, ConditionalWrites, PayloadSigning, S3Credentials, S3Settings, S3Store, Versioning,
};
use eyrie::store::testing::conformance;
use eyrie::store::{GetOptions, Key, ListOptions, PutMode, PutOptions, Store};
use futures::{StreamExt, TryStreamExt, stream};

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run `make test`, which starts MinIO in the lab and sets it")
    })
}

fn endpoint() -> String {
    variable("EYRIE_TEST_S3_ENDPOINT")
}

fn settings(bucket: &str) -> S3Settings {
    S3Settings {
        endpoint: Some(endpoint()),
        region: Some("us-east-1".to_owned()),
        bucket: bucket.to_owned(),
        credentials: keys(
            variable("EYRIE_TEST_S3_ACCESS_KEY_ID"),
            variable("EYRIE_TEST_S3_SECRET_ACCESS_KEY"),
        ),
        ..S3Settings::default()
    }
}

fn keys(id: String, secret: String) -> S3Credentials {
    S3Credentials::Keys {
        access_key_id: id,
        secret_access_key: SecretSource::Inline {
            key: "the secret of a test".to_owned(),
            secret: Secret::new(secret),
        },
        session_token: None,
    }
}

/// A client of nobody's code under test.
fn client() -> Client {
    let credentials = Credentials::new(
        variable("EYRIE_TEST_S3_ACCESS_KEY_ID"),
        variable("EYRIE_TEST_S3_SECRET_ACCESS_KEY"),
        None,
        None,
        "test",
    );
    Client::from_conf(
        aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(endpoint())
            .force_path_style(true)
            .region(Region::from_static("us-east-1"))
            .credentials_provider(credentials)
            .build(),
    )
}

/// A new bucket with a name of its own.
async fn bucket(versioning: Versioning) -> String {
    let id = hex::encode(Env::system().id());
    let name = format!("eyrie-test-{}", &id[..16]);
    client().create_bucket().bucket(&name).send().await.unwrap();
    if versioning == Versioning::On {
        let on = VersioningConfiguration::builder()
            .status(BucketVersioningStatus::Enabled)
            .build();
        let request = client().put_bucket_versioning().bucket(&name);
        request.versioning_configuration(on).send().await.unwrap();
    }
    name
}

fn key(path: &str) -> Key {
    Key::new(path).unwrap()
}

async fn unfinished_uploads(bucket: &str) -> usize {
    let listed = client().list_multipart_uploads().bucket(bucket).send();
    listed.await.unwrap().uploads().len()
}

async fn object_versions(bucket: &str) -> usize {
    let listed = client().list_object_versions().bucket(bucket).send();
    let listed = listed.await.unwrap();
    listed.versions().len() + listed.delete_markers().len()
}

#[tokio::test]
async fn conforms() {
    let bucket = bucket(Versioning::Off).await;
    let store = S3Store::open(settings(&bucket)).await.unwrap();
    conformance::run(&store).await.unwrap();
    assert_eq!(unfinished_uploads(&bucket).await, 0);
}

#[tokio::test]
async fn conforms_under_a_prefix_unsigned_with_crc64() {
    let bucket = bucket(Versioning::Off).await;
    let neighbour = S3Store::open(settings(&bucket)).await.unwrap();
    let write = |path| async move { (key(path), Bytes::from_static(b"x"), PutOptions::default()) };
    for path in ["deep", "deep/fi", "deep/first", "deep/files0/x"] {
        let (key, bytes, options) = write(path).await;
        // MinIO refuses a key that is a directory of another one.
        let _ = neighbour.put(&key, bytes, options).await;
    }
    let store = S3Store::open(S3Settings {
        prefix: "/deep/files/".to_owned(),
        payload_signing: PayloadSigning::Never,
        checksum: Checksum::Crc64Nvme,
        ..settings(&bucket)
    });
    let store = store.await.unwrap();
    assert_eq!(store.location(), format!("s3://{bucket}/deep/files"));
    conformance::run(&store).await.unwrap();
}

#[tokio::test]
async fn conforms_with_versions_unsigned() {
    let bucket = bucket(Versioning::On).await;
    let store = S3Store::open(S3Settings {
        versioning: Versioning::On,
        payload_signing: PayloadSigning::Never,
        ..settings(&bucket)
    });
    conformance::run(&store.await.unwrap()).await.unwrap();
    assert_eq!(
        object_versions(&bucket).await,
        0,
        "the suite cleans all versions up"
    );
}

#[tokio::test]
async fn a_listing_with_versions_tells_current_ones_through_pages_of_old_ones() {
    let bucket = bucket(Versioning::On).await;
    let settings = S3Settings {
        prefix: "below".to_owned(),
        ..settings(&bucket)
    };
    let store = S3Store::open(settings).await.unwrap();
    let put = async |path: &str| {
        let (key, bytes) = (key(path), Bytes::from_static(b"x"));
        let put = store.put(&key, bytes, PutOptions::default()).await;
        put.unwrap().version
    };
    put("gone").await;
    store.delete(&key("gone"), None).await.unwrap();
    // Two pages of versions and more, the current one among the first of them.
    let rewrites = (0..2_200).map(|_| put("many"));
    let rewrites: Vec<_> = stream::iter(rewrites).buffer_unordered(32).collect().await;
    assert_eq!(rewrites.len(), 2_200);
    let mut expected = vec![
        ("first".to_owned(), put("first").await),
        ("many".to_owned(), put("many").await),
        ("name".to_owned(), put("name").await),
    ];
    let listed = async |prefix: &str, after: Option<&str>| {
        let options = ListOptions {
            after: after.map(key),
            versions: true,
        };
        let listed = store.list(prefix, options);
        let named = listed.map_ok(|meta| (meta.key.to_string(), meta.version));
        named.try_collect::<Vec<_>>().await.unwrap()
    };
    assert_eq!(listed("", None).await, expected);
    assert_eq!(listed("", Some("many")).await, expected[2..]);
    assert_eq!(listed("n", Some("many")).await, expected[2..]);
    assert_eq!(listed("m", Some("n")).await, []);
    expected.retain(|(path, _)| path == "many");
    assert_eq!(listed("m", None).await, expected);
}

#[tokio::test]
async fn conforms_without_conditional_writes_and_checksums() {
    let bucket = bucket(Versioning::Off).await;
    let store = S3Store::open(S3Settings {
        conditional_writes: ConditionalWrites::Missing,
        checksum: Checksum::None,
        ..settings(&bucket)
    });
    conformance::run(&store.await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn errors_say_what_is_wrong() {
    let read = async |settings: S3Settings| {
        let store = S3Store::open(settings).await.unwrap();
        let options = GetOptions::default();
        store.get(&key("missing"), options).await.unwrap_err()
    };
    let bucket = bucket(Versioning::Off).await;
    assert_eq!(read(settings(&bucket)).await.cause(), Cause::NotFound);

    let error = read(settings("eyrie-test-no-such-bucket")).await;
    assert_eq!(error.cause(), Cause::Absent, "{error:?}");
    assert!(error.to_string().contains("NoSuchBucket"), "{error:?}");

    for (id, secret) in [
        ("nobody", None),
        (&*variable("EYRIE_TEST_S3_ACCESS_KEY_ID"), Some("x")),
    ] {
        let mut wrong = settings(&bucket);
        wrong.credentials = keys(id.to_owned(), secret.unwrap_or("0123456789").to_owned());
        assert!(!format!("{wrong:?}").contains("0123456789"));
        let error = read(wrong).await;
        assert_eq!(error.cause(), Cause::AccessDenied, "{error:?}");
        assert!(error.hint().is_some(), "{error:?}");
    }

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let mut wrong = settings(&bucket);
    wrong.endpoint = Some(format!("http://{address}"));
    assert_eq!(read(wrong).await.cause(), Cause::Unavailable);
}

#[tokio::test]
async fn a_large_upload_reads_back() {
    let bucket = bucket(Versioning::Off).await;
    let store = Arc::new(S3Store::open(settings(&bucket)).await.unwrap());
    let name = key("large");
    let options = PutOptions {
        mode: PutMode::Create,
        ..PutOptions::default()
    };
    let mut upload = store.upload(&name, options).await.unwrap();
    let mut hasher = blake3::Hasher::new();
    for part in 0..24_u8 {
        let bytes = Bytes::from(vec![part; 5 << 20]);
        hasher.update(&bytes);
        upload.write(bytes).await.unwrap();
    }
    assert_eq!(unfinished_uploads(&bucket).await, 1);
    upload.finish().await.unwrap();
    assert_eq!(unfinished_uploads(&bucket).await, 0);
    assert_eq!(store.head(&name).await.unwrap().size, 24 * (5 << 20));
    let whole = store.get(&name, GetOptions::default()).await.unwrap();
    assert_eq!(blake3::hash(&whole), hasher.finalize());

    let seen = client().head_object().bucket(&bucket).key("large");
    let seen = seen
        .checksum_mode(ChecksumMode::Enabled)
        .send()
        .await
        .unwrap();
    assert!(seen.checksum_crc32_c().is_some(), "{seen:?}");

    let mut again = store.upload(&name, options).await.unwrap();
    for _ in 0..2 {
        again.write(Bytes::from(vec![0; 5 << 20])).await.unwrap();
    }
    assert_eq!(
        again.finish().await.unwrap_err().cause(),
        Cause::AlreadyExists
    );
    assert_eq!(
        unfinished_uploads(&bucket).await,
        0,
        "a refused upload is given up"
    );

    let mut dropped = store.upload(&name, options).await.unwrap();
    for _ in 0..2 {
        dropped.write(Bytes::from(vec![0; 5 << 20])).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    dropped.abort().await.unwrap();
    assert_eq!(
        unfinished_uploads(&bucket).await,
        0,
        "abort gives an upload up"
    );
}

#[tokio::test]
async fn a_probe_finds_what_a_bucket_does_and_leaves_nothing() {
    for versioning in [Versioning::Off, Versioning::On] {
        let bucket = bucket(versioning).await;
        let mut settings = S3Settings {
            prefix: "some/prefix".to_owned(),
            ..settings(&bucket)
        };
        let env = Env::system();
        let opened = async |settings: &S3Settings| {
            let location = Location::S3(Box::new(settings.clone()));
            open(&location, OpenSettings::default(), &env).await
        };
        let store = opened(&settings).await.unwrap();
        let findings = probe(&*store, &env).await.unwrap();
        assert_eq!(findings.conditional_create, ConditionalCreate::Works);
        assert!(findings.list_after_write && findings.overwrite);
        assert_eq!(findings.deletion, Deletion::Allowed);
        let kept = match versioning {
            Versioning::Off => VersionsKept::No,
            Versioning::On => VersionsKept::Yes,
        };
        assert_eq!(findings.versions, kept);
        assert_eq!(object_versions(&bucket).await, 0);

        findings.apply(&mut settings);
        let store = opened(&settings).await.unwrap();
        assert!(store.capabilities().conditional_create);
        assert_eq!(store.capabilities().versions, versioning == Versioning::On);
    }
}

#[tokio::test]
async fn a_probe_finds_suspended_versioning() {
    let bucket = bucket(Versioning::On).await;
    let suspended = VersioningConfiguration::builder()
        .status(BucketVersioningStatus::Suspended)
        .build();
    let request = client().put_bucket_versioning().bucket(&bucket);
    request
        .versioning_configuration(suspended)
        .send()
        .await
        .unwrap();
    let store = S3Store::open(settings(&bucket)).await.unwrap();
    let findings = probe(&store, &Env::system()).await.unwrap();
    // MinIO does not tell "suspended" from "never on".
    assert_eq!(findings.versions, VersionsKept::No);
    assert_eq!(object_versions(&bucket).await, 0, "no delete marker stays");
}

#[tokio::test]
async fn a_probe_finds_that_a_locked_bucket_is_append_only() {
    let id = hex::encode(Env::system().id());
    let bucket = format!("eyrie-test-{}", &id[..16]);
    let request = client().create_bucket().bucket(&bucket);
    request
        .object_lock_enabled_for_bucket(true)
        .send()
        .await
        .unwrap();
    let retention = DefaultRetention::builder()
        .mode(ObjectLockRetentionMode::Compliance)
        .days(1)
        .build();
    let rule = ObjectLockRule::builder()
        .default_retention(retention)
        .build();
    let lock = ObjectLockConfiguration::builder()
        .object_lock_enabled(ObjectLockEnabled::Enabled)
        .rule(rule)
        .build();
    let request = client().put_object_lock_configuration().bucket(&bucket);
    request
        .object_lock_configuration(lock)
        .send()
        .await
        .unwrap();
    let store = S3Store::open(settings(&bucket)).await.unwrap();
    let findings = probe(&store, &Env::system()).await.unwrap();
    assert_eq!(findings.deletion, Deletion::Denied);
    assert_eq!(findings.left_behind.len(), 3, "{findings:?}");
    assert_eq!(findings.versions, VersionsKept::Yes);
}

#[tokio::test]
async fn a_probe_of_a_missing_bucket_says_so() {
    let store = S3Store::open(settings("eyrie-test-no-such-bucket"))
        .await
        .unwrap();
    let error = probe(&store, &Env::system()).await.unwrap_err();
    assert_eq!(error.cause(), Cause::Absent, "{error:?}");
}
