//! Checksums of a tar's headers.

/// The length of a header.
pub const BLOCK: usize = 512;

/// Headers whose checksum is wrong end the reading at once, so it is put right: an input has to find the rest.
pub fn put_right(tar: &mut [u8]) {
    for block in tar.chunks_exact_mut(BLOCK) {
        if block.iter().all(|&byte| byte == 0) {
            continue;
        }
        let sum: u32 = (0..BLOCK).map(|at| u32::from(if (148..156).contains(&at) { b' ' } else { block[at] })).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}
