//! Reads a JackalPackage from a file, as strictly as an API server does, and the ConfigMaps beside it.

use std::collections::BTreeMap;
use std::path::Path;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Secret;
use kube::{CustomResourceExt as _, ResourceExt as _};
use serde_json::Value;

use super::Unusable;
use crate::api::v1alpha1::JackalPackage;
use crate::fault::{Fault, Reason};
use crate::package::Entries;

/// The longest file in bytes that is read: more than an API server takes.
const LIMIT: u64 = 8 * 1024 * 1024;

/// What a file gives to build.
#[derive(Debug)]
pub(super) struct Given {
    /// The package.
    pub package: JackalPackage,
    /// The data of the ConfigMaps that stand in the file too, by their names.
    pub config_maps: BTreeMap<String, BTreeMap<String, String>>,
    /// The data of the Secrets that stand in the file too, by their names.
    secrets: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
}

/// The one JackalPackage in the YAML file `path`, or on standard input for `-`, with the ConfigMaps beside it.
pub(super) fn read(path: &Path) -> Result<Given, Unusable> {
    let name = match path.as_os_str() == "-" {
        true => "standard input".to_owned(),
        false => path.display().to_string(),
    };
    let text = text(path).map_err(|error| Unusable(format!("{name} cannot be read: {error}")))?;
    parse(&name, &text)
}

/// The text of the file `path`, or of standard input for `-`.
pub(super) fn text(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    let read = match path.as_os_str() == "-" {
        true => std::io::stdin().take(LIMIT + 1).read_to_string(&mut text)?,
        false => std::fs::File::open(path)?.take(LIMIT + 1).read_to_string(&mut text)?,
    };
    match read as u64 > LIMIT {
        true => Err(std::io::Error::other(format!("it is longer than {LIMIT} bytes"))),
        false => Ok(text),
    }
}

impl Given {
    /// An entry of a Secret of the file.
    pub(super) fn secret(&self, name: &str, key: &str) -> Option<&[u8]> {
        self.secrets.get(name)?.get(key).map(Vec::as_slice)
    }
}

#[async_trait]
impl Entries for Given {
    async fn of_secret(&self, name: &str, key: &str) -> Result<Vec<u8>, Fault> {
        let found = self.secret(name, key).map(<[u8]>::to_vec);
        found.ok_or_else(|| missing(Reason::SecretUnavailable, "Secret", name, key))
    }

    async fn of_config_map(&self, name: &str, key: &str) -> Result<Vec<u8>, Fault> {
        let found = self.config_maps.get(name).and_then(|data| data.get(key));
        let found = found.map(|text| text.clone().into_bytes());
        found.ok_or_else(|| missing(Reason::ConfigMapUnavailable, "ConfigMap", name, key))
    }
}

fn missing(reason: Reason, kind: &str, name: &str, key: &str) -> Fault {
    Fault::stalled(
        reason,
        format!(
            "there is no {kind} {name} with an entry {key} in the file: without a cluster it has to stand beside the package"
        ),
    )
}

fn parse(name: &str, text: &str) -> Result<Given, Unusable> {
    let unusable = |message: String| Unusable(format!("{name}{message}"));
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|error| unusable(format!(" is not YAML: {error}")))?;
    let kinds: Vec<String> = documents.iter().map(|document| kind(document).to_owned()).collect();
    let config_maps = documents.iter().filter(|document| kind(document) == "ConfigMap");
    let config_maps = config_maps.filter_map(config_map).collect();
    let mut secrets = BTreeMap::new();
    for document in documents.iter().filter(|document| kind(document) == "Secret") {
        let read = secret(document).map_err(|error| unusable(format!(" has a Secret that cannot be read: {error}")))?;
        secrets.extend([read]);
    }
    let mut packages = documents
        .into_iter()
        .filter(|document| kind(document) == "JackalPackage");
    let (Some(package), None) = (packages.next(), packages.next()) else {
        let found = match kinds.is_empty() {
            true => "nothing".to_owned(),
            false => kinds.join(", "),
        };
        return Err(unusable(format!(" must hold one JackalPackage; it holds {found}")));
    };
    if package["apiVersion"] != "jackal.dev/v1alpha1" {
        let found = package["apiVersion"].as_str().unwrap_or("missing");
        return Err(unusable(format!(": apiVersion is {found}, not jackal.dev/v1alpha1")));
    }
    let schema = serde_json::to_value(JackalPackage::crd()).unwrap_or_default();
    let schema = &schema["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    // What is misspelt would silently count as absent.
    if let Some(field) = unknown_field(&package["spec"], schema, "spec") {
        return Err(unusable(format!(
            ": {field} is no field of a JackalPackage; correct its name or remove it"
        )));
    }
    let package: JackalPackage = serde_json::from_value(package).map_err(|error| {
        let advice = match error.to_string().ends_with("expected a string") {
            true => "; put it in quotes",
            false => "",
        };
        unusable(format!(" is no JackalPackage: {error}{advice}"))
    })?;
    match package.name_any().is_empty() {
        true => Err(unusable(": metadata.name is missing".to_owned())),
        false => Ok(Given {
            package,
            config_maps,
            secrets,
        }),
    }
}

