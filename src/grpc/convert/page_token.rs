//! The opaque token of `ListHistory`: where the next page starts, and of which listing.
//!
//! **Layout**, as hexadecimal digits: basis, `valid_from` and `system_from` of the last version told (i64 each), CRC-32 of
//! the listing's other fields, all big-endian.

use prost::Message;

use crate::{
    error::Violation,
    pb,
    time::{SysTime, ValidTime},
};

/// Where a listing goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::grpc) struct HistoryPosition {
    /// The basis of the listing's first page.
    pub(in crate::grpc) basis: SysTime,
    /// Of the last version told.
    pub(in crate::grpc) valid_from: ValidTime,
    /// Of the last version told.
    pub(in crate::grpc) system_from: SysTime,
}

impl HistoryPosition {
    /// The token that goes on from here with the same request.
    pub(in crate::grpc) fn to_token(self, request: &pb::ListHistoryRequest) -> String {
        let mut bytes = Vec::with_capacity(28);
        for micros in [
            self.basis.micros(),
            self.valid_from.micros(),
            self.system_from.micros(),
        ] {
            bytes.extend_from_slice(&micros.to_be_bytes());
        }
        bytes.extend_from_slice(&listing(request).to_be_bytes());
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Where the request's token says to go on; `None` for the first page.
    ///
    /// # Errors
    /// The token is not one of ours, or of another listing.
    pub(in crate::grpc) fn of_request(
        request: &pb::ListHistoryRequest,
    ) -> Result<Option<Self>, Violation> {
        if request.page_token.is_empty() {
            return Ok(None);
        }
        let refused = || Violation::new("page_token", "it does not belong to this listing");
        let bytes = parse(&request.page_token).ok_or_else(refused)?;
        let number = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[at..at + 8]);
            i64::from_be_bytes(number)
        };
        if bytes[24..] != listing(request).to_be_bytes() {
            return Err(refused());
        }
        Ok(Some(Self {
            basis: SysTime::from_micros(number(0)),
            valid_from: ValidTime::from_micros(number(8)),
            system_from: SysTime::from_micros(number(16)),
        }))
    }
}

fn parse(token: &str) -> Option<[u8; 28]> {
    let mut bytes = [0; 28];
    if token.len() != 56 || !token.is_ascii() {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(token.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// What must not change from page to page: everything but the page's own fields.
fn listing(request: &pb::ListHistoryRequest) -> u32 {
    let same = pb::ListHistoryRequest {
        page_size: 0,
        page_token: String::new(),
        ..request.clone()
    };
    crc32fast::hash(&same.encode_to_vec())
}
