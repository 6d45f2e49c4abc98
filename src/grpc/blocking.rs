//! Calls that block, off the reactor.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::status::to_status;
use crate::{engine, error::Classify, server::place};

/// Runs `work` on a thread that may block; it keeps the call's place. A panic in it is a fault of ours.
pub(super) async fn blocking<T: Send + 'static, E: Classify + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, Status> {
    let place = place::own();
    let working = move || {
        let _place = place;
        work()
    };
    match tokio::task::spawn_blocking(working).await {
        Ok(outcome) => outcome.map_err(|error| to_status(&error)),
        Err(error) => Err(broken(&error)),
    }
}

/// Answers with what `work` sends, from a thread that may block; it keeps the call's place. At most `queue` messages wait for
/// the client; one that goes away ends the work at its next message. The last message is the fault, when there is one: what
/// panicked does not look finished.
pub(super) fn streaming<T: Send + 'static>(
    queue: usize,
    work: impl FnOnce(&mpsc::Sender<Result<T, Status>>) -> Result<(), Status> + Send + 'static,
) -> ReceiverStream<Result<T, Status>> {
    let place = place::own();
    let (messages, answer) = mpsc::channel(queue);
    let last = messages.clone();
    let working = tokio::task::spawn_blocking(move || {
        let _place = place;
        work(&messages)
    });
    tokio::spawn(async move {
        let outcome = working.await;
        if let Err(status) = outcome.unwrap_or_else(|error| Err(broken(&error))) {
            // Nobody to tell if the client has gone away.
            drop(last.send(Err(status)).await);
        }
    });
    ReceiverStream::new(answer)
}

fn broken(error: &tokio::task::JoinError) -> Status {
    to_status(&engine::Error::Broken {
        cause: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;

    #[tokio::test]
    async fn what_panics_while_it_sends_ends_with_a_fault() {
        let mut answer = streaming(1, |messages| {
            drop(messages.blocking_send(Ok(1)));
            panic!("a page that cannot be");
        });
        assert_eq!(answer.next().await.expect("a message").expect("sent"), 1);
        let fault = answer
            .next()
            .await
            .expect("a message")
            .expect_err("a fault");
        assert_eq!(fault.code(), tonic::Code::Internal);
        assert!(answer.next().await.is_none());
    }

    #[tokio::test]
    async fn nobody_waits_for_a_client_that_went_away() {
        let (tell, told) = tokio::sync::oneshot::channel();
        drop(streaming(1, move |messages| {
            while messages.blocking_send(Ok(())).is_ok() {}
            tell.send(()).expect("somebody waits");
            Ok(())
        }));
        told.await.expect("it ended");
    }
}
