//! `[picture]`: how pictures become the input of a model.

use ferry_engine::Picture;
use ferry_vision::{Background, Channels, DecodeOptions, Filter, Layout, Orientation, PictureSpec};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PictureTable {
    input: String,
    width: u32,
    height: u32,
    #[serde(default)]
    layout: LayoutName,
    #[serde(default)]
    channels: ChannelsName,
    #[serde(default)]
    resize: FilterName,
    #[serde(default = "one")]
    scale: f32,
    #[serde(default)]
    mean: Option<Vec<f32>>,
    #[serde(default)]
    std: Option<Vec<f32>>,
    #[serde(default)]
    orientation: OrientationName,
    #[serde(default)]
    background: Option<[u8; 3]>,
}

fn one() -> f32 {
    1.0
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum LayoutName {
    #[default]
    Nchw,
    Nhwc,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ChannelsName {
    #[default]
    Rgb,
    Bgr,
    Gray,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FilterName {
    #[default]
    Bilinear,
    Nearest,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OrientationName {
    #[default]
    Stored,
    Exif,
}

impl PictureTable {
    pub(super) fn parse(self) -> Result<(String, Picture), String> {
        let channels = match self.channels {
            ChannelsName::Rgb => Channels::Rgb,
            ChannelsName::Bgr => Channels::Bgr,
            ChannelsName::Gray => Channels::Gray,
        };
        let each = |name: &str, given: Option<Vec<f32>>, default: f32| match given.as_deref() {
            None => Ok([default; 3]),
            Some(&[a, b, c]) if channels.count() == 3 => Ok([a, b, c]),
            Some(&[a]) if channels.count() == 1 => Ok([a; 3]),
            Some(given) => {
                let (has, wants) = (given.len(), channels.count());
                Err(format!("picture.{name} has {has} numbers; the channels want {wants}"))
            }
        };
        let spec = PictureSpec {
            width: self.width,
            height: self.height,
            layout: match self.layout {
                LayoutName::Nchw => Layout::Nchw,
                LayoutName::Nhwc => Layout::Nhwc,
            },
            channels,
            resize: match self.resize {
                FilterName::Bilinear => Filter::Bilinear,
                FilterName::Nearest => Filter::Nearest,
            },
            scale: self.scale,
            mean: each("mean", self.mean, 0.0)?,
            std: each("std", self.std, 1.0)?,
        };
        spec.validate().map_err(|error| format!("picture: {error}"))?;
        let decode = DecodeOptions {
            orientation: match self.orientation {
                OrientationName::Stored => Orientation::Stored,
                OrientationName::Exif => Orientation::Exif,
            },
            background: self.background.map(Background).unwrap_or_default(),
            ..DecodeOptions::default()
        };
        Ok((self.input, Picture { spec, decode }))
    }
}
