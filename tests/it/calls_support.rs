//! An outside system: a real HTTP server that counts, and answers as a test says.

use std::{convert::Infallible, net::SocketAddr, path::Path, sync::Arc};

use hindcast::{
    kv::Database,
    limits::{LimitSpec, Limits, Rate},
    pb,
    store::copy::DATABASE_FOLDER,
    time::{Clock, SystemClock},
};
use http_body_util::Full;
use hyper::{Request, Response, body::Bytes, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpListener;

use crate::backfill_support::{Rig, daily, seconds, source_input};

/// What is answered.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn of(status: u16, body: &str) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.to_owned(),
        }
    }
}

/// A request that came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) token: String,
    pub(crate) status: u16,
    /// On the machine's monotonic clock.
    pub(crate) at_micros: i64,
}

type Answering = dyn Fn(&str, &[Seen], i64) -> Reply + Send + Sync;

/// The server. It goes on until the test ends.
#[derive(Clone)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    answer: Arc<Mutex<Arc<Answering>>>,
}

impl Upstream {
    /// Answers as `answer` says of the path, query included, and of what came before.
    pub(crate) async fn start(
        answer: impl Fn(&str, &[Seen]) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start_timed(move |path, seen, _| answer(path, seen)).await
    }

    /// As [`Upstream::start`]; what comes last is now on the machine's monotonic clock.
    pub(crate) async fn start_timed(
        answer: impl Fn(&str, &[Seen], i64) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let upstream = Self {
            address: listener.local_addr().expect("an address"),
            seen: Arc::default(),
            answer: Arc::new(Mutex::new(Arc::new(answer))),
        };
        let serving = upstream.clone();
        let clock = SystemClock::shared();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accepts");
                let (serving, clock) = (serving.clone(), Arc::clone(&clock));
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let reply = serving.reply(&request, clock.as_ref());
                        async move { Ok::<_, Infallible>(reply) }
                    });
                    // A client that is killed breaks its connections.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        upstream
    }

    /// From now on.
    pub(crate) fn answers(&self, answer: impl Fn(&str, &[Seen]) -> Reply + Send + Sync + 'static) {
        *self.answer.lock() = Arc::new(move |path: &str, seen: &[Seen], _| answer(path, seen));
    }

    fn reply(&self, request: &Request<Incoming>, clock: &dyn Clock) -> Response<Full<Bytes>> {
        let path = request.uri().to_string();
        let answer = Arc::clone(&self.answer.lock());
        let mut seen = self.seen.lock();
        let at_micros = clock.monotonic_micros();
        let reply = answer(&path, &seen, at_micros);
        let token = request.headers().get("x-token");
        seen.push(Seen {
            path,
            token: token.map_or_else(String::new, |it| it.to_str().unwrap_or("?").to_owned()),
            status: reply.status,
            at_micros,
        });
        let mut response = Response::builder().status(reply.status);
        for (name, value) in reply.headers {
            response = response.header(name, value);
        }
        response
            .body(Full::new(Bytes::from(reply.body)))
            .expect("a response")
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.lock().len()
    }

    pub(crate) fn url(&self, rest: &str) -> String {
        format!("http://{}{rest}", self.address)
    }
}

/// `{"value": <length of the path>}`.
pub(crate) fn length(path: &str) -> Reply {
    Reply::of(200, &format!(r#"{{"value": {}, "note": "n"}}"#, path.len()))
}

/// A limit of so many per second.
pub(crate) fn per_second(name: &str, permits: u32, burst: u32) -> LimitSpec {
    LimitSpec {
        rate: Some(Rate {
            permits,
            per: std::time::Duration::from_secs(1),
        }),
        burst: Some(burst),
        ..LimitSpec::new(name)
    }
}

/// Puts a limit in force in the data folder of a server that does not run.
pub(crate) fn put_limit(folder: &Path, limit: LimitSpec) {
    let database = folder.join("data").join(DATABASE_FOLDER);
    let database = Database::open(&database, 1 << 20).expect("opens");
    let limits = Limits::open(&database, SystemClock::shared()).expect("opens");
    limits.create(limit).expect("created");
    limits.stop();
    limits.close().expect("closed");
    database.flush().expect("flushed");
}

/// A server with the limit `usual`, and the source `asks` with a row for each id on each of so many days.
pub(crate) async fn rig(limit: LimitSpec, days: u32, ids: u32) -> Rig {
    let mut rig = Rig::at("2014-12-31T00:00:00Z").await;
    rig.stop().await;
    put_limit(rig.folder.path(), limit);
    rig.start().await;
    rig.csv("asks", &rows(days, ids), &[("id", "int64")]).await;
    rig
}

/// A row for each id on each of so many days from 2013-01-01 on, at noon.
pub(crate) fn rows(days: u32, ids: u32) -> String {
    let first = chrono::NaiveDate::from_ymd_opt(2013, 1, 1).expect("a date");
    let mut text = "ts,id\n".to_owned();
    for day in first.iter_days().take(days as usize) {
        for id in 1..=ids {
            text.push_str(&format!("{day}T12:00:00,{id}\n"));
        }
    }
    text
}

/// The call `value(id, valid_time)` of limit `usual`.
pub(crate) fn value_call(upstream: &Upstream) -> pb::Call {
    pb::Call {
        name: "value".to_owned(),
        url: upstream.url("/v/{id}?at={valid_time}"),
        headers: Vec::new(),
        rate_limit: "usual".to_owned(),
        timeout: Some(seconds(10)),
        retries: Some(3),
        columns: vec![column("value", "int64", "$.value")],
        allow_current_state: false,
    }
}

pub(crate) fn column(name: &str, type_name: &str, path: &str) -> pb::CallColumn {
    pb::CallColumn {
        name: name.to_owned(),
        r#type: type_name.to_owned(),
        path: path.to_owned(),
    }
}

/// A daily transform over `asks` that makes this call.
pub(crate) fn asking(name: &str, sql: &str, call: pb::Call) -> pb::Transform {
    pb::Transform {
        sources: vec![source_input("asks")],
        calls: vec![call],
        ..daily(name, sql)
    }
}

pub(crate) const ASK: &str = "SELECT id, value(id, ts)['value'] AS value FROM asks";
