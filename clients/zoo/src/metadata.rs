//! What a server needs to know about a model beyond its file: `NAME.toml`.

use crate::precision::Precision;

/// How pixels become a tensor: `(pixel * scale - mean) / std`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Picture {
    /// Height and width in pixels.
    side: u64,
    layout: &'static str,
    channels: &'static str,
    mean: &'static [f64],
    std: &'static [f64],
}

impl Picture {
    /// Mean and deviation of ImageNet's training pictures, as torchvision's models want them.
    pub(crate) const IMAGENET: Self = Self {
        side: 224,
        layout: "nchw",
        channels: "rgb",
        mean: &[0.485, 0.456, 0.406],
        std: &[0.229, 0.224, 0.225],
    };

    /// Pixels from 0 to 1, channels last.
    pub(crate) const UNIT_RANGE_NHWC: Self =
        Self { layout: "nhwc", mean: &[0.0, 0.0, 0.0], std: &[1.0, 1.0, 1.0], ..Self::IMAGENET };

    /// Pixels from 0 to 1, one channel.
    pub(crate) const UNIT_RANGE_GRAY: Self =
        Self { channels: "gray", mean: &[0.0], std: &[1.0], ..Self::IMAGENET };

    pub(crate) const fn sized(self, side: u64) -> Self {
        Self { side, ..self }
    }
}

/// The content of `NAME.toml`.
#[derive(Debug)]
pub(crate) struct Metadata {
    pub(crate) summary: &'static str,
    pub(crate) precision: Precision,
    /// File name of the class names.
    pub(crate) labels: Option<String>,
    pub(crate) picture: Picture,
}

impl Metadata {
    pub(crate) fn to_toml(&self) -> String {
        let Picture { side, layout, channels, mean, std } = self.picture;
        let labels = self.labels.as_ref().map(|file_name| format!("labels = \"{file_name}\"\n"));
        let half = match self.precision {
            Precision::Fp32 => "",
            Precision::Fp16 => ", half precision",
        };
        format!(
            "description = \"{}{half}\"\n\
             engine = \"auto\"\n\
             instances = 1\n\
             threads = 1\n\
             queue = 64\n\
             {}\n\
             [picture]\n\
             input = \"{}\"\n\
             width = {side}\n\
             height = {side}\n\
             layout = \"{layout}\"\n\
             channels = \"{channels}\"\n\
             resize = \"bilinear\"\n\
             scale = {:?}\n\
             mean = {mean:?}\n\
             std = {std:?}\n",
            self.summary,
            labels.unwrap_or_default(),
            crate::models::INPUT,
            1.0 / 255.0,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imagenet_metadata_reads_as_the_server_expects_it() {
        let picture = Picture::IMAGENET.sized(520);
        let labels = Some("m.labels.txt".to_owned());
        let text =
            Metadata { summary: "a model", precision: Precision::Fp32, labels, picture }.to_toml();
        let expected = "\
description = \"a model\"
engine = \"auto\"
instances = 1
threads = 1
queue = 64
labels = \"m.labels.txt\"

[picture]
input = \"input\"
width = 520
height = 520
layout = \"nchw\"
channels = \"rgb\"
resize = \"bilinear\"
scale = 0.00392156862745098
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_gray_picture_has_one_mean_and_no_labels_have_no_line() {
        let picture = Picture::UNIT_RANGE_GRAY.sized(8);
        let text = Metadata { summary: "gray", precision: Precision::Fp16, labels: None, picture }
            .to_toml();
        assert!(text.starts_with("description = \"gray, half precision\"\n"));
        assert!(text.contains("channels = \"gray\"\n"));
        assert!(text.contains("mean = [0.0]\nstd = [1.0]\n"));
        assert!(!text.contains("labels"));
    }
}
