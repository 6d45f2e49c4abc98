//! Staged files: out of sight, and gone when they should be.

use std::collections::HashSet;

use hindcast::lake::Error;

use super::house::{House, TABLE, attempt, batch, commit, day, expected, publish, rows_at, stage};

#[test]
fn what_is_staged_is_seen_by_nobody_and_can_be_dropped() {
    let house = House::with_table();
    publish(&house.lake, "a", &[(0, &[("AA", 1)])]).expect("commit");
    let before = house.file_names("data");

    let staged = stage(&house.lake, day(0), &attempt("b", 1), &[("UA", 9)]);
    assert_eq!((staged.row_count, staged.files.len()), (1, 1));
    assert_eq!(house.file_names("data").len(), before.len() + 1);
    assert_eq!(rows_at(&house.lake, None), expected(&[(0, "AA", 1)]));
    staged.discard().expect("discard");
    assert_eq!(house.file_names("data"), before);

    let begin = || {
        let mut writer = house
            .lake
            .stage(TABLE, day(0), &attempt("b", 2))
            .expect("writer");
        writer.write(&batch(&[("UA", 9)])).expect("write");
        writer
    };
    begin().abort().expect("abort");
    assert_eq!(house.file_names("data"), before);
    drop(begin());
    assert_eq!(house.file_names("data"), before);

    let empty = house
        .lake
        .stage(TABLE, day(0), &attempt("b", 3))
        .expect("writer");
    assert!(empty.finish().expect("finish").files.is_empty());
    assert_eq!(house.file_names("data"), before);
}

#[test]
fn leftovers_of_dead_attempts_are_removed_and_nothing_else() {
    let house = House::with_table();
    publish(&house.lake, "a", &[(0, &[("AA", 1)])]).expect("commit");
    publish(&house.lake, "b", &[(0, &[("UA", 1)])]).expect("commit");
    let published = house.file_names("data");
    for (backfill, number) in [("a", 2), ("a", 3), ("a-a", 2), ("b", 2)] {
        stage(
            &house.lake,
            day(0),
            &attempt(backfill, number),
            &[("DL", 1)],
        );
    }
    let alive = HashSet::from([(day(0), 3)]);
    assert_eq!(
        house
            .lake
            .remove_leftovers(TABLE, "a", &alive)
            .expect("removed"),
        1
    );
    assert_eq!(house.file_names("data").len(), published.len() + 3);
    for backfill in ["a", "a-a", "b"] {
        assert_eq!(
            house
                .lake
                .remove_leftovers(TABLE, backfill, &HashSet::new())
                .expect("removed"),
            1
        );
    }
    assert_eq!(house.file_names("data"), published);
}

#[test]
fn a_published_attempt_cannot_be_staged_again() {
    let house = House::with_table();
    publish(&house.lake, "a", &[(0, &[("AA", 1)])]).expect("commit");
    let error = house
        .lake
        .stage(TABLE, day(0), &attempt("a", 1))
        .expect_err("published");
    assert!(matches!(error, Error::AttemptPublished { .. }), "{error}");
    // Left by a dead try and not published: overwritten.
    std::mem::forget(stage(
        &house.lake,
        day(1),
        &attempt("a", 1),
        &[("UA", 1), ("UA", 2)],
    ));
    let again = stage(&house.lake, day(1), &attempt("a", 1), &[("DL", 1)]);
    assert_eq!(again.row_count, 1);
}

#[test]
fn a_large_partition_is_split_over_files_and_replaced_whole() {
    let house = House::with_table();
    let id = attempt("a", 1);
    let mut writer = house
        .lake
        .stage(TABLE, day(0), &id)
        .expect("writer")
        .split_after(1);
    for index in 0..3 {
        writer
            .write(&batch(&[("AA", index), ("UA", index)]))
            .expect("write");
    }
    let staged = writer.finish().expect("finish");
    assert_eq!((staged.files.len(), staged.row_count), (3, 6));
    commit(&house.lake, "a", staged);
    assert_eq!(rows_at(&house.lake, None).len(), 6);
    publish(&house.lake, "b", &[(0, &[("DL", 1)])]).expect("commit");
    assert_eq!(rows_at(&house.lake, None), expected(&[(0, "DL", 1)]));
}
