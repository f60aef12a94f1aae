//! Tables as the console shows them: columns by name and type, as PgBouncer has them where it has such a table, so that
//! dashboards made for it read these.

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ColumnType {
    Text,
    Number,
}

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CellValue {
    Null,
    Text(String),
    Number(i64),
}

/// Columns and rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) columns: &'static [(&'static str, ColumnType)],
    pub(super) rows: Vec<Vec<CellValue>>,
}

impl From<&str> for CellValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for CellValue {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Option<String>> for CellValue {
    fn from(text: Option<String>) -> Self {
        text.map_or(Self::Null, Self::Text)
    }
}

impl From<usize> for CellValue {
    fn from(number: usize) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<u32> for CellValue {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<i64> for CellValue {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}
