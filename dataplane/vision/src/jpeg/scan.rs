//! Scans to samples (sequential files) or to coefficients (progressive ones).

use super::entropy::Reader;
use super::frame::{Component, Frame, PLACES, Quantisation, Scan};
use super::huffman::Table;
use super::idct::{self, Block};
use crate::DecodeError;

/// The place of each coefficient, in the order in which files have them, and places that no
/// coefficient has.
const ZIGZAG: [u8; PLACES] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20,
    13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59,
    52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63,
    63, 63, 63, 63, 63, 63,
];

const OUT_OF_RANGE: DecodeError = DecodeError::corrupt("coefficients that no picture can have");
const TOO_MANY: DecodeError = DecodeError::corrupt("more than 64 coefficients in a block");
const BAD_VALUE: DecodeError = DecodeError::corrupt("a code that has no place where it stands");

/// The tables that the open scan may name, by their number.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) dc: [Table; 4],
    pub(super) ac: [Table; 4],
}

/// Calls `block` with a member's place in the scan and the block's place in its component, for each
/// block of a scan in the order of the file.
fn each_block<'a>(
    frame: &Frame,
    scan: &Scan,
    mut reader: Reader<'a>,
    mut block: impl FnMut(&mut Reader<'a>, usize, usize) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    if let [member] = scan.members.as_slice() {
        let component = &frame.components[member.component];
        for row in 0..component.blocks_down {
            for column in 0..component.blocks_across {
                reader.before_mcu()?;
                block(&mut reader, 0, row * component.stride_blocks + column)?;
            }
            reader.check()?;
        }
        return reader.finish();
    }
    for row in 0..frame.mcus_down {
        for column in 0..frame.mcus_across {
            reader.before_mcu()?;
            for (at, member) in scan.members.iter().enumerate() {
                let component = &frame.components[member.component];
                for down in 0..component.down {
                    let line = (row * component.down + down) * component.stride_blocks;
                    for across in 0..component.across {
                        block(&mut reader, at, line + column * component.across + across)?;
                    }
                }
            }
        }
        reader.check()?;
    }
    reader.finish()
}

/// Decodes a scan of a sequential file to the components' planes.
pub(super) fn sequential(
    frame: &Frame,
    scan: &Scan,
    tables: &Tables,
    reader: Reader<'_>,
    planes: &mut [u8],
) -> Result<(), DecodeError> {
    each_block(frame, scan, reader, |reader, at, place| {
        let member = scan.members[at];
        let component = &frame.components[member.component];
        let Some(quantisation) = &component.quantisation else { return Err(NO_QUANTISATION) };
        let mut block = [[0; 8]; 8];
        let (dc, ac) = (&tables.dc[member.dc_id], &tables.ac[member.ac_id]);
        let last = whole_block(reader, at, dc, ac, quantisation, &mut block)?;
        put(component, place, planes, &block, last);
        Ok(())
    })
}

pub(super) const NO_QUANTISATION: DecodeError =
    DecodeError::corrupt("a component without its table of quantisation");

/// Reads all of a block, dequantised, and says where its last coefficient is.
#[inline(always)]
fn whole_block(
    reader: &mut Reader<'_>,
    member: usize,
    dc: &Table,
    ac: &Table,
    quantisation: &Quantisation,
    block: &mut Block,
) -> Result<usize, DecodeError> {
    let prediction = &mut reader.predictions[member];
    let bits = &mut reader.bits;
    let out = block.as_flattened_mut();
    bits.refill();
    let first = dc.next(bits)?;
    // What is out of range here stops the decoding, so that the sum stays small.
    *prediction = prediction.wrapping_add(first.value);
    if first.symbol > 15 {
        return Err(BAD_VALUE);
    }
    out[0] = dequantised(*prediction, quantisation[0])?;
    let (mut k, mut last, mut out_of_range) = (1, 0, false);
    while k < 64 {
        bits.refill_for_code();
        let next = ac.next(bits)?;
        let zeros = usize::from(next.symbol >> 4);
        if next.value == 0 {
            match zeros {
                0 => break,
                15 => k += 16,
                _ => return Err(BAD_VALUE),
            }
            continue;
        }
        k += zeros;
        // At most 15 places behind the last one, which the two tables have; see below.
        let (factor, most) = quantisation[k];
        out_of_range |= next.value.unsigned_abs() > u32::from(most);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the largest value keeps it below 2^15"
        )]
        let value = next.value.wrapping_mul(i32::from(factor)) as i16;
        out[usize::from(ZIGZAG[k] & 63)] = value;
        last = k;
        k += 1;
    }
    if k > 64 {
        return Err(TOO_MANY);
    }
    if out_of_range { Err(OUT_OF_RANGE) } else { Ok(last) }
}

