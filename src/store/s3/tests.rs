//! Against a server of a few lines that answers by script: what a real one does only on bad days.

use std::collections::{HashMap, VecDeque};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Mutex;

use futures::TryStreamExt;
use jiff::Timestamp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::base::env::{Env, lock};
use crate::base::secret::{Secret, SecretSource};
use crate::store::retry::{RetryPolicy, RetryStore};

/// What the server does with a request.
#[derive(Debug, Clone, Copy)]
enum Answer {
    /// Answers with a status and an S3 error code; without a body when the code is empty.
    Error(u16, &'static str),
    /// Closes the connection without an answer.
    Drop,
    /// Announces ten bytes, sends four and closes the connection.
    BreakOff,
    /// Answers 200 with ten bytes.
    Ten,
    /// Answers 200 with these headers and this body.
    Says(&'static str, &'static str),
    /// Answers with a status, these headers and no body.
    Refuses(u16, &'static str),
    /// Stores the body, then closes the connection without an answer.
    StoreAndDrop,
    /// Stores the body unless the key exists (412 where that was asked for), reads it back on GET.
    Serve,
}

/// A server that gives `script`'s answers, one for each request, and then [`Answer::Serve`].
struct Simulated {
    endpoint: String,
    /// The head of each request.
    seen: Arc<Mutex<Vec<String>>>,
}

impl Simulated {
    async fn start(script: &[Answer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let script = Arc::new(Mutex::new(VecDeque::from(script.to_vec())));
        let objects = Arc::new(Mutex::new(HashMap::new()));
        let requests = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (requests, script, objects) =
                    (requests.clone(), script.clone(), objects.clone());
                tokio::spawn(serve(stream, requests, script, objects));
            }
        });
        Self { endpoint, seen }
    }

    async fn store(&self) -> S3Store {
        self.store_with(keys("secret")).await
    }

    async fn store_with(&self, credentials: S3Credentials) -> S3Store {
        S3Store::open(self.settings(credentials)).await.unwrap()
    }

    fn settings(&self, credentials: S3Credentials) -> S3Settings {
        S3Settings {
            endpoint: Some(self.endpoint.clone()),
            region: Some("us-east-1".to_owned()),
            bucket: "bucket".to_owned(),
            prefix: "prefix".to_owned(),
            credentials,
            payload_signing: PayloadSigning::Never,
            ..S3Settings::default()
        }
    }

    async fn retrying(&self) -> RetryStore {
        Self::over(self.store().await)
    }

    fn over(store: S3Store) -> RetryStore {
        let policy = RetryPolicy {
            first_pause: std::time::Duration::from_millis(1),
            ..RetryPolicy::default()
        };
        let (env, _) = Env::simulated(Timestamp::UNIX_EPOCH, 3);
        RetryStore::new(Arc::new(store), policy, env)
    }

    fn requests(&self) -> usize {
        lock(&self.seen).len()
    }
}

type Objects = Arc<Mutex<HashMap<String, Vec<u8>>>>;

async fn serve(
    mut stream: TcpStream,
    seen: Arc<Mutex<Vec<String>>>,
    script: Arc<Mutex<VecDeque<Answer>>>,
    objects: Objects,
) {
    while let Some((head, body)) = read_request(&mut stream).await {
        let answer = lock(&script).pop_front().unwrap_or(Answer::Serve);
        lock(&seen).push(head.clone());
        let path = head
            .split(' ')
            .nth(1)
            .unwrap()
            .split('?')
            .next()
            .unwrap()
            .to_owned();
        let reply = match answer {
            Answer::Drop => return,
            Answer::StoreAndDrop => {
                lock(&objects).insert(path, body);
                return;
            }
            Answer::BreakOff => {
                let part = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfour";
                stream.write_all(part).await.unwrap();
                return;
            }
            Answer::Ten => reply(200, b"0123456789"),
            Answer::Says(headers, body) => {
                let length = body.len();
                format!("HTTP/1.1 200 X\r\ncontent-length: {length}\r\n{headers}\r\n{body}")
                    .into_bytes()
            }
            Answer::Refuses(status, headers) => {
                format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n{headers}\r\n").into_bytes()
            }
            Answer::Error(status, "") => reply(status, b""),
            Answer::Error(status, code) => reply(status, error_body(code).as_bytes()),
            Answer::Serve => serve_object(&objects, &head, path, body),
        };
        stream.write_all(&reply).await.unwrap();
    }
}

