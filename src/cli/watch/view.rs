//! The three ways to show a running backfill: a live bar, plain lines, JSON.

use std::{io::IsTerminal, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

use super::{describe_counts, total};
use crate::{
    cli::{
        error::Error,
        json::enum_name,
        output::{self, Format},
        style::Style,
        times,
    },
    pb::{self, BackfillState, PartitionState, event::Change, watch_backfill_response::Message},
};

/// How often the bar moves by itself.
const TICK: Duration = Duration::from_millis(120);
/// Progress of a bar: label, bar, count, and what `Progress` says.
const BAR: &str = " {spinner:.cyan} [{bar:28.cyan/dim}] {pos}/{len}  {wide_msg}";

/// Something that shows a stream of messages.
pub(crate) trait View {
    /// Shows one message. Events come once each, in order.
    fn show(&mut self, response: &pb::WatchBackfillResponse) -> Result<(), Error>;

    /// Says something about the watching itself.
    fn note(&mut self, text: &str) -> Result<(), Error>;

    /// The last event's sequence, or where watching began.
    fn last_sequence(&self) -> u64;

    /// Remembers where the stream is.
    fn set_last_sequence(&mut self, sequence: u64);

    /// Says that the backfill has several transforms: their partitions are told apart.
    fn set_several(&mut self);

    /// Leaves the terminal tidy.
    fn close(&mut self) {}
}

/// The view for whoever reads standard output.
pub(super) fn choose(format: Format) -> Box<dyn View> {
    let on_terminal = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
    match format {
        Format::Json => Box::new(JsonView { last_sequence: 0 }),
        Format::Table if on_terminal => Box::new(BarView::new()),
        Format::Table => Box::new(LineView {
            last_sequence: 0,
            several: false,
        }),
    }
}

/// One object per message.
struct JsonView {
    last_sequence: u64,
}

impl View for JsonView {
    fn show(&mut self, response: &pb::WatchBackfillResponse) -> Result<(), Error> {
        output::json_line(response)
    }

    fn note(&mut self, text: &str) -> Result<(), Error> {
        eprintln!("{text}");
        Ok(())
    }

    fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    fn set_last_sequence(&mut self, sequence: u64) {
        self.last_sequence = sequence;
    }

    fn set_several(&mut self) {
        // Each object names its transform.
    }
}

/// One line per event.
struct LineView {
    last_sequence: u64,
    several: bool,
}

impl View for LineView {
    fn show(&mut self, response: &pb::WatchBackfillResponse) -> Result<(), Error> {
        match &response.message {
            Some(Message::Event(event)) => output::line(format!(
                "{} #{} {}",
                times::show_or_dash(event.time.as_ref()),
                event.sequence,
                describe_event(event, self.several)
            )),
            Some(Message::Progress(_) | Message::Heartbeat(_)) | None => Ok(()),
        }
    }

    fn note(&mut self, text: &str) -> Result<(), Error> {
        eprintln!("{text}");
        Ok(())
    }

    fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    fn set_last_sequence(&mut self, sequence: u64) {
        self.last_sequence = sequence;
    }

    fn set_several(&mut self) {
        self.several = true;
    }
}

/// A live bar on standard error; what went wrong scrolls by above it.
pub(crate) struct BarView {
    bar: ProgressBar,
    last_sequence: u64,
    several: bool,
}

impl BarView {
    /// A bar that does not yet know its length.
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::new(0);
        bar.set_style(
            ProgressStyle::with_template(BAR)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars(output::BAR_CHARS),
        );
        bar.enable_steady_tick(TICK);
        Self {
            bar,
            last_sequence: 0,
            several: false,
        }
    }

    fn show_progress(&self, progress: &pb::Progress) {
        let counts = progress.partition_counts.unwrap_or_default();
        let finished = counts.succeeded + counts.failed + counts.upstream_failed + counts.cancelled;
        self.bar
            .set_length(total(Some(&counts)) - u64::from(counts.skipped));
        self.bar.set_position(u64::from(finished));
        self.bar.set_message(describe_progress(progress));
    }

    fn above(&self, text: &str) {
        self.bar.suspend(|| eprintln!("  {text}"));
    }
}

