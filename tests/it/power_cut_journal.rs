//! The recorder's journal, and the folder that a power cut at any of its entries would have left.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use crate::store_lives::Random;

const SECTOR: usize = 512;
const HEAD_BYTES: usize = 21;
/// Files made under the recorder have numbers from here on; inodes' numbers are below.
const NEW_FILES: u64 = 1 << 63;

/// What is left of the writes to a file that no sync covers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mode {
    Nothing,
    All,
    /// Each write or not.
    Writes,
    /// Whole sectors, in order, up to a random one.
    Torn,
    /// Each sector or not.
    Sectors,
}

impl Mode {
    pub(crate) fn any(random: &mut Random) -> Self {
        match random.below(5) {
            0 => Self::Nothing,
            1 => Self::All,
            2 => Self::Writes,
            3 => Self::Torn,
            _ => Self::Sectors,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Folder,
}

#[derive(Debug)]
enum Entry {
    Created(u64, PathBuf, Kind),
    Opened(u64, PathBuf, Kind),
    Written(u64, usize, Vec<u8>),
    Truncated(u64, usize),
    SyncBegun(u64),
    SyncEnded(u64, u64),
    Renamed(PathBuf, PathBuf),
    Removed(PathBuf),
}

/// What the recorder saw of one life, and what lay in the folder before it.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    folder: PathBuf,
    before: Disk,
    entries: Vec<Entry>,
    /// Where each entry ends in the journal's file.
    ends: Vec<u64>,
}

/// A change of a file's content.
#[derive(Debug, Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

/// A change of a folder's names.
#[derive(Debug, Clone)]
enum Naming {
    Add(PathBuf, u64),
    Move(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl Naming {
    fn folder(&self) -> Option<&Path> {
        match self {
            Self::Add(path, _) | Self::Remove(path) | Self::Move(_, path) => path.parent(),
        }
    }

    fn apply(self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Add(path, file) => {
                names.insert(path, file);
            }
            Self::Move(from, to) => {
                if let Some(file) = names.remove(&from) {
                    names.insert(to, file);
                }
            }
            Self::Remove(path) => {
                names.remove(&path);
            }
        }
    }
}

#[derive(Debug, Clone, Default)]
struct File {
    synced: Vec<u8>,
    /// Since then, in order, each with the number of the entry that made it.
    since: Vec<(usize, Change)>,
    is_folder: bool,
}

/// Files by number, and names.
#[derive(Debug, Clone, Default)]
struct Disk {
    files: HashMap<u64, File>,
    names: BTreeMap<PathBuf, u64>,
    /// Since the folder's sync, in order, each with the number of the entry that made it.
    namings: Vec<(usize, Naming)>,
    /// Numbers of folders.
    folders: HashMap<u64, PathBuf>,
    /// The entry at which each sync under way began.
    syncs: HashMap<u64, usize>,
}

impl Journal {
    /// Takes in what lies in the folder before the server starts: all of it is on disk.
    pub(crate) fn before(folder: &Path) -> Self {
        let mut disk = Disk::default();
        disk.take_in(folder);
        Self {
            folder: folder.to_owned(),
            before: disk,
            ..Self::default()
        }
    }

    /// Reads the recorder's file up to its last whole entry.
    pub(crate) fn read(mut self, journal: &Path) -> Self {
        let bytes = std::fs::read(journal).expect("the journal");
        let mut ids: HashMap<u64, u64> = HashMap::new();
        let (mut rest, mut end) = (&bytes[..], 0);
        while let Some((head, body)) = rest.split_at_checked(HEAD_BYTES) {
            let number =
                |at: usize| u64::from_be_bytes(head[at..at + 8].try_into().expect("8 bytes"));
            let length = u32::from_be_bytes(head[17..].try_into().expect("4 bytes")) as usize;
            let Some((data, next)) = body.split_at_checked(length) else {
                break;
            };
            // An inode's number is used again once its file is gone: another file then.
            let file = ids.entry(number(1)).or_insert(number(1));
            if head[0] == b'C' {
                *file = NEW_FILES + self.entries.len() as u64;
            }
            self.entries.push(entry(head[0], *file, number(9), data));
            end += (HEAD_BYTES + length) as u64;
            self.ends.push(end);
            rest = next;
        }
        self
    }