/// A coefficient, where it is one that a picture can have.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the largest value keeps it below 2^15")]
fn dequantised(value: i32, (factor, most): (u16, u16)) -> Result<i16, DecodeError> {
    if value.unsigned_abs() > u32::from(most) {
        return Err(OUT_OF_RANGE);
    }
    Ok(value.wrapping_mul(i32::from(factor)) as i16)
}

/// Transforms a block, whose last coefficient is `last`, to where it belongs.
#[inline(always)]
fn put(component: &Component, place: usize, planes: &mut [u8], block: &Block, last: usize) {
    let stride = component.stride_blocks * 8;
    let (row, column) = (place / component.stride_blocks, place % component.stride_blocks);
    let start = component.first_block * 64 + row * 8 * stride + column * 8;
    let end = start + 7 * stride + 8;
    let rows = planes[start..end].chunks_mut(stride);
    if last == 0 {
        let sample = idct::flat(block[0][0]);
        for row in rows {
            row[..8].fill(sample);
        }
        return;
    }
    let samples = if last <= idct::SMALL_LAST { idct::small(block) } else { idct::whole(block) };
    for (row, samples) in rows.zip(&samples) {
        row[..8].copy_from_slice(samples);
    }
}

/// Decodes a scan of a progressive file into the coefficients, which are not dequantised.
pub(super) fn progressive(
    frame: &Frame,
    scan: &Scan,
    tables: &Tables,
    reader: Reader<'_>,
    coefficients: &mut [Block],
) -> Result<(), DecodeError> {
    each_block(frame, scan, reader, |reader, at, place| {
        let member = scan.members[at];
        let component = &frame.components[member.component];
        let block = coefficients[component.first_block + place].as_flattened_mut();
        let ac = &tables.ac[member.ac_id];
        match (scan.first, scan.before) {
            (0, 0) => first_dc(reader, at, &tables.dc[member.dc_id], scan.after, block),
            (0, _) => {
                reader.bits.refill();
                block[0] |= i16::from(reader.bits.take(1) == 1) << scan.after;
                Ok(())
            }
            (_, 0) => first_ac(reader, ac, scan, block),
            (_, _) => refine_ac(reader, ac, scan, block),
        }
    })
}

fn first_dc(
    reader: &mut Reader<'_>,
    member: usize,
    dc: &Table,
    after: u32,
    block: &mut [i16],
) -> Result<(), DecodeError> {
    reader.bits.refill();
    let next = dc.next(&mut reader.bits)?;
    if next.symbol > 15 {
        return Err(BAD_VALUE);
    }
    let prediction = &mut reader.predictions[member];
    *prediction = prediction.wrapping_add(next.value);
    block[0] = shifted(*prediction, after)?;
    Ok(())
}

/// A value with its missing bits.
fn shifted(value: i32, after: u32) -> Result<i16, DecodeError> {
    i16::try_from(i64::from(value) << after).map_err(|_too_large| OUT_OF_RANGE)
}

