//! The list of the parts of an archive: its file is `.part000`. No IO.

use serde::{Deserialize, Serialize};

use super::code::PART_UNIT;
use crate::decode;
use crate::fault::{Fault, Reason};
use crate::oci::Digest;

/// The most parts: their numbers have three digits, and Zarf writes no more.
pub const PARTS_LIMIT: usize = 999;
/// The most parity parts.
pub const PARITY_LIMIT: usize = 99;
/// The longest list in bytes.
pub(super) const LIST_LIMIT: usize = 1 << 20;
/// The bytes at the beginning of a part that have a digest of their own, by which a part is known without reading it.
pub(super) const START: usize = 4096;
/// The version of the list that this program writes. Zarf's lists have none.
const VERSION: u32 = 1;

/// A part, or a parity part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// The digest of its first 4096 bytes.
    pub start: Digest,
}

/// The parts of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartList {
    /// The digest of the archive; `None` where the list has none.
    pub digest: Option<Digest>,
    /// The length of the archive in bytes.
    pub size: u64,
    /// How many parts there are.
    pub count: usize,
    /// The parts in order; empty in a list that Zarf wrote.
    pub parts: Vec<Part>,
    /// The parity parts in order.
    pub parity: Vec<Part>,
}

/// The file. The first three fields are Zarf's, whose decoder ignores the others.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Form {
    #[serde(rename = "Sha256Sum")]
    sum: String,
    #[serde(rename = "Bytes")]
    bytes: u64,
    #[serde(rename = "Count")]
    count: usize,
    #[serde(default)]
    version: u32,
    #[serde(default)]
    parts: Vec<PartForm>,
    #[serde(default)]
    parity: Vec<PartForm>,
    /// The digest of this file with an empty checksum.
    #[serde(default)]
    checksum: String,
}

#[derive(Serialize, Deserialize)]
struct PartForm {
    digest: Digest,
    size: u64,
    start: Digest,
}

impl PartForm {
    fn of(part: &Part) -> Self {
        Self {
            digest: part.digest.clone(),
            size: part.size,
            start: part.start.clone(),
        }
    }

    fn part(self) -> Part {
        Part {
            digest: self.digest,
            size: self.size,
            start: self.start,
        }
    }
}

impl Form {
    fn text(&self) -> Vec<u8> {
        // A struct of numbers and texts is always written.
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    fn checksum(&mut self) -> String {
        let own = std::mem::take(&mut self.checksum);
        let digest = Digest::of(&self.text());
        self.checksum = own;
        digest.to_string()
    }
}

impl PartList {
    /// The file.
    pub fn encode(&self) -> Vec<u8> {
        let digest = self.digest.as_ref();
        let mut form = Form {
            sum: digest.map(|digest| digest.hex().to_owned()).unwrap_or_default(),
            bytes: self.size,
            count: self.count,
            version: VERSION,
            parts: self.parts.iter().map(PartForm::of).collect(),
            parity: self.parity.iter().map(PartForm::of).collect(),
            checksum: String::new(),
        };
        form.checksum = form.checksum();
        form.text()
    }

    /// Reads a file of this program or of Zarf.
    ///
    /// # Errors
    /// A stalled fault, which says what is wrong with it.
    pub fn decode(text: &[u8]) -> Result<Self, Fault> {
        let mut form: Form = decode::json(text).map_err(|error| invalid(&format!("it cannot be read: {error}")))?;
        if form.version > VERSION {
            return Err(invalid(&format!(
                "it has version {}, and this version of jackal-operator reads {VERSION}; use a newer one",
                form.version
            )));
        }
        if form.version == VERSION && form.checksum() != form.checksum {
            return Err(invalid("its checksum differs"));
        }
        let digest: Option<Digest> = match form.sum.as_str() {
            "" => None,
            sum => {
                let digest = format!("sha256:{sum}").parse();
                Some(digest.map_err(|_| invalid("its Sha256Sum is not a SHA-256 digest"))?)
            }
        };
        let list = Self {
            digest,
            size: form.bytes,
            count: form.count,
            parts: form.parts.into_iter().map(PartForm::part).collect(),
            parity: form.parity.into_iter().map(PartForm::part).collect(),
        };
        match form.version {
            VERSION => list.check_parts()?,
            _ if list.parts.is_empty() && list.parity.is_empty() => {}
            _ => return Err(invalid("it lists parts without a version")),
        }
        match list.count {
            1..=PARTS_LIMIT => Ok(list),
            count => Err(invalid(&format!(
                "it counts {count} parts instead of 1 to {PARTS_LIMIT}"
            ))),
        }
    }

