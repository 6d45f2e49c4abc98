//! Finding a source's files, and the slice of time that each one's folder declares.

use std::{
    fs,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use chrono::{NaiveDate, NaiveDateTime, NaiveTime, Weekday};
use serde::{Deserialize, Serialize};

use crate::{
    catalog::{Hive, Source},
    engine::{Error, Result},
    time::{Grain, Interval, PartitionCalendar, ValidTime},
};

/// One file of a source, as it was when it was listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Absolute.
    pub path: PathBuf,
    /// Its length.
    pub size_bytes: u64,
    /// When it was last written, in microseconds since the Unix epoch.
    pub modified_micros: i64,
    /// The value of the hive column, if the source declares one.
    pub hive_value: Option<String>,
    /// The slice of time that its folder declares.
    pub slice: Option<Interval<ValidTime>>,
}

impl SourceFile {
    /// Whether the file on disk still has the length and the time of writing that it was listed with.
    ///
    /// # Errors
    /// [`Error::FileUnreachable`] when it cannot be looked at, [`Error::FileChanged`] when it differs.
    pub fn check_unchanged(&self) -> Result<()> {
        let metadata = fs::metadata(&self.path).map_err(|cause| Error::FileUnreachable {
            path: self.path.clone(),
            cause,
        })?;
        if metadata.len() == self.size_bytes && modified_micros(&metadata) == self.modified_micros {
            return Ok(());
        }
        Err(Error::FileChanged {
            path: self.path.clone(),
        })
    }
}

/// Every file of `source`, by path. **Cost**: one directory walk. Blocks.
///
/// Files and folders whose names start with `.` or `_` are passed over, as every tool of the field does.
///
/// # Errors
/// [`Error::SourceUnusable`] when the location is missing or cannot be read, when a folder's value does not have the declared
/// form, or when a file lies outside of every `column=value` folder.
pub fn list_files(source: &Source) -> Result<Vec<SourceFile>> {
    let unusable = |problem: String| Error::SourceUnusable {
        source_name: source.name.clone(),
        problem,
    };
    let location = &source.location;
    let metadata = fs::metadata(location)
        .map_err(|error| unusable(format!("location {}: {error}", location.display())))?;
    let mut paths = Vec::new();
    if metadata.is_file() {
        paths.push(location.clone());
    } else {
        walk(location, source.format.extension(), &mut paths)
            .map_err(|(path, error)| unusable(format!("{}: {error}", path.display())))?;
    }
    paths.sort();
    paths
        .into_iter()
        .map(|path| describe(source, path).map_err(unusable))
        .collect()
}

fn walk(
    folder: &Path,
    extension: &str,
    found: &mut Vec<PathBuf>,
) -> std::result::Result<(), (PathBuf, std::io::Error)> {
    let at = |error| (folder.to_owned(), error);
    for entry in fs::read_dir(folder).map_err(at)? {
        let path = entry.map_err(at)?.path();
        let hidden = path.file_name().is_none_or(|name| {
            name.as_encoded_bytes().starts_with(b".") || name.as_encoded_bytes().starts_with(b"_")
        });
        if hidden {
            continue;
        }
        if path.is_dir() {
            walk(&path, extension, found)?;
        } else if path
            .extension()
            .is_some_and(|found| found.eq_ignore_ascii_case(extension))
        {
            found.push(path);
        }
    }
    Ok(())
}

