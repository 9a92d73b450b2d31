//! Tables for people: columns as wide as what is in them.

/// The lines of a table; every row has as many cells as there are headings.
pub(super) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize, heading: &str| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.chars().count())
            .chain([heading.chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = headings
        .iter()
        .enumerate()
        .map(|(column, heading)| width(column, heading))
        .collect();
    let headings: Vec<String> = headings
        .iter()
        .map(|heading| (*heading).to_owned())
        .collect();
    let lines: Vec<String> = std::iter::once(&headings)
        .chain(rows)
        .map(|row| {
            let cells = row.iter().zip(&widths);
            let padded = cells.map(|(cell, width)| format!("{cell:width$}"));
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        })
        .collect();
    lines.join("\n")
}

/// A value of an answer as a cell; `-` where there is none.
pub(super) fn cell(value: Option<&serde_json::Value>) -> String {
    match value {
        None | Some(serde_json::Value::Null) => "-".to_owned(),
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(serde_json::Value::Bool(true)) => "yes".to_owned(),
        Some(serde_json::Value::Bool(false)) => "no".to_owned(),
        Some(other) => other.to_string(),
    }
}

/// A number of bytes as people read it.
pub(super) fn bytes(value: Option<&serde_json::Value>) -> String {
    let Some(bytes) = value.and_then(serde_json::Value::as_u64) else {
        return "-".to_owned();
    };
    let units = [(1_u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    for (unit, name) in units {
        if bytes >= unit {
            let tenths = bytes.saturating_mul(10) / unit;
            return format!("{}.{} {name}", tenths / 10, tenths % 10);
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            vec!["größer".to_owned(), "1".to_owned()],
            vec!["a".to_owned(), String::new()],
        ];
        assert_eq!(table(&["id", "n"], &rows), "id      n\ngrößer  1\na");
    }

    #[test]
    fn cells_are_for_people() {
        assert_eq!(cell(Some(&json!(null))), "-");
        assert_eq!(cell(Some(&json!(true))), "yes");
        assert_eq!(cell(Some(&json!("x"))), "x");
        assert_eq!(bytes(Some(&json!(1536))), "1.5 KiB");
        assert_eq!(bytes(Some(&json!(5))), "5 B");
        assert_eq!(bytes(None), "-");
    }
}