fn serve_object(objects: &Objects, head: &str, path: String, body: Vec<u8>) -> Vec<u8> {
    let mut objects = lock(objects);
    let exists = objects.contains_key(&path);
    if head.starts_with("PUT") {
        if exists && head.contains("if-none-match: *") {
            return reply(412, error_body("PreconditionFailed").as_bytes());
        }
        objects.insert(path, body);
        return reply(200, b"");
    }
    match objects.get(&path) {
        Some(bytes) => reply(200, bytes),
        None => reply(404, error_body("NoSuchKey").as_bytes()),
    }
}

fn error_body(code: &str) -> String {
    format!("<Error><Code>{code}</Code><Message>said so.</Message></Error>")
}

fn reply(status: u16, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let date = "date: Sat, 01 Jan 2000 00:00:00 GMT\r\n";
    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{date}\r\n");
    let mut reply = head.into_bytes();
    reply.extend_from_slice(body);
    reply
}

async fn read_request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head)
        .unwrap()
        .to_lowercase()
        .replace("put /", "PUT /");
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).await.ok()?;
    Some((head, body))
}

fn key() -> Key {
    Key::new("object").unwrap()
}

const CREATE: PutOptions = PutOptions {
    mode: PutMode::Create,
    durability: crate::store::Durability::Synced,
    patience: None,
};

async fn get(store: &dyn Store) -> Result<Bytes> {
    store.get(&key(), GetOptions::default()).await
}

fn keys(secret: &str) -> S3Credentials {
    S3Credentials::Keys {
        access_key_id: "id".to_owned(),
        secret_access_key: SecretSource::Inline {
            key: "secret_access_key_file".to_owned(),
            secret: Secret::new(secret),
        },
        session_token: None,
    }
}

#[tokio::test]
async fn simulated_answers_have_their_kinds() {
    for (answer, kind) in [
        (Answer::Error(503, "SlowDown"), Cause::Throttled),
        (Answer::Error(503, "ServiceUnavailable"), Cause::Unavailable),
        (Answer::Error(500, "InternalError"), Cause::Unavailable),
        (Answer::Error(502, ""), Cause::Unavailable),
        (Answer::Drop, Cause::Unavailable),
        (Answer::BreakOff, Cause::Unavailable),
        (Answer::Error(403, "AccessDenied"), Cause::AccessDenied),
        (Answer::Error(301, "PermanentRedirect"), Cause::Invalid),
        (Answer::Error(507, "XMinioStorageFull"), Cause::NoSpace),
        (Answer::Error(403, "InvalidObjectState"), Cause::Failed),
    ] {
        let server = Simulated::start(&[answer]).await;
        let error = get(&server.store().await).await.unwrap_err();
        assert_eq!(error.cause(), kind, "{answer:?}: {error:?}");
        assert!(
            error.chain().contains("s3://bucket/prefix/object"),
            "{error:?}"
        );
        assert_eq!(server.requests(), 1, "the SDK does not retry {answer:?}");
    }
}

#[tokio::test]
async fn simulated_faults_that_pass_are_survived() {
    let faults = [
        Answer::Error(503, "SlowDown"),
        Answer::Drop,
        Answer::BreakOff,
        Answer::Error(500, ""),
        Answer::Drop,
        Answer::Ten,
    ];
    let server = Simulated::start(&faults).await;
    assert_eq!(get(&server.retrying().await).await.unwrap(), "0123456789");
    assert_eq!(server.requests(), 6);
}

#[tokio::test]
async fn simulated_credentials_that_expire_are_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let key = name.to_owned();
        SecretSource::File { key, path }
    };
    for refusal in [
        Answer::Error(400, "ExpiredToken"),
        Answer::Error(403, "InvalidToken"),
    ] {
        let credentials = S3Credentials::Keys {
            access_key_id: "id".to_owned(),
            secret_access_key: file("secret", "s"),
            session_token: Some(file("token", "old")),
        };
        let server = Simulated::start(&[Answer::Ten, refusal, Answer::Ten]).await;
        let store = Simulated::over(server.store_with(credentials).await);
        get(&store).await.unwrap();
        file("token", "new");
        get(&store).await.unwrap();
        let seen = lock(&server.seen).clone();
        let tokens = seen.iter().map(|head| {
            let mut lines = head.lines();
            lines.find_map(|line| line.strip_prefix("x-amz-security-token: "))
        });
        let tokens: Vec<_> = tokens.map(Option::unwrap).collect();
        assert_eq!(tokens, ["old", "old", "new"], "{refusal:?}");
    }
}