fn describe(source: &Source, path: PathBuf) -> std::result::Result<SourceFile, String> {
    let metadata = fs::metadata(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let (hive_value, slice) = match &source.hive {
        None => (None, None),
        Some(hive) => {
            let value = hive_value(&path, &hive.column).ok_or_else(|| {
                format!(
                    "{} lies in no folder {}=…; every file of a hive-partitioned source must",
                    path.display(),
                    hive.column
                )
            })?;
            let slice = slice_of(hive, &value).map_err(|problem| {
                format!(
                    "{}: folder {}={value}: {problem}",
                    path.display(),
                    hive.column
                )
            })?;
            (Some(value), Some(slice))
        }
    };
    Ok(SourceFile {
        size_bytes: metadata.len(),
        modified_micros: modified_micros(&metadata),
        path,
        hive_value,
        slice,
    })
}

fn modified_micros(metadata: &fs::Metadata) -> i64 {
    metadata
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .and_then(|since| i64::try_from(since.as_micros()).ok())
        .unwrap_or(0)
}

/// The value of the innermost folder `column=value` above `path`.
fn hive_value(path: &Path, column: &str) -> Option<String> {
    path.parent()?.components().rev().find_map(|component| {
        let name = component.as_os_str().to_str()?;
        let value = name.strip_prefix(column)?.strip_prefix('=')?;
        Some(value.to_owned())
    })
}

/// The slice of time that `value` names.
fn slice_of(hive: &Hive, value: &str) -> std::result::Result<Interval<ValidTime>, String> {
    let local = parse_local(&hive.format, hive.grain, value)
        .ok_or_else(|| format!("it is not of the form {}", hive.format))?;
    let calendar = PartitionCalendar::new(hive.grain, hive.zone);
    let slice = calendar
        .local(local)
        .and_then(|start| calendar.partition_containing(start))
        .map_err(|error| error.to_string())?;
    Ok(Interval::new(slice.start, slice.end))
}

/// Reads `value`, filling in what a coarser grain leaves open.
fn parse_local(format: &str, grain: Grain, value: &str) -> Option<NaiveDateTime> {
    let midnight = |date: NaiveDate| date.and_time(NaiveTime::MIN);
    match grain {
        Grain::Hourly => {
            NaiveDateTime::parse_from_str(&format!("{value} 00"), &format!("{format} %M")).ok()
        }
        Grain::Daily => NaiveDate::parse_from_str(value, format).ok().map(midnight),
        Grain::Weekly => {
            let monday = format!("{value} {}", Weekday::Mon);
            NaiveDate::parse_from_str(&monday, &format!("{format} %a"))
                .or_else(|_| NaiveDate::parse_from_str(value, format))
                .ok()
                .map(midnight)
        }
        Grain::Monthly => {
            NaiveDate::parse_from_str(&format!("{value} 01"), &format!("{format} %d"))
                .ok()
                .map(midnight)
        }
        Grain::Yearly => {
            NaiveDate::parse_from_str(&format!("{value} 01 01"), &format!("{format} %m %d"))
                .ok()
                .map(midnight)
        }
    }
}

/// The usual form of a grain's folders.
pub fn usual_format(grain: Grain) -> &'static str {
    match grain {
        Grain::Hourly => "%Y-%m-%d-%H",
        Grain::Daily => "%Y-%m-%d",
        Grain::Weekly => "%G-W%V",
        Grain::Monthly => "%Y-%m",
        Grain::Yearly => "%Y",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_form_of_every_grain_names_its_slice() {
        let zone = chrono_tz::America::New_York;
        let cases = [
            (
                Grain::Hourly,
                "2013-02-08-13",
                "2013-02-08T18:00:00Z",
                "2013-02-08T19:00:00Z",
            ),
            (
                Grain::Daily,
                "2013-03-10",
                "2013-03-10T05:00:00Z",
                "2013-03-11T04:00:00Z",
            ),
            (
                Grain::Weekly,
                "2013-W06",
                "2013-02-04T05:00:00Z",
                "2013-02-11T05:00:00Z",
            ),
            (
                Grain::Monthly,
                "2013-02",
                "2013-02-01T05:00:00Z",
                "2013-03-01T05:00:00Z",
            ),
            (
                Grain::Yearly,
                "2013",
                "2013-01-01T05:00:00Z",
                "2014-01-01T05:00:00Z",
            ),
        ];
        for (grain, value, from, to) in cases {
            let hive = Hive {
                column: "dt".to_owned(),
                format: usual_format(grain).to_owned(),
                grain,
                zone,
            };
            let slice = slice_of(&hive, value).expect("readable");
            assert_eq!(
                (slice.from.to_string(), slice.to.map(|to| to.to_string())),
                (from.to_owned(), Some(to.to_owned())),
                "{value}"
            );
            assert!(slice_of(&hive, "x").is_err());
        }
    }

    #[test]
    fn the_innermost_folder_counts() {
        let path = Path::new("/a/dt=1/region=eu/dt=2/part.parquet");
        assert_eq!(hive_value(path, "dt").as_deref(), Some("2"));
        assert_eq!(hive_value(path, "d"), None);
        assert_eq!(
            hive_value(Path::new("/a/dt=3"), "dt"),
            None,
            "a file is no folder"
        );
    }
}
