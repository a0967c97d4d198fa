//! `cargo xtask sbom`: what the program is made of, as CycloneDX 1.6 (<https://cyclonedx.org/docs/1.6/json/>), from Cargo.lock.
//!
//! The same lock file gives the same bytes: there is no serial number, and no time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::{Result, layout, run};

/// The program's package.
const ROOT: &str = "modelgate";

/// Writes the file and says where.
pub(crate) fn sbom() -> Result {
    let file = PathBuf::from("target/modelgate.cdx.json");
    let count = write(&layout::root().join(&file))?;
    println!("{}: {count} components", file.display());
    Ok(())
}

/// Writes the document, and returns how many components it has.
pub(crate) fn write(file: &Path) -> Result<usize> {
    let mut cargo = run::cargo();
    cargo.args([
        "metadata",
        "--locked",
        "--format-version",
        "1",
        "--filter-platform",
        "x86_64-unknown-linux-gnu",
    ]);
    let metadata: Value = serde_json::from_str(&run::output(&mut cargo)?)?;
    let lock = fs::read_to_string(layout::root().join("Cargo.lock"))?;
    let tree =
        ["tree", "--locked", "--package", ROOT, "--edges", "normal", "--prefix", "none", "--format", "{p}"];
    let tree = run::output(run::cargo().args(tree).args(["--target", "x86_64-unknown-linux-gnu"]))?;
    // `cargo metadata` has what any crate of the workspace needs of a package; `cargo tree` what this one needs.
    let in_tree: BTreeSet<String> = tree.lines().filter_map(purl_of_line).collect();
    let document = document(&metadata, &checksums(&lock), &in_tree)?;
    let count = document["components"].as_array().map_or(0, Vec::len);
    // The program itself is not one of its components.
    if count + 1 != in_tree.len() {
        let found = format!("`cargo tree` has {} packages with the program", in_tree.len());
        return Err(format!("{count} components, but {found}").into());
    }
    fs::create_dir_all(file.parent().ok_or("no folder")?)?;
    fs::write(file, format!("{document:#}\n"))?;
    Ok(count)
}

/// The SHA-256 of each package from a registry, by name and version.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let mut found = BTreeMap::new();
    for package in lock.split("[[package]]").skip(1) {
        let value = |key: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "))?;
            Some(line.trim_matches('"').to_owned())
        };
        if let (Some(name), Some(version), Some(checksum)) =
            (value("name"), value("version"), value("checksum"))
        {
            found.insert((name, version), checksum);
        }
    }
    found
}

/// A line such as `serde v1.0.219 (proc-macro)`.
fn purl_of_line(line: &str) -> Option<String> {
    let mut words = line.split(' ');
    Some(format!("pkg:cargo/{}@{}", words.next()?, words.next()?.strip_prefix('v')?))
}

fn document(
    metadata: &Value,
    checksums: &BTreeMap<(String, String), String>,
    in_tree: &BTreeSet<String>,
) -> Result<Value> {
    let by_id = |list: &Value| -> BTreeMap<String, Value> {
        let items = list.as_array().into_iter().flatten();
        items.map(|item| (text(&item["id"]), item.clone())).collect()
    };
    let (packages, nodes) = (by_id(&metadata["packages"]), by_id(&metadata["resolve"]["nodes"]));
    let root = packages.values().find(|package| package["name"] == ROOT).ok_or("no package modelgate")?;
    let mut left = vec![text(&root["id"])];
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    while let Some(id) = left.pop() {
        if edges.contains_key(&id) {
            continue;
        }
        let needs: BTreeSet<String> =
            needs(&nodes[&id]).filter(|id| in_tree.contains(&purl(&packages[id]))).collect();
        left.extend(needs.iter().cloned());
        edges.insert(id, needs);
    }
    let name = |id: &String| purl(&packages[id]);
    let mut components: Vec<Value> = edges
        .keys()
        .filter(|id| **id != text(&root["id"]))
        .map(|id| component(&packages[id], checksums))
        .collect();
    components.sort_by_key(|component| text(&component["bom-ref"]));
    let mut dependencies: Vec<Value> = edges
        .iter()
        .map(|(id, needs)| json!({ "ref": name(id), "dependsOn": needs.iter().map(name).collect::<BTreeSet<_>>() }))
        .collect();
    dependencies.sort_by_key(|one| text(&one["ref"]));
    let mut program = component(root, checksums);
    program["type"] = "application".into();
    Ok(json!({
        "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
        "metadata": { "component": program },
        "components": components,
        "dependencies": dependencies,
    }))
}

/// The packages that end up in the program with this one: neither those of its tests nor of its build script.
fn needs(node: &Value) -> impl Iterator<Item = String> {
    let of = node["deps"].as_array().into_iter().flatten();
    let is_normal = |one: &&Value| {
        one["dep_kinds"].as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"].is_null()))
    };
    of.filter(is_normal).map(|one| text(&one["pkg"]))
}

fn component(package: &Value, checksums: &BTreeMap<(String, String), String>) -> Value {
    let (name, version) = (text(&package["name"]), text(&package["version"]));
    let mut component = json!({
        "type": "library", "bom-ref": purl(package), "name": name, "version": version, "purl": purl(package),
    });
    if let Some(license) = package["license"].as_str() {
        // As it was written before SPDX expressions were demanded.
        component["licenses"] = json!([{ "expression": license.replace('/', " OR ") }]);
    }
    if let Some(checksum) = checksums.get(&(name, version)) {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
    }
    component
}

/// <https://github.com/package-url/purl-spec>
fn purl(package: &Value) -> String {
    format!("pkg:cargo/{}@{}", text(&package["name"]), text(&package["version"]))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
