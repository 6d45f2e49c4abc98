//! Rows of a type that wait to be written: by ascending id, as they will be stored. They are kept in memory while they are few,
//! and beyond that in a file without a name, which goes with the process whatever becomes of it.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    path::PathBuf,
    sync::Arc,
};

use super::{
    model::{EntityType, Value},
    row,
    validate::{MAX_ENTITY_ID_BYTES, check_entity_id},
};

/// Bytes that are kept in memory.
const MEMORY_BYTES: usize = 1 << 20;

/// Why rows cannot be staged.
#[derive(Debug, thiserror::Error)]
pub enum StageFault {
    /// Two rows of one id.
    #[error("two rows have the key {id:?}: there may be one, so group by the key or choose one")]
    Duplicate {
        /// The id.
        id: String,
    },
    /// An id that sorts before the one before it.
    #[error("key {id:?} comes after {before:?}")]
    OutOfOrder {
        /// The id.
        id: String,
        /// The one before it.
        before: String,
    },
    /// An id that is empty or too long.
    #[error("key {shown:?} has {problem}")]
    Id {
        /// As much of it as is worth showing.
        shown: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A value that cannot be stored.
    #[error("{} {id:?} {problem}", of_attribute(attribute.as_deref()))]
    Value {
        /// Whose it is.
        id: String,
        /// Its attribute; `None`: the row as a whole.
        attribute: Option<String>,
        /// What is wrong with it.
        problem: String,
    },
    /// The file cannot be written.
    #[error("cannot write staged rows: {0}")]
    Io(#[from] io::Error),
}

fn of_attribute(attribute: Option<&str>) -> String {
    attribute.map_or_else(
        || "the row of".to_owned(),
        |name| format!("attribute {name:?} of"),
    )
}

/// Takes rows in.
#[derive(Debug)]
pub struct RowStager {
    entity_type: Arc<EntityType>,
    spill_path: PathBuf,
    memory: Vec<u8>,
    file: Option<File>,
    last_id: Option<String>,
    row_count: u64,
    size_bytes: u64,
}

/// All rows that a type is to have over some range.
#[derive(Debug)]
pub struct StagedRows {
    pub(super) entity_type: Arc<EntityType>,
    memory: Vec<u8>,
    file: Option<File>,
    /// How many they are.
    pub row_count: u64,
    /// What they take.
    pub size_bytes: u64,
}

impl RowStager {
    /// Rows in the attributes of `entity_type`. The file at `spill_path` is made when it is needed, and has no name from then
    /// on.
    pub fn new(entity_type: Arc<EntityType>, spill_path: PathBuf) -> Self {
        Self {
            entity_type,
            spill_path,
            memory: Vec::new(),
            file: None,
            last_id: None,
            row_count: 0,
            size_bytes: 0,
        }
    }

    /// Adds the row of one entity; `values` are those of the type's attributes, in order. Ids ascend in byte order.
    ///
    /// # Errors
    /// See [`StageFault`].
    pub fn push(&mut self, id: String, values: &[Option<Value>]) -> Result<(), StageFault> {
        check_id(&id)?;
        self.check_order(&id)?;
        let row = row::encode_all(&self.entity_type, values).map_err(|(attribute, problem)| {
            StageFault::Value {
                id: id.clone(),
                attribute,
                problem,
            }
        })?;
        let before = self.memory.len();
        put_part(id.as_bytes(), &mut self.memory);
        put_part(&row, &mut self.memory);
        self.row_count += 1;
        self.size_bytes += (self.memory.len() - before) as u64;
        self.last_id = Some(id);
        if self.memory.len() >= MEMORY_BYTES {
            self.spill()?;
        }
        Ok(())
    }

    fn check_order(&self, id: &str) -> Result<(), StageFault> {
        match self.last_id.as_deref() {
            Some(before) if before == id => Err(StageFault::Duplicate { id: id.to_owned() }),
            Some(before) if before > id => Err(StageFault::OutOfOrder {
                id: id.to_owned(),
                before: before.to_owned(),
            }),
            Some(_) | None => Ok(()),
        }
    }

    fn spill(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(unnamed_file(&self.spill_path)?),
        };
        file.write_all(&self.memory)?;
        self.memory.clear();
        Ok(())
    }

    /// All rows are there. Blocks if they are many.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(mut self) -> io::Result<StagedRows> {
        if self.file.is_some() {
            self.spill()?;
        }
        Ok(StagedRows {
            entity_type: self.entity_type,
            memory: self.memory,
            file: self.file,
            row_count: self.row_count,
            size_bytes: self.size_bytes,
        })
    }
}

