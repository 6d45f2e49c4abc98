//! Asking, on behalf of one attempt.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use arrow::{
    array::{ArrayRef, StringArray, StructArray, TimestampMicrosecondArray, new_null_array},
    compute::interleave,
};
use futures::{FutureExt, StreamExt, future::OptionFuture, stream::FuturesUnordered};
use tokio_util::sync::CancellationToken;

use super::{
    Calls, Error,
    client::{Answer, Failure},
    definition::Definition,
    memory::{Answered, Found, Memory},
    meter::CallMeter,
    rate_limiter::Told,
    under_way::{Claim, Claimed},
};
use crate::{
    telemetry::RequestOutcome,
    time::{SysTime, ValidTime},
};

/// Requests that are under way at once, of one attempt.
const IN_FLIGHT: usize = 64;
/// Answers that are kept in one commit, at most.
const KEPT_AT_ONCE: usize = 256;
/// Upper bound of the wait before the second try; it doubles from there.
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
/// Upper bound of every wait that the outside system did not ask for.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// Longest text of what was asked, in an error.
const MAX_ASKED_CHARS: usize = 200;

/// What one row asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// One for each argument.
    pub values: Vec<String>,
    /// The instant among them.
    pub valid_time: Option<ValidTime>,
}

/// What the calls of one attempt have in common.
#[derive(Debug, Clone)]
pub struct CallWork {
    /// Told what they come to.
    pub meter: Arc<CallMeter>,
    /// The backfill.
    pub backfill: String,
    /// When it was created, in microseconds since the Unix epoch.
    pub created_micros: i64,
    /// Answers that were kept by this basis are preferred, so that all of its attempts see the same. `None`: none were.
    pub known_by: Option<SysTime>,
    /// Only answers that were given since the backfill was created count.
    pub refresh: bool,
}

/// The calls of one attempt.
#[derive(Debug, Clone)]
pub struct CallRun {
    pub(super) calls: Calls,
    pub(super) work: CallWork,
}

impl CallRun {
    /// The answer to each question, as [`Definition::answer_type`]; null where there is none. What is not known is asked, each
    /// question once, also if other attempts ask it at the same time, and kept on disk before it is given.
    ///
    /// # Errors
    /// The first call that failed; the answers of the others are kept.
    pub async fn answer(
        &self,
        definition: &Arc<Definition>,
        questions: &[Option<Question>],
    ) -> Result<ArrayRef, Error> {
        let memory = Memory::open(&self.calls.store, definition)?;
        let rows = Rows::new(self, definition, questions);
        let pinned = match self.work.known_by {
            Some(basis) if !self.work.refresh => Some(memory.find(&rows.ids, &rows.at, basis)?),
            Some(_) | None => None,
        };
        let look = || {
            let at = Rows::instants(self, questions);
            memory.find(&rows.ids, &at, self.calls.store.latest_basis())
        };
        let mut latest = look()?;
        let mut asked = HashSet::new();
        loop {
            let missing = self.missing(&memory, questions, &rows, pinned.as_ref(), &latest, &asked);
            if missing.is_empty() {
                break;
            }
            let (mut mine, theirs) = self.claim(&memory, missing);
            if !mine.is_empty() {
                // Somebody may have kept the answer between the look and the claim.
                latest = look()?;
                let missing =
                    self.missing(&memory, questions, &rows, pinned.as_ref(), &latest, &asked);
                mine.retain(|(claim, _)| missing.contains_key(claim.id()));
                asked.extend(mine.iter().map(|(claim, _)| claim.id().to_owned()));
                self.ask_all(&memory, definition, mine).await?;
            }
            let waiting = self
                .work
                .meter
                .wait(&self.calls.clock, definition.rate_limit());
            for over in theirs {
                over.cancelled().await;
            }
            drop(waiting);
            latest = look()?;
        }
        let nothing = new_null_array(&definition.answer_type(), 1);
        let mut picks = Vec::with_capacity(questions.len());
        for (row, question) in questions.iter().enumerate() {
            picks.push(if question.is_none() {
                (0, 0)
            } else if pinned.as_ref().is_some_and(|found| found.has(row, None)) {
                (2, row)
            } else if latest.has(row, self.since()) {
                (1, row)
            } else {
                return Err(Error::Erased {
                    call: definition.name().to_owned(),
                });
            });
        }
        let pinned: &StructArray = pinned.as_ref().map_or(&latest.answers, |it| &it.answers);
        interleave(&[&nothing, &latest.answers, pinned], &picks).map_err(|error| Error::Setup {
            cause: error.to_string(),
        })
    }