#[tokio::test]
async fn simulated_clocks_that_differ_are_told_and_waited_for() {
    let skewed = Answer::Error(403, "RequestTimeTooSkewed");
    let server = Simulated::start(&[skewed; 5]).await;
    let store = server.retrying().await;
    let bytes = Bytes::from_static(b"ours");
    store.put(&key(), bytes, CREATE).await.unwrap();
    assert_eq!(server.requests(), 6);
    let server = Simulated::start(&[skewed]).await;
    let error = get(&server.store().await).await.unwrap_err();
    assert!(error.passes_within().is_some());
    let said = error.to_string();
    let both = "for the server it is Sat, 01 Jan 2000 00:00:00 GMT, for this host ";
    assert!(said.contains(both), "{said}");
}

#[tokio::test]
async fn simulated_answers_of_another_region_name_it() {
    let told = "x-amz-bucket-region: eu-west-9\r\n";
    for (answer, hint) in [
        (Answer::Refuses(301, told), "the region eu-west-9"),
        (Answer::Refuses(400, told), "the region eu-west-9"),
        (Answer::Refuses(301, ""), "set `region`"),
        (Answer::Refuses(400, ""), "set `region`"),
        (
            Answer::Error(400, "AuthorizationHeaderMalformed"),
            "set `region`",
        ),
    ] {
        let server = Simulated::start(&[answer; 2]).await;
        let store = server.store().await;
        let listed: Result<Vec<Meta>> = store.list("", ListOptions::default()).try_collect().await;
        for error in [store.head(&key()).await.unwrap_err(), listed.unwrap_err()] {
            assert!(
                matches!(error.cause(), Cause::Invalid | Cause::Failed),
                "{error:?}"
            );
            let said = error.hint().unwrap();
            assert!(said.contains(hint), "{said}");
            // Nothing of the SDK's own.
            assert!(error.chain().len() < 200, "{}", error.chain());
        }
    }
}

#[tokio::test]
async fn simulated_loss_of_a_creations_answer_is_no_conflict() {
    let server = Simulated::start(&[Answer::StoreAndDrop]).await;
    let store = server.retrying().await;
    let bytes = Bytes::from_static(b"ours");
    store.put(&key(), bytes.clone(), CREATE).await.unwrap();
    let again = store.put(&key(), bytes, CREATE).await.unwrap_err();
    assert_eq!(again.cause(), Cause::AlreadyExists);
}

#[tokio::test]
async fn simulated_requests_are_unsigned_checksummed_and_conditional() {
    let server = Simulated::start(&[]).await;
    let store = server.store().await;
    store
        .put(&key(), Bytes::from_static(b"123456789"), CREATE)
        .await
        .unwrap();
    let head = lock(&server.seen)[0].clone();
    assert!(head.starts_with("PUT /bucket/prefix/object"), "{head}");
    for line in [
        "x-amz-content-sha256: unsigned-payload",
        // The check value of CRC-32C, e3069283, in base64.
        "x-amz-checksum-crc32c: 4wasgw==",
        "if-none-match: *",
        "content-length: 9",
    ] {
        assert!(head.contains(line), "{line} is missing in {head}");
    }
}

#[tokio::test]
async fn settings_that_cannot_be_right_are_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("ca.pem");
    let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (pem, said) in [("", "no PEM certificate"), (damaged, "is damaged")] {
        std::fs::write(&file, pem).unwrap();
        let settings = S3Settings {
            bucket: "b".to_owned(),
            region: Some("r".to_owned()),
            credentials: keys("hidden"),
            ca_file: Some(file.clone()),
            ..S3Settings::default()
        };
        assert!(!format!("{settings:?}").contains("hidden"));
        let error = S3Store::open(settings).await.unwrap_err();
        assert_eq!(error.cause(), Cause::Invalid);
        assert!(error.to_string().contains(said), "{error:?}");
    }
    let nowhere = S3Settings {
        bucket: "b".to_owned(),
        ca_file: Some(scratch.path().join("none")),
        ..S3Settings::default()
    };
    let error = S3Store::open(nowhere).await.unwrap_err();
    assert_eq!(error.cause(), Cause::Invalid, "{error:?}");
    for endpoint in [
        "localhost:9000",
        "ftp://host",
        "http://id:hidden@host",
        "not a url",
    ] {
        let settings = S3Settings {
            bucket: "b".to_owned(),
            endpoint: Some(endpoint.to_owned()),
            ..S3Settings::default()
        };
        let error = S3Store::open(settings).await.unwrap_err();
        assert_eq!(error.cause(), Cause::Invalid, "{endpoint}");
        assert!(!error.chain().contains("hidden"), "{error:?}");
    }
}

