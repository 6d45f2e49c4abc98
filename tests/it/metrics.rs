//! `/metrics`: what is exposed is documented, what is documented is exposed, and it counts what was done.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use hindcast::pb;
use tonic::Code;

use crate::{
    backfill_support::{Rig, at, days, january, over_events},
    calls_support::{self, ASK, Reply, Upstream, asking, length, per_second, value_call},
};

/// One line of a page that carries a value.
#[derive(Debug, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// A page of OpenMetrics text, read strictly.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// Types by family, without the suffixes of its samples.
    families: BTreeMap<String, String>,
    samples: Vec<Sample>,
}

impl Page {
    pub(crate) async fn scrape(rig: &Rig) -> Self {
        let server = rig.server.as_ref().expect("it runs");
        let address = server.metrics_addr().expect("it is on");
        let response = reqwest::get(format!("http://{address}/metrics"))
            .await
            .expect("answers");
        assert_eq!(response.status(), 200);
        let content_type = response.headers()["content-type"].to_str().expect("text");
        assert_eq!(
            content_type,
            "application/openmetrics-text; version=1.0.0; charset=utf-8"
        );
        Self::parse(&response.text().await.expect("text"))
    }

    fn parse(text: &str) -> Self {
        let mut page = Self::default();
        let mut explained = BTreeSet::new();
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            if line == "# EOF" {
                assert_eq!(lines.peek(), None, "nothing after the end");
                return page;
            }
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (family, words) = help.split_once(' ').expect("a name and words");
                assert!(words.ends_with('.') || words.ends_with(')'), "{line}");
                assert!(explained.insert(family.to_owned()), "twice: {line}");
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (family, kind) = kind.split_once(' ').expect("a name and a type");
                assert!(explained.contains(family), "not explained: {line}");
                let before = page.families.insert(family.to_owned(), kind.to_owned());
                assert_eq!(before, None, "twice: {line}");
            } else {
                let sample = Sample::parse(line);
                page.check(&sample);
                page.samples.push(sample);
            }
        }
        panic!("the page has no end");
    }

    /// The name of a sample is that of the last family, with the suffix of its type.
    fn check(&self, sample: &Sample) {
        let family = self.families.iter().find(|(family, kind)| {
            let suffix = sample.name.strip_prefix(family.as_str());
            match kind.as_str() {
                "counter" => suffix == Some("_total"),
                "gauge" => suffix == Some(""),
                "histogram" => matches!(suffix, Some("_sum" | "_count" | "_bucket")),
                kind => panic!("{family} is a {kind}"),
            }
        });
        assert!(family.is_some(), "{sample:?} is of no family");
        assert!(!sample.value.is_nan(), "{sample:?}");
        let has_bound = sample.labels.contains_key("le");
        assert_eq!(has_bound, sample.name.ends_with("_bucket"), "{sample:?}");
    }

    /// Names as a query has them, without the suffixes of histograms.
    fn names(&self) -> BTreeSet<String> {
        let name = |(family, kind): (&String, &String)| match kind.as_str() {
            "counter" => format!("{family}_total"),
            _ => family.clone(),
        };
        self.families.iter().map(name).collect()
    }

    /// The sum of the samples that have these labels among theirs.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |sample: &&Sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(label, value)| sample.labels.get(*label).is_some_and(|it| it == value))
        };
        self.samples.iter().filter(has).map(|it| it.value).sum()
    }

    fn calls(&self, method: &str, code: &str) -> f64 {
        self.sum("hindcast_rpcs_total", &[("method", method), ("code", code)])
    }
}

impl Sample {
    fn parse(line: &str) -> Self {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = match series.split_once('{') {
            None => (series, ""),
            Some((name, labels)) => (name, labels.strip_suffix('}').expect("a bracket")),
        };
        let is_plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        assert!(name.bytes().all(is_plain), "{line}");
        let label = |label: &str| {
            let (name, value) = label.split_once('=').expect("a label");
            let value = value.strip_prefix('"').and_then(|it| it.strip_suffix('"'));
            (name.to_owned(), value.expect("in quotes").to_owned())
        };
        Self {
            name: name.to_owned(),
            labels: labels
                .split(',')
                .filter(|it| !it.is_empty())
                .map(label)
                .collect(),
            value: value.parse().expect("a number"),
        }
    }
}

