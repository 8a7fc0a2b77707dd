//! The coded part of a scan: restart intervals, made free of stuffed bytes.

use super::bits::Bits;
use crate::DecodeError;
use crate::retain::RETAINED_BYTES_MAX;

/// Bytes behind the last code of an interval that are passed over whatever they are: some cameras
/// leave a few.
const STRAY_MAX: usize = 16;

/// The coded bytes of one scan; buffers are reused from one to the next.
#[derive(Debug, Default)]
pub(super) struct Coded {
    bytes: Vec<u8>,
    /// Where each interval ends.
    ends: Vec<usize>,
}

impl Coded {
    /// Takes what lies between a scan's header and the next marker, which `next_marker` found: in
    /// it 0xff is followed by 0 (data), by 0xff (fill) or by a restart marker.
    pub(super) fn load(&mut self, mut scan: &[u8]) -> Result<(), DecodeError> {
        for retained in [self.bytes.capacity(), self.ends.capacity() * size_of::<usize>()] {
            if retained > RETAINED_BYTES_MAX {
                *self = Coded::default();
            }
        }
        self.bytes.clear();
        self.ends.clear();
        self.bytes.reserve(scan.len());
        while let Some(at) = scan.iter().position(|byte| *byte == 0xff) {
            self.bytes.extend_from_slice(&scan[..at]);
            let fill = scan[at..].iter().take_while(|byte| **byte == 0xff).count();
            scan = &scan[at + fill..];
            match scan.split_first() {
                Some((0, rest)) => {
                    self.bytes.push(0xff);
                    scan = rest;
                }
                Some((marker @ 0xd0..=0xd7, rest)) => {
                    if usize::from(marker & 7) != self.ends.len() % 8 {
                        return Err(DecodeError::corrupt("restart markers out of order"));
                    }
                    self.ends.push(self.bytes.len());
                    scan = rest;
                }
                _ => break,
            }
        }
        self.bytes.extend_from_slice(scan);
        self.ends.push(self.bytes.len());
        Ok(())
    }

    /// Begins to read, with a restart after every `interval` MCUs (0: none).
    pub(super) fn read(&self, interval: u32) -> Reader<'_> {
        Reader {
            coded: self,
            interval,
            left: 0,
            opened: 0,
            bits: Bits::new(&[]),
            predictions: [0; 3],
            end_of_band: 0,
        }
    }
}

/// Reads a scan, interval by interval.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    coded: &'a Coded,
    interval: u32,
    /// MCUs of the open interval.
    left: u32,
    opened: usize,
    pub(super) bits: Bits<'a>,
    /// The last first coefficient of each component.
    pub(super) predictions: [i32; 3],
    /// Blocks that bring nothing more, of a progressive scan.
    pub(super) end_of_band: u32,
}

impl Reader<'_> {
    /// Goes on to the next interval where the open one is through.
    #[inline]
    pub(super) fn before_mcu(&mut self) -> Result<(), DecodeError> {
        if self.left == 0 {
            self.next_interval()?;
        }
        self.left -= 1;
        Ok(())
    }

    fn next_interval(&mut self) -> Result<(), DecodeError> {
        if self.opened > 0 {
            self.close()?;
        }
        let Some(end) = self.coded.ends.get(self.opened) else {
            return Err(DecodeError::corrupt("fewer restart markers than it should have"));
        };
        let start = match self.opened {
            0 => 0,
            opened => self.coded.ends[opened - 1],
        };
        self.bits = Bits::new(&self.coded.bytes[start..*end]);
        self.opened += 1;
        self.left = if self.interval == 0 { u32::MAX } else { self.interval };
        self.predictions = [0; 3];
        self.end_of_band = 0;
        Ok(())
    }

    /// Whether the scan went on to this point. Asked after each row, so that a file without data
    /// takes no time.
    pub(super) fn check(&self) -> Result<(), DecodeError> {
        if self.bits.is_overrun() { Err(DecodeError::Truncated) } else { Ok(()) }
    }

    fn close(&self) -> Result<(), DecodeError> {
        self.check()?;
        let rest = self.bits.rest();
        let padding = rest.iter().all(|byte| *byte == 0) || rest.iter().all(|byte| *byte == 0xff);
        if !padding && rest.len() > STRAY_MAX {
            return Err(DecodeError::corrupt("a scan that goes on behind its picture"));
        }
        Ok(())
    }

    /// Ends the scan.
    pub(super) fn finish(&self) -> Result<(), DecodeError> {
        self.close()?;
        if self.opened != self.coded.ends.len() {
            return Err(DecodeError::corrupt("more restart markers than it should have"));
        }
        Ok(())
    }
}
