//! Assembles the tar of a layer from its files and its tar-split (github.com/vbatts/tar-split, `tar/storage`).
//!
//! A tar-split is a gzip of JSON lines. Each is an entry: either bytes of the tar (headers, padding), or a file whose content
//! follows them, with its length and its CRC-64/ISO. It is read twice, first for the length of the tar and then to assemble
//! it, so that memory does not grow with the number of files.

mod assembly;
mod reader;
#[cfg(test)]
mod tests;

pub(in crate::source::docker) use assembly::assemble;
pub(in crate::source::docker) use reader::length;
