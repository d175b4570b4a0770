//! The list of the parts of a package file.

#![no_main]

use jackal_operator::archive::parts::PartList;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let Ok(list) = PartList::decode(text) else { return };
    // Zarf's lists have no parts.
    if !list.parts.is_empty() {
        assert_eq!(PartList::decode(&list.encode()).as_ref(), Ok(&list));
    }
});
