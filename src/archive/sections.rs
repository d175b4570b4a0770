//! Finds the frames of a package file in a pipe, to tell the first tar from the second, which is in wrapped frames.

use std::io::{self, Read};

use super::format::FrameKind;

/// The most bytes of a frame before its content: magic number and header (RFC 8878, section 3.1.1.1), or a block's header.
const START: usize = 18;

/// The frames of one tar after the other: reading ends where the frames of the first end, and goes on with those of the second,
/// without what wraps them, after [`Self::next_section`]. Other skippable frames are left out.
pub(super) struct Sections<R> {
    input: R,
    /// Bytes that were read to find out what follows.
    start: [u8; START],
    begin: usize,
    end: usize,
    /// Bytes that are passed on as they are.
    content: u64,
    expected: Expected,
    /// Whether the frames of the second tar are read.
    second: bool,
}

/// What the input goes on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// A frame of either kind.
    Frame,
    /// The first wrapped frame, whose skippable header was read.
    FirstWrapped,
    /// A block of a frame that may end in a checksum.
    Block {
        checksum: bool,
    },
    Checksum,
    End,
}

impl<R: Read> Sections<R> {
    /// The frames of `input`, which is read in small pieces.
    pub fn new(input: R) -> Self {
        Self {
            input,
            start: [0; START],
            begin: 0,
            end: 0,
            content: 0,
            expected: Expected::Frame,
            second: false,
        }
    }

    /// Goes on with the second tar.
    pub fn next_section(&mut self) {
        self.second = true;
    }

    /// Reads `length` bytes that are passed on.
    fn take(&mut self, length: usize) -> io::Result<&[u8]> {
        let end = self.end + length;
        let place = self.start.get_mut(self.end..end).ok_or_else(damaged)?;
        self.input.read_exact(place)?;
        self.end = end;
        Ok(&self.start[end - length..end])
    }

    /// Reads what says how the input goes on.
    fn advance(&mut self) -> io::Result<()> {
        (self.begin, self.end) = (0, 0);
        match self.expected {
            Expected::Frame => self.frame(),
            Expected::FirstWrapped => {
                if self.second {
                    self.wrapped()?;
                }
                Ok(())
            }
            Expected::Block { checksum } => self.block(checksum),
            Expected::Checksum => {
                self.take(4)?;
                self.expected = Expected::Frame;
                Ok(())
            }
            Expected::End => Ok(()),
        }
    }

    fn frame(&mut self) -> io::Result<()> {
        let mut magic = [0; 4];
        let first = loop {
            match self.input.read(&mut magic[..1]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                first => break first?,
            }
        };
        if first == 0 {
            self.expected = Expected::End;
            return Ok(());
        }
        self.input.read_exact(&mut magic[1..])?;
        match FrameKind::of(magic) {
            Some(FrameKind::Content) if !self.second => self.header(magic),
            Some(FrameKind::Wrapped) => {
                self.length()?;
                self.expected = Expected::FirstWrapped;
                Ok(())
            }
            Some(FrameKind::Skippable) => {
                let length = self.length()?;
                let skipped = io::copy(&mut self.input.by_ref().take(length), &mut io::sink())?;
                match skipped == length {
                    true => Ok(()),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                }
            }
            _ => Err(damaged()),
        }
    }

    fn length(&mut self) -> io::Result<u64> {
        let mut length = [0; 4];
        self.input.read_exact(&mut length)?;
        Ok(u32::from_le_bytes(length).into())
    }

    fn wrapped(&mut self) -> io::Result<()> {
        let mut magic = [0; 4];
        self.input.read_exact(&mut magic)?;
        match FrameKind::of(magic) {
            Some(FrameKind::Content) => self.header(magic),
            _ => Err(damaged()),
        }
    }

    /// Reads the rest of a frame's header (RFC 8878, section 3.1.1.1).
    fn header(&mut self, magic: [u8; 4]) -> io::Result<()> {
        self.start[..4].copy_from_slice(&magic);
        self.end = 4;
        let descriptor = self.take(1)?[0];
        let is_single = descriptor >> 5 & 1 == 1;
        let window = usize::from(!is_single);
        let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
        let content = match descriptor >> 6 {
            0 => usize::from(is_single),
            power => 1 << power,
        };
        self.take(window + dictionary + content)?;
        self.expected = Expected::Block {
            checksum: descriptor >> 2 & 1 == 1,
        };
        Ok(())
    }

