//! Removes everything from syft's documents that differs between two runs on the same image. No IO.
//!
//! A document may have tens of megabytes: only the few values that are rewritten are parsed, everything else is kept as the
//! text that syft wrote.

use bytes::Bytes;
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};
use thiserror::Error;

use super::Format;
use crate::decode::RawFields;
use crate::oci::Digest;

/// The time in all documents, so that they do not differ with each run.
const EPOCH: &str = "1970-01-01T00:00:00Z";

/// A reproducible SBOM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sbom {
    /// The JSON.
    pub content: Bytes,
    /// The program that generated it and its version, such as `syft 1.57.1`; only known for [`Format::Syft`].
    pub tool: Option<String>,
}

/// The output of syft is not an SBOM of the image.
#[derive(Debug, Error)]
pub enum SbomError {
    /// Unexpected JSON.
    #[error("its {0:?} document does not have the expected structure: {1}")]
    Malformed(Format, serde_json::Error),
    /// Another format, or another version of it.
    #[error("its {0:?} document has {1} `{2}` instead of `{3}`")]
    Version(Format, &'static str, String, &'static str),
    /// It is about another image.
    #[error("its document is about the manifest `{0}` instead of `{1}`")]
    Subject(String, Digest),
}

/// Rewrites the document that syft wrote for the manifest `subject` in `format`, so that another run on the same image gives
/// the same bytes: times are the Unix epoch, identifiers are derived from the content, and the place where the image was read
/// is removed.
///
/// The document's own identifier (SPDX 2.3, 6.5 "SPDX document namespace"; CycloneDX 1.6, `serialNumber`) is derived from the
/// digest of everything else, so that different documents have different identifiers.
pub fn normalise(format: Format, subject: &Digest, written: &[u8]) -> Result<Sbom, SbomError> {
    let malformed = |error| SbomError::Malformed(format, error);
    let mut fields: Fields<'_> = serde_json::from_slice(written).map_err(malformed)?;
    let mut tool = None;
    match format {
        Format::Spdx => {
            fields.require(format, "spdxVersion", "SPDX-2.3")?;
            let created = |creation: &mut Fields<'_>| creation.set("created", EPOCH);
            fields.change("creationInfo", created).map_err(malformed)?;
            fields.set("documentNamespace", "").map_err(malformed)?;
            let identity = fields.digest().map_err(malformed)?;
            let namespace = format!("https://jackal.dev/spdx/{}/{}", subject.hex(), identity.hex());
            fields.set("documentNamespace", &namespace).map_err(malformed)?;
        }
        Format::CycloneDx => {
            fields.require(format, "specVersion", "1.6")?;
            let timestamp = |metadata: &mut Fields<'_>| metadata.set("timestamp", EPOCH);
            fields.change("metadata", timestamp).map_err(malformed)?;
            fields.set("serialNumber", "").map_err(malformed)?;
            let identity = fields.digest().map_err(malformed)?;
            fields.set("serialNumber", &urn(&identity)).map_err(malformed)?;
        }
        Format::Syft => {
            let source = fields.inner("source").map_err(malformed)?;
            let about = source
                .inner("metadata")
                .and_then(|metadata| metadata.text("manifestDigest"));
            let about = about.map_err(malformed)?;
            if about != subject.as_str() {
                return Err(SbomError::Subject(about, subject.clone()));
            }
            let program = fields.inner("descriptor").map_err(malformed)?;
            let (name, version) = (program.text("name"), program.text("version"));
            tool = Some(format!("{} {}", name.map_err(malformed)?, version.map_err(malformed)?));
            let without_location = |metadata: &mut Fields<'_>| {
                metadata.set("userInput", subject.as_str())?;
                metadata.set("tags", &[(); 0])?;
                metadata.set("repoDigests", &[(); 0])
            };
            fields
                .change("source", |source| source.change("metadata", without_location))
                .map_err(malformed)?;
            // The configuration contains paths of this machine.
            let without_configuration = |program: &mut Fields<'_>| {
                program.remove("configuration");
                Ok(())
            };
            fields.change("descriptor", without_configuration).map_err(malformed)?;
        }
    }
    let content = serde_json::to_vec(&fields).map_err(malformed)?;
    let content = match format {
        // It is also embedded in an HTML page, where `</script>` in a description would end it.
        Format::Syft => escape_angle_brackets(content),
        Format::Spdx | Format::CycloneDx => content,
    };
    Ok(Sbom {
        content: content.into(),
        tool,
    })
}