#[tokio::test]
async fn simulated_archive_classes_are_told_until_an_object_is_brought_back() {
    const LISTED: &str = "<ListBucketResult><IsTruncated>false</IsTruncated>\
        <Contents><Key>prefix/a</Key><Size>1</Size><StorageClass>DEEP_ARCHIVE</StorageClass></Contents>\
        <Contents><Key>prefix/b</Key><Size>1</Size><StorageClass>GLACIER_IR</StorageClass></Contents>\
        </ListBucketResult>";
    let classed = "x-amz-storage-class: GLACIER\r\n";
    let going = "x-amz-storage-class: GLACIER\r\nx-amz-restore: ongoing-request=\"true\"\r\n";
    let back = "x-amz-storage-class: GLACIER\r\nx-amz-restore: ongoing-request=\"false\", expiry-date=\"Fri\"\r\n";
    let script = [
        Answer::Says("", LISTED),
        Answer::Says(classed, ""),
        Answer::Says(going, ""),
        Answer::Says(back, ""),
    ];
    let server = Simulated::start(&script).await;
    let store = server.store().await;
    let listed: Vec<_> = store
        .list("", ListOptions::default())
        .try_collect()
        .await
        .unwrap();
    let archived: Vec<_> = listed.iter().map(|meta| meta.archived).collect();
    assert_eq!(archived, [true, false]);
    for expected in [true, true, false] {
        assert_eq!(store.head(&key()).await.unwrap().archived, expected);
    }
}

#[tokio::test]
async fn simulated_bytes_that_changed_on_the_way_over_plain_http_are_not_taken() {
    // The MD5 of "right".
    const ETAG: &str = "etag: \"7c4f29407893c334a6cb7a87bf045c0d\"\r\n";
    let changed = [Answer::Says(ETAG, "wrong"), Answer::Says(ETAG, "right")];
    let server = Simulated::start(&changed).await;
    let store = server.store().await;
    assert_eq!(get(&store).await.unwrap(), "right");
    assert_eq!(server.requests(), 2);
    assert_eq!(store.unverified_bytes(), 0);

    let differs = [Answer::Says(ETAG, "wrong"), Answer::Says(ETAG, "other")];
    let server = Simulated::start(&differs).await;
    let error = get(&server.store().await).await.unwrap_err();
    assert_eq!(error.cause(), Cause::Unavailable);
    assert!(error.to_string().contains("ETag"), "{error}");

    // A store whose ETag is no MD5 although it looks like one gives the same bytes again.
    let server = Simulated::start(&[Answer::Says(ETAG, "wrong"); 2]).await;
    let store = server.store().await;
    assert_eq!(get(&store).await.unwrap(), "wrong");
    assert_eq!(store.unverified_bytes(), 5);

    // Nothing tells what was uploaded in parts, encrypted, or is read in part.
    for headers in [
        "etag: \"7c4f29407893c334a6cb7a87bf045c0d-2\"\r\n",
        "etag: \"7c4f29407893c334a6cb7a87bf045c0d\"\r\nx-amz-server-side-encryption: aws:kms\r\n",
        "etag: \"7c4f29407893c334a6cb7a87bf045c0d\"\r\ncontent-range: bytes 0-4/10\r\n",
    ] {
        let server = Simulated::start(&[Answer::Says(headers, "wrong")]).await;
        let store = server.store().await;
        assert_eq!(get(&store).await.unwrap(), "wrong");
        assert_eq!((store.unverified_bytes(), server.requests()), (5, 1));
    }
}

/// What a page of a listing says: keys, whether there is more, the token.
const fn page(body: &'static str) -> Answer {
    Answer::Says("content-type: application/xml\r\n", body)
}

async fn listed(script: &[Answer], versions: bool) -> (Result<Vec<String>>, Vec<String>) {
    let server = Simulated::start(script).await;
    let options = ListOptions {
        versions,
        ..ListOptions::default()
    };
    let store = server.store().await;
    let keys = store.list("", options).map_ok(|meta| meta.key.to_string());
    let keys = keys.try_collect().await;
    let seen = lock(&server.seen).clone();
    let query = |head: &String| head.split(' ').nth(1).unwrap_or_default().to_lowercase();
    (keys, seen.iter().map(query).collect())
}