impl View for BarView {
    fn show(&mut self, response: &pb::WatchBackfillResponse) -> Result<(), Error> {
        match &response.message {
            Some(Message::Progress(progress)) => self.show_progress(progress),
            Some(Message::Event(event)) => {
                if let Some(text) = remarkable(event, self.several) {
                    self.above(&text);
                }
            }
            Some(Message::Heartbeat(_)) | None => {}
        }
        Ok(())
    }

    fn note(&mut self, text: &str) -> Result<(), Error> {
        self.above(&Style::stderr().yellow(text));
        Ok(())
    }

    fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    fn set_last_sequence(&mut self, sequence: u64) {
        self.last_sequence = sequence;
    }

    fn set_several(&mut self) {
        self.several = true;
    }

    fn close(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// `4 running, 2 failed · 51,000 rows/s · 12.0 s left`.
fn describe_progress(progress: &pb::Progress) -> String {
    let active = progress.partition_counts.map(|counts| pb::PartitionCounts {
        pending: 0,
        succeeded: 0,
        skipped: 0,
        blocked: 0,
        ..counts
    });
    let mut parts = Vec::new();
    if total(active.as_ref()) > 0 {
        parts.push(describe_counts(active.as_ref()));
    }
    if progress.rows_per_second >= 1.0 {
        parts.push(format!(
            "{} rows/s",
            output::count(progress.rows_per_second as u64)
        ));
    }
    if let Some(eta) = &progress.eta {
        parts.push(format!(
            "{} left",
            times::show_duration(times::from_wire_duration(eta))
        ));
    }
    parts.join(" · ")
}

/// Events that a person wants to see while the bar runs.
fn remarkable(event: &pb::Event, several: bool) -> Option<String> {
    let style = Style::stderr();
    match event.change.as_ref()? {
        Change::PartitionChanged(change) => match change.state() {
            PartitionState::Failed => Some(format!(
                "{} {}",
                style.red("✗"),
                describe_event(event, several)
            )),
            PartitionState::WaitingRetry => Some(format!(
                "{} {}",
                style.yellow("↻"),
                describe_event(event, several)
            )),
            PartitionState::Unspecified
            | PartitionState::Pending
            | PartitionState::Blocked
            | PartitionState::Running
            | PartitionState::Succeeded
            | PartitionState::UpstreamFailed
            | PartitionState::Skipped
            | PartitionState::Cancelled => None,
        },
        Change::BackfillResumed(_) => Some(format!(
            "{} {}",
            style.yellow("↻"),
            describe_event(event, several)
        )),
        Change::BackfillStateChanged(change) => match change.state() {
            BackfillState::Paused => Some(format!(
                "{} {}",
                style.yellow("‖"),
                describe_event(event, several)
            )),
            BackfillState::Unspecified
            | BackfillState::Pending
            | BackfillState::Running
            | BackfillState::Cancelling
            | BackfillState::Succeeded
            | BackfillState::PartiallySucceeded
            | BackfillState::Failed
            | BackfillState::Cancelled => None,
        },
        Change::BackfillCreated(_) | Change::BackfillConcurrencyChanged(_) => None,
    }
}

/// An event in one line.
fn describe_event(event: &pb::Event, several: bool) -> String {
    match &event.change {
        Some(Change::BackfillCreated(change)) => {
            let mut text = format!(
                "created: {}, {} to run",
                output::counted(u64::from(change.partition_count), "partition"),
                output::count(u64::from(change.run_count))
            );
            for warning in &change.warnings {
                text += &format!("; warning: {warning}");
            }
            text
        }
        Some(Change::BackfillStateChanged(change)) => {
            format!("backfill {}", lower::<BackfillState>(change.state))
        }
        Some(Change::BackfillConcurrencyChanged(change)) => format!(
            "{} at once from now on",
            output::counted(u64::from(change.max_active_partitions), "partition")
        ),
        Some(Change::BackfillResumed(change)) => match change.fenced_attempt_count {
            0 => "the server came back, and the backfill goes on".to_owned(),
            fenced => format!(
                "the server came back, and the backfill goes on; {} begun before will run again",
                output::counted(u64::from(fenced), "attempt")
            ),
        },
        Some(Change::PartitionChanged(change)) => describe_partition(change, several),
        None => "an event that this client does not know".to_owned(),
    }
}

fn lower<E: crate::cli::json::WireEnum>(state: i32) -> String {
    enum_name::<E>(state).to_lowercase().replace('_', " ")
}

fn describe_partition(change: &pb::PartitionChanged, several: bool) -> String {
    let label = if several {
        format!("{} of {}", change.label, change.transform)
    } else {
        change.label.clone()
    };
    match change.state() {
        PartitionState::Running if !change.waits_for_limit.is_empty() => format!(
            "{label} waits for rate limit {}: {} answers so far",
            change.waits_for_limit,
            output::count(change.calls.as_ref().map_or(0, |calls| calls.answer_count))
        ),
        PartitionState::Running => format!("{label} running, attempt {}", change.attempt),
        PartitionState::Succeeded => format!(
            "{label} succeeded: {} rows read, {} written",
            output::count(change.rows_read),
            output::count(change.rows_written)
        ),
        PartitionState::Failed => format!(
            "{label} failed, attempt {}: {}",
            change.attempt, change.message
        ),
        PartitionState::WaitingRetry => format!(
            "{label} failed, attempt {}, next at {}: {}",
            change.attempt,
            times::show_or_dash(change.retry_time.as_ref()),
            change.message
        ),
        PartitionState::Unspecified
        | PartitionState::Pending
        | PartitionState::Blocked
        | PartitionState::UpstreamFailed
        | PartitionState::Skipped
        | PartitionState::Cancelled => {
            let reason = if change.message.is_empty() {
                String::new()
            } else {
                format!(": {}", change.message)
            };
            format!("{label} {}{reason}", lower::<PartitionState>(change.state))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(state: PartitionState) -> pb::Event {
        let change = pb::PartitionChanged {
            label: "2013-02-08".to_owned(),
            transform: "daily".to_owned(),
            state: state.into(),
            attempt: 2,
            rows_read: 930,
            rows_written: 16,
            message: "divide by zero".to_owned(),
            ..Default::default()
        };
        pb::Event {
            sequence: 7,
            time: None,
            change: Some(Change::PartitionChanged(change)),
        }
    }

    #[test]
    fn events_read_as_sentences() {
        for (state, text) in [
            (PartitionState::Running, "2013-02-08 running, attempt 2"),
            (
                PartitionState::Succeeded,
                "2013-02-08 succeeded: 930 rows read, 16 written",
            ),
            (
                PartitionState::Failed,
                "2013-02-08 failed, attempt 2: divide by zero",
            ),
            (
                PartitionState::UpstreamFailed,
                "2013-02-08 upstream failed: divide by zero",
            ),
        ] {
            assert_eq!(describe_event(&partition(state), false), text);
        }
    }

    #[test]
    fn partitions_of_several_transforms_are_told_apart() {
        assert_eq!(
            describe_event(&partition(PartitionState::Running), true),
            "2013-02-08 of daily running, attempt 2"
        );
    }

    #[test]
    fn only_trouble_scrolls_above_the_bar() {
        assert_eq!(
            remarkable(&partition(PartitionState::Succeeded), false),
            None
        );
        assert!(
            remarkable(&partition(PartitionState::Failed), false)
                .is_some_and(|text| text.contains("divide by zero"))
        );
    }

    #[test]
    fn progress_names_what_is_known() {
        let counts = pb::PartitionCounts {
            succeeded: 10,
            running: 4,
            failed: 2,
            pending: 74,
            ..Default::default()
        };
        let progress = pb::Progress {
            partition_counts: Some(counts),
            rows_per_second: 51_000.4,
            eta: Some(prost_types::Duration {
                seconds: 75,
                nanos: 0,
            }),
            ..Default::default()
        };
        assert_eq!(
            describe_progress(&progress),
            "2 failed, 4 running · 51,000 rows/s · 1 m 15 s left"
        );
        assert_eq!(describe_progress(&pb::Progress::default()), "");
    }
}
