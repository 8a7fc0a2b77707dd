//! Which way up a picture is.

use crate::decode::Decoded;

/// Whether a picture is turned as its EXIF data says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Orientation {
    /// Pixels come as they are stored, whatever EXIF says.
    #[default]
    Stored,
    /// Pixels come as viewers show them: turned and mirrored as EXIF says.
    Exif,
}

/// The tag of the orientation in EXIF data, and the type of its value: one 16-bit number.
const TAG: u16 = 0x0112;
const SHORT: u16 = 3;

/// The orientation in EXIF data (a TIFF file of which only the first directory is read): 1 to 8,
/// and 1 where there is none or the data is damaged.
pub(crate) fn of_exif(exif: &[u8]) -> u8 {
    read(exif).filter(|value| (1..=8).contains(value)).unwrap_or(1)
}

fn read(exif: &[u8]) -> Option<u8> {
    let big = match exif.get(..4)? {
        b"MM\0*" => true,
        b"II*\0" => false,
        _ => return None,
    };
    let u16_at = |at: usize| {
        let bytes = *exif.get(at..)?.first_chunk::<2>()?;
        Some(if big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    };
    let first = *exif.get(4..)?.first_chunk::<4>()?;
    let first = if big { u32::from_be_bytes(first) } else { u32::from_le_bytes(first) };
    let first = usize::try_from(first).ok()?;
    for entry in 0..usize::from(u16_at(first)?) {
        let at = first.checked_add(2 + 12 * entry)?;
        if u16_at(at)? == TAG && u16_at(at + 2)? == SHORT {
            return u8::try_from(u16_at(at + 8)?).ok();
        }
    }
    None
}

/// Writes `pixels` as orientation `turn` (2 to 8) shows them, and gives their sides.
pub(crate) fn turn(turn: u8, picture: &Decoded, pixels: &[u8], out: &mut [u8]) -> (u32, u32) {
    let (width, height) = (picture.width as usize, picture.height as usize);
    let bytes = picture.format.bytes() as usize;
    let is_on_its_side = turn >= 5;
    let row_pixels = if is_on_its_side { height } else { width };
    for (y, row) in out.chunks_exact_mut(row_pixels * bytes).enumerate() {
        for (x, pixel) in row.chunks_exact_mut(bytes).enumerate() {
            // Where the pixel is stored.
            let (column, line) = match turn {
                2 => (width - 1 - x, y),
                3 => (width - 1 - x, height - 1 - y),
                4 => (x, height - 1 - y),
                5 => (y, x),
                6 => (y, height - 1 - x),
                7 => (width - 1 - y, height - 1 - x),
                8 => (width - 1 - y, x),
                _ => (x, y),
            };
            let from = (line * width + column) * bytes;
            pixel.copy_from_slice(&pixels[from..from + bytes]);
        }
    }
    if is_on_its_side { (picture.height, picture.width) } else { (picture.width, picture.height) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_core::PixelFormat;

    #[test]
    fn exif_is_read_in_both_orders_and_damage_means_nothing() {
        let big = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        let little = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x08\0\0\0\0\0\0\0";
        assert_eq!((of_exif(big), of_exif(little)), (6, 8));
        for end in 0..19 {
            assert_eq!(of_exif(&big[..end]), 1, "cut at {end}");
        }
        let mut far = *big;
        far[4] = 0xff;
        assert_eq!(of_exif(&far), 1);
        let mut ninth = *big;
        ninth[19] = 9;
        assert_eq!(of_exif(&ninth), 1);
    }

    #[test]
    fn each_orientation_turns_its_way() {
        // As stored: 1 2 3 above 4 5 6.
        let stored = [1, 2, 3, 4, 5, 6];
        let picture = Decoded { width: 3, height: 2, format: PixelFormat::Gray8, orientation: 1 };
        for (orientation, expected, sides) in [
            (2, [3, 2, 1, 6, 5, 4], (3, 2)),
            (3, [6, 5, 4, 3, 2, 1], (3, 2)),
            (4, [4, 5, 6, 1, 2, 3], (3, 2)),
            (5, [1, 4, 2, 5, 3, 6], (2, 3)),
            (6, [4, 1, 5, 2, 6, 3], (2, 3)),
            (7, [6, 3, 5, 2, 4, 1], (2, 3)),
            (8, [3, 6, 2, 5, 1, 4], (2, 3)),
        ] {
            let mut out = [0; 6];
            assert_eq!(turn(orientation, &picture, &stored, &mut out), sides);
            assert_eq!(out, expected, "orientation {orientation}");
        }
    }
}
