//! Connections: accepted, shaken hands with where TLS is on, and handed to the server.
//!
//! Handshakes run beside each other, each for a limited time that ends with the first words of HTTP/2, so that a client that
//! says nothing holds nobody up. From then on HTTP/2's own probes find those that are gone. A connection keeps its place until
//! it is closed; while none is free, further ones wait in the system's queue.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use super::tls::Certificates;
use crate::time::Clock;

/// Connections that wait to be served.
const QUEUE: usize = 64;
/// How long accepting rests after a fault such as too many open files.
const REST: Duration = Duration::from_millis(50);
/// Bytes that every client of HTTP/2 sends first. **Source**: RFC 9113, 3.4.
const PREFACE_BYTES: usize = 24;

/// Where a call comes from; in the extensions of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The other end.
    pub address: SocketAddr,
}

/// An open connection.
pub(super) struct Connection {
    stream: Stream,
    peer: Peer,
    /// `None`: the client has said its first words.
    greeting: Option<Greeting>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Free again when the connection is closed.
    _place: OwnedSemaphorePermit,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A client that has yet to say its first words.
struct Greeting {
    missing_bytes: usize,
    timeout: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// What connections are accepted with.
pub(super) struct Accepting {
    pub(super) certificates: Option<Certificates>,
    pub(super) max_connections: usize,
    pub(super) handshake_timeout: Duration,
    /// Ends all connections at once.
    pub(super) cut: CancellationToken,
    pub(super) clock: Arc<dyn Clock>,
}

impl Accepting {
    /// Accepts until the stream is dropped, which closes the port.
    pub(super) fn start(
        self,
        listener: TcpListener,
    ) -> ReceiverStream<Result<Connection, io::Error>> {
        let (ready, connections) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            let stopped = ready.clone();
            tokio::select! {
                () = stopped.closed() => {}
                () = self.accept_all(listener, ready) => {}
            }
        });
        ReceiverStream::new(connections)
    }

    async fn accept_all(
        self,
        listener: TcpListener,
        ready: mpsc::Sender<Result<Connection, io::Error>>,
    ) {
        let places = Arc::new(Semaphore::new(
            self.max_connections.min(Semaphore::MAX_PERMITS),
        ));
        let mut is_failing = false;
        // Only a semaphore that is closed gives none, and nobody closes it.
        while let Ok(place) = Arc::clone(&places).acquire_owned().await {
            match listener.accept().await {
                Ok((stream, address)) => {
                    is_failing = false;
                    self.take(stream, Peer { address }, place, &ready);
                }
                Err(error) => {
                    if !std::mem::replace(&mut is_failing, true) {
                        tracing::warn!(%error, "cannot accept connections; they wait until it works again");
                    }
                    self.clock.sleep(REST).await;
                }
            }
        }
    }

    fn take(
        &self,
        stream: TcpStream,
        peer: Peer,
        place: OwnedSemaphorePermit,
        ready: &mpsc::Sender<Result<Connection, io::Error>>,
    ) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, peer = %peer.address, "a connection ended at once");
            return;
        }
        let certificates = self.certificates.clone();
        let mut timeout = self.clock.sleep(self.handshake_timeout);
        let cut = Box::pin(self.cut.clone().cancelled_owned());
        let ready = ready.clone();
        tokio::spawn(async move {
            let shaken = async {
                match certificates {
                    None => Ok(Stream::Plain(stream)),
                    Some(certificates) => TlsAcceptor::from(certificates.current())
                        .accept(stream)
                        .await
                        .map(|stream| Stream::Tls(Box::new(stream))),
                }
            };
            let shaken = tokio::select! {
                shaken = shaken => shaken,
                () = &mut timeout => Err(io::Error::from(io::ErrorKind::TimedOut)),
            };
            match shaken {
                Err(error) => {
                    tracing::debug!(%error, peer = %peer.address, "a TLS handshake failed");
                }
                Ok(stream) => {
                    let connection = Connection {
                        stream,
                        peer,
                        greeting: Some(Greeting {
                            missing_bytes: PREFACE_BYTES,
                            timeout,
                        }),
                        cut,
                        _place: place,
                    };
                    // Nobody receives once the server stops: then it is closed.
                    drop(ready.send(Ok(connection)).await);
                }
            }
        });
    }
}

/// Whether only this machine reaches it.
pub(super) fn is_loopback(address: SocketAddr) -> bool {
    match address.ip() {
        IpAddr::V4(address) => address.is_loopback(),
        IpAddr::V6(address) => {
            let mapped = address.to_ipv4_mapped();
            address.is_loopback() || mapped.is_some_and(|mapped| mapped.is_loopback())
        }
    }
}

impl Connection {
    /// Fails once all connections are cut; until then the task is woken for it.
    fn check_cut(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.cut.as_mut().poll(context).is_ready() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.check_cut(context)?;
        let before = buffer.filled().len();
        let read = match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        if let Some(greeting) = &mut this.greeting {
            let read_bytes = buffer.filled().len() - before;
            greeting.missing_bytes = greeting.missing_bytes.saturating_sub(read_bytes);
            if greeting.missing_bytes == 0 {
                this.greeting = None;
            } else if greeting.timeout.as_mut().poll(context).is_ready() {
                tracing::debug!(peer = %this.peer.address, "a client said nothing");
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_cut(context)?;
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_cut(context)?;
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_cut(context)?;
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_cut(context)?;
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_told_from_the_rest() {
        for (text, expected) in [
            ("127.0.0.1:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("10.0.0.1:1", false),
        ] {
            let address = text.parse().expect("an address");
            assert_eq!(is_loopback(address), expected, "{text}");
        }
    }
}
