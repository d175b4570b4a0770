//! The Reed-Solomon code over the parts. A stripe is the bytes at equal offsets of all parts; the shards of a code word are the
//! stripe's pieces of each part. Stripes are whole units of the code, so that their length makes no difference to the parity.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};

use super::files::PartFile;
use super::list::{Part, START};
use super::{blocking, unwritable};
use crate::fault::{Fault, Reason};
use crate::oci::{Digest, Hasher};
use crate::transfer::Progress;

/// The unit of the code in bytes: parts are as long as a multiple of it, all but the last.
pub const PART_UNIT: u64 = 64;
/// The memory for the shards of a stripe, in bytes.
const MEMORY: u64 = 48 << 20;
/// The longest piece of a part in a stripe, in bytes.
const STRIPE: u64 = 1 << 20;

/// A part that is computed.
pub(super) struct Output {
    /// Its place among the parts, or among the parity parts.
    pub at: usize,
    /// Its length in bytes.
    pub size: u64,
    /// Where it is written.
    pub path: PathBuf,
    pub file: File,
}

/// A part while it is computed.
struct Written {
    output: Output,
    hasher: Hasher,
    start: Vec<u8>,
    length: u64,
}

impl Written {
    fn new(output: Output) -> Self {
        Self {
            output,
            hasher: Hasher::sha256(),
            start: Vec::new(),
            length: 0,
        }
    }

    /// Writes the next bytes, as far as the part goes.
    fn write(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let rest = self.output.size - self.length;
        let length = usize::try_from(rest).map_or(bytes.len(), |rest| rest.min(bytes.len()));
        let bytes = &bytes[..length];
        let written = self.output.file.write_all(bytes);
        written.map_err(|error| unwritable(&self.output.path, error))?;
        self.hasher.update(bytes);
        self.start.extend(bytes.iter().take(START - self.start.len()));
        self.length += length as u64;
        Ok(())
    }

    fn finish(self) -> Result<Part, Fault> {
        let synced = self.output.file.sync_all();
        synced.map_err(|error| unwritable(&self.output.path, error))?;
        Ok(Part {
            digest: self.hasher.finish(),
            size: self.length,
            start: Digest::of(&self.start),
        })
    }
}

/// The length of the pieces of a stripe in bytes, for `shards` shards at most.
fn stripe(parts: usize, parity: usize, part_size: u64) -> u64 {
    // The decoder has memory for as many shards.
    let shards = (parts.next_power_of_two() + parity.next_power_of_two()).next_power_of_two();
    let fits = MEMORY / shards as u64 / PART_UNIT * PART_UNIT;
    fits.min(STRIPE).min(part_size)
}

/// Computes the parity parts `outputs` of all `parts`; `parity` is how many parity parts there are in all, each `size` bytes long.
///
/// # Errors
/// A fault that names the part which cannot be read or written.
pub(super) async fn encode(
    parts: Arc<[PartFile]>,
    parity: usize,
    size: u64,
    outputs: Vec<Output>,
    progress: &Progress,
) -> Result<Vec<Part>, Fault> {
    let step = stripe(parts.len(), parity, size);
    let mut outputs: Vec<Written> = outputs.into_iter().map(Written::new).collect();
    let mut coder =
        ReedSolomonEncoder::new(parts.len(), parity, length_of(step)).map_err(|error| impossible(&error))?;
    let mut buffer = vec![0; length_of(step)];
    let mut offset = 0;
    while offset < size {
        let length = step.min(size - offset);
        let files = Arc::clone(&parts);
        // One stripe at a time, so that the work ends soon after the command is interrupted.
        (coder, outputs, buffer) = blocking(move || {
            buffer.truncate(length_of(length));
            let reset = coder.reset(files.len(), parity, buffer.len());
            reset.map_err(|error| impossible(&error))?;
            for file in files.iter() {
                file.read_padded(&mut buffer, offset).map_err(unreadable)?;
                coder.add_original_shard(&buffer).map_err(|error| impossible(&error))?;
            }
            let shards = coder.encode().map_err(|error| impossible(&error))?;
            for output in &mut outputs {
                if let Some(shard) = shards.recovery(output.output.at) {
                    output.write(shard)?;
                }
            }
            drop(shards);
            Ok((coder, outputs, buffer))
        })
        .await?;
        progress.add_moved(length * parts.len() as u64);
        offset += length;
    }
    blocking(move || outputs.into_iter().map(Written::finish).collect()).await
}

