//! A jackal.yaml or zarf.yaml as somebody may have written it, and a file that it names.

#![no_main]

use jackal_operator::api::v1alpha1::JackalPackage;
use jackal_operator::convert::{Files, ConvertOptions, convert};
use jackal_operator::decode;
use libfuzzer_sys::fuzz_target;

// Every file is a manifest, or the definition itself.
struct Folder<'a>(&'a str);

impl Files for Folder<'_> {
    fn read(&self, path: &str, limit: usize) -> Result<Vec<u8>, String> {
        let content = match path.len() % 2 {
            0 => "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n",
            _ => self.0,
        };
        match content.len() > limit {
            true => Err("is too long".to_owned()),
            false => Ok(content.into()),
        }
    }
}

fuzz_target!(|text: &str| {
    for flavor in ["", "upstream"] {
        let wanted = ConvertOptions {
            flavor: flavor.to_owned(),
        };
        let Ok(converted) = convert(text, &Folder(text), &wanted) else { continue };
        let read: JackalPackage = decode::yaml(&converted.yaml).expect("what was written can be read");
        assert_eq!(read.spec, converted.package.spec, "{}", converted.yaml);
    }
});