const A_B_MORE: Answer = page(
    "<ListBucketResult><IsTruncated>true</IsTruncated>\
     <Contents><Key>prefix/a</Key><Size>1</Size></Contents>\
     <Contents><Key>prefix/b/</Key><Size>0</Size></Contents></ListBucketResult>",
);
const C_END: Answer = page(
    "<ListBucketResult><IsTruncated>false</IsTruncated>\
     <Contents><Key>prefix/c</Key><Size>1</Size></Contents></ListBucketResult>",
);
const C_MORE_AT_T: Answer = page(
    "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>\
     <Contents><Key>prefix/c</Key><Size>1</Size></Contents></ListBucketResult>",
);
const D_MORE_AT_T: Answer = page(
    "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>\
     <Contents><Key>prefix/d</Key><Size>1</Size></Contents></ListBucketResult>",
);
const C_UNSAID: Answer = page(
    "<ListBucketResult><Contents><Key>prefix/c</Key><Size>1</Size></Contents></ListBucketResult>",
);
const NOTHING_UNSAID: Answer = page("<ListBucketResult></ListBucketResult>");
const NOTHING_MORE: Answer =
    page("<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>");

#[tokio::test]
async fn simulated_pages_without_a_token_are_followed_from_their_last_key() {
    let (keys, seen) = listed(&[A_B_MORE, C_END], false).await;
    assert_eq!(keys.unwrap(), ["a", "c"]);
    assert!(seen[1].contains("start-after=prefix%2fb%2f"), "{seen:?}");
    // One that knows the first version of the request alone begins anew, and then takes a marker.
    let (keys, seen) = listed(&[A_B_MORE, A_B_MORE, C_END], false).await;
    assert_eq!(keys.unwrap(), ["a", "c"]);
    assert!(
        seen[2].contains("marker=prefix%2fb%2f") && !seen[2].contains("list-type"),
        "{seen:?}"
    );
    // The same token again would be the same page.
    let (keys, seen) = listed(&[C_MORE_AT_T, D_MORE_AT_T, NOTHING_UNSAID], false).await;
    assert_eq!(keys.unwrap(), ["c", "d"]);
    assert!(seen[1].contains("continuation-token=t"), "{seen:?}");
    assert!(seen[2].contains("start-after=prefix%2fd"), "{seen:?}");
    // Where a page does not say whether it is the last one, an empty one is.
    let (keys, seen) = listed(&[C_UNSAID, NOTHING_UNSAID], false).await;
    assert_eq!((keys.unwrap(), seen.len()), (vec!["c".to_owned()], 2));
}

#[tokio::test]
async fn simulated_listings_that_may_lack_something_are_errors() {
    for script in [
        &[NOTHING_MORE][..],
        &[A_B_MORE, NOTHING_MORE],
        &[A_B_MORE, A_B_MORE, A_B_MORE],
        &[C_MORE_AT_T, C_END],
    ] {
        let (keys, _) = listed(script, false).await;
        let error = keys.unwrap_err();
        assert_eq!(error.cause(), Cause::Failed);
        assert!(
            error.chain().contains("s3://bucket/prefix/"),
            "{}",
            error.chain()
        );
        assert!(
            error.chain().contains("may be incomplete"),
            "{}",
            error.chain()
        );
    }
}

const VERSIONS_A_MORE: Answer = page(
    "<ListVersionsResult><IsTruncated>true</IsTruncated>\
     <Version><Key>prefix/a</Key><VersionId>1</VersionId><IsLatest>true</IsLatest><Size>1</Size></Version>\
     <DeleteMarker><Key>prefix/b</Key><VersionId>2</VersionId><IsLatest>true</IsLatest></DeleteMarker>\
     </ListVersionsResult>",
);
const VERSIONS_A_C_END: Answer = page(
    "<ListVersionsResult><IsTruncated>false</IsTruncated>\
     <Version><Key>prefix/a</Key><VersionId>1</VersionId><IsLatest>true</IsLatest><Size>1</Size></Version>\
     <Version><Key>prefix/c</Key><VersionId>3</VersionId><IsLatest>true</IsLatest><Size>1</Size></Version>\
     </ListVersionsResult>",
);
const VERSIONS_NOTHING_MORE: Answer =
    page("<ListVersionsResult><IsTruncated>true</IsTruncated></ListVersionsResult>");

#[tokio::test]
async fn simulated_listings_of_versions_are_whole_or_errors() {
    let (keys, seen) = listed(&[VERSIONS_A_MORE, VERSIONS_A_C_END], true).await;
    assert_eq!(keys.unwrap(), ["a", "c"], "none twice");
    assert!(seen[1].contains("key-marker=prefix%2fb"), "{seen:?}");
    for script in [
        &[VERSIONS_NOTHING_MORE][..],
        &[VERSIONS_A_MORE, VERSIONS_A_MORE],
    ] {
        let (keys, _) = listed(script, true).await;
        let error = keys.unwrap_err();
        assert!(
            error.chain().contains("may be incomplete"),
            "{}",
            error.chain()
        );
    }
}
