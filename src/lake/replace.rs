//! Replace-partitions: the snapshot that holds exactly the given files in the given partitions, and all else as it was.
//!
//! A manifest without files of those partitions is taken over as it is. One that has some is written anew: their entries
//! DELETED, the others EXISTING. The new files go into one more manifest, whose entries inherit their sequence number.
//! Small manifests are merged when many have gathered, sorted by partition so that later commits can tell by their bounds
//! which to open: so the cost of a commit does not grow with the number of commits before it.

use std::{collections::BTreeMap, sync::Arc};

use futures::executor::block_on;
use iceberg::{
    io::FileIO,
    spec::{
        MAIN_BRANCH, ManifestEntryRef, ManifestFile, ManifestListWriter, Snapshot,
        TableMetadataBuilder,
    },
};

use super::{
    Commit, PublishedPartition,
    catalog::{Head, NextState, WrittenFiles},
    disk::{self, TableFolders},
    error::{Error, Result, iceberg_error, write_error},
    identity::{self, fresh_uuid},
    manifests::{
        Entry, ManifestCache, ManifestFactory, live_file_count, partition_bounds, partition_start,
    },
    summary::{Change, Counts, PartitionRecord},
};
use crate::time::ValidTime;

/// Small manifests that may gather before they are merged.
pub const MAX_SMALL_MANIFESTS: usize = 32;
/// Files in a merged manifest at most: what replacing one partition among many has to write anew.
const MERGED_MANIFEST_FILES: usize = 256;
/// A manifest with fewer files is small.
const SMALL_MANIFEST_FILES: u32 = 128;

/// What a commit is built from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) table: &'a str,
    pub(super) folders: &'a TableFolders,
    pub(super) file_io: &'a FileIO,
    pub(super) cache: &'a ManifestCache,
    pub(super) now_micros: i64,
}

/// The partitions of a commit, by start.
pub(super) type Replacements<'a> = BTreeMap<ValidTime, &'a PublishedPartition>;

/// The commit's partitions by start.
///
/// # Errors
/// [`Error::DuplicatePartition`], [`Error::ForeignStaged`].
pub(super) fn replacements<'a>(table: &str, commit: &'a Commit) -> Result<Replacements<'a>> {
    let mut by_start = BTreeMap::new();
    for partition in &commit.partitions {
        let start = partition.staged.partition_start;
        if partition.staged.table != table {
            return Err(Error::ForeignStaged {
                table: table.to_owned(),
                partition_start: start,
                staged_for: partition.staged.table.clone(),
            });
        }
        if by_start.insert(start, partition).is_some() {
            return Err(Error::DuplicatePartition {
                table: table.to_owned(),
                partition_start: start,
            });
        }
    }
    Ok(by_start)
}

/// Writes the snapshot that puts `replacements` on top of `head`; its id and the state that has it.
pub(super) fn draft(
    context: Context<'_>,
    head: &Head,
    commit: &Commit,
    replacements: &Replacements<'_>,
) -> Result<(i64, NextState)> {
    let metadata = &head.metadata;
    let sequence_number = metadata.last_sequence_number() + 1;
    let mut unique = fresh_uuid(
        &format!("{}/{}", context.table, head.version),
        context.now_micros,
    );
    while metadata
        .snapshot_by_id(identity::snapshot_id(unique))
        .is_some()
    {
        unique = fresh_uuid(context.table, context.now_micros);
    }
    let mut factory = ManifestFactory {
        table: context.table,
        file_io: context.file_io,
        folders: context.folders,
        schema: Arc::clone(metadata.current_schema()),
        partition_spec: Arc::clone(metadata.default_partition_spec()),
        snapshot_id: identity::snapshot_id(unique),
        sequence_number,
        unique: unique.to_string(),
        written: WrittenFiles::default(),
        manifest_count: 0,
    };
    let mut change = Change {
        backfill: &commit.backfill,
        revision: commit.revision,
        partitions: replacements
            .values()
            .map(|partition| record(partition))
            .collect(),
        ..Change::default()
    };
    let mut manifests = without_replaced(context, head, replacements, &mut factory, &mut change)?;
    let added: Vec<Entry> = replacements
        .values()
        .flat_map(|partition| &partition.staged.files)
        .inspect(|file| change.added.add(file))
        .map(|file| Entry::Added(Box::new(file.clone())))
        .collect();
    if !added.is_empty() {
        manifests.push(factory.write(added)?);
    }
    finish(context, head, factory, &change, manifests)
}

fn record(partition: &PublishedPartition) -> PartitionRecord {
    PartitionRecord {
        start: partition.staged.partition_start,
        attempt: partition.attempt,
        rows_read: partition.rows_read,
        rows_written: partition.staged.row_count,
    }
}

/// The manifests of `head` without the files of the replaced partitions, merged if there are many.
fn without_replaced(
    context: Context<'_>,
    head: &Head,
    replacements: &Replacements<'_>,
    factory: &mut ManifestFactory<'_>,
    change: &mut Change<'_>,
) -> Result<Vec<ManifestFile>> {
    let (mut untouched, mut rewritten) = (Vec::new(), Vec::new());
    for manifest in head
        .manifests
        .iter()
        .filter(|manifest| live_file_count(manifest) > 0)
    {
        match remove_from(context, manifest, replacements, change)? {
            None => untouched.push(manifest.clone()),
            Some(entries) => rewritten.push(factory.write(entries)?),
        }
    }
    let mut manifests = merge_small(context, untouched, factory)?;
    manifests.append(&mut rewritten);
    Ok(manifests)
}

