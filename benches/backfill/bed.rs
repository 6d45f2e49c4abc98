//! What the rows stand on: the real binary on a data folder, its clients, what its process spent.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use hindcast::{
    pb::{
        self, backfill_service_client::BackfillServiceClient,
        catalog_service_client::CatalogServiceClient,
    },
    time::Clock,
};
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::{Fault, flights, support::Service};

/// How often the end of a backfill is looked for: rarely enough to cost the server nothing.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const MESSAGE_BYTES: usize = 64 << 20;
/// A transform over the flights that selects none.
pub(crate) const NOTHING: &str = "nothing";

/// A data folder with the year of flights and the transforms of the rows.
pub(crate) struct Loaded {
    folder: TempDir,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Loaded {
    pub(crate) async fn flights(clock: &Arc<dyn Clock>) -> Result<Self, Fault> {
        let folder = tempfile::tempdir()?;
        let data = folder.path().join("data");
        let mut service = Box::pin(Service::open(&data, Arc::clone(clock))).await;
        Box::pin(flights::load(&mut service)).await;
        let nothing = "SELECT row_id FROM flights WHERE false";
        for (name, sql) in [
            (flights::POINT_IN_TIME, flights::point_in_time()),
            (NOTHING, nothing.to_owned()),
        ] {
            service.register(flights::transform(name, &sql)).await;
        }
        service.stop().await;
        Ok(Self {
            folder,
            clock: Arc::clone(clock),
        })
    }

    /// The server on this folder.
    pub(crate) async fn serve(&self) -> Result<Server, Fault> {
        Server::start(self.folder.path().join("data"), &self.clock).await
    }
}

/// `hindcast serve` in a process of its own, killed when it is dropped.
pub(crate) struct Server {
    process: Child,
    pub(crate) address: String,
    pub(crate) backfills: BackfillServiceClient<Channel>,
    pub(crate) catalog: CatalogServiceClient<Channel>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    /// Starts on `data`, which is made if it is not there.
    pub(crate) async fn start(data: PathBuf, clock: &Arc<dyn Clock>) -> Result<Self, Fault> {
        let mut process = Command::new(env!("CARGO_BIN_EXE_hindcast"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data)
            .env("RUST_LOG", "error")
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = process.stdout.take().ok_or("no standard output")?;
        let line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).map(|_| line)
        })
        .await??;
        let address = line
            .split("http://")
            .nth(1)
            .and_then(|rest| rest.split(',').next())
            .ok_or_else(|| format!("no address in {line:?}"))?
            .to_owned();
        let channel = connect(&address).await?;
        Ok(Self {
            process,
            address,
            backfills: BackfillServiceClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_BYTES),
            catalog: CatalogServiceClient::new(channel),
            clock: Arc::clone(clock),
        })
    }

    pub(crate) async fn register(&mut self, transform: pb::Transform) -> Result<(), Fault> {
        let request = pb::RegisterTransformRequest {
            transform: Some(transform),
            validate_only: false,
        };
        self.catalog.register_transform(request).await?;
        Ok(())
    }

    /// Creates a backfill; its name.
    pub(crate) async fn create(&mut self, spec: pb::BackfillSpec) -> Result<String, Fault> {
        let request = pb::CreateBackfillRequest {
            spec: Some(spec),
            ..Default::default()
        };
        let created = self.backfills.create_backfill(request).await?;
        Ok(created.into_inner().backfill.ok_or("no backfill")?.name)
    }

    pub(crate) async fn get(&mut self, name: &str) -> Result<pb::Backfill, Fault> {
        let request = pb::GetBackfillRequest {
            name: name.to_owned(),
        };
        let got = self.backfills.get_backfill(request).await?;
        Ok(got.into_inner().backfill.ok_or("no backfill")?)
    }

    /// Waits until a backfill succeeded, telling `look` on the way how it stands.
    pub(crate) async fn succeeded(
        &mut self,
        name: &str,
        mut look: impl FnMut(&Self, &pb::Backfill) -> Result<(), Fault>,
    ) -> Result<pb::Backfill, Fault> {
        loop {
            let backfill = self.get(name).await?;
            look(self, &backfill)?;
            if backfill.end_time.is_none() {
                self.clock.sleep(LOOK_EVERY).await;
                continue;
            }
            let state = backfill.state();
            if state != pb::BackfillState::Succeeded {
                return Err(format!("{name} ended as {}", state.as_str_name()).into());
            }
            return Ok(backfill);
        }
    }

    /// Runs a backfill that must succeed: how it ended, and the CPU seconds that the server spent on it.
    pub(crate) async fn run(
        &mut self,
        spec: pb::BackfillSpec,
    ) -> Result<(pb::Backfill, f64), Fault> {
        let before = self.cpu_seconds()?;
        let name = self.create(spec).await?;
        let ended = self.succeeded(&name, |_, _| Ok(())).await?;
        Ok((ended, self.cpu_seconds()? - before))
    }

    /// User and system time of its process, which the system counts in hundredths of a second.
    pub(crate) fn cpu_seconds(&self) -> Result<f64, Fault> {
        const TICKS_PER_SECOND: f64 = 100.0;
        let stat = self.proc("stat")?;
        // The second field is the name in parentheses, which may hold spaces.
        let (_, fields) = stat.rsplit_once(')').ok_or("no name in /proc/…/stat")?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let (user, system): (f64, f64) = (fields[11].parse()?, fields[12].parse()?);
        Ok((user + system) / TICKS_PER_SECOND)
    }

    /// MB of its process in memory, those of its program file included.
    pub(crate) fn resident_mb(&self) -> Result<f64, Fault> {
        let status = self.proc("status")?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .ok_or("no VmRSS in /proc/…/status")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1_024.0 / 1e6)
    }

    fn proc(&self, file: &str) -> Result<String, Fault> {
        let path = Path::new("/proc")
            .join(self.process.id().to_string())
            .join(file);
        Ok(std::fs::read_to_string(path)?)
    }
}

pub(crate) async fn connect(address: &str) -> Result<Channel, Fault> {
    Ok(Channel::from_shared(format!("http://{address}"))?
        .connect()
        .await?)
}

/// Seconds from its creation to its end.
pub(crate) fn wall_seconds(backfill: &pb::Backfill) -> Result<f64, Fault> {
    let micros = |time: &Option<prost_types::Timestamp>| time.as_ref().map(micros);
    let (created, ended) = (micros(&backfill.create_time), micros(&backfill.end_time));
    let (created, ended) = created.zip(ended).ok_or("it has not ended")?;
    Ok((ended - created) as f64 / 1e6)
}

pub(crate) fn micros(time: &prost_types::Timestamp) -> i64 {
    time.seconds * 1_000_000 + i64::from(time.nanos) / 1_000
}

/// The first `days` of the year of flights.
pub(crate) fn year_of(transform: &str, days: u32) -> pb::BackfillSpec {
    let mut spec = flights::year(transform, pb::Knowledge::AsKnownNow);
    if days < 365
        && let Some(from) = &spec.from
    {
        // In winter: the offset stays.
        spec.to = Some(prost_types::Timestamp {
            seconds: from.seconds + i64::from(days) * 86_400,
            nanos: 0,
        });
    }
    spec
}
