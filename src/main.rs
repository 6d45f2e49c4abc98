//! The `hindcast` binary: arguments, logging, run, exit code.

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use hindcast::{
    cli::{self, Cli},
    time::SystemClock,
};

/// Exit code of settings that cannot be used.
const BAD_CONFIGURATION: u8 = 64;
/// How long blocking work may keep a finished process waiting.
const LINGER: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let telemetry = match cli.telemetry() {
        Ok(telemetry) => telemetry,
        Err(error) => return cli::exit_code(Err(error)),
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let telemetry = {
        // Spans are sent over a connection of the runtime's.
        let _entered = runtime.enter();
        match telemetry.install() {
            Ok(installed) => installed,
            Err(error) => {
                eprintln!("error: {error}");
                return ExitCode::from(BAD_CONFIGURATION);
            }
        }
    };
    let outcome = runtime.block_on(cli.run(SystemClock::shared()));
    telemetry.finish();
    runtime.shutdown_timeout(LINGER);
    cli::exit_code(outcome)
}
