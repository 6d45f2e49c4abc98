//! The stream of batches to the server, and of acknowledgements back.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::Arc,
};

use indicatif::ProgressBar;
use parking_lot::Mutex;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{Batch, LoadReport};
use crate::{
    cli::{
        client::{Client, required},
        error::Error,
        output, times,
    },
    pb::{self, ingest_request::Message as Item},
};

/// Batches that wait for the network.
const BATCH_QUEUE: usize = 4;

/// Where the lines of a batch that is not acknowledged are.
struct Sent {
    offset: u64,
    lines: Vec<usize>,
}

/// Batches that are not acknowledged, in order.
type InFlight = Arc<Mutex<VecDeque<Sent>>>;

/// An open load.
pub(super) struct Sender {
    requests: mpsc::Sender<pb::IngestRequest>,
    in_flight: InFlight,
    acknowledged: JoinHandle<Result<LoadReport, Error>>,
    start_offset: u64,
}

impl Sender {
    /// Opens the load `stream`, new or not.
    pub(super) async fn open(
        client: &Client,
        path: &Path,
        stream: String,
        bar: ProgressBar,
    ) -> Result<Self, Error> {
        let (requests, receiver) = mpsc::channel(BATCH_QUEUE);
        let start = pb::IngestStart {
            stream: stream.clone(),
        };
        // The channel is empty: there is room.
        drop(requests.try_send(request(Item::Start(start))));
        let answers = client.store().ingest(ReceiverStream::new(receiver)).await?;
        let mut answers = answers.into_inner();
        let stands = required(answers.message().await?, "first answer")?;
        let in_flight = InFlight::default();
        let acknowledger = Acknowledger {
            path: path.to_owned(),
            bar,
            in_flight: Arc::clone(&in_flight),
            last_offset: stands.acknowledged_offset,
            report: LoadReport {
                stream,
                skipped_lines: stands.acknowledged_offset,
                ..Default::default()
            },
        };
        Ok(Self {
            requests,
            in_flight,
            acknowledged: tokio::spawn(acknowledger.run(answers)),
            start_offset: stands.acknowledged_offset,
        })
    }

    /// The last line that was on disk when the load was opened; 0: none.
    pub(super) fn start_offset(&self) -> u64 {
        self.start_offset
    }

    /// Sends a batch; waits while others are on their way. `false`: the stream has ended, and [`Sender::finish`] says why.
    pub(super) async fn send(&self, batch: Batch) -> bool {
        let Batch {
            mutations,
            system_time,
            lines,
            bytes: _,
        } = batch;
        let Some(offset) = lines.last().map(|line| *line as u64) else {
            return true;
        };
        self.in_flight.lock().push_back(Sent { offset, lines });
        let batch = pb::IngestBatch {
            offset,
            mutations,
            import_system_time: system_time,
        };
        self.requests
            .send(request(Item::Batch(batch)))
            .await
            .is_ok()
    }

    /// Waits until all of it is on disk.
    ///
    /// # Errors
    /// The server's refusal of a batch; a connection that was lost.
    pub(super) async fn finish(self) -> Result<LoadReport, Error> {
        drop(self.requests);
        self.acknowledged
            .await
            .map_err(|error| Error::Failed(format!("loading broke off: {error}")))?
    }
}

fn request(message: Item) -> pb::IngestRequest {
    pb::IngestRequest {
        message: Some(message),
    }
}

/// Takes the acknowledgements.
struct Acknowledger {
    path: PathBuf,
    bar: ProgressBar,
    in_flight: InFlight,
    last_offset: u64,
    report: LoadReport,
}

impl Acknowledger {
    async fn run(
        mut self,
        mut answers: Streaming<pb::IngestResponse>,
    ) -> Result<LoadReport, Error> {
        loop {
            match answers.message().await {
                Ok(Some(answer)) => self.take(&answer),
                Ok(None) if self.in_flight.lock().is_empty() => {
                    self.bar.finish_and_clear();
                    return Ok(self.report);
                }
                Ok(None) => {
                    let text = "the server ended the stream before everything was on disk";
                    return Err(self.ended(Error::Failed(text.to_owned())));
                }
                Err(status) => return Err(self.refused(status)),
            }
        }
    }

    fn take(&mut self, answer: &pb::IngestResponse) {
        let mut in_flight = self.in_flight.lock();
        while let Some(sent) =
            in_flight.pop_front_if(|sent| sent.offset <= answer.acknowledged_offset)
        {
            self.report.batches += 1;
            self.report.mutations += sent.lines.len() as u64;
        }
        drop(in_flight);
        self.last_offset = answer.acknowledged_offset;
        self.report.versions_written = answer.versions_written;
        self.report.basis = answer.system_time.as_ref().map(times::show);
        let seconds = self.bar.elapsed().as_secs_f64().max(0.001);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a rate for people"
        )]
        let rate = (self.report.mutations as f64 / seconds) as u64;
        self.bar
            .set_message(format!("· {} lines/s", output::count(rate)));
    }

    /// The batch that the server has refused: the first one that is not acknowledged.
    fn refused(self, status: Status) -> Error {
        let sent = self.in_flight.lock().pop_front();
        let lines = sent.map(|sent| sent.lines).unwrap_or_default();
        let cause = match (lines.first().copied(), lines.last().copied()) {
            (Some(first_line), Some(last_line)) => Error::Batch {
                path: self.path.clone(),
                first_line,
                last_line,
                status: Box::new(status),
                lines,
            },
            _ => Error::from(status),
        };
        self.ended(cause)
    }

    /// How far the load has come, and why no further.
    fn ended(self, cause: Error) -> Error {
        self.bar.finish_and_clear();
        Error::Load {
            cause: Box::new(cause),
            stream: self.report.stream,
            last_line: self.last_offset,
        }
    }
}
