//! What a file says of its components and scans.

use super::header::Header;
use crate::DecodeError;

/// Blocks of one MCU, at most (T.81, B.2.3).
const MCU_BLOCKS_MAX: usize = 10;

/// A table of quantisation, in zigzag order: the factor, and the largest quantised value that a
/// picture can have with it.
pub(super) type Quantisation = [(u16, u16); PLACES];

/// Places of coefficients in a table: 64, and those that a damaged file can name behind them (15
/// zeros and a value), so that decoders look only once per block whether it did.
pub(super) const PLACES: usize = 80;

/// One of the one or three planes of a picture.
#[derive(Debug, Clone)]
pub(super) struct Component {
    id: u8,
    /// Blocks of an MCU across and down.
    pub(super) across: usize,
    pub(super) down: usize,
    /// How many pixels one sample is wide and high.
    pub(super) wide: usize,
    pub(super) high: usize,
    pub(super) quantisation_id: usize,
    /// Taken from the file's tables at its first scan.
    pub(super) quantisation: Option<Quantisation>,
    /// Samples that belong to the picture.
    pub(super) width: usize,
    pub(super) height: usize,
    /// Blocks that hold them.
    pub(super) blocks_across: usize,
    pub(super) blocks_down: usize,
    /// Blocks in a row of the plane: whole MCUs.
    pub(super) stride_blocks: usize,
    /// Blocks in all, in front of which those of the components before it lie.
    pub(super) blocks: usize,
    pub(super) first_block: usize,
    /// Of a progressive file: how many low bits of each coefficient are still to come, or none of
    /// it came yet (-1).
    pub(super) missing_bits: [i8; 64],
}

/// The frame header, taken apart.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) width: usize,
    pub(super) components: Vec<Component>,
    pub(super) mcus_across: usize,
    pub(super) mcus_down: usize,
    pub(super) progressive: bool,
}

impl Frame {
    /// Reads a frame header's body, of which `header` is known and within the limits.
    pub(super) fn read(body: &[u8], header: &Header) -> Result<Frame, DecodeError> {
        let (width, height) = (usize::from(header.width), usize::from(header.height));
        let count = usize::from(header.components);
        let listed = body.get(6..).filter(|listed| listed.len() == 3 * count);
        let listed = listed.ok_or(DecodeError::corrupt("a frame header of the wrong length"))?;
        let factor = |at: usize, low: bool| {
            let byte = listed[3 * at + 1];
            // A single component's factors mean nothing: its blocks lie in rows.
            let factor = if low { byte & 15 } else { byte >> 4 };
            if (1..=4).contains(&factor) { Ok(usize::from(factor)) } else { Err(BAD_SAMPLING) }
        };
        let (mut across_max, mut down_max) = (1, 1);
        for at in 0..count {
            across_max = across_max.max(factor(at, false)?);
            down_max = down_max.max(factor(at, true)?);
        }
        if count == 1 {
            (across_max, down_max) = (1, 1);
        }
        let mcus_across = width.div_ceil(8 * across_max);
        let mcus_down = height.div_ceil(8 * down_max);
        let mut components: Vec<Component> = Vec::with_capacity(count);
        let mut first_block = 0;
        for at in 0..count {
            let (id, quantisation_id) = (listed[3 * at], usize::from(listed[3 * at + 2]));
            let (across, down) =
                if count == 1 { (1, 1) } else { (factor(at, false)?, factor(at, true)?) };
            if quantisation_id > 3 || components.iter().any(|other| other.id == id) {
                return Err(DecodeError::corrupt("two components of one name, or a bad table"));
            }
            if across_max % across != 0 || down_max % down != 0 {
                return Err(BAD_RATIO);
            }
            let (wide, high) = (across_max / across, down_max / down);
            let (samples_across, samples_down) = (width.div_ceil(wide), height.div_ceil(high));
            let stride_blocks = mcus_across * across;
            let blocks = stride_blocks * mcus_down * down;
            components.push(Component {
                id,
                across,
                down,
                wide,
                high,
                quantisation_id,
                quantisation: None,
                width: samples_across,
                height: samples_down,
                blocks_across: samples_across.div_ceil(8),
                blocks_down: samples_down.div_ceil(8),
                stride_blocks,
                blocks,
                first_block,
                missing_bits: [-1; 64],
            });
            first_block += blocks;
        }
        let progressive = header.progressive;
        Ok(Frame { width, components, mcus_across, mcus_down, progressive })
    }