/// The parts that are sound, each at its place; those that are lost are `None`.
pub(super) struct Remaining {
    pub parts: Vec<Option<PartFile>>,
    pub parity: Vec<Option<PartFile>>,
}

/// Computes the lost parts `outputs` of what remains; `size` is the length of a parity part in bytes.
///
/// # Errors
/// A fault that names the part which cannot be read or written.
pub(super) async fn decode(
    remaining: Remaining,
    size: u64,
    outputs: Vec<Output>,
    progress: &Progress,
) -> Result<Vec<Part>, Fault> {
    let (parts, parity) = (remaining.parts.len(), remaining.parity.len());
    let remaining = Arc::new(remaining);
    let step = stripe(parts, parity, size);
    let mut outputs: Vec<Written> = outputs.into_iter().map(Written::new).collect();
    let mut coder = ReedSolomonDecoder::new(parts, parity, length_of(step)).map_err(|error| impossible(&error))?;
    let mut buffer = vec![0; length_of(step)];
    let mut offset = 0;
    while offset < size {
        let length = step.min(size - offset);
        let remaining = Arc::clone(&remaining);
        (coder, outputs, buffer) = blocking(move || {
            buffer.truncate(length_of(length));
            let reset = coder.reset(parts, parity, buffer.len());
            reset.map_err(|error| impossible(&error))?;
            let present = |files: &'_ [Option<PartFile>]| files.iter().filter(|file| file.is_some()).count();
            // No more than are needed: each costs a read.
            let needed = parts - present(&remaining.parts);
            for (at, file) in remaining.parts.iter().enumerate() {
                let Some(file) = file else { continue };
                file.read_padded(&mut buffer, offset).map_err(unreadable)?;
                let added = coder.add_original_shard(at, &buffer);
                added.map_err(|error| impossible(&error))?;
            }
            let parity = remaining.parity.iter().enumerate();
            for (at, file) in parity.filter_map(|(at, file)| Some((at, file.as_ref()?))).take(needed) {
                file.read_padded(&mut buffer, offset).map_err(unreadable)?;
                let added = coder.add_recovery_shard(at, &buffer);
                added.map_err(|error| impossible(&error))?;
            }
            let shards = coder.decode().map_err(|error| impossible(&error))?;
            for output in &mut outputs {
                if let Some(shard) = shards.restored_original(output.output.at) {
                    output.write(shard)?;
                }
            }
            drop(shards);
            Ok((coder, outputs, buffer))
        })
        .await?;
        progress.add_moved(length * parts as u64);
        offset += length;
    }
    blocking(move || outputs.into_iter().map(Written::finish).collect()).await
}

/// A length that [`stripe`] bounds.
fn length_of(length: u64) -> usize {
    usize::try_from(length).unwrap_or_default()
}

fn unreadable(error: std::io::Error) -> Fault {
    Fault::retryable(Reason::SourceFailed, error.to_string())
}

/// The numbers of parts and the lengths are checked before.
fn impossible(error: &reed_solomon_simd::Error) -> Fault {
    Fault::stalled(Reason::InternalError, format!("the parity cannot be computed: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_is_bounded_whatever_the_number_of_parts() {
        for (parts, parity) in [(1, 1), (2, 2), (10, 2), (512, 1), (999, 1), (999, 99)] {
            let step = stripe(parts, parity, u64::MAX / PART_UNIT * PART_UNIT);
            assert!(
                step >= 16 << 10 && step.is_multiple_of(PART_UNIT),
                "{parts} {parity}: {step}"
            );
            assert!(step * (parts + parity) as u64 <= MEMORY, "{parts} {parity}: {step}");
            assert_eq!(stripe(parts, parity, PART_UNIT), PART_UNIT);
        }
    }

    /// Archives that were written stay repairable: the code must never change.
    #[test]
    fn the_parity_is_the_same_in_every_version() {
        let shards: Vec<Vec<u8>> = (0..5_u8)
            .map(|shard| (0..128).map(|at: u8| at.wrapping_mul(shard + 3) ^ shard).collect())
            .collect();
        let parity = reed_solomon_simd::encode(5, 2, shards).unwrap();
        let digest = Digest::of(&parity.concat());
        assert_eq!(digest.short(), "c60656dfb97d");
    }
}
