//! An answer on its way: it holds its call's place, and ends at the call's deadline, whether or not the client reads.
//!
//! The network layer asks a body for nothing while the client's window is full. So the deadline has a task of its own, which
//! takes the body away: its sender sees that nobody receives, and the place is free. The client is told when it reads on.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tonic::{Status, body::Body};

use super::{deadline::Deadline, place::Place};

/// `body`, which holds `place` until its last byte is sent, `deadline` passes, or it is dropped.
pub(super) fn hold(body: Body, place: Option<Place>, deadline: Option<Deadline>) -> Body {
    // Trailers alone, or nothing: there is nothing to hold on to.
    if body.is_end_stream() || (place.is_none() && deadline.is_none()) {
        return body;
    }
    let sending = Arc::new(Mutex::new(Sending::Open {
        body,
        waiting: None,
        _place: place,
    }));
    let cutting = deadline.map(|deadline| {
        let cutting = cut_off(Arc::clone(&sending), deadline);
        tokio::spawn(cutting).abort_handle()
    });
    Body::new(Held { sending, cutting }.boxed_unsync())
}

enum Sending {
    Open {
        body: Body,
        /// Who waits for the body.
        waiting: Option<Waker>,
        _place: Option<Place>,
    },
    /// At the deadline; the client has yet to be told.
    CutOff(Status),
    Ended,
}

async fn cut_off(sending: Arc<Mutex<Sending>>, mut deadline: Deadline) {
    deadline.passed().await;
    let mut held = sending.lock();
    let Sending::Open { waiting, .. } = &mut *held else {
        return;
    };
    let waiting = waiting.take();
    let cut = std::mem::replace(&mut *held, Sending::CutOff(deadline.refuse()));
    drop(held);
    drop(cut);
    if let Some(waiting) = waiting {
        waiting.wake();
    }
}

struct Held {
    sending: Arc<Mutex<Sending>>,
    cutting: Option<AbortHandle>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(cutting) = &self.cutting {
            cutting.abort();
        }
        // The aborted task lets go of its share later.
        let held = std::mem::replace(&mut *self.sending.lock(), Sending::Ended);
        drop(held);
    }
}

impl hyper::body::Body for Held {
    type Data = <Body as hyper::body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let mut sending = self.sending.lock();
        let polled = match &mut *sending {
            Sending::Open { body, waiting, .. } => {
                let polled = Pin::new(body).poll_frame(context);
                if polled.is_pending() {
                    *waiting = Some(context.waker().clone());
                }
                polled
            }
            Sending::CutOff(status) => {
                let mut trailers = HeaderMap::new();
                let added = status.add_header(&mut trailers);
                let frame = added.map(|()| Frame::trailers(trailers));
                *sending = Sending::Ended;
                return Poll::Ready(Some(frame));
            }
            Sending::Ended => return Poll::Ready(None),
        };
        if matches!(polled, Poll::Ready(None)) {
            *sending = Sending::Ended;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &*self.sending.lock() {
            Sending::Open { body, .. } => body.is_end_stream(),
            Sending::CutOff(_) => false,
            Sending::Ended => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &*self.sending.lock() {
            Sending::Open { body, .. } => body.size_hint(),
            Sending::CutOff(_) | Sending::Ended => SizeHint::default(),
        }
    }
}
