//! Each output in a file of its own, inside the folder, whatever its name.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::Context;

use super::output::Output;
use crate::npy;

/// Longest file name without its ending, in bytes: file systems allow 255 with it.
const NAME_BYTES_MAX: usize = 240;

/// Writes the outputs; the file of each.
pub(super) fn write(folder: &Path, outputs: &[Output]) -> anyhow::Result<Vec<String>> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let one = |(index, output): (usize, &Output)| {
        let path = folder.join(format!("{}.npy", file_name(&output.name, index)));
        npy::write(&path, output.dtype, &output.shape, &output.bytes)?;
        Ok(path.display().to_string())
    };
    outputs.iter().enumerate().map(one).collect()
}

/// The file of an output. Two names never share one: what a file's name may not hold is written as
/// `%` and two digits for each of its bytes, and so is `%` itself. A name that is too long for a
/// file is cut, and ends with `%-` and the place of the output, which no other has and no escape
/// looks like.
fn file_name(name: &str, index: usize) -> String {
    let mut escaped = String::with_capacity(name.len());
    for (at, letter) in name.char_indices() {
        // A name that begins with a point would be hidden, or a folder.
        let is_kept = !(letter.is_control() || "/\\%".contains(letter) || at == 0 && letter == '.');
        let from = escaped.len();
        if is_kept {
            escaped.push(letter);
        } else {
            for byte in letter.to_string().bytes() {
                // Writing to a string cannot fail.
                write!(escaped, "%{byte:02X}").ok();
            }
        }
        if escaped.len() > NAME_BYTES_MAX {
            escaped.truncate(from);
            break;
        }
        if at + letter.len_utf8() == name.len() {
            return escaped;
        }
    }
    format!("{escaped}%-{index}")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use ferry_client::DType;

    use super::*;

    #[test]
    fn no_two_names_share_a_file_and_none_leaves_the_folder() {
        let long = "y".repeat(300);
        let longer = format!("{long}z");
        let wide = "ß".repeat(200);
        let names = [
            "a/b", "a_b", "a%2Fb", "a\\b", ".", "..", "../x", "", "%", "%-8", "scores", "/", "\n",
            "é", &long, &longer, &wide,
        ];
        let files: Vec<String> =
            names.iter().enumerate().map(|(index, name)| file_name(name, index)).collect();
        assert_eq!(files.iter().collect::<HashSet<_>>().len(), names.len(), "{files:?}");
        for file in &files {
            assert!(!file.starts_with('.') && !file.contains('/'), "{file}");
            assert!(file.len() + ".npy".len() <= 255, "{file}");
        }
        assert_eq!((&*files[0], &*files[10], &*files[13]), ("a%2Fb", "scores", "é"));
    }

    #[test]
    fn every_output_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let output = |name: &str, byte| Output {
            name: name.into(),
            dtype: DType::U8,
            shape: vec![1],
            bytes: vec![byte],
        };
        let long = "y".repeat(300);
        let outputs = [output("a/b", 1), output("a_b", 2), output("..", 3), output(&long, 4)];
        let files = write(&folder.path().join("out"), &outputs).unwrap();
        for (file, output) in files.iter().zip(&outputs) {
            assert_eq!(npy::read(Path::new(file)).unwrap().bytes, output.bytes, "{file}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing beside the folder");
    }
}
