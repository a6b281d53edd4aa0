//! `docs/schemas/` is what the code says; `EYRIE_UPDATE_SCHEMAS=1 cargo test --test integration cli_schemas`
//! writes it anew.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use eyrie::cli::documents::schemas;

#[test]
fn the_schemas_in_docs_are_those_of_the_code() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schemas");
    let update = std::env::var_os("EYRIE_UPDATE_SCHEMAS").is_some();
    let mut expected = BTreeSet::new();
    for (name, schema) in schemas() {
        let file = format!("{name}.json");
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        let path = dir.join(&file);
        if update {
            fs::create_dir_all(&dir).unwrap();
            fs::write(&path, &text).unwrap();
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == text,
            "{} differs: run with EYRIE_UPDATE_SCHEMAS=1",
            path.display()
        );
        expected.insert(file);
    }
    let found = fs::read_dir(&dir).unwrap();
    let found: BTreeSet<_> = found
        .map(|f| f.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(
        found, expected,
        "docs/schemas/ has a file that no document has"
    );
}

#[test]
fn every_field_is_described() {
    fn undescribed(value: &serde_json::Value, path: &str, found: &mut Vec<String>) {
        let Some(object) = value.as_object() else {
            return;
        };
        if let Some(properties) = object.get("properties").and_then(|p| p.as_object()) {
            for (name, property) in properties {
                if property.get("description").is_none() && property.get("$ref").is_none() {
                    found.push(format!("{path}.{name}"));
                }
            }
        }
        for (key, inner) in object {
            undescribed(inner, &format!("{path}.{key}"), found);
        }
    }
    let mut found = Vec::new();
    for (name, schema) in schemas() {
        undescribed(schema.as_value(), name, &mut found);
    }
    assert!(found.is_empty(), "{found:#?}");
}
