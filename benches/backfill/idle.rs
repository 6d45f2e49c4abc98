//! A server that nobody asks anything.

use std::{sync::Arc, time::Duration};

use hindcast::time::Clock;

use crate::{
    Fault, Scale,
    bed::Server,
    report::{Goal, Report, Value},
};

pub(crate) async fn idle_server(
    scale: &Scale,
    clock: &Arc<dyn Clock>,
    report: &mut Report,
) -> Result<(), Fault> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(folder.path().join("data"), clock).await?;
    clock.sleep(Duration::from_secs(1)).await;
    let before = server.cpu_seconds()?;
    clock.sleep(Duration::from_secs(scale.idle_secs)).await;
    let busy = (server.cpu_seconds()? - before) / scale.idle_secs as f64;
    let resident = server.resident_mb()?;
    report.value(
        "idle server, resident",
        Value::of(&[resident], "MB"),
        Goal::AtMost(40.0),
        "the pages of its program file that it touched included",
    )?;
    report.value(
        "idle server, CPU",
        Value::of(&[busy * 100.0], "%"),
        Goal::AtMost(0.5),
        &format!("of one core, over {} s", scale.idle_secs),
    )
}
