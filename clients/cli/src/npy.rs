//! Tensors in files: NumPy's `.npy`, version 1 to 3, little-endian, C order.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use ferry_client::DType;

const MAGIC: &[u8] = b"\x93NUMPY";

/// A tensor from a file.
#[derive(Debug, PartialEq)]
pub(crate) struct Npy {
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<u64>,
    pub(crate) bytes: Vec<u8>,
}

/// NumPy's names for what it can hold.
const DESCRIPTIONS: [(&str, DType); 12] = [
    ("|b1", DType::Bool),
    ("|u1", DType::U8),
    ("|i1", DType::I8),
    ("<u2", DType::U16),
    ("<i2", DType::I16),
    ("<u4", DType::U32),
    ("<i4", DType::I32),
    ("<u8", DType::U64),
    ("<i8", DType::I64),
    ("<f2", DType::F16),
    ("<f4", DType::F32),
    ("<f8", DType::F64),
];

/// Reads a file.
pub(crate) fn read(path: &Path) -> anyhow::Result<Npy> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    parse(&bytes).with_context(|| format!("{} is not a usable .npy file", path.display()))
}

/// Writes a file.
pub(crate) fn write(path: &Path, dtype: DType, shape: &[u64], data: &[u8]) -> anyhow::Result<()> {
    let found = DESCRIPTIONS.iter().find(|(_, known)| *known == dtype);
    let (description, _) = found.with_context(|| format!("NumPy has no {dtype}"))?;
    let dims: String = shape.iter().map(|dim| format!("{dim}, ")).collect();
    let dims = if shape.len() > 1 { dims.trim_end_matches(", ") } else { dims.trim_end() };
    let mut header =
        format!("{{'descr': '{description}', 'fortran_order': False, 'shape': ({dims}), }}");
    // The data starts at a multiple of 64 bytes; the header ends with a line feed.
    let unpadded = MAGIC.len() + 4 + header.len() + 1;
    header.push_str(&" ".repeat(unpadded.next_multiple_of(64) - unpadded));
    header.push('\n');
    let mut file = MAGIC.to_vec();
    file.extend([1, 0]);
    file.extend(u16::try_from(header.len()).context("too many dimensions")?.to_le_bytes());
    file.extend(header.as_bytes());
    file.extend(data);
    fs::write(path, file).with_context(|| format!("write {}", path.display()))
}

fn parse(file: &[u8]) -> anyhow::Result<Npy> {
    let rest = file.strip_prefix(MAGIC).context("it does not start with NumPy's magic")?;
    let (length, at) = match rest {
        [1, 0, a, b, ..] => (usize::from(u16::from_le_bytes([*a, *b])), 4),
        [2 | 3, 0, a, b, c, d, ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, 6),
        _ => bail!("its version is not 1, 2 or 3"),
    };
    let header = rest.get(at..at + length).context("it is cut off")?;
    let header = std::str::from_utf8(header).context("its header is not text")?;
    let described = value(header, "descr")?.trim_matches(['\'', '"']);
    let known = DESCRIPTIONS.iter().find(|(name, _)| *name == described);
    let (_, dtype) = known.with_context(|| {
        let names = DESCRIPTIONS.map(|(name, _)| name).join(" ");
        format!("its elements are {described:?}; usable are {names}: convert it with astype")
    })?;
    let order = value(header, "fortran_order")?;
    ensure!(order == "False", "it is in Fortran order: save numpy.ascontiguousarray of it");
    let shape = value(header, "shape")?
        .trim_matches(['(', ')'])
        .split(',')
        .map(str::trim)
        .filter(|dim| !dim.is_empty())
        .map(|dim| dim.parse().with_context(|| format!("its dimension {dim:?} is no number")))
        .collect::<anyhow::Result<Vec<u64>>>()?;
    let bytes = rest[at + length..].to_vec();
    let wanted = shape.iter().try_fold(dtype.bytes(), |all, &dim| all.checked_mul(dim));
    ensure!(wanted == Some(bytes.len() as u64), "its length does not fit its shape {shape:?}");
    Ok(Npy { dtype: *dtype, shape, bytes })
}

/// The text behind `'key':` up to the comma that ends it.
fn value<'a>(header: &'a str, key: &str) -> anyhow::Result<&'a str> {
    let named = header.split_once(&format!("'{key}':"));
    let (_, rest) = named.with_context(|| format!("its header has no {key}"))?;
    let rest = rest.trim_start();
    let end = if rest.starts_with('(') { rest.find(')').map(|at| at + 1) } else { rest.find(',') };
    Ok(rest[..end.with_context(|| format!("its {key} has no end"))?].trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        for shape in [vec![], vec![3], vec![1, 3], vec![3, 1, 1]] {
            let bytes = vec![7; if shape.is_empty() { 4 } else { 12 }];
            write(&path, DType::F32, &shape, &bytes).unwrap();
            assert_eq!((fs::read(&path).unwrap().len() - bytes.len()) % 64, 0);
            assert_eq!(read(&path).unwrap(), Npy { dtype: DType::F32, shape, bytes });
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let header = |text: &str| {
            let mut file = b"\x93NUMPY\x01\x00".to_vec();
            file.extend(u16::try_from(text.len()).unwrap().to_le_bytes());
            file.extend(text.as_bytes());
            format!("{:#}", parse(&file).unwrap_err())
        };
        let fortran = header("{'descr': '<f4', 'fortran_order': True, 'shape': (1,), }");
        assert!(fortran.contains("ascontiguousarray"), "{fortran}");
        let big = header("{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }");
        assert!(big.contains("astype"), "{big}");
        let short = header("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }");
        assert!(short.contains("length"), "{short}");
        assert!(parse(b"PK").is_err() && parse(b"\x93NUMPY\x01\x00\xff\xff{").is_err());
    }
}
