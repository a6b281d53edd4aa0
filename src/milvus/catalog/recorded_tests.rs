//! The catalog of a real Milvus 2.3.5, recorded (`tests/data/milvus-2.3.5`).

use std::collections::{BTreeMap, BTreeSet};

use super::{Catalog, Standing, WalKind};
use crate::milvus::keys::{Family, KeyValue, Roots};
use crate::milvus::objects::ObjectKind;
use crate::milvus::validate::{FindingKind, Severity};
use crate::milvus::{MilvusVersion, recorded};

fn catalog() -> Catalog {
    let version = MilvusVersion::new(2, 3, 5);
    Catalog::decode(&Roots::new("by-dev"), &recorded::keys(), &version).unwrap()
}

#[test]
fn recorded_2_3_5_decodes_to_what_was_loaded() {
    let catalog = catalog();
    let names: BTreeSet<_> = catalog
        .collections
        .keys()
        .map(|id| catalog.names(*id))
        .collect();
    let default = [
        "auto",
        "bin",
        "compacted",
        "dropped_index",
        "empty",
        "flat",
        "hnsw",
        "ivf_flat",
        "ivf_sq8",
        "keyed",
        "noindex",
        "partload",
        "ttl",
    ];
    for name in default {
        assert!(
            names.contains(&("default".to_owned(), name.to_owned())),
            "{name}"
        );
    }
    assert!(names.contains(&("second".to_owned(), "flat".to_owned())));
    let by_name = |name: &str| {
        catalog
            .collections
            .values()
            .find(|c| c.name == name)
            .unwrap()
    };
    let hnsw = by_name("hnsw");
    assert!(hnsw.aliases.contains_key("main_alias"));
    assert_eq!(
        (
            hnsw.vchannels.len(),
            hnsw.partitions.len(),
            hnsw.fields.len()
        ),
        (2, 3, 6)
    );
    assert_eq!(by_name("ttl").ttl_seconds(), Some(864_000));
    assert!(by_name("keyed").dynamic);
    let dropped = by_name("dropped_index");
    assert_eq!(
        dropped
            .indexes
            .values()
            .filter(|index| index.deleted)
            .count(),
        1
    );
    let load = &catalog.load.collections[&by_name("partload").id];
    assert_eq!(
        (load.whole, load.partitions.len(), load.replicas),
        (false, 1, 1)
    );
    assert!(
        !catalog
            .load
            .collections
            .contains_key(&by_name("ivf_sq8").id)
    );
}

#[test]
fn recorded_2_3_5_has_nothing_unknown_and_nothing_wrong() {
    let catalog = catalog();
    assert_eq!(catalog.access.users.len(), 2);
    assert_eq!(catalog.access.roles.len(), 3);
    assert!(catalog.access.users.contains("root"));
    for role in ["admin", "public"] {
        assert!(catalog.access.roles.contains(role), "{role}");
    }
    assert_eq!(catalog.wal.kinds(), BTreeSet::from([WalKind::Rocksmq]));
    assert_eq!(catalog.counters.session_id, Some(2));
    // No timestamp of the anchor is past the mark that the allocator had saved.
    let greatest = (catalog.max_timestamp >> 18) * 1_000_000;
    assert!(greatest > 0 && greatest < catalog.counters.tso.unwrap());
    assert!(
        catalog
            .sessions
            .iter()
            .any(|s| s.name == "proxy-1" && !s.address.is_empty())
    );
    assert!(catalog.unknown.is_empty(), "{:?}", catalog.unknown);
    assert!(
        catalog.stale_copies.is_empty(),
        "{:?}",
        catalog.stale_copies
    );
    assert!(!catalog.families.contains_key(&Family::Unknown));
    assert!(catalog.refusals().is_empty(), "{:?}", catalog.refusals());
    let findings = catalog.validate();
    let errors: Vec<_> = findings
        .iter()
        .filter(|f| f.severity == Severity::Error)
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
    let dropped = findings
        .iter()
        .find(|f| f.kind == FindingKind::Dropped)
        .unwrap();
    assert_eq!(
        dropped.to_string(),
        "default.gone: dropped, not cleaned up yet; it is not captured"
    );
    let created = catalog.collections.values().filter(|c| c.is_created());
    for vchannel in created.flat_map(|collection| &collection.vchannels) {
        let checkpoint = &catalog.checkpoints[vchannel];
        assert!(checkpoint.timestamp >= catalog.cut().unwrap(), "{vchannel}");
    }
}

#[test]
fn recorded_2_3_5_objects_are_the_files_of_live_segments_and_no_others() {
    let catalog = catalog();
    let files = recorded::files();
    let mut previous = String::new();
    let mut required = BTreeMap::new();
    for object in catalog.objects() {
        assert!(
            previous < object.tree_key(),
            "{} is out of order",
            object.path
        );
        previous = object.tree_key();
        let size = files.get(&object.path).copied();
        assert!(size.is_some(), "{} is required and not there", object.path);
        if object.expected_size.is_some() {
            assert_eq!(object.expected_size, size, "{}", object.path);
        }
        required.insert(object.path.clone(), object.kind);
    }
    let live: BTreeSet<i64> = catalog.live_segments().map(|s| s.key.segment).collect();
    for path in files.keys().filter(|path| !required.contains_key(*path)) {
        // The segment is the fourth part of a log's path and the fifth of an index file's.
        let parts: Vec<&str> = path.split('/').collect();
        let segment: i64 = match parts[0] {
            "index_files" => parts[4].parse().unwrap(),
            _ => parts[3].parse().unwrap(),
        };
        let dropped_index = parts[0] == "index_files";
        assert!(
            !live.contains(&segment) || dropped_index,
            "{path} is listed and not required"
        );
    }
    let kinds: BTreeSet<ObjectKind> = required.values().copied().collect();
    let wanted = [
        ObjectKind::InsertLog,
        ObjectKind::DeltaLog,
        ObjectKind::StatsLog,
        ObjectKind::IndexFile,
    ];
    assert_eq!(kinds, BTreeSet::from(wanted));
    let standings: BTreeSet<Standing> = catalog.segments.iter().map(|s| s.standing).collect();
    assert!(standings.contains(&Standing::Live) && standings.contains(&Standing::Dropped));
}

#[test]
fn a_broken_value_names_its_key_and_an_empty_root_is_an_error() {
    let version = MilvusVersion::new(2, 3, 5);
    let roots = Roots::new("by-dev");
    let key = "by-dev/meta/datacoord-meta/s/1/2/3";
    let broken = [KeyValue::new(key, [0xff])];
    let error = Catalog::decode(&roots, &broken, &version).unwrap_err();
    assert!(error.chain().contains(key), "{}", error.chain());
    let elsewhere = Catalog::decode(&Roots::new("prod"), &recorded::keys(), &version);
    assert_eq!(elsewhere.unwrap_err().cause(), crate::Cause::Refused);
}
