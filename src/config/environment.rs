//! Values from the process' variables.

use std::ffi::{OsStr, OsString};

use super::{
    CONFIG_VARIABLE, Fault, Given, KEYS, Key, Origin,
    keys::{self, FILTER_KEY, FILTER_VARIABLE},
    nearest,
};

const PREFIX: &str = "HINDCAST_";

/// What client commands take; a server may stand in the same environment.
const CLIENT_VARIABLES: [&str; 6] = [
    "HINDCAST_SERVER",
    "HINDCAST_TOKEN",
    "HINDCAST_TOKEN_FILE",
    "HINDCAST_CA",
    "HINDCAST_CLIENT_CERT",
    "HINDCAST_CLIENT_KEY",
];

/// Beginnings of names that are nobody's setting: the test suites' own knobs, and secrets that transforms' calls name.
const OTHERS: [&str; 10] = [
    "HINDCAST_TEST_",
    "HINDCAST_BENCH_",
    "HINDCAST_MODEL_",
    "HINDCAST_CRASH_",
    "HINDCAST_POWER_CUT_",
    "HINDCAST_ADVERSARIAL",
    "HINDCAST_DAMAGE_",
    "HINDCAST_RECORD_",
    "HINDCAST_PEERS_",
    "HINDCAST_SECRET_",
];

/// The values that variables give; an empty variable is as good as none.
pub(super) fn read(variables: &[(OsString, OsString)], faults: &mut Vec<Fault>) -> Vec<Given> {
    let mut given = Vec::new();
    for (name, value) in variables.iter().filter(|(_, value)| !value.is_empty()) {
        let name_text = name.to_string_lossy();
        if (name_text != FILTER_VARIABLE && !name_text.starts_with(PREFIX))
            || is_anothers(&name_text, &value.to_string_lossy())
        {
            continue;
        }
        let Some(key) = name.to_str().and_then(key_of) else {
            faults.push(unknown(&name_text));
            continue;
        };
        let origin = Origin::Environment(name_text.into_owned());
        match value.to_str() {
            Some(text) => given.push(Given {
                key,
                text: text.to_owned(),
                origin,
            }),
            None => faults.push(Fault::new(origin, "its value is no UTF-8")),
        }
    }
    // Of the two names of the log filter, the house's own is the later one.
    given.sort_by_key(|one| one.origin != Origin::Environment(FILTER_VARIABLE.to_owned()));
    given
}

/// The configuration file that a variable names: a path, in whatever bytes.
pub(super) fn named_file(variables: &[(OsString, OsString)]) -> Option<&OsStr> {
    let mut variables = variables.iter();
    let (_, path) = variables.find(|(name, value)| name == CONFIG_VARIABLE && !value.is_empty())?;
    Some(path)
}

fn key_of(variable: &str) -> Option<&'static Key> {
    if variable == FILTER_VARIABLE {
        return keys::find(FILTER_KEY);
    }
    let name = variable.strip_prefix(PREFIX)?.to_ascii_lowercase();
    keys::find(&name).filter(|key| key.variable() == variable)
}

/// Whether a variable with our prefix is no setting: the file's own, or meant for somebody else.
fn is_anothers(name: &str, text: &str) -> bool {
    name == CONFIG_VARIABLE
        || CLIENT_VARIABLES.contains(&name)
        || OTHERS.iter().any(|prefix| name.starts_with(prefix))
        // A setting may end as a link does.
        || (key_of(name).is_none() && is_service_link(name, text))
}

/// Kubernetes tells every pod where each service of its namespace is; one that is called hindcast has our prefix:
/// `HINDCAST_SERVICE_HOST`, `HINDCAST_PORT=tcp://10.0.0.1:4780`, `HINDCAST_PORT_4780_TCP_ADDR`.
fn is_service_link(name: &str, text: &str) -> bool {
    let is_endpoint = ["tcp://", "udp://", "sctp://"]
        .iter()
        .any(|scheme| text.starts_with(scheme));
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.ends_with("_PORT") && is_endpoint)
        || ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| {
            let (Some(port), Some(end)) = (name.find("_PORT_"), name.find(protocol)) else {
                return false;
            };
            let number = name.get(port + "_PORT_".len()..end);
            number.is_some_and(|number| number.parse::<u16>().is_ok())
        })
}

fn unknown(name: &str) -> Fault {
    let mut known: Vec<_> = KEYS.iter().map(Key::variable).collect();
    known.push(CONFIG_VARIABLE.to_owned());
    let place = Origin::Environment(name.to_owned());
    match nearest(&name.to_ascii_uppercase(), known.iter().map(String::as_str)) {
        Some(meant) => Fault::new(
            place,
            format!("there is no such setting; is {meant} meant?"),
        ),
        None => Fault::new(place, "there is no such setting"),
    }
}
