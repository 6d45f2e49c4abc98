//! Time: instants on the two axes, half-open intervals, the calendar of partitions, and the only home of "now".

mod calendar;
mod clock;
mod instant;
mod interval;

pub use calendar::{
    CalendarError, Grain, MAX_PARTITIONS, Partition, PartitionCalendar, parse_zone,
};
pub use clock::{Clock, ManualClock, SystemClock};
pub use instant::{InstantError, SysTime, ValidTime};
pub use interval::Interval;