/// The metrics that `docs/observability.md` lists, with their types.
fn documented() -> BTreeMap<String, String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/observability.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
        let name = cells.next()?.strip_suffix('`')?;
        let kind = cells.next()?;
        matches!(kind, "counter" | "gauge" | "histogram")
            .then(|| (name.to_owned(), kind.to_owned()))
    };
    page.lines().filter_map(row).collect()
}

#[tokio::test]
async fn every_metric_is_documented_and_every_documented_one_is_there() {
    let mut rig = january(3).await;
    rig.clients.create_stations().await;
    rig.clients
        .put_station("oslo", "2013-01-01T00:00:00Z", 3.5)
        .await;
    let transform = over_events("kept", "SELECT v FROM events");
    rig.clients.register(transform).await.expect("registered");
    let range = days("kept", "2013-01-01", "2013-01-04");
    rig.clients.run_well(range).await;

    let page = Page::scrape(&rig).await;
    let documented = documented();
    let names: BTreeSet<_> = documented.keys().cloned().collect();
    let exposed = page.names();
    let missing: Vec<_> = names.difference(&exposed).collect();
    assert!(missing.is_empty(), "documented, not exposed: {missing:?}");
    let secret: Vec<_> = exposed.difference(&names).collect();
    assert!(secret.is_empty(), "exposed, not documented: {secret:?}");
    for (family, kind) in &page.families {
        let name = match kind.as_str() {
            "counter" => format!("{family}_total"),
            _ => family.clone(),
        };
        assert_eq!(documented.get(&name), Some(kind), "{name}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn metrics_count_what_was_done() {
    let mut rig = january(3).await;
    rig.clients.create_stations().await;
    for day in 1..=4 {
        let from = format!("2013-01-0{day}T00:00:00Z");
        rig.clients.put_station("oslo", &from, f64::from(day)).await;
    }
    let get = |id: &str| pb::GetEntityRequest {
        entity_type: "station".to_owned(),
        entity_id: id.to_owned(),
        valid_time: Some(at("2013-01-02T00:00:00Z")),
        ..Default::default()
    };
    for _ in 0..5 {
        let got = rig.clients.entities.get_entity(get("oslo")).await;
        got.expect("there");
    }
    let unknown = pb::GetEntityRequest {
        entity_type: "no_such_type".to_owned(),
        ..get("oslo")
    };
    let refused = rig.clients.entities.get_entity(unknown).await;
    assert_eq!(refused.expect_err("refused").code(), Code::NotFound);
    let transform = over_events("kept", "SELECT v FROM events WHERE 1 / (v - 2) < 9");
    rig.clients.register(transform).await.expect("registered");
    let range = days("kept", "2013-01-01", "2013-01-04");
    let ended = rig.clients.run(range).await;

    let page = Page::scrape(&rig).await;
    assert_eq!(page.calls("Write", "OK"), 4.0);
    assert_eq!(page.calls("GetEntity", "OK"), 5.0);
    assert_eq!(page.calls("GetEntity", "NOT_FOUND"), 1.0);
    // A stream counts once it has ended.
    assert_eq!(page.calls("WatchBackfill", "OK"), 1.0);
    let duration = "hindcast_rpc_duration_seconds_count";
    assert_eq!(page.sum(duration, &[("method", "GetEntity")]), 6.0);
    assert_eq!(page.sum("hindcast_rpcs_in_flight", &[]), 0.0);
    assert_eq!(page.sum("hindcast_store_commit_mutations_count", &[]), 4.0);
    assert_eq!(page.sum("hindcast_store_commit_mutations_sum", &[]), 4.0);
    assert!(page.sum("hindcast_store_commit_bytes_sum", &[]) > 100.0);
    assert!(page.sum("hindcast_store_sync_duration_seconds_count", &[]) >= 4.0);
    assert!(page.sum("hindcast_store_point_reads_total", &[]) >= 5.0);

    assert_eq!(
        ended.backfill.state(),
        pb::BackfillState::PartiallySucceeded
    );
    let attempts = |outcome| page.sum("hindcast_attempts_total", &[("outcome", outcome)]);
    assert_eq!((attempts("succeeded"), attempts("failed")), (2.0, 1.0));
    assert_eq!(page.sum("hindcast_attempts_started_total", &[]), 3.0);
    assert_eq!(
        page.sum("hindcast_attempt_duration_seconds_count", &[]),
        3.0
    );
    let backfills = |state| page.sum("hindcast_backfills", &[("state", state)]);
    assert_eq!(
        (backfills("partially_succeeded"), backfills("running")),
        (1.0, 0.0)
    );
    assert_eq!(page.sum("hindcast_backfill_rows_written_total", &[]), 2.0);
    assert!(page.sum("hindcast_backfill_written_bytes_total", &[]) > 0.0);
    rig.stop().await;
}

#[tokio::test]
async fn two_servers_in_one_process_count_apart() {
    let mut busy = Rig::at("2014-01-01T00:00:00Z").await;
    let mut idle = Rig::at("2014-01-01T00:00:00Z").await;
    busy.clients.create_stations().await;
    let created = |page: &Page| page.calls("CreateEntityType", "OK");
    assert_eq!(created(&Page::scrape(&busy).await), 1.0);
    assert_eq!(created(&Page::scrape(&idle).await), 0.0);
    busy.stop().await;
    idle.stop().await;
}

#[tokio::test]
async fn a_call_that_its_client_gives_up_counts_as_cancelled() {
    let mut rig = january(1).await;
    let watching = rig
        .clients
        .backfills
        .watch_backfills(pb::WatchBackfillsRequest::default())
        .await
        .expect("watches");
    let page = Page::scrape(&rig).await;
    let in_flight = [("method", "WatchBackfills")];
    assert_eq!(page.sum("hindcast_rpcs_in_flight", &in_flight), 1.0);
    drop(watching);
    // The server hears of it in its own time.
    while Page::scrape(&rig)
        .await
        .calls("WatchBackfills", "CANCELLED")
        < 1.0
    {
        tokio::task::yield_now().await;
    }
    let page = Page::scrape(&rig).await;
    assert_eq!(page.sum("hindcast_rpcs_in_flight", &in_flight), 0.0);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn permits_and_external_requests_are_counted() {
    let upstream = Upstream::start(|path, seen| match seen.len() {
        0 => Reply::of(429, "slow down"),
        1 => Reply::of(503, "in a moment"),
        _ => length(path),
    })
    .await;
    let mut rig = calls_support::rig(per_second("usual", 1_000, 100), 2, 3).await;
    let transform = asking("asked", ASK, value_call(&upstream));
    rig.clients.register(transform).await.expect("registered");
    let range = days("asked", "2013-01-01", "2013-01-03");
    rig.clients.run_well(range).await;

    let page = Page::scrape(&rig).await;
    let requests = |outcome| page.sum("hindcast_external_requests_total", &[("outcome", outcome)]);
    let outcomes = ["answered", "throttled", "failed", "refused"].map(requests);
    assert_eq!(outcomes, [6.0, 1.0, 1.0, 0.0]);
    let durations = "hindcast_external_request_duration_seconds_count";
    assert_eq!(page.sum(durations, &[]), 8.0);
    let of_limit = |name| page.sum(name, &[("limit", "usual")]);
    let permits = "hindcast_rate_limit_permits_total";
    let backfills = [("limit", "usual"), ("class", "backfill")];
    assert_eq!(
        (of_limit(permits), page.sum(permits, &backfills)),
        (8.0, 8.0)
    );
    assert_eq!(of_limit("hindcast_rate_limit_throttled_total"), 1.0);
    assert_eq!(of_limit("hindcast_rate_limit_wait_seconds_count"), 8.0);
    assert_eq!(of_limit("hindcast_rate_limit_waiting"), 0.0);
    assert_eq!(of_limit("hindcast_rate_limit_in_flight"), 0.0);
    assert_eq!(of_limit("hindcast_rate_limit_permits_per_second"), 1_000.0);
    let effective = of_limit("hindcast_rate_limit_effective_permits_per_second");
    assert!(effective > 0.0 && effective <= 1_000.0, "{effective}");
    rig.stop().await;
}