/// The same JSON with all `<` escaped; they occur only in texts.
fn escape_angle_brackets(json: Vec<u8>) -> Vec<u8> {
    let count = json.iter().filter(|&&byte| byte == b'<').count();
    if count == 0 {
        return json;
    }
    let mut escaped = Vec::with_capacity(json.len() + 5 * count);
    for byte in json {
        match byte {
            b'<' => escaped.extend_from_slice(br"\u003c"),
            byte => escaped.push(byte),
        }
    }
    escaped
}

/// A UUID of version 8 (RFC 9562, "UUID Version 8") derived from `digest`, as a URN.
fn urn(digest: &Digest) -> String {
    let hex = digest.hex();
    format!(
        "urn:uuid:{}-{}-8{}-8{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[13..16],
        &hex[17..20],
        &hex[20..32]
    )
}

/// The fields of a JSON object in their order, with unparsed values.
struct Fields<'a>(Vec<(String, Value<'a>)>);

enum Value<'a> {
    Read(&'a RawValue),
    Changed(Box<RawValue>),
}

impl Value<'_> {
    fn raw(&self) -> &RawValue {
        match self {
            Self::Read(raw) => raw,
            Self::Changed(raw) => raw,
        }
    }
}

impl<'a> Fields<'a> {
    fn position(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|(known, _)| known == name)
    }

    /// The value of a field, `null` without one.
    fn get(&self, name: &str) -> &RawValue {
        self.position(name)
            .map_or(RawValue::NULL, |position| self.0[position].1.raw())
    }

    fn text(&self, name: &str) -> Result<String, serde_json::Error> {
        serde_json::from_str(self.get(name).get())
    }

    fn inner(&self, name: &str) -> Result<Fields<'_>, serde_json::Error> {
        serde_json::from_str(self.get(name).get())
    }

    /// Sets a field, in its place or at the end.
    fn set(&mut self, name: &str, value: &(impl Serialize + ?Sized)) -> Result<(), serde_json::Error> {
        let value = Value::Changed(to_raw_value(value)?);
        match self.position(name) {
            Some(position) => self.0[position].1 = value,
            None => self.0.push((name.to_owned(), value)),
        }
        Ok(())
    }

    /// Changes the object that a field holds.
    fn change(
        &mut self,
        name: &str,
        change: impl FnOnce(&mut Fields<'_>) -> Result<(), serde_json::Error>,
    ) -> Result<(), serde_json::Error> {
        let mut inner = self.inner(name)?;
        change(&mut inner)?;
        let changed = to_raw_value(&inner)?;
        self.set(name, &changed)
    }

    fn remove(&mut self, name: &str) {
        self.0.retain(|(known, _)| known != name);
    }

    fn digest(&self) -> Result<Digest, serde_json::Error> {
        Ok(Digest::of(&serde_json::to_vec(self)?))
    }

    fn require(&self, format: Format, name: &'static str, value: &'static str) -> Result<(), SbomError> {
        let found = self.text(name).map_err(|error| SbomError::Malformed(format, error))?;
        match found == value {
            true => Ok(()),
            false => Err(SbomError::Version(format, name, found, value)),
        }
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let RawFields(fields) = RawFields::deserialize(deserializer)?;
        let fields = fields.into_iter().map(|(name, value)| (name, Value::Read(value)));
        Ok(Self(fields.collect()))
    }
}

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value.raw())?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn subject() -> Digest {
        Digest::of(b"manifest")
    }

    fn spdx(created: &str, namespace: &str, package: &str) -> String {
        format!(
            r#"{{"spdxVersion":"SPDX-2.3","name":"n","documentNamespace":"{namespace}",
                "creationInfo":{{"licenseListVersion":"3.2","created":"{created}"}},"packages":[{{"name":"{package}"}}]}}"#
        )
    }

    fn syft(about: &Digest, host: &str, description: &str) -> String {
        format!(
            r#"{{"artifacts":[{{"d":"{description}"}}],"source":{{"id":"1","metadata":{{"userInput":"{host}/x",
                "manifestDigest":"{about}","tags":["{host}/x:1"],"repoDigests":["{host}/x@{about}"]}}}},
                "descriptor":{{"name":"syft","version":"1.57.1","configuration":{{"cache":"/tmp/{host}"}}}}}}"#
        )
    }

    fn text(format: Format, written: &str) -> String {
        let document = normalise(format, &subject(), written.as_bytes()).unwrap();
        String::from_utf8(document.content.to_vec()).unwrap()
    }

    #[test]
    fn two_runs_give_the_same_document() {
        let first = text(Format::Spdx, &spdx("2026-01-01T00:00:00Z", "https://a/1", "zlib"));
        assert_eq!(
            first,
            text(Format::Spdx, &spdx("2026-02-02T00:00:00Z", "https://a/2", "zlib"))
        );
        let cyclonedx = |time: &str, serial: &str| {
            let written = format!(
                r#"{{"bomFormat":"CycloneDX","specVersion":"1.6","serialNumber":"{serial}","metadata":{{"timestamp":"{time}"}}}}"#
            );
            text(Format::CycloneDx, &written)
        };
        let one = cyclonedx("2026-01-01T00:00:00+01:00", "urn:uuid:1");
        assert_eq!(one, cyclonedx("2026-02-01T00:00:00Z", "urn:uuid:2"));
        // The same registry under another address, and another path on this machine.
        let own = text(Format::Syft, &syft(&subject(), "a:1", "x"));
        assert_eq!(own, text(Format::Syft, &syft(&subject(), "b:2", "x")));
    }

    #[test]
    fn different_documents_have_different_identifiers() {
        let namespace = |package: &str| {
            let written = spdx("2026-01-01T00:00:00Z", "https://a/1", package);
            let read: serde_json::Value = serde_json::from_str(&text(Format::Spdx, &written)).unwrap();
            read["documentNamespace"].as_str().unwrap().to_owned()
        };
        assert_eq!(namespace("zlib"), namespace("zlib"));
        assert_ne!(namespace("zlib"), namespace("musl"));
        assert!(namespace("zlib").contains(subject().hex()));
    }

    #[test]
    fn a_serial_number_has_the_format_of_cyclonedx() {
        let urn = urn(&subject());
        let parts: Vec<usize> = urn.trim_start_matches("urn:uuid:").split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12]);
        assert!(urn.contains("-8"), "{urn}");
    }

    #[test]
    fn the_document_names_the_tool_but_not_this_machine() {
        let written = syft(&subject(), "registry.internal:5000", "</script><b>");
        let document = normalise(Format::Syft, &subject(), written.as_bytes()).unwrap();
        assert_eq!(document.tool.as_deref(), Some("syft 1.57.1"));
        let content = String::from_utf8(document.content.to_vec()).unwrap();
        assert!(
            !content.contains("registry.internal") && !content.contains('<'),
            "{content}"
        );
        let read: serde_json::Value = serde_json::from_str(&content).unwrap();
        assert_eq!(read["artifacts"][0]["d"], "</script><b>");
    }

    #[test]
    fn an_invalid_or_foreign_document_is_refused() {
        let other = syft(&Digest::of(b"another"), "a", "x");
        let error = normalise(Format::Syft, &subject(), other.as_bytes()).unwrap_err();
        assert!(matches!(error, SbomError::Subject(..)), "{error}");
        let older = spdx("t", "n", "p").replace("SPDX-2.3", "SPDX-2.2");
        let error = normalise(Format::Spdx, &subject(), older.as_bytes()).unwrap_err();
        assert!(matches!(error, SbomError::Version(..)), "{error}");
        for bad in [
            "",
            "[]",
            "{}",
            "null",
            r#"{"specVersion":1}"#,
            "{\"spdxVersion\":\"SPDX-2.3\"}",
        ] {
            for format in Format::ALL {
                assert!(
                    normalise(format, &subject(), bad.as_bytes()).is_err(),
                    "{format:?} {bad}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn never_panics(written in "[\\[\\]{}\":,a-z0-9 \\\\]{0,80}") {
            for format in Format::ALL {
                let _ = normalise(format, &subject(), written.as_bytes());
            }
        }
    }
}
