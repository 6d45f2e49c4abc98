//! Versions and children as differences to the one before, which are small: most of what pages hold.

use super::{
    codec::{self, Malformed, Reader, put_i64, put_u64},
    page_codec::Entry,
    timeline::{OPEN, Rect},
};

const FROM_IS_MIN: u8 = 1;
const TO_IS_OPEN: u8 = 2;
const SYSTEM_TO_IS_OPEN: u8 = 4;
const SINCE_IS_MIN: u8 = 8;

/// The version or entry before, from which the next one differs little. Differences wrap around, so any two instants have
/// one.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Differences {
    from: i64,
    system_from: i64,
    made_by: u64,
}

impl Differences {
    pub(super) fn put_rect(&mut self, rect: &Rect, out: &mut Vec<u8>) {
        let mut flags = 0;
        for (is_end, flag) in [
            (rect.from == i64::MIN, FROM_IS_MIN),
            (rect.to == OPEN, TO_IS_OPEN),
            (rect.system_to == OPEN, SYSTEM_TO_IS_OPEN),
        ] {
            if is_end {
                flags |= flag;
            }
        }
        out.push(flags);
        self.put_from(rect.from, out);
        if rect.to != OPEN {
            put_i64(rect.to.wrapping_sub(self.from), out);
        }
        self.put_system_from(rect.system_from, out);
        if rect.system_to != OPEN {
            put_i64(rect.system_to.wrapping_sub(rect.system_from), out);
        }
        put_u64(u64::from(rect.state), out);
    }

    #[inline]
    pub(super) fn rect(&mut self, reader: &mut Reader<'_>) -> codec::Result<Rect> {
        let flags = reader.u8()?;
        let from = self.from(flags, reader)?;
        let to = if flags & TO_IS_OPEN == 0 {
            self.from.wrapping_add(reader.i64()?)
        } else {
            OPEN
        };
        self.system_from = self.system_from.wrapping_add(reader.i64()?);
        let system_to = self.system_to(flags, reader)?;
        let state =
            u32::try_from(reader.u64()?).map_err(|_| Malformed("a row number is too large"))?;
        Ok(Rect {
            from,
            to,
            system_from: self.system_from,
            system_to,
            state,
        })
    }

    pub(super) fn put_entry(&mut self, entry: &Entry, out: &mut Vec<u8>) {
        let mut flags = 0;
        for (is_end, flag) in [
            (entry.from == i64::MIN, FROM_IS_MIN),
            (entry.until == OPEN, SYSTEM_TO_IS_OPEN),
            (entry.since == i64::MIN, SINCE_IS_MIN),
        ] {
            if is_end {
                flags |= flag;
            }
        }
        out.push(flags);
        self.put_from(entry.from, out);
        if entry.since != i64::MIN {
            self.put_system_from(entry.since, out);
            put_i64(entry.made_by.wrapping_sub(self.made_by).cast_signed(), out);
            self.made_by = entry.made_by;
        }
        if entry.until != OPEN {
            put_i64(entry.until.wrapping_sub(self.system_from), out);
        }
    }

    pub(super) fn entry(&mut self, reader: &mut Reader<'_>) -> codec::Result<Entry> {
        let flags = reader.u8()?;
        let from = self.from(flags, reader)?;
        let (since, made_by) = if flags & SINCE_IS_MIN == 0 {
            self.system_from = self.system_from.wrapping_add(reader.i64()?);
            if self.system_from == i64::MIN {
                // It would not be written so, and lose the commit when it is written again.
                return Err(Malformed(
                    "a child is from the beginning, and does not say so",
                ));
            }
            self.made_by = self.made_by.wrapping_add_signed(reader.i64()?);
            (self.system_from, self.made_by)
        } else {
            (i64::MIN, 0)
        };
        let until = self.system_to(flags, reader)?;
        Ok(Entry {
            from,
            since,
            made_by,
            until,
        })
    }

    /// Where the version or child begins to which the reader comes; it is the first of its block.
    #[inline]
    pub(super) fn first_from(reader: &mut Reader<'_>) -> codec::Result<i64> {
        let flags = reader.u8()?;
        Self::default().from(flags, reader)
    }

    fn put_from(&mut self, from: i64, out: &mut Vec<u8>) {
        if from != i64::MIN {
            put_i64(from.wrapping_sub(self.from), out);
            self.from = from;
        }
    }

    fn put_system_from(&mut self, system_from: i64, out: &mut Vec<u8>) {
        put_i64(system_from.wrapping_sub(self.system_from), out);
        self.system_from = system_from;
    }

    fn from(&mut self, flags: u8, reader: &mut Reader<'_>) -> codec::Result<i64> {
        if flags & FROM_IS_MIN != 0 {
            return Ok(i64::MIN);
        }
        self.from = self.from.wrapping_add(reader.i64()?);
        Ok(self.from)
    }

    fn system_to(&self, flags: u8, reader: &mut Reader<'_>) -> codec::Result<i64> {
        if flags & SYSTEM_TO_IS_OPEN != 0 {
            return Ok(OPEN);
        }
        Ok(self.system_from.wrapping_add(reader.i64()?))
    }
}
