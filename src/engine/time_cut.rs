//! Conditions on a source's time columns, in the unit of each: exact to the value, whatever that unit is.

use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use datafusion::{
    logical_expr::{Expr, col, lit},
    scalar::ScalarValue,
};

use super::{Error, Result};
use crate::time::{Grain, Interval, PartitionCalendar, SysTime, ValidTime};

/// `from <= column < to`, in the column's own unit.
pub(super) fn event_time_cut(
    schema: &SchemaRef,
    column: &str,
    window: &Interval<ValidTime>,
    days: &PartitionCalendar,
) -> Result<Expr> {
    let data_type = time_type(schema, column)?;
    let name = || col(datafusion::common::Column::from_name(column));
    let at_or_after = |instant| first_at_or_after(&data_type, instant, days);
    let lower = name().gt_eq(lit(at_or_after(window.from)?));
    match window.to {
        None => Ok(lower),
        Some(to) => Ok(lower.and(name().lt(lit(at_or_after(to)?)))),
    }
}

/// `column <= basis`, in the column's own unit.
pub(super) fn available_cut(schema: &SchemaRef, column: &str, basis: SysTime) -> Result<Expr> {
    let data_type = time_type(schema, column)?;
    let name = col(datafusion::common::Column::from_name(column));
    let after = basis.saturating_add_micros(1);
    let utc_days = PartitionCalendar::new(Grain::Daily, chrono_tz::UTC);
    let bound = first_at_or_after(
        &data_type,
        ValidTime::from_micros(after.micros()),
        &utc_days,
    )?;
    Ok(name.lt(lit(bound)))
}

fn time_type(schema: &SchemaRef, column: &str) -> Result<DataType> {
    match schema.field_with_name(column) {
        Ok(field) => Ok(field.data_type().clone()),
        Err(error) => Err(Error::Broken {
            cause: error.to_string(),
        }),
    }
}

/// The first value of a time column's type that lies at or after `instant`. Dates stand for their first instant on the
/// calendar of `days`.
fn first_at_or_after(
    data_type: &DataType,
    instant: ValidTime,
    days: &PartitionCalendar,
) -> Result<ScalarValue> {
    let micros = instant.micros();
    if *data_type == DataType::Date32 {
        return Ok(ScalarValue::Date32(Some(date_at_or_after(instant, days)?)));
    }
    let DataType::Timestamp(unit, zone) = data_type else {
        return Err(Error::Broken {
            cause: format!("{data_type} is no time type"),
        });
    };
    let zone = zone.clone();
    Ok(match unit {
        TimeUnit::Second => ScalarValue::TimestampSecond(Some(ceil_div(micros, 1_000_000)), zone),
        TimeUnit::Millisecond => {
            ScalarValue::TimestampMillisecond(Some(ceil_div(micros, 1_000)), zone)
        }
        TimeUnit::Microsecond => ScalarValue::TimestampMicrosecond(Some(micros), zone),
        TimeUnit::Nanosecond => {
            ScalarValue::TimestampNanosecond(Some(micros.saturating_mul(1_000)), zone)
        }
    })
}

fn ceil_div(value: i64, divisor: i64) -> i64 {
    value.div_euclid(divisor) + i64::from(value.rem_euclid(divisor) != 0)
}

fn date_at_or_after(instant: ValidTime, days: &PartitionCalendar) -> Result<i32> {
    let broken = |cause: String| Error::Broken { cause };
    let day = days
        .partition_containing(instant)
        .map_err(|error| broken(error.to_string()))?;
    let date = chrono::NaiveDate::parse_from_str(&day.label, "%Y-%m-%d")
        .map_err(|error| broken(error.to_string()))?;
    let epoch_days = date
        .signed_duration_since(chrono::NaiveDate::default())
        .num_days();
    let first = if day.start == instant {
        epoch_days
    } else {
        epoch_days + 1
    };
    i32::try_from(first).map_err(|error| broken(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_the_first_value_at_or_after_an_instant() {
        let days = PartitionCalendar::new(Grain::Daily, chrono_tz::America::New_York);
        let second = |micros| {
            first_at_or_after(
                &DataType::Timestamp(TimeUnit::Second, None),
                ValidTime::from_micros(micros),
                &days,
            )
            .expect("a time type")
        };
        assert_eq!(
            second(10_000_000),
            ScalarValue::TimestampSecond(Some(10), None)
        );
        assert_eq!(
            second(10_000_001),
            ScalarValue::TimestampSecond(Some(11), None)
        );
        assert_eq!(second(-1), ScalarValue::TimestampSecond(Some(0), None));
        let date = |text| {
            first_at_or_after(
                &DataType::Date32,
                ValidTime::parse(text).expect("instant"),
                &days,
            )
            .expect("a time type")
        };
        assert_eq!(
            date("1970-01-02T05:00:00Z"),
            ScalarValue::Date32(Some(1)),
            "local midnight"
        );
        assert_eq!(
            date("1970-01-02T05:00:01Z"),
            ScalarValue::Date32(Some(2)),
            "just after it"
        );
    }
}
