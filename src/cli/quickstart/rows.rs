//! Rows of one partition, to compare what two runs gave.

use crate::{
    cli::{client::Client, error::Error, output, values},
    pb,
};

/// The rows of a table in a range of partitions.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rows {
    columns: Vec<pb::Column>,
    /// Sorted by their texts: a table promises rows, no order within a partition.
    rows: Vec<Vec<pb::Value>>,
}

/// One value that differs.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Difference {
    /// Row and column, such as `AA mean_temp`.
    pub(super) what: String,
    /// `-` where there was no such row, as after.
    pub(super) before: String,
    /// See `before`.
    pub(super) after: String,
}

impl Rows {
    /// Reads the published rows of partitions that start in `range`.
    pub(super) async fn read(
        client: &Client,
        table: &str,
        range: pb::TimeRange,
    ) -> Result<Self, Error> {
        let request = pb::ReadTableRequest {
            name: table.to_owned(),
            partition_range: Some(range),
            snapshot_id: 0,
            limit: 0,
        };
        let mut stream = client.catalog().read_table(request).await?.into_inner();
        let mut rows = Self {
            columns: Vec::new(),
            rows: Vec::new(),
        };
        while let Some(message) = stream.message().await? {
            if !message.columns.is_empty() {
                rows.columns = message.columns;
            }
            rows.rows
                .extend(message.rows.into_iter().map(|row| row.values));
        }
        rows.rows
            .sort_by_cached_key(|row| row.iter().map(values::show).collect::<Vec<_>>());
        Ok(rows)
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.rows.len() as u64
    }

    /// What differs, value by value. Rows are matched by their first column.
    pub(super) fn differences(&self, later: &Self) -> Vec<Difference> {
        let mut differences = Vec::new();
        for row in &self.rows {
            let after = later.find(row);
            for (index, column) in self.columns.iter().enumerate() {
                let (before, after) = (text(Some(row), index), text(after, index));
                if before != after {
                    let what = format!("{} {}", text(Some(row), 0), column.name);
                    differences.push(Difference {
                        what,
                        before,
                        after,
                    });
                }
            }
        }
        for row in later.rows.iter().filter(|row| self.find(row).is_none()) {
            let what = format!("row of {}", text(Some(row), 0));
            differences.push(Difference {
                what,
                before: "-".to_owned(),
                after: "new".to_owned(),
            });
        }
        differences
    }

    /// Whether both hold the same rows, every value to the last bit.
    pub(super) fn same(&self, other: &Self) -> bool {
        self.rows == other.rows
    }

    fn find(&self, row: &[pb::Value]) -> Option<&Vec<pb::Value>> {
        self.rows
            .iter()
            .find(|candidate| candidate.first() == row.first())
    }
}

/// One value for people; `-` where there is none.
fn text(row: Option<&Vec<pb::Value>>, index: usize) -> String {
    row.and_then(|row| row.get(index))
        .map_or_else(|| "-".to_owned(), values::show)
}

/// `3 rows`.
pub(super) fn describe(rows: &Rows) -> String {
    output::counted(rows.count(), "row")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::value::Kind;

    fn rows(rows: &[(&str, f64)]) -> Rows {
        let column = |name: &str| pb::Column {
            name: name.to_owned(),
            r#type: String::new(),
            nullable: false,
        };
        let value = |kind| pb::Value { kind: Some(kind) };
        Rows {
            columns: vec![column("carrier"), column("mean_temp")],
            rows: rows
                .iter()
                .map(|(name, temp)| {
                    vec![
                        value(Kind::StringValue((*name).to_owned())),
                        value(Kind::Float64Value(*temp)),
                    ]
                })
                .collect(),
        }
    }

    #[test]
    fn differences_name_row_and_column() {
        let (before, after) = (
            rows(&[("AA", 42.0), ("UA", 40.0)]),
            rows(&[("AA", 43.5), ("UA", 40.0), ("VX", 1.0)]),
        );
        let differences = before.differences(&after);
        let [temp, new] = differences.as_slice() else {
            panic!("{differences:?}")
        };
        assert_eq!(
            (
                temp.what.as_str(),
                temp.before.as_str(),
                temp.after.as_str()
            ),
            ("AA mean_temp", "42", "43.5")
        );
        assert_eq!(new.what, "row of VX");
        assert!(before.same(&before) && !before.same(&after));
    }
}