impl StagedRows {
    /// The rows with their ids, in order.
    pub(super) fn into_reader(self) -> io::Result<RowReader> {
        let source: Box<dyn Read + Send> = match self.file {
            None => Box::new(io::Cursor::new(self.memory)),
            Some(mut file) => {
                file.seek(SeekFrom::Start(0))?;
                Box::new(BufReader::with_capacity(1 << 16, file))
            }
        };
        Ok(RowReader {
            source,
            left: self.row_count,
        })
    }
}

/// Gives rows back.
pub(super) struct RowReader {
    source: Box<dyn Read + Send>,
    left: u64,
}

impl RowReader {
    /// The next id and its row; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<(String, Vec<u8>)>> {
        let Some(left) = self.left.checked_sub(1) else {
            return Ok(None);
        };
        self.left = left;
        let id = String::from_utf8(self.part()?).map_err(io::Error::other)?;
        Ok(Some((id, self.part()?)))
    }

    fn part(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.source.read_exact(&mut length)?;
        let mut bytes = vec![0; u32::from_be_bytes(length) as usize];
        self.source.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

fn put_part(bytes: &[u8], out: &mut Vec<u8>) {
    // Ids and rows are far shorter than 4 GiB.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

fn check_id(id: &str) -> Result<(), StageFault> {
    check_entity_id("id", id).map_err(|violation| StageFault::Id {
        shown: id.chars().take(MAX_ENTITY_ID_BYTES / 8).collect(),
        problem: violation.problem,
    })
}

fn unnamed_file(path: &std::path::Path) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    fs::remove_file(path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        store::model::{Attribute, AttributeKind, EntityTypeSpec},
        time::SysTime,
    };

    fn stager(folder: &std::path::Path) -> RowStager {
        let spec = EntityTypeSpec {
            name: "thing".to_owned(),
            attributes: vec![Attribute {
                name: "a".to_owned(),
                kind: AttributeKind::Float64,
                description: String::new(),
            }],
            ..EntityTypeSpec::default()
        };
        let entity_type = Arc::new(EntityType::new(spec, SysTime::from_micros(0)));
        RowStager::new(entity_type, folder.join("rows"))
    }

    #[test]
    fn rows_come_back_from_memory_and_from_a_file_that_has_no_name() {
        for count in [0, 3, 60_000] {
            let folder = tempfile::tempdir().expect("a folder");
            let mut stager = stager(folder.path());
            for number in 0..count {
                let values = [Some(Value::Float64(f64::from(number)))];
                stager.push(format!("{number:08}"), &values).expect("fits");
            }
            let left = std::fs::read_dir(folder.path()).expect("a folder").count();
            assert_eq!(left, 0, "{count}");
            let staged = stager.finish().expect("staged");
            assert_eq!(staged.file.is_some(), count > 3);
            let mut reader = staged.into_reader().expect("reads");
            for number in 0..count {
                let (id, row) = reader.next().expect("reads").expect("a row");
                assert_eq!((id, row.len()), (format!("{number:08}"), 9));
            }
            assert_eq!(reader.next().expect("reads"), None);
        }
    }

    #[test]
    fn what_cannot_be_stored_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut stager = stager(folder.path());
        stager.push("b".to_owned(), &[None]).expect("fits");
        let cases = [
            ("b", None, "two rows have the key \"b\""),
            ("a", None, "key \"a\" comes after \"b\""),
            ("", None, "key \"\" has 0 bytes"),
            (
                "c",
                Some(f64::NAN),
                "attribute \"a\" of \"c\" NaN is not a finite",
            ),
        ];
        for (id, value, expected) in cases {
            let refused = stager
                .push(id.to_owned(), &[value.map(Value::Float64)])
                .expect_err(id)
                .to_string();
            assert!(refused.starts_with(expected), "{refused}");
        }
        let long = "x".repeat(MAX_ENTITY_ID_BYTES + 1);
        let refused = stager.push(long, &[None]).expect_err("too long");
        assert!(refused.to_string().contains("513 bytes"), "{refused}");
    }
}
