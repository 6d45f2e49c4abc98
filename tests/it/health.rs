//! Health: while the server recovers, when it works, and when it stops.

use std::{
    future::Future,
    net::{SocketAddr, TcpListener},
    pin::Pin,
    sync::{Arc, Condvar, Mutex},
    thread::{self, ThreadId},
    time::Duration,
};

use hindcast::{
    pb,
    server::{ServerConfig, start},
    time::{Clock, ManualClock},
};
use tonic::{Code, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt;

use crate::backfill_support::{Clients, Rig, micros};

/// A clock that lets nobody but the test's own thread know the time, until it is released: a store that must know it to
/// recover stays in that.
#[derive(Debug)]
pub(crate) struct StalledClock {
    clock: Arc<ManualClock>,
    own: ThreadId,
    is_released: Mutex<bool>,
    released: Condvar,
}

impl StalledClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            clock: ManualClock::starting_at(micros("2014-01-01T00:00:00Z")),
            own: thread::current().id(),
            is_released: Mutex::default(),
            released: Condvar::new(),
        })
    }

    pub(crate) fn stall(&self) {
        *self.is_released.lock().expect("whole") = false;
    }

    pub(crate) fn release(&self) {
        *self.is_released.lock().expect("whole") = true;
        self.released.notify_all();
    }
}

impl Clock for StalledClock {
    fn now_micros(&self) -> i64 {
        if thread::current().id() != self.own {
            let is_released = self.is_released.lock().expect("whole");
            let waiting = self.released.wait_while(is_released, |it| !*it);
            drop(waiting.expect("whole"));
        }
        self.clock.now_micros()
    }

    fn monotonic_micros(&self) -> i64 {
        self.clock.monotonic_micros()
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.clock.sleep(duration)
    }
}

fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address")
}

async fn connect(address: SocketAddr) -> HealthClient<Channel> {
    let url = format!("http://{address}");
    loop {
        let endpoint = Channel::from_shared(url.clone()).expect("an address");
        match endpoint.connect().await {
            Ok(channel) => return HealthClient::new(channel),
            // It does not listen yet.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

pub(crate) async fn health_of(client: &mut HealthClient<Channel>, service: &str) -> ServingStatus {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let checked = client.check(request).await.expect("known");
    checked.into_inner().status()
}

pub(crate) async fn probe(address: SocketAddr, path: &str) -> (u16, String) {
    let response = reqwest::get(format!("http://{address}{path}")).await;
    let response = response.expect("answers");
    (
        response.status().as_u16(),
        response.text().await.expect("text"),
    )
}

const SERVICES: [&str; 6] = [
    "",
    "hindcast.v1.EntityStoreService",
    "hindcast.v1.CatalogService",
    "hindcast.v1.BackfillService",
    "hindcast.v1.AdminService",
    "hindcast.v1.RateLimitService",
];

#[tokio::test]
async fn a_server_that_recovers_answers_health_and_refuses_the_rest() {
    let folder = tempfile::tempdir().expect("a folder");
    let clock = StalledClock::new();
    let (address, metrics) = (free_port(), free_port());
    let config = ServerConfig {
        listen: address,
        metrics_listen: Some(metrics),
        ..ServerConfig::new(folder.path().join("data"))
    };
    let starting = tokio::spawn(Box::pin(start(config, Arc::clone(&clock) as _)));
    let mut health = connect(address).await;
    for service in SERVICES {
        let status = health_of(&mut health, service).await;
        assert_eq!(status, ServingStatus::NotServing, "{service:?}");
    }
    assert_eq!(probe(metrics, "/livez").await, (200, "ok\n".to_owned()));
    assert_eq!(
        probe(metrics, "/readyz").await,
        (503, "recovering\n".to_owned())
    );
    let (status, page) = probe(metrics, "/metrics").await;
    assert!(
        status == 200 && page.contains("hindcast_ready 0\n"),
        "{page}"
    );
    let mut watching = health
        .watch(HealthCheckRequest::default())
        .await
        .expect("watches")
        .into_inner();
    let mut next = async || {
        watching
            .message()
            .await
            .expect("goes on")
            .map(|it| it.status())
    };
    assert_eq!(next().await, Some(ServingStatus::NotServing));

    let mut clients = Clients::connect(address).await;
    let asked = clients.entities.get_entity(pb::GetEntityRequest::default());
    let refused = asked.await.expect_err("too early");
    assert_eq!(refused.code(), Code::Unavailable);
    let details = refused.get_error_details();
    assert_eq!(details.error_info().expect("it").reason, "RECOVERING");
    let retry = details.retry_info().expect("when to ask again");
    assert_eq!(retry.retry_delay, Some(Duration::from_secs(1)));

    clock.release();
    let server = starting.await.expect("no panic").expect("starts");
    assert_eq!(next().await, Some(ServingStatus::Serving));
    for service in SERVICES {
        let status = health_of(&mut health, service).await;
        assert_eq!(status, ServingStatus::Serving, "{service:?}");
    }
    assert_eq!(probe(metrics, "/readyz").await, (200, "ok\n".to_owned()));
    clients.create_stations().await;

    let stopping = tokio::spawn(server.shutdown());
    // A client that watches health is told, and does not hold the server up.
    assert_eq!(next().await, Some(ServingStatus::NotServing));
    assert_eq!(next().await, None);
    drop((clients, health));
    stopping.await.expect("no panic").expect("stops");
}

#[tokio::test]
async fn paths_that_are_none_are_refused_on_the_metrics_port() {
    let mut rig = Rig::at("2014-01-01T00:00:00Z").await;
    let server = rig.server.as_ref().expect("it runs");
    let address = server.metrics_addr().expect("it is on");
    assert_eq!(probe(address, "/").await.0, 404);
    assert_eq!(probe(address, "/metrics/x").await.0, 404);
    let url = format!("http://{address}/metrics");
    let posted = reqwest::Client::new().post(url).body("x").send().await;
    assert_eq!(posted.expect("answers").status(), 405);
    rig.stop().await;
}