    pub(crate) fn entry_count(&self) -> usize {
        self.entries.len()
    }

    /// Where the first `count` entries end in the journal's file.
    pub(crate) fn position(&self, count: usize) -> u64 {
        count.checked_sub(1).map_or(0, |last| self.ends[last])
    }

    /// Builds in `target` what a cut after the first `count` entries would have left.
    pub(crate) fn folder_at(&self, count: usize, mode: Mode, random: &mut Random, target: &Path) {
        let mut disk = self.before.clone();
        for (index, entry) in self.entries[..count].iter().enumerate() {
            disk.apply(index, entry);
        }
        let mut names = disk.names;
        // Folders keep their names' changes in order, each up to its own moment.
        let mut left: HashMap<PathBuf, usize> = HashMap::new();
        for (_, naming) in &disk.namings {
            *left
                .entry(naming.folder().expect("a folder").to_owned())
                .or_default() += 1;
        }
        for count in left.values_mut() {
            *count = match mode {
                Mode::Nothing => 0,
                Mode::All => *count,
                Mode::Writes | Mode::Torn | Mode::Sectors => {
                    random.below(*count as u64 + 1) as usize
                }
            };
        }
        for (_, naming) in disk.namings {
            let left = left
                .get_mut(naming.folder().expect("a folder"))
                .expect("counted");
            if *left > 0 {
                *left -= 1;
                naming.apply(&mut names);
            }
        }
        std::fs::create_dir_all(target).expect("a folder");
        // In order of names: a folder comes before what is in it. What lies in a folder without a name is lost.
        for (path, number) in names {
            let Some(place) = path
                .strip_prefix(&self.folder)
                .ok()
                .map(|path| target.join(path))
            else {
                continue;
            };
            let file = disk.files.get(&number).cloned().unwrap_or_default();
            if file.is_folder {
                if place.parent().is_some_and(Path::is_dir) && !place.exists() {
                    std::fs::create_dir(&place).expect("a folder");
                }
            } else if place.parent().is_some_and(Path::is_dir) {
                std::fs::write(&place, file.after_cut(mode, random)).expect("a file");
            }
        }
    }
}

fn entry(kind: u8, file: u64, argument: u64, data: &[u8]) -> Entry {
    let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
    let is = if argument == 1 {
        Kind::Folder
    } else {
        Kind::File
    };
    match kind {
        b'C' => Entry::Created(file, path(data), is),
        b'O' => Entry::Opened(file, path(data), is),
        b'W' => Entry::Written(file, argument as usize, data.to_vec()),
        b'T' => Entry::Truncated(file, argument as usize),
        b'B' => Entry::SyncBegun(argument),
        b'E' => Entry::SyncEnded(file, argument),
        b'R' => {
            let mut both = data.splitn(2, |&byte| byte == 0);
            let mut next = || path(both.next().expect("two paths"));
            Entry::Renamed(next(), next())
        }
        b'U' => Entry::Removed(path(data)),
        _ => panic!("no such entry: {kind}"),
    }
}

impl Disk {
    fn take_in(&mut self, path: &Path) {
        let metadata = std::fs::metadata(path).expect("metadata");
        let mut file = File {
            is_folder: metadata.is_dir(),
            ..File::default()
        };
        if file.is_folder {
            self.folders.insert(metadata.ino(), path.to_owned());
            for entry in std::fs::read_dir(path).expect("a folder") {
                self.take_in(&entry.expect("an entry").path());
            }
        } else {
            file.synced = std::fs::read(path).expect("a file");
        }
        self.files.insert(metadata.ino(), file);
        self.names.insert(path.to_owned(), metadata.ino());
    }

