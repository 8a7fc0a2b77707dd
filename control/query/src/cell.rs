//! One value of a row.

use serde::{Serialize, Serializer};
use sqlx::sqlite::{SqliteRow, SqliteValueRef};
use sqlx::{Decode, Row, Sqlite, TypeInfo, ValueRef};

use crate::QueryError;

/// One value of a row, as the store holds it. Serialised, a blob is lower-case hexadecimal text.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// No value.
    Null,
    /// A whole number.
    Integer(i64),
    /// A floating-point number.
    Real(f64),
    /// Text.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

impl Cell {
    /// Bytes of its text or blob; numbers count as none.
    pub fn bytes(&self) -> usize {
        match self {
            Cell::Text(text) => text.len(),
            Cell::Blob(bytes) => bytes.len(),
            Cell::Null | Cell::Integer(_) | Cell::Real(_) => 0,
        }
    }
}

impl Serialize for Cell {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Cell::Null => serializer.serialize_unit(),
            Cell::Integer(number) => serializer.serialize_i64(*number),
            Cell::Real(number) => serializer.serialize_f64(*number),
            Cell::Text(text) => serializer.serialize_str(text),
            Cell::Blob(bytes) => {
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                serializer.serialize_str(&hex)
            }
        }
    }
}

/// A row may have as many bytes as so many of its longest cells.
const ROW_CELLS: usize = 4;

/// Copies a row out of SQLite. Text that is not UTF-8 becomes a blob: nothing is altered silently.
pub(crate) fn cells(row: &SqliteRow, cell_bytes: usize) -> Result<Vec<Cell>, QueryError> {
    let mut cells = Vec::with_capacity(row.len());
    let mut left = ROW_CELLS.saturating_mul(cell_bytes);
    for index in 0..row.len() {
        let raw = row.try_get_raw(index).map_err(QueryError::from_sqlx)?;
        let cell = cell(raw, cell_bytes.min(left))?;
        left = left.saturating_sub(cell.bytes());
        cells.push(cell);
    }
    Ok(cells)
}

fn cell(raw: SqliteValueRef<'_>, cell_bytes: usize) -> Result<Cell, QueryError> {
    if raw.is_null() {
        return Ok(Cell::Null);
    }
    // The name is copied because the type borrows the value, which decoding consumes.
    let kind = raw.type_info().name().to_owned();
    match kind.as_str() {
        "INTEGER" => decode(raw).map(Cell::Integer),
        "REAL" => decode(raw).map(Cell::Real),
        kind => {
            let bytes: &[u8] = decode(raw)?;
            if bytes.len() > cell_bytes {
                return Err(QueryError::CellTooLarge { bytes: bytes.len(), limit: cell_bytes });
            }
            Ok(match std::str::from_utf8(bytes) {
                Ok(text) if kind == "TEXT" => Cell::Text(text.to_owned()),
                _ => Cell::Blob(bytes.to_vec()),
            })
        }
    }
}

fn decode<'r, T: Decode<'r, Sqlite>>(raw: SqliteValueRef<'r>) -> Result<T, QueryError> {
    T::decode(raw).map_err(|source| QueryError::from_sqlx(sqlx::Error::Decode(source)))
}