    /// Answers given before it do not count.
    fn since(&self) -> Option<i64> {
        self.work.refresh.then_some(self.work.created_micros)
    }

    /// Those that nobody asks yet, and the ends of the others.
    fn claim(
        &self,
        memory: &Memory,
        questions: HashMap<String, Question>,
    ) -> (Vec<(Claim, Question)>, Vec<CancellationToken>) {
        let mut mine = Vec::new();
        let mut theirs = Vec::new();
        for (id, question) in questions {
            match self.calls.under_way.claim(memory.entity_type(), &id) {
                Claimed::Mine(claim) => mine.push((claim, question)),
                Claimed::Theirs(over) => theirs.push(over),
            }
        }
        (mine, theirs)
    }

    /// Each question that has no answer yet and was not `asked`, once.
    fn missing(
        &self,
        memory: &Memory,
        questions: &[Option<Question>],
        rows: &Rows,
        pinned: Option<&Found>,
        latest: &Found,
        asked: &HashSet<String>,
    ) -> HashMap<String, Question> {
        let mut missing = HashMap::new();
        for (row, question) in questions.iter().enumerate() {
            let Some(question) = question else {
                continue;
            };
            let id = rows.ids.value(row);
            if asked.contains(id) {
                continue;
            }
            let is_known =
                pinned.is_some_and(|found| found.has(row, None)) || latest.has(row, self.since());
            if is_known {
                self.work.meter.remembered(memory.entity_type(), id);
            } else if !missing.contains_key(id) {
                missing.insert(id.to_owned(), question.clone());
            }
        }
        missing
    }

    /// Asks, so many at once, and keeps the answers as they come, in small commits.
    async fn ask_all(
        &self,
        memory: &Memory,
        definition: &Arc<Definition>,
        questions: Vec<(Claim, Question)>,
    ) -> Result<(), Error> {
        let giving_up = CancellationToken::new();
        let mut queue = questions.into_iter();
        let mut asking = FuturesUnordered::new();
        let mut answered: Vec<Answered> = Vec::new();
        let mut keeping: OptionFuture<_> = None.into();
        let mut is_keeping = false;
        let mut outcome = Ok(());
        loop {
            while outcome.is_ok() && asking.len() < IN_FLIGHT && answered.len() < KEPT_AT_ONCE {
                let Some((claim, question)) = queue.next() else {
                    break;
                };
                asking.push(self.ask(definition, claim, question, &giving_up));
            }
            if !is_keeping && !answered.is_empty() {
                let some = answered.len().min(KEPT_AT_ONCE);
                let some = answered.drain(..some).collect();
                keeping = Some(memory.clone().keep(some, self.asked_at()).boxed()).into();
                is_keeping = true;
            }
            if asking.is_empty() && !is_keeping {
                return outcome;
            }
            let ended = tokio::select! {
                Some(one) = asking.next(), if !asking.is_empty() => one.map(|one| answered.push(one)),
                Some(kept) = &mut keeping, if is_keeping => {
                    is_keeping = false;
                    kept
                }
            };
            if let Err(error) = ended {
                // Those that wait need not go on; what is under way ends, and is kept.
                giving_up.cancel();
                outcome = outcome.and(Err(error));
            }
        }
    }

    /// When answers that are kept now were given: never before the backfill was created, whatever the clock says.
    fn asked_at(&self) -> i64 {
        self.calls.clock.now_micros().max(self.work.created_micros)
    }

    /// Asks one question, again if need be.
    async fn ask(
        &self,
        definition: &Definition,
        claim: Claim,
        question: Question,
        giving_up: &CancellationToken,
    ) -> Result<Answered, Error> {
        let asked = shown(definition, &question);
        let url = definition
            .url
            .fill(&question.values)
            .map_err(|problem| Error::Argument {
                call: definition.name().to_owned(),
                asked: asked.clone(),
                placeholder: definition.arguments().first().cloned().unwrap_or_default(),
                url: definition.url.shown().to_owned(),
                problem,
            })?;
        let mut count = 0;
        loop {
            let permit = self.permit(definition, giving_up).await?;
            self.work.meter.requested();
            count += 1;
            let start_micros = self.calls.clock.monotonic_micros();
            let outcome = self
                .calls
                .http
                .ask(definition, &asked, url.clone(), &*self.calls.clock)
                .await;
            self.record(&outcome, start_micros);
            let judged = self.judge(definition, &asked, count, outcome);
            // The limit has heard of a 429 before the place goes to the next request.
            drop(permit);
            match judged? {
                Ok(answer) => {
                    self.work.meter.answered();
                    return Ok(Answered {
                        claim,
                        valid_from: question.valid_time,
                        answer,
                    });
                }
                Err(retry_after) => {
                    self.back_off(definition, count, retry_after, giving_up)
                        .await?;
                }
            }
        }
    }

