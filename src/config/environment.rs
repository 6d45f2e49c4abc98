//! Values from the process' variables.

use super::{
    CONFIG_VARIABLE, Fault, Given, KEYS, Origin,
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
const OTHERS: [&str; 11] = [
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
    CONFIG_VARIABLE,
];

/// The values that variables give; an empty variable is as good as none.
pub(super) fn read(variables: &[(String, String)], faults: &mut Vec<Fault>) -> Vec<Given> {
    let mut given = Vec::new();
    for (name, text) in variables {
        if text.is_empty() {
            continue;
        }
        let key = if name == FILTER_VARIABLE {
            keys::find(FILTER_KEY)
        } else if let Some(rest) = name.strip_prefix(PREFIX) {
            let key = keys::find(&rest.to_ascii_lowercase()).filter(|key| key.variable() == *name);
            if key.is_none() && !is_anothers(name, text) {
                faults.push(unknown(name));
            }
            key
        } else {
            None
        };
        given.extend(key.map(|key| Given {
            key,
            text: text.clone(),
            origin: Origin::Environment(name.clone()),
        }));
    }
    // Of the two names of the log filter, the house's own is the later one.
    given.sort_by_key(|one| one.origin != Origin::Environment(FILTER_VARIABLE.to_owned()));
    given
}

/// Whether a variable with our prefix is meant for somebody else.
fn is_anothers(name: &str, text: &str) -> bool {
    CLIENT_VARIABLES.contains(&name)
        || OTHERS.iter().any(|prefix| name.starts_with(prefix))
        || is_service_link(name, text)
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
    let known: Vec<_> = KEYS.iter().map(super::Key::variable).collect();
    let place = Origin::Environment(name.to_owned());
    match nearest(name, known.iter().map(String::as_str)) {
        Some(meant) => Fault::new(
            place,
            format!("there is no such setting; is {meant} meant?"),
        ),
        None => Fault::new(place, "there is no such setting"),
    }
}