/// The entries of `manifest` with those of the replaced partitions deleted; `None` if it has none of them.
fn remove_from(
    context: Context<'_>,
    manifest: &ManifestFile,
    replacements: &Replacements<'_>,
    change: &mut Change<'_>,
) -> Result<Option<Vec<Entry>>> {
    if let Some((first, last)) = partition_bounds(manifest)
        && replacements.range(first..=last).next().is_none()
    {
        return Ok(None);
    }
    let mut entries = Vec::new();
    let mut is_touched = false;
    for entry in live_entries(context, manifest)? {
        let start = partition_start(context.table, &entry.data_file)?;
        entries.push(if replacements.contains_key(&start) {
            is_touched = true;
            change.removed.add(&entry.data_file);
            Entry::Deleted(entry)
        } else {
            Entry::Existing(entry)
        });
    }
    Ok(is_touched.then_some(entries))
}

fn live_entries(context: Context<'_>, manifest: &ManifestFile) -> Result<Vec<ManifestEntryRef>> {
    let entries = context
        .cache
        .entries(context.table, context.file_io, manifest)?;
    Ok(entries
        .iter()
        .filter(|entry| entry.is_alive())
        .cloned()
        .collect())
}

fn merge_small(
    context: Context<'_>,
    manifests: Vec<ManifestFile>,
    factory: &mut ManifestFactory<'_>,
) -> Result<Vec<ManifestFile>> {
    let (small, mut merged): (Vec<_>, Vec<_>) = manifests
        .into_iter()
        .partition(|manifest| live_file_count(manifest) < SMALL_MANIFEST_FILES);
    if small.len() < MAX_SMALL_MANIFESTS {
        merged.extend(small);
        return Ok(merged);
    }
    let mut entries = Vec::new();
    for manifest in &small {
        for entry in live_entries(context, manifest)? {
            entries.push((partition_start(context.table, &entry.data_file)?, entry));
        }
    }
    entries.sort_by(|(a_start, a), (b_start, b)| {
        (a_start, a.file_path()).cmp(&(b_start, b.file_path()))
    });
    let mut entries = entries
        .into_iter()
        .map(|(_, entry)| Entry::Existing(entry))
        .peekable();
    while entries.peek().is_some() {
        let chunk = entries.by_ref().take(MERGED_MANIFEST_FILES).collect();
        merged.push(factory.write(chunk)?);
    }
    Ok(merged)
}

/// Writes the manifest list and describes the snapshot.
fn finish(
    context: Context<'_>,
    head: &Head,
    mut factory: ManifestFactory<'_>,
    change: &Change<'_>,
    manifests: Vec<ManifestFile>,
) -> Result<(i64, NextState)> {
    let metadata = &head.metadata;
    let (snapshot_id, sequence_number) = (factory.snapshot_id, factory.sequence_number);
    let parent = metadata.current_snapshot();
    let list_uri = context
        .folders
        .metadata_uri(&format!("snap-{snapshot_id}-1-{}.avro", factory.unique));
    factory.written.add(disk::to_path(&list_uri));
    let parent_id = parent.map(|parent| parent.snapshot_id());
    write_list(context.file_io, &list_uri, &manifests, |file| {
        ManifestListWriter::v2(file, snapshot_id, parent_id, sequence_number)
    })
    .map_err(write_error("write a manifest list"))?;

    let before = match parent {
        Some(parent) => Counts::totals(context.table, parent)?,
        None => Counts::default(),
    };
    let snapshot = Snapshot::builder()
        .with_snapshot_id(snapshot_id)
        .with_parent_snapshot_id(parent_id)
        .with_sequence_number(sequence_number)
        .with_timestamp_ms(head.next_timestamp_ms(context.now_micros))
        .with_manifest_list(list_uri)
        .with_summary(change.summarise(before))
        .with_schema_id(metadata.current_schema_id())
        .build();
    let built = TableMetadataBuilder::new_from_metadata(
        metadata.clone(),
        Some(head.metadata_location.clone()),
    )
    .set_branch_snapshot(snapshot, MAIN_BRANCH)
    .and_then(TableMetadataBuilder::build)
    .map_err(iceberg_error("add a snapshot"))?;
    let next = NextState {
        built,
        manifests,
        written: factory.written,
    };
    Ok((snapshot_id, next))
}

fn write_list(
    file_io: &FileIO,
    uri: &str,
    manifests: &[ManifestFile],
    begin: impl FnOnce(Box<dyn iceberg::io::FileWrite>) -> ManifestListWriter,
) -> iceberg::Result<()> {
    let output = file_io.new_output(uri)?;
    let mut writer = begin(block_on(output.writer())?);
    writer.add_manifests(manifests.iter().cloned())?;
    // Closing syncs the file.
    block_on(writer.close())
}