    /// That the lengths fit each other.
    fn check_parts(&self) -> Result<(), Fault> {
        let part_size = self.parts.first().map_or(0, |part| part.size);
        let (last, others) = match self.parts.split_last() {
            Some((last, others)) if self.parts.len() == self.count => (last, others),
            _ => return Err(invalid("it counts other parts than it lists")),
        };
        let sum = self
            .parts
            .iter()
            .try_fold(0_u64, |sum, part| sum.checked_add(part.size));
        let is_even = others
            .iter()
            .all(|part| part.size == part_size && part.size % PART_UNIT == 0);
        let parity_size = self.parity_size();
        let fits = is_even
            && (1..=part_size).contains(&last.size)
            && sum == Some(self.size)
            && self.parity.len() <= PARITY_LIMIT
            && self.parity.iter().all(|part| Some(part.size) == parity_size);
        match fits {
            true => Ok(()),
            false => Err(invalid("the lengths in it do not fit each other")),
        }
    }

    /// The length of a parity part in bytes: that of the longest part, rounded up to whole units of the code.
    pub(super) fn parity_size(&self) -> Option<u64> {
        self.parts.first()?.size.checked_next_multiple_of(PART_UNIT)
    }
}

fn invalid(what: &str) -> Fault {
    let message = format!("the list of the parts is damaged, or not one: {what}; copy it again");
    Fault::stalled(Reason::SourceFailed, message)
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn part(content: &[u8], size: u64) -> Part {
        Part {
            digest: Digest::of(content),
            size,
            start: Digest::of(b"start"),
        }
    }

    pub fn example() -> PartList {
        PartList {
            digest: Some(Digest::of(b"whole")),
            size: 300,
            count: 3,
            parts: vec![part(b"1", 128), part(b"2", 128), part(b"3", 44)],
            parity: vec![part(b"p", 128)],
        }
    }

    #[test]
    fn zarf_finds_its_fields_and_we_find_all() {
        let list = example();
        let text = list.encode();
        assert_eq!(PartList::decode(&text).unwrap(), list);
        let value: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(value["Sha256Sum"], Digest::of(b"whole").hex());
        assert_eq!((&value["Bytes"], &value["Count"]), (&json!(300), &json!(3)));
        // Go matches names without regard to case.
        let names = value.as_object().unwrap().keys();
        let folded: std::collections::BTreeSet<String> = names.map(|name| name.to_lowercase()).collect();
        assert_eq!(folded.len(), value.as_object().unwrap().len());
    }

    #[test]
    fn lists_of_zarf_are_read() {
        let sum = Digest::of(b"whole").hex().to_owned();
        for text in [
            format!(r#"{{"Sha256Sum":"{sum}","Bytes":300,"Count":3}}"#),
            format!(r#"{{"sha256Sum":"{sum}","bytes":300,"count":3}}"#),
        ] {
            let list = PartList::decode(text.as_bytes()).unwrap();
            assert_eq!((list.count, list.size), (3, 300));
            assert_eq!((list.digest, list.parts.len()), (Some(Digest::of(b"whole")), 0));
        }
    }

    #[test]
    fn lists_that_do_not_fit_are_refused() {
        type Change = fn(&mut PartList);
        let changes: [(Change, &str); 9] = [
            (|list| list.count = 2, "counts other parts"),
            (|list| list.size = 301, "do not fit"),
            (|list| list.parts[1].size = 64, "do not fit"),
            (|list| list.parts[2].size = 0, "do not fit"),
            (|list| list.parts[2].size = u64::MAX, "do not fit"),
            (|list| list.parity[0].size = 64, "do not fit"),
            (
                |list| list.parity = vec![list.parity[0].clone(); PARITY_LIMIT + 1],
                "do not fit",
            ),
            (|list| list.parts.clear(), "counts other parts"),
            (
                |list| {
                    *list = PartList {
                        count: 0,
                        size: 0,
                        parts: vec![],
                        ..list.clone()
                    }
                },
                "counts other parts",
            ),
        ];
        for (number, (change, words)) in changes.into_iter().enumerate() {
            let mut list = example();
            change(&mut list);
            let fault = PartList::decode(&list.encode()).unwrap_err();
            assert!(fault.is_stalled() && fault.message.contains(words), "{number}: {fault}");
        }
        let many = format!(r#"{{"Sha256Sum":"","Bytes":300,"Count":{}}}"#, PARTS_LIMIT + 1);
        assert!(
            PartList::decode(many.as_bytes())
                .unwrap_err()
                .message
                .contains("counts 1000 parts")
        );
        for text in ["", "{}", "[]", "no JSON", r#"{"Sha256Sum":"zz","Bytes":1,"Count":1}"#] {
            assert!(PartList::decode(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn every_changed_character_is_noticed() {
        let text = example().encode();
        for at in 0..text.len() {
            let mut changed = text.clone();
            changed[at] ^= 1;
            match PartList::decode(&changed) {
                Err(_) => {}
                // White space between the fields.
                Ok(list) => assert_eq!(list, example(), "{at}"),
            }
        }
    }
}
