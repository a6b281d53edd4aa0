use std::collections::BTreeMap;

use super::*;
use crate::milvus::MilvusVersion;
use crate::milvus::simulated::keys::{COLLECTION, SimulatedKeys};
use crate::restore::plan::transform;
use crate::snapshot::fixture::{Contents, body, commit, noise, repository, told};

/// Simulated: three whole segments of one collection.
fn three() -> (SimulatedKeys, Catalog) {
    let mut set = SimulatedKeys::new(MilvusVersion::new(2, 3, 5));
    for id in [110, 120, 130] {
        let segment = set.segment(id);
        set.whole(&segment);
    }
    let catalog = Catalog::decode(&SimulatedKeys::roots(), &set.keys, &set.version).unwrap();
    (set, catalog)
}

/// A snapshot of `catalog` without the objects that `gone` names.
async fn without(catalog: &Catalog, gone: &[&str], weakenings: Vec<Weakening>) -> Snapshot {
    let objects: BTreeMap<_, _> = catalog
        .objects()
        .filter(|object| !gone.contains(&object.path.as_str()))
        .map(|object| (object.tree_key(), noise(1, 9)))
        .collect();
    assert_eq!(objects.len() + gone.len(), catalog.objects().count());
    let (_, repository) = repository().await;
    let mut body = body();
    body.weakenings = weakenings;
    let contents = Contents {
        objects,
        wal: BTreeMap::new(),
        keys: vec![],
        body,
    };
    let manifest = commit(&repository, &contents).await;
    let reader = repository
        .begin_reader("main", vec![manifest.snapshot])
        .await
        .unwrap();
    told(Snapshot::open(reader.view(), manifest))
}

fn build_of(catalog: &Catalog, segment: i64) -> ObjectRef {
    let mut objects = catalog.objects();
    let found = objects.find(|o| o.segment == segment && o.kind == ObjectKind::IndexFile);
    found.unwrap()
}

#[tokio::test]
async fn a_whole_snapshot_lacks_nothing() {
    let (_, catalog) = three();
    let snapshot = without(&catalog, &[], vec![]).await;
    let lack = told(MissingData::find(&snapshot, &catalog, &Selected::All).await);
    assert_eq!(lack, MissingData::default());
    assert_eq!(lack.weakening(), None);
}

#[tokio::test]
async fn missing_files_are_named_with_their_collection_and_segment() {
    let (_, catalog) = three();
    let index = build_of(&catalog, 120);
    let log = format!("insert_log/{COLLECTION}/101/130/103/1301");
    let index_too = build_of(&catalog, 130).path;
    // The manifest does not say so: what is missing is computed.
    let snapshot = without(&catalog, &[&index.path, &log, &index_too], vec![]).await;
    let lack = told(MissingData::find(&snapshot, &catalog, &Selected::All).await);
    assert_eq!(lack.objects, 3);
    let of = |outcome| {
        let mut lacking = lack.lacking.iter();
        lacking.find(|one| one.outcome == outcome).unwrap()
    };
    let lost = of(Outcome::NotLoaded);
    assert_eq!(
        (lost.database.as_str(), lost.collection.as_str()),
        ("default", "docs")
    );
    assert_eq!(
        (lost.segments, &lost.partitions[..]),
        (1, &["_default".to_owned()][..])
    );
    let named: Vec<_> = lost
        .named
        .iter()
        .map(|o| (o.segment, o.path.as_str()))
        .collect();
    assert_eq!(named, [(130, index_too.as_str()), (130, log.as_str())]);
    assert_eq!(lost.fields, ["vector"]);
    assert!(lost.way_out.contains("drop the collection"));
    let rebuilt = of(Outcome::IndexRebuilt);
    assert_eq!(rebuilt.indexes, ["vector"]);
    assert_eq!(rebuilt.named[0].path, index.path);
    assert_eq!(lack.rebuild, BTreeSet::from([index.id]));
    let said = lack.weakening().unwrap().message;
    assert!(said.contains("3 objects"), "{said}");
    assert!(said.contains("will not load in default.docs"), "{said}");
    let text = lost.to_string();
    assert!(text.contains(&format!("segment 130: {log}")), "{text}");
}

#[tokio::test]
async fn a_snapshot_that_says_that_it_lacks_something_is_looked_through_even_if_the_numbers_agree()
{
    let (_, catalog) = three();
    let index = build_of(&catalog, 120).path;
    let said = Weakening {
        code: MISSING_OBJECTS.to_owned(),
        message: String::new(),
        items: vec![],
    };
    let mut snapshot = without(&catalog, &[&index], vec![said]).await;
    snapshot.manifest.totals.objects += 1;
    let lack = told(MissingData::find(&snapshot, &catalog, &Selected::All).await);
    assert_eq!(lack.objects, 1);
}

#[test]
fn only_the_keys_of_builds_that_lack_files_are_dropped() {
    let (set, catalog) = three();
    let build = build_of(&catalog, 120).id;
    let mut options = transform::tests::options(set.version.clone());
    let builds = |options: &transform::Options| -> Vec<String> {
        let made = told(transform::transform(&catalog, &set.keys, options));
        let names = made
            .keys
            .into_iter()
            .map(|key| String::from_utf8(key.key).unwrap());
        names
            .filter(|key| key.contains("/segment-index/"))
            .collect()
    };
    let whole = builds(&options);
    options.rebuild = BTreeSet::from([build]);
    let (dropped, kept): (Vec<_>, Vec<_>) = whole
        .into_iter()
        .partition(|key| key.ends_with(&format!("/120/{build}")));
    assert_eq!((dropped.len(), kept.len()), (1, 2));
    assert_eq!(builds(&options), kept);
}

#[test]
fn more_files_than_are_named_are_counted() {
    let (_, catalog) = three();
    let mut sums = Sums::new(&catalog);
    let mut object = build_of(&catalog, 120);
    for n in 0..NAMED + 5 {
        object.path = format!("index_files/x/{n}");
        sums.take(object.clone());
    }
    let lack = sums.finish();
    assert_eq!(lack.lacking[0].named.len(), NAMED);
    assert!(lack.lacking[0].to_string().ends_with("and 5 more"));
}
