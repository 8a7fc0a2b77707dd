//! Pixels with transparency over a background, in the values as they are stored.

use crate::decode::Background;

/// Makes RGB of RGBA, at the front of `pixels`.
pub(crate) fn colour(pixels: &mut [u8], Background(behind): Background) {
    for at in 0..pixels.len() / 4 {
        let [red, green, blue, alpha] = [0, 1, 2, 3].map(|channel| pixels[4 * at + channel]);
        let over = [(red, 0), (green, 1), (blue, 2)]
            .map(|(value, channel): (u8, usize)| mixed(value, behind[channel], alpha));
        pixels[3 * at..3 * at + 3].copy_from_slice(&over);
    }
}

/// Makes grey of grey with alpha, at the front of `pixels`. The background is taken as its luma.
pub(crate) fn grey(pixels: &mut [u8], Background(behind): Background) {
    let [red, green, blue] = behind.map(u32::from);
    let luma = u8::try_from((299 * red + 587 * green + 114 * blue + 500) / 1000).unwrap_or(255);
    for at in 0..pixels.len() / 2 {
        pixels[at] = mixed(pixels[2 * at], luma, pixels[2 * at + 1]);
    }
}

/// `value` over `behind`, rounded to nearest.
fn mixed(value: u8, behind: u8, alpha: u8) -> u8 {
    let (value, behind, alpha) = (u32::from(value), u32::from(behind), u32::from(alpha));
    u8::try_from((value * alpha + behind * (255 - alpha) + 127) / 255).unwrap_or(255)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transparent_pixels_show_the_background() {
        let mut pixels = [10, 20, 30, 255, 10, 20, 30, 0, 0, 100, 200, 51];
        colour(&mut pixels, Background([255, 0, 100]));
        assert_eq!(pixels[..9], [10, 20, 30, 255, 0, 100, 204, 20, 120]);
        let mut pixels = [10, 255, 10, 0, 0, 51];
        grey(&mut pixels, Background([255; 3]));
        assert_eq!(pixels[..3], [10, 255, 204]);
    }
}
