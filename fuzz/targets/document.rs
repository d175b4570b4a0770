//! A manifest or an index, as a registry may send it.

#![no_main]

use bytes::Bytes;
use jackal_operator::oci::{Digest, Document, distinct_blobs};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|raw: &[u8]| {
    let Ok(document) = Document::parse(None, Bytes::copy_from_slice(raw)) else { return };
    assert_eq!(document.digest(), &Digest::of(raw));
    assert_eq!(document.descriptor.size, raw.len() as u64);
    // What is made of it again is read as the same.
    let again = match (document.manifest(), document.index()) {
        (Some(manifest), _) => Document::of_manifest(manifest.clone()),
        (None, Some(index)) => Document::of_index(index.clone()),
        (None, None) => return,
    };
    let again = again.expect("what was read can be written");
    let read = Document::parse(None, again.raw.clone()).expect("what was written can be read");
    assert_eq!(read.content, document.content);
    assert_eq!(distinct_blobs(&[document]).len(), distinct_blobs(&[read]).len());
});