    fn record(&self, outcome: &Result<Answer, Failure>, start_micros: i64) {
        let became = match outcome {
            Ok(_) => RequestOutcome::Answered,
            Err(Failure::Passing {
                is_throttled: true, ..
            }) => RequestOutcome::Throttled,
            Err(Failure::Passing { .. }) => RequestOutcome::Failed,
            Err(Failure::Final(_)) => RequestOutcome::Refused,
        };
        let end_micros = self.calls.clock.monotonic_micros();
        self.calls.metrics.asked(became, start_micros, end_micros);
    }

    async fn permit(
        &self,
        definition: &Definition,
        giving_up: &CancellationToken,
    ) -> Result<super::Permit, Error> {
        let limit = definition.rate_limit();
        let entering = self
            .calls
            .limiter
            .enter(definition.name(), limit, &self.work.backfill);
        let _waiting = self.work.meter.wait(&self.calls.clock, limit);
        tokio::select! {
            permit = entering => permit,
            () = giving_up.cancelled() => Err(Error::Stopped),
        }
    }

    /// Tells the limit what became of a request; an answer, or how long to wait before it is sent again.
    fn judge(
        &self,
        definition: &Definition,
        asked: &str,
        count: u32,
        outcome: Result<Answer, Failure>,
    ) -> Result<Result<Answer, Option<Duration>>, Error> {
        let limit = definition.rate_limit();
        match outcome {
            Ok(answer) => {
                self.calls.limiter.told(limit, Told::Answered);
                Ok(Ok(answer))
            }
            Err(Failure::Final(error)) => Err(error),
            Err(Failure::Passing {
                cause,
                is_throttled,
                retry_after,
            }) => {
                if is_throttled {
                    self.calls
                        .limiter
                        .told(limit, Told::Throttled { retry_after });
                }
                if count > definition.spec.retries {
                    return Err(Error::Unanswered {
                        call: definition.name().to_owned(),
                        asked: asked.to_owned(),
                        url: definition.url.shown().to_owned(),
                        count,
                        cause,
                    });
                }
                Ok(Err(retry_after))
            }
        }
    }

    async fn back_off(
        &self,
        definition: &Definition,
        count: u32,
        retry_after: Option<Duration>,
        giving_up: &CancellationToken,
    ) -> Result<(), Error> {
        let bound = FIRST_BACKOFF
            .saturating_mul(1 << (count - 1).min(16))
            .min(MAX_BACKOFF);
        let jittered = bound.mul_f64(self.calls.ids.fraction());
        let pause = retry_after.unwrap_or_default() + jittered;
        let _waiting = self
            .work
            .meter
            .wait(&self.calls.clock, definition.rate_limit());
        tokio::select! {
            () = self.calls.clock.sleep(pause) => Ok(()),
            () = giving_up.cancelled() => Err(Error::Stopped),
        }
    }
}

/// Questions as the store is asked for their answers.
struct Rows {
    ids: StringArray,
    at: TimestampMicrosecondArray,
}

impl Rows {
    fn new(run: &CallRun, definition: &Definition, questions: &[Option<Question>]) -> Self {
        let ids = questions.iter().map(|question| {
            let question = question.as_ref()?;
            Some(definition.entity_id(&question.values))
        });
        Self {
            ids: ids.collect(),
            at: Self::instants(run, questions),
        }
    }

    /// Where answers are looked for: what has no instant of its own, now.
    fn instants(run: &CallRun, questions: &[Option<Question>]) -> TimestampMicrosecondArray {
        let now = run.calls.store.now();
        let instants = questions.iter().map(|question| {
            let question = question.as_ref()?;
            Some(question.valid_time.unwrap_or(now).micros())
        });
        instants.collect()
    }
}

/// What was asked, for an error: `("EUR", "2024-03-01T00:00:00Z")`.
fn shown(definition: &Definition, question: &Question) -> String {
    let values: Vec<_> = definition
        .arguments()
        .iter()
        .zip(&question.values)
        .map(|(name, value)| format!("{name} = {value:?}"))
        .collect();
    let text = values.join(", ");
    let mut shown: String = text.chars().take(MAX_ASKED_CHARS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("({shown})")
}
