//! `StreamPermits`: permits in lots. Takes are answered in order; what comes meanwhile frees places for them.

use std::{collections::VecDeque, pin::Pin, time::Duration};

use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::{
    error::Violation,
    grpc::{
        convert::{duration, invalid::named, rate_limit as convert, rate_limit::Refused},
        status::to_status,
    },
    limits::{self, Acquire, Class, Limits, Permits},
    pb::{self, stream_permits_request::Message},
};

/// Takes of one stream that may wait.
const MAX_TAKES: usize = 64;
/// Lots of one stream that may be under way.
const MAX_LOTS: usize = 4_096;

type Taken = Result<Permits, limits::Error>;
type Taking = Pin<Box<dyn Future<Output = Taken> + Send>>;

/// A stream, from its opening to its end. Dropping it frees the places of its permits.
pub(super) struct Stream {
    limits: Limits,
    client: mpsc::Sender<Result<pb::StreamPermitsResponse, Status>>,
    opened: Option<Opened>,
    /// Those that wait behind the one that is served.
    takes: VecDeque<Acquire>,
    taking: Option<Taking>,
    /// Oldest first.
    lots: VecDeque<Permits>,
}

struct Opened {
    limit: String,
    class: Class,
    client: String,
}

impl Stream {
    pub(super) fn new(
        limits: Limits,
        client: mpsc::Sender<Result<pb::StreamPermitsResponse, Status>>,
    ) -> Self {
        Self {
            limits,
            client,
            opened: None,
            takes: VecDeque::new(),
            taking: None,
            lots: VecDeque::new(),
        }
    }

    /// Serves until an end. The client is told why, where it can be.
    pub(super) async fn run(mut self, mut messages: Streaming<pb::StreamPermitsRequest>) {
        let stopping = self.limits.stopping();
        let client = self.client.clone();
        let ended = tokio::select! {
            ended = self.serve(&mut messages) => ended,
            () = client.closed() => Ok(()),
            () = stopping.cancelled() => Err(limits::Error::Stopping.into()),
        };
        if let Err(refused) = ended {
            // Nobody to tell if the client has gone away.
            let _ = client.send(Err(to_status(&refused))).await;
        }
    }

    async fn serve(
        &mut self,
        messages: &mut Streaming<pb::StreamPermitsRequest>,
    ) -> Result<(), Refused> {
        let mut is_open = true;
        while is_open || self.taking.is_some() {
            tokio::select! {
                message = messages.message(), if is_open => match message {
                    Ok(Some(message)) => self.hear(message)?,
                    // It asks no more, but waits for the answers that are due.
                    Ok(None) => is_open = false,
                    // Cut: nobody waits for an answer.
                    Err(_) => return Ok(()),
                },
                taken = next(&mut self.taking) => self.answer(taken).await?,
            }
        }
        Ok(())
    }

    fn hear(&mut self, request: pb::StreamPermitsRequest) -> Result<(), Refused> {
        let pb::StreamPermitsRequest { message } = request;
        match message {
            Some(Message::Open(open)) => self.open(open),
            Some(Message::Take(take)) => self.take(take),
            Some(Message::Done(permits)) => self.done(permits),
            Some(Message::GiveBack(permits)) => self.give_back(permits),
            None => Err(Violation::new("message", "it is required").into()),
        }
    }

    fn open(&mut self, open: pb::stream_permits_request::Open) -> Result<(), Refused> {
        let pb::stream_permits_request::Open {
            limit,
            caller_class,
            client,
        } = open;
        if self.opened.is_some() {
            return Err(Violation::new("open", "the stream is open already").into());
        }
        named("open.limit", &limit)?;
        self.limits.get(&limit)?;
        self.opened = Some(Opened {
            limit,
            class: convert::class("open.caller_class", caller_class)?,
            client,
        });
        Ok(())
    }

    fn take(&mut self, take: pb::stream_permits_request::Take) -> Result<(), Refused> {
        let pb::stream_permits_request::Take { permits, max_wait } = take;
        let patience = duration::from_wire("take.max_wait", max_wait)?;
        let Some(opened) = &self.opened else {
            return Err(Violation::new("take", "open comes first").into());
        };
        if self.takes.len() == MAX_TAKES {
            let problem = format!("{MAX_TAKES} takes wait already; read their answers first");
            return Err(Violation::new("take", problem).into());
        }
        self.takes.push_back(Acquire {
            limit: opened.limit.clone(),
            permits,
            class: opened.class,
            client: opened.client.clone(),
            patience,
        });
        self.take_next();
        Ok(())
    }

    fn take_next(&mut self) {
        if self.taking.is_none()
            && let Some(request) = self.takes.pop_front()
        {
            let limits = self.limits.clone();
            self.taking = Some(Box::pin(async move { limits.acquire(request).await }));
        }
    }

    async fn answer(&mut self, taken: Taken) -> Result<(), Refused> {
        self.taking = None;
        let (permits, waited, expected) = match taken {
            Ok(permits) => {
                let told = (permits.count(), permits.waited());
                self.lots.push_back(permits);
                (told.0, Some(told.1), None)
            }
            Err(limits::Error::NotInTime { expected, .. }) => (0, None, Some(expected)),
            Err(error) => {
                return Err(Refused::Limits {
                    within: Some("take"),
                    error,
                });
            }
        };
        if self.lots.len() > MAX_LOTS {
            let problem = format!("{MAX_LOTS} lots are under way; say which calls are over");
            return Err(Violation::new("done", problem).into());
        }
        let wire = |wait: Option<Duration>| wait.map(duration::to_wire);
        let response = pb::StreamPermitsResponse {
            permits,
            waited: wire(waited),
            expected_wait: wire(expected),
        };
        // A client that has gone away ends the stream elsewhere.
        let _ = self.client.send(Ok(response)).await;
        self.take_next();
        Ok(())
    }

    /// The oldest calls are over first.
    fn done(&mut self, mut permits: u32) -> Result<(), Refused> {
        self.check_held("done", permits)?;
        while permits > 0
            && let Some(lot) = self.lots.front_mut()
        {
            permits -= lot.release(permits);
            if lot.count() == 0 {
                self.lots.pop_front();
            }
        }
        Ok(())
    }

    /// The youngest permits go back first.
    fn give_back(&mut self, mut permits: u32) -> Result<(), Refused> {
        self.check_held("give_back", permits)?;
        while permits > 0
            && let Some(lot) = self.lots.back_mut()
        {
            permits -= lot.give_back(permits);
            if lot.count() == 0 {
                self.lots.pop_back();
            }
        }
        Ok(())
    }

    fn check_held(&self, field: &str, permits: u32) -> Result<(), Violation> {
        let held: u64 = self.lots.iter().map(|lot| u64::from(lot.count())).sum();
        if u64::from(permits) <= held {
            return Ok(());
        }
        let problem = format!("{permits} permits are more than the {held} that the stream holds");
        Err(Violation::new(field, problem))
    }
}

/// The outcome of the take that is served; never, if there is none.
async fn next(taking: &mut Option<Taking>) -> Taken {
    match taking {
        Some(taking) => taking.await,
        None => std::future::pending().await,
    }
}
