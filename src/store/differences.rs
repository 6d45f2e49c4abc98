//! Versions and children as differences to the one before, which are small: most of what pages hold.
//!
//! **Layout** of one: for each of its fields half a byte that says how many bytes the field takes, or that it lies at the end
//! of its scale; then those bytes, big-endian. So that reading a field waits for no other.

use super::{
    codec::{self, Malformed, Reader, unzigzag, zigzag},
    page_codec::Entry,
    timeline::{OPEN, Rect},
};

/// Stands where a field's length would: the field is the beginning of time, or [`OPEN`].
const AT_END: u8 = 15;

/// The version or child before, from which the next one differs little. Differences wrap around, so any two instants have
/// one.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Differences {
    from: i64,
    system_from: i64,
    made_by: u64,
}

impl Differences {
    pub(super) fn put_rect(&mut self, rect: &Rect, out: &mut Vec<u8>) {
        let from = self.difference_of_from(rect.from);
        let to = (rect.to != OPEN).then(|| zigzag(rect.to.wrapping_sub(self.from)));
        let system_from = zigzag(rect.system_from.wrapping_sub(self.system_from));
        self.system_from = rect.system_from;
        let system_to = self.difference_of_system_to(rect.system_to);
        let state = u64::from(rect.state);
        put_fields([from, to, Some(system_from), system_to, Some(state)], out);
    }

    #[inline]
    pub(super) fn rect(&mut self, reader: &mut Reader<'_>) -> codec::Result<Rect> {
        let [from, to, system_from, system_to, state] = fields(reader)?;
        let from = self.from(from);
        let to = to.map_or(OPEN, |to| self.from.wrapping_add(unzigzag(to)));
        let (Some(system_from), Some(state)) = (system_from, state) else {
            return Err(Malformed("a version is without a beginning or a row"));
        };
        self.system_from = self.system_from.wrapping_add(unzigzag(system_from));
        Ok(Rect {
            from,
            to,
            system_from: self.system_from,
            system_to: self.system_to(system_to),
            state: u32::try_from(state).map_err(|_| Malformed("a row number is too large"))?,
        })
    }

    pub(super) fn put_entry(&mut self, entry: &Entry, out: &mut Vec<u8>) {
        let from = self.difference_of_from(entry.from);
        let (mut since, mut made_by) = (None, Some(0));
        if entry.since != i64::MIN {
            since = Some(zigzag(entry.since.wrapping_sub(self.system_from)));
            let difference = entry.made_by.wrapping_sub(self.made_by);
            made_by = Some(zigzag(difference.cast_signed()));
            (self.system_from, self.made_by) = (entry.since, entry.made_by);
        }
        let until = self.difference_of_system_to(entry.until);
        put_fields([from, since, made_by, until], out);
    }

    #[inline]
    pub(super) fn entry(&mut self, reader: &mut Reader<'_>) -> codec::Result<Entry> {
        let [from, since, made_by, until] = fields(reader)?;
        let from = self.from(from);
        let (since, made_by) = match (since, made_by) {
            (Some(since), Some(made_by)) => {
                self.system_from = self.system_from.wrapping_add(unzigzag(since));
                self.made_by = self.made_by.wrapping_add_signed(unzigzag(made_by));
                (self.system_from, self.made_by)
            }
            (None, Some(0)) => (i64::MIN, 0),
            _ => return Err(Malformed("a child does not say which commit made it")),
        };
        if since == i64::MIN && made_by != 0 {
            // It would not be written so, and lose the commit when it is written again.
            return Err(Malformed("a child from the beginning names a commit"));
        }
        Ok(Entry {
            from,
            since,
            made_by,
            until: self.system_to(until),
        })
    }

    /// Where the version or child begins to which the reader comes; it is the first of its block.
    #[inline]
    pub(super) fn first_from<const FIELDS: usize>(mut reader: Reader<'_>) -> codec::Result<i64> {
        let lengths = reader.take(FIELDS.div_ceil(2))?;
        let from = field(lengths, 0, &mut reader)?;
        Ok(Self::default().from(from))
    }

    fn difference_of_from(&mut self, from: i64) -> Option<u64> {
        let difference = (from != i64::MIN).then(|| zigzag(from.wrapping_sub(self.from)));
        if from != i64::MIN {
            self.from = from;
        }
        difference
    }

    #[inline]
    fn from(&mut self, difference: Option<u64>) -> i64 {
        let Some(difference) = difference else {
            return i64::MIN;
        };
        self.from = self.from.wrapping_add(unzigzag(difference));
        self.from
    }

    fn difference_of_system_to(&self, system_to: i64) -> Option<u64> {
        (system_to != OPEN).then(|| zigzag(system_to.wrapping_sub(self.system_from)))
    }

    #[inline]
    fn system_to(&self, difference: Option<u64>) -> i64 {
        difference.map_or(OPEN, |difference| {
            self.system_from.wrapping_add(unzigzag(difference))
        })
    }
}

/// The fields of a version and of a child; where it begins is the first one.
pub(super) const RECT_FIELDS: usize = 5;
pub(super) const ENTRY_FIELDS: usize = 4;

fn put_fields<const FIELDS: usize>(fields: [Option<u64>; FIELDS], out: &mut Vec<u8>) {
    let lengths = out.len();
    out.resize(lengths + FIELDS.div_ceil(2), 0);
    for (index, field) in fields.into_iter().enumerate() {
        let length = match field {
            None => AT_END,
            Some(value) => {
                let bytes = value.to_be_bytes();
                let zeros = value.leading_zeros() as usize / 8;
                out.extend_from_slice(&bytes[zeros..]);
                (bytes.len() - zeros) as u8
            }
        };
        out[lengths + index / 2] |= length << (index % 2 * 4);
    }
}

#[inline]
fn fields<const FIELDS: usize>(reader: &mut Reader<'_>) -> codec::Result<[Option<u64>; FIELDS]> {
    let lengths = reader.take(FIELDS.div_ceil(2))?;
    let mut fields = [None; FIELDS];
    for (index, it) in fields.iter_mut().enumerate() {
        *it = field(lengths, index, reader)?;
    }
    Ok(fields)
}

#[inline]
fn field(lengths: &[u8], index: usize, reader: &mut Reader<'_>) -> codec::Result<Option<u64>> {
    match lengths[index / 2] >> (index % 2 * 4) & 0x0F {
        AT_END => Ok(None),
        length => reader.big_endian(length).map(Some),
    }
}
