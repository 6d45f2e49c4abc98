//! External calls of a transform: wire to domain and back.

use super::duration;
use crate::{
    catalog::{
        CallColumn, CallHeader, CallSpec, DEFAULT_CALL_RETRIES, DEFAULT_CALL_TIMEOUT,
        call_type_name, parse_call_type,
    },
    error::Violation,
    pb,
};

/// The call at this place of a transform's; what it says is checked with the transform.
pub(super) fn from_wire(index: usize, wire: pb::Call) -> Result<CallSpec, Violation> {
    let pb::Call {
        name,
        url,
        headers,
        rate_limit,
        timeout,
        retries,
        columns,
        allow_current_state,
    } = wire;
    let field = format!("transform.calls[{index}]");
    Ok(CallSpec {
        name,
        url,
        headers: headers
            .into_iter()
            .map(|pb::CallHeader { name, value }| CallHeader { name, value })
            .collect(),
        rate_limit,
        timeout: duration::from_wire(&format!("{field}.timeout"), timeout)?
            .unwrap_or(DEFAULT_CALL_TIMEOUT),
        retries: retries.unwrap_or(DEFAULT_CALL_RETRIES),
        columns: columns
            .into_iter()
            .enumerate()
            .map(|(index, wire)| column(&format!("{field}.columns[{index}]"), wire))
            .collect::<Result<_, _>>()?,
        allow_current_state,
    })
}

fn column(field: &str, wire: pb::CallColumn) -> Result<CallColumn, Violation> {
    let pb::CallColumn { name, r#type, path } = wire;
    let kind = parse_call_type(&r#type).ok_or_else(|| {
        Violation::new(
            format!("{field}.type"),
            format!(
                "{:?} is not a type: bool, int64, float64, decimal(p,s), string, timestamp, date, json",
                r#type
            ),
        )
    })?;
    Ok(CallColumn { name, kind, path })
}

/// A call as the wire shows it: secrets by name, as in the definition.
pub(super) fn to_wire(call: &CallSpec) -> pb::Call {
    let CallSpec {
        name,
        url,
        headers,
        rate_limit,
        timeout,
        retries,
        columns,
        allow_current_state,
    } = call;
    pb::Call {
        name: name.clone(),
        url: url.clone(),
        headers: headers
            .iter()
            .map(|header| pb::CallHeader {
                name: header.name.clone(),
                value: header.value.clone(),
            })
            .collect(),
        rate_limit: rate_limit.clone(),
        timeout: Some(duration::to_wire(*timeout)),
        retries: Some(*retries),
        columns: columns
            .iter()
            .map(|column| pb::CallColumn {
                name: column.name.clone(),
                r#type: call_type_name(column.kind),
                path: column.path.clone(),
            })
            .collect(),
        allow_current_state: *allow_current_state,
    }
}