    /// Reads a block's header (RFC 8878, section 3.1.1.2).
    fn block(&mut self, checksum: bool) -> io::Result<()> {
        let header = self.take(3)?;
        let header = u32::from_le_bytes([header[0], header[1], header[2], 0]);
        self.content = match header >> 1 & 3 {
            // One byte that is repeated.
            1 => 1,
            3 => return Err(damaged()),
            _ => u64::from(header >> 3),
        };
        if header & 1 == 1 {
            self.expected = match checksum {
                true => Expected::Checksum,
                false => Expected::Frame,
            };
        }
        Ok(())
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it has a frame that cannot be read")
}

impl<R: Read> Read for Sections<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.begin < self.end {
                let length = buffer.len().min(self.end - self.begin);
                buffer[..length].copy_from_slice(&self.start[self.begin..self.begin + length]);
                self.begin += length;
                return Ok(length);
            }
            if self.content > 0 {
                let length = usize::try_from(self.content).map_or(buffer.len(), |content| content.min(buffer.len()));
                let length = self.input.read(&mut buffer[..length])?;
                self.content -= length as u64;
                return match length {
                    0 => Err(io::ErrorKind::UnexpectedEof.into()),
                    _ => Ok(length),
                };
            }
            let ended = match self.expected {
                Expected::FirstWrapped => !self.second,
                expected => expected == Expected::End,
            };
            if ended {
                return Ok(0);
            }
            self.advance()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::format::{SeekTable, header, stored, wrapped};

    /// Frames of every form: without and with a checksum, of one repeated byte, with and without content size.
    fn frames(seed: u8) -> (Vec<u8>, Vec<Vec<u8>>) {
        let varied: Vec<u8> = (0..600_000_u32).map(|at| (at / 7 % 251) as u8 ^ seed).collect();
        let contents = [&b"short"[..], &varied, &[seed; 300_000], b""];
        let mut frames: Vec<Vec<u8>> = contents.map(|content| stored(content).to_vec()).into();
        for content in contents {
            frames.push(zstd::bulk::compress(content, 3).unwrap());
            let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
            encoder.include_checksum(true).unwrap();
            io::copy(&mut &content[..], &mut encoder).unwrap();
            frames.push(encoder.finish().unwrap());
        }
        let content = frames.iter().flat_map(|frame| zstd::decode_all(&frame[..]).unwrap());
        (content.collect(), frames)
    }

    fn file() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let (first, main) = frames(1);
        let (second, further) = frames(2);
        let mut file = main.concat();
        file.extend_from_slice(&header(b"passed over").unwrap());
        for frame in further {
            file.extend_from_slice(&wrapped(&frame).unwrap());
        }
        file.extend_from_slice(&SeekTable::default().frame().unwrap());
        (file, first, second)
    }

    fn read(file: &[u8]) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let mut sections = Sections::new(file);
        let first = zstd::decode_all(&mut sections)?;
        sections.next_section();
        Ok((first, zstd::decode_all(&mut sections)?))
    }

    #[test]
    fn the_first_tar_is_told_from_the_second() {
        let (file, first, second) = file();
        assert!(zstd::decode_all(&file[..]).unwrap() == first);
        let read = read(&file).unwrap();
        assert!(read.0 == first && read.1 == second);
        // A file without wrapped frames has no second tar.
        let one = frames(1).1.concat();
        let mut sections = Sections::new(&one[..]);
        assert!(zstd::decode_all(&mut sections).unwrap() == first);
        sections.next_section();
        assert_eq!(sections.read(&mut [0; 8]).unwrap(), 0);
    }

    #[test]
    fn files_that_end_early_are_refused() {
        let (file, ..) = file();
        let mut sound = 0;
        for length in (0..file.len()).step_by(997) {
            sound += usize::from(read(&file[..length]).is_ok());
        }
        // Only where it ends between two frames.
        assert!(sound <= 2, "{sound}");
        let mut other = file.clone();
        other[0] ^= 1;
        assert!(read(&other).is_err());
    }
}