    fn apply(&mut self, index: usize, entry: &Entry) {
        match entry {
            Entry::Created(file, path, kind) => {
                let is_folder = *kind == Kind::Folder;
                self.files.insert(
                    *file,
                    File {
                        is_folder,
                        ..File::default()
                    },
                );
                if is_folder {
                    self.folders.insert(*file, path.clone());
                }
                self.namings.push((index, Naming::Add(path.clone(), *file)));
            }
            Entry::Opened(file, path, kind) => {
                if *kind == Kind::Folder {
                    self.folders.insert(*file, path.clone());
                }
            }
            Entry::Written(file, offset, bytes) => {
                self.change(index, *file, Change::Write(*offset, bytes.clone()));
            }
            Entry::Truncated(file, length) => self.change(index, *file, Change::Truncate(*length)),
            Entry::SyncBegun(sync) => {
                self.syncs.insert(*sync, index);
            }
            Entry::SyncEnded(file, sync) => {
                let begun = self.syncs.remove(sync).expect("it began");
                self.sync(*file, begun);
            }
            Entry::Renamed(from, to) => {
                self.namings
                    .push((index, Naming::Move(from.clone(), to.clone())));
            }
            Entry::Removed(path) => self.namings.push((index, Naming::Remove(path.clone()))),
        }
    }

    fn change(&mut self, index: usize, file: u64, change: Change) {
        self.files
            .entry(file)
            .or_default()
            .since
            .push((index, change));
    }

    /// What happened to the file or folder before the entry `begun` is on disk.
    fn sync(&mut self, number: u64, begun: usize) {
        if let Some(file) = self.files.get_mut(&number) {
            let covered = file.since.partition_point(|(index, _)| *index < begun);
            for (_, change) in file.since.drain(..covered) {
                apply(&mut file.synced, &change);
            }
        }
        if let Some(folder) = self.folders.get(&number) {
            let namings = std::mem::take(&mut self.namings);
            for (index, naming) in namings {
                if index < begun && naming.folder() == Some(folder) {
                    naming.apply(&mut self.names);
                } else {
                    self.namings.push((index, naming));
                }
            }
        }
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(offset, data) => {
            let end = offset + data.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*offset..end].copy_from_slice(data);
        }
        Change::Truncate(length) => bytes.resize(*length, 0),
    }
}

/// The change in sectors.
fn sectors(change: &Change) -> Vec<Change> {
    match change {
        Change::Truncate(_) => vec![change.clone()],
        Change::Write(offset, data) => {
            let mut parts = Vec::new();
            let mut at = 0;
            while at < data.len() {
                let length = (SECTOR - (offset + at) % SECTOR).min(data.len() - at);
                parts.push(Change::Write(offset + at, data[at..at + length].to_vec()));
                at += length;
            }
            parts
        }
    }
}

impl File {
    fn after_cut(self, mode: Mode, random: &mut Random) -> Vec<u8> {
        let mut bytes = self.synced;
        let changes: Vec<Change> = self.since.into_iter().map(|(_, change)| change).collect();
        let kept: Vec<Change> = match mode {
            Mode::Nothing => Vec::new(),
            Mode::All => changes,
            Mode::Writes => changes
                .into_iter()
                .filter(|_| random.below(2) == 0)
                .collect(),
            Mode::Sectors => changes
                .iter()
                .flat_map(sectors)
                .filter(|_| random.below(2) == 0)
                .collect(),
            Mode::Torn => {
                let all: Vec<Change> = changes.iter().flat_map(sectors).collect();
                let count = random.below(all.len() as u64 + 1) as usize;
                all.into_iter().take(count).collect()
            }
        };
        kept.iter().for_each(|change| apply(&mut bytes, change));
        bytes
    }
}