/// Name and data of a ConfigMap; an API server takes nothing but texts there.
fn config_map(object: &Value) -> Option<(String, BTreeMap<String, String>)> {
    let data = object["data"].as_object().into_iter().flatten();
    let texts = data.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
    Some((object["metadata"]["name"].as_str()?.to_owned(), texts.collect()))
}

/// Name and data of a Secret; what is written as text there counts too, as an API server has it.
fn secret(object: &Value) -> Result<(String, BTreeMap<String, Vec<u8>>), serde_json::Error> {
    let read: Secret = serde_json::from_value(object.clone())?;
    let name = read.name_any();
    let data = read.data.into_iter().flatten().map(|(key, content)| (key, content.0));
    let texts = read.string_data.into_iter().flatten();
    let texts = texts.map(|(key, text)| (key, text.into_bytes()));
    Ok((name, data.chain(texts).collect()))
}

fn kind(document: &Value) -> &str {
    document["kind"].as_str().unwrap_or("something without a kind")
}

/// The path of the first field that `schema` does not know.
fn unknown_field(value: &Value, schema: &Value, path: &str) -> Option<String> {
    match value {
        Value::Object(fields) => {
            // A map of free keys has no properties.
            let known = schema["properties"].as_object()?;
            fields.iter().find_map(|(name, value)| {
                let path = format!("{path}.{name}");
                match known.get(name) {
                    Some(schema) => unknown_field(value, schema, &path),
                    None => Some(path),
                }
            })
        }
        Value::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(index, item)| unknown_field(item, &schema["items"], &format!("{path}[{index}]"))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKAGE: &str = "apiVersion: jackal.dev/v1alpha1
kind: JackalPackage
metadata: {name: shop}
spec:
  version: 1.4.0
  components: [{name: web, images: [{image: a, source: Docker, nodeSelector: {any.thing/goes: here}}]}]
";

    fn refused(text: &str) -> String {
        parse("p.yaml", text).unwrap_err().to_string()
    }

    #[test]
    fn reads_the_one_package_among_other_documents() {
        let text = format!("kind: ConfigMap\n---\n{PACKAGE}---\n");
        assert_eq!(parse("p.yaml", &text).unwrap().package.name_any(), "shop");
        let given = format!("{PACKAGE}---\nkind: ConfigMap\nmetadata: {{name: a}}\ndata: {{k: v}}\n");
        let config_maps = parse("p.yaml", &given).unwrap().config_maps;
        assert_eq!(config_maps["a"], [("k".to_owned(), "v".to_owned())].into());
        assert!(refused(&format!("{PACKAGE}---\n{PACKAGE}")).ends_with("it holds JackalPackage, JackalPackage"));
        assert!(refused("kind: Pod").ends_with("p.yaml must hold one JackalPackage; it holds Pod"));
        assert!(refused("").contains("must hold one JackalPackage"));
        assert!(refused("a: [").starts_with("p.yaml is not YAML: "));
    }

    #[test]
    fn refuses_what_an_api_server_refuses() {
        let with = |from: &str, to: &str| refused(&PACKAGE.replace(from, to));
        let misspelt = with("source:", "sauce:");
        assert!(
            misspelt.contains("spec.components[0].images[0].sauce is no field"),
            "{misspelt}"
        );
        let number = with("1.4.0", "1.4");
        assert!(number.ends_with("expected a string; put it in quotes"), "{number}");
        assert!(with("{name: shop}", "{}").ends_with("metadata.name is missing"));
        assert!(with("v1alpha1", "v9").ends_with("apiVersion is jackal.dev/v9, not jackal.dev/v1alpha1"));
    }
}