fn first_ac(
    reader: &mut Reader<'_>,
    ac: &Table,
    scan: &Scan,
    block: &mut [i16],
) -> Result<(), DecodeError> {
    if reader.end_of_band > 0 {
        reader.end_of_band -= 1;
        return Ok(());
    }
    let bits = &mut reader.bits;
    let mut k = scan.first;
    while k <= scan.last {
        bits.refill();
        let next = ac.next(bits)?;
        let zeros = usize::from(next.symbol >> 4);
        if next.value == 0 {
            if zeros == 15 {
                k += 16;
                continue;
            }
            reader.end_of_band = (1 << zeros) - 1 + bits.take(u32::from(next.symbol >> 4));
            return Ok(());
        }
        k += zeros;
        if k > scan.last {
            return Err(TOO_MANY);
        }
        block[usize::from(ZIGZAG[k])] = shifted(next.value, scan.after)?;
        k += 1;
    }
    if k > scan.last + 1 { Err(TOO_MANY) } else { Ok(()) }
}

/// One more bit of the coefficients that are not zero yet, and new ones among them.
fn refine_ac(
    reader: &mut Reader<'_>,
    ac: &Table,
    scan: &Scan,
    block: &mut [i16],
) -> Result<(), DecodeError> {
    let bit = 1_i16 << scan.after;
    let mut k = scan.first;
    if reader.end_of_band == 0 {
        while k <= scan.last {
            reader.bits.refill();
            let next = ac.next(&mut reader.bits)?;
            let zeros = u32::from(next.symbol >> 4);
            if next.symbol & 15 > 1 {
                return Err(BAD_VALUE);
            }
            if next.value == 0 && zeros < 15 {
                reader.end_of_band = (1 << zeros) + reader.bits.take(zeros);
                break;
            }
            k = refine_until(reader, scan, block, k, Some(zeros))?;
            if next.value != 0 {
                if k > scan.last {
                    return Err(TOO_MANY);
                }
                block[usize::from(ZIGZAG[k])] = if next.value > 0 { bit } else { -bit };
            }
            k += 1;
        }
    }
    if reader.end_of_band > 0 {
        refine_until(reader, scan, block, k, None)?;
        reader.end_of_band -= 1;
    }
    Ok(())
}

/// Refines from `k` on, until as many coefficients that are zero were passed as told, or to the end
/// of the band. Gives the place of the zero behind them.
fn refine_until(
    reader: &mut Reader<'_>,
    scan: &Scan,
    block: &mut [i16],
    mut k: usize,
    mut zeros: Option<u32>,
) -> Result<usize, DecodeError> {
    let bit = 1_i16 << scan.after;
    while k <= scan.last {
        let value = &mut block[usize::from(ZIGZAG[k])];
        if *value == 0 {
            match &mut zeros {
                Some(0) => return Ok(k),
                Some(left) => *left -= 1,
                None => {}
            }
        } else {
            reader.bits.refill();
            if reader.bits.take(1) == 1 {
                let refined =
                    if *value > 0 { value.checked_add(bit) } else { value.checked_sub(bit) };
                *value = refined.ok_or(OUT_OF_RANGE)?;
            }
        }
        k += 1;
    }
    Ok(k)
}

/// Transforms all coefficients of a progressive file to the components' planes.
pub(super) fn transform(
    frame: &Frame,
    coefficients: &[Block],
    planes: &mut [u8],
) -> Result<(), DecodeError> {
    for component in &frame.components {
        let Some(quantisation) = &component.quantisation else { return Err(NO_QUANTISATION) };
        for row in 0..component.blocks_down {
            for column in 0..component.blocks_across {
                let place = row * component.stride_blocks + column;
                let stored = coefficients[component.first_block + place].as_flattened();
                let mut block = [[0; 8]; 8];
                let out = block.as_flattened_mut();
                let mut last = 0;
                for (k, (at, factor)) in ZIGZAG.iter().zip(quantisation).take(64).enumerate() {
                    let value = stored[usize::from(*at & 63)];
                    if value != 0 {
                        out[usize::from(*at & 63)] = dequantised(i32::from(value), *factor)?;
                        last = k;
                    }
                }
                put(component, place, planes, &block, last);
            }
        }
    }
    Ok(())
}