    /// Blocks of all components.
    pub(super) fn blocks(&self) -> usize {
        self.components.iter().map(|component| component.blocks).sum()
    }

    /// The names of the components, which say what they are where nothing else does.
    pub(super) fn ids(&self) -> Vec<u8> {
        self.components.iter().map(|component| component.id).collect()
    }
}

const BAD_SAMPLING: DecodeError = DecodeError::corrupt("a sampling factor that is not 1 to 4");
const BAD_RATIO: DecodeError =
    DecodeError::unsupported("colours that are sampled 2 to 3, or in another broken ratio");

/// One component's part in a scan.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    /// Its place in the frame.
    pub(super) component: usize,
    pub(super) dc_id: usize,
    pub(super) ac_id: usize,
}

/// The header of a scan, taken apart.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) members: Vec<Member>,
    /// The coefficients that it brings, in zigzag order.
    pub(super) first: usize,
    pub(super) last: usize,
    /// Low bits that earlier scans left out, and that this one leaves out.
    pub(super) before: u32,
    pub(super) after: u32,
}

impl Scan {
    /// Reads a scan header's body and holds it against the frame and the scans before it, which it
    /// marks as come.
    pub(super) fn read(body: &[u8], frame: &mut Frame) -> Result<Scan, DecodeError> {
        let wrong = DecodeError::corrupt("a scan header that does not fit the frame");
        let Some((&count, rest)) = body.split_first() else { return Err(wrong) };
        let count = usize::from(count);
        if !(1..=frame.components.len()).contains(&count) || rest.len() != 2 * count + 3 {
            return Err(wrong);
        }
        let mut members: Vec<Member> = Vec::with_capacity(count);
        for pair in rest[..2 * count].chunks_exact(2) {
            let component = frame.components.iter().position(|it| it.id == pair[0]);
            let Some(component) = component else { return Err(wrong) };
            let (dc_id, ac_id) = (usize::from(pair[1] >> 4), usize::from(pair[1] & 15));
            // Components keep the frame's order.
            if dc_id > 3 || ac_id > 3 || members.last().is_some_and(|it| it.component >= component)
            {
                return Err(wrong);
            }
            members.push(Member { component, dc_id, ac_id });
        }
        let blocks = |member: &Member| {
            let component = &frame.components[member.component];
            component.across * component.down
        };
        if count > 1 && members.iter().map(blocks).sum::<usize>() > MCU_BLOCKS_MAX {
            return Err(DecodeError::corrupt("more than 10 blocks in an MCU"));
        }
        let [first, last, bits] = [0, 1, 2].map(|at| rest[2 * count + at]);
        let (first, last) = (usize::from(first), usize::from(last));
        let (before, after) = (u32::from(bits >> 4), u32::from(bits & 15));
        let scan = Scan { members, first, last, before, after };
        if frame.progressive {
            scan.progress(frame)?
        } else {
            scan.take_whole(frame)?
        }
        Ok(scan)
    }

    /// A scan of a sequential file brings all of its components, once.
    fn take_whole(&self, frame: &mut Frame) -> Result<(), DecodeError> {
        if (self.first, self.last, self.before, self.after) != (0, 63, 0, 0) {
            return Err(DecodeError::corrupt("a scan of parts in a file that is not progressive"));
        }
        for member in &self.members {
            let missing = &mut frame.components[member.component].missing_bits;
            if missing[0] == 0 {
                return Err(DecodeError::corrupt("a component that comes twice"));
            }
            missing.fill(0);
        }
        Ok(())
    }

    /// A scan of a progressive file brings what did not come yet, bit below bit.
    fn progress(&self, frame: &mut Frame) -> Result<(), DecodeError> {
        let Scan { members, first, last, before, after } = self;
        let parts = match first {
            0 => *last == 0,
            _ => first <= last && *last < 64 && members.len() == 1,
        };
        let wrong = DecodeError::corrupt("a scan that does not follow from those before it");
        if !parts || *after > 13 {
            return Err(wrong);
        }
        for member in members {
            let missing = &mut frame.components[member.component].missing_bits;
            let expected = if *before == 0 { -1 } else { i8::try_from(*before).unwrap_or(0) };
            let refines = *before == 0 || *after + 1 == *before;
            let after = i8::try_from(*after).unwrap_or(0);
            if !refines || (*first > 0 && missing[0] < 0) {
                return Err(wrong);
            }
            for bits in &mut missing[*first..=*last] {
                if *bits != expected {
                    return Err(wrong);
                }
                *bits = after;
            }
        }
        Ok(())
    }
}
