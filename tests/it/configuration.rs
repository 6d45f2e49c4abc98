//! `hindcast config` and `hindcast token` as their users have them: the real binary and its exit codes.

use std::{collections::BTreeMap, ffi::OsStr, os::unix::ffi::OsStrExt, process::Output};

use serde_json::Value;
use tempfile::TempDir;

use super::{
    cli::{hindcast, stderr, stdout},
    guard_support::{Authority, put},
};

/// The binary, with none of our variables but those that are given.
fn run(line: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = hindcast();
    command.args(line).envs(variables.iter().copied());
    command.output().expect("runs")
}

#[test]
fn check_tells_every_fault_and_serve_refuses_the_same() {
    let folder = TempDir::new().expect("a folder");
    let text = "store_cahce = \"1GiB\"\nlisten = \"here\"\nkeepalive_interval = \"30\"\n";
    let path = put(folder.path(), "hindcast.toml", text)
        .display()
        .to_string();
    for command in [&["config", "check"][..], &["config", "show"], &["serve"]] {
        let line = [command, &["--config", &path]].concat();
        let output = run(&line, &[("HINDCAST_STORE_CACHES", "1")]);
        let told = stderr(&output);
        assert_eq!(output.status.code(), Some(64), "{told}");
        for expected in [
            "4 faults",
            "hindcast.toml, line 1: there is no key \"store_cahce\"; is store_cache meant?",
            "hindcast.toml, line 2: listen: \"here\" is not an IP address and port",
            "hindcast.toml, line 3: keepalive_interval: cannot read \"30\" as a duration",
            "variable HINDCAST_STORE_CACHES: there is no such setting; is HINDCAST_STORE_CACHE meant?",
        ] {
            assert!(told.contains(expected), "{expected}: {told}");
        }
    }
}

#[test]
fn check_opens_certificates_and_tokens() {
    let folder = TempDir::new().expect("a folder");
    let pair = Authority::new("ours").sign();
    let file = |name: &str, text: &str| put(folder.path(), name, text).display().to_string();
    let cert = file("tls.crt", &pair.cert);
    let key = file("tls.key", &pair.key);
    let made = run(&["token", "new", "pipeline", "--role", "writer"], &[]);
    let tokens = file("tokens.toml", &stdout(&made));
    let line = [
        "config",
        "check",
        "--listen",
        "0.0.0.0:4780",
        "--tls-cert",
        &cert,
        "--tls-key",
        &key,
        "--tokens-file",
        &tokens,
    ];
    let output = run(&line, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));

    file("tls.key", &Authority::new("ours").sign().key);
    file("tokens.toml", "[[token]]\nname = \"x\"\n");
    let output = run(&line, &[]);
    let told = stderr(&output);
    assert_eq!(output.status.code(), Some(64), "{told}");
    assert!(
        told.contains("it is not the key of the certificate"),
        "{told}"
    );
    assert!(
        told.contains("tokens.toml, line 1: a token needs a sha256"),
        "{told}"
    );
}

#[test]
fn show_tells_every_value_and_where_it_comes_from() {
    let folder = TempDir::new().expect("a folder");
    let made = run(
        &["token", "new", "p", "--role", "reader", "-o", "json"],
        &[],
    );
    let made: Value = serde_json::from_str(&stdout(&made)).expect("JSON");
    let (secret, sha256) = (
        made["token"].as_str().expect("it"),
        made["sha256"].as_str().expect("it"),
    );
    assert!(secret.starts_with("hct_") && secret.len() == 68, "{secret}");
    let text = format!(
        "store_cache = \"512MiB\"\nengine_memory = \"2GiB\"\n[[token]]\nname = \"p\"\nsha256 = \"{sha256}\"\nrole = \"reader\"\n"
    );
    let path = put(folder.path(), "hindcast.toml", &text)
        .display()
        .to_string();
    let output = run(
        &[
            "config",
            "show",
            "--config",
            &path,
            "-o",
            "json",
            "--listen",
            "127.0.0.1:1",
        ],
        &[("HINDCAST_ENGINE_MEMORY", "3GiB")],
    );
    let shown = stdout(&output);
    assert!(!shown.contains(sha256), "{shown}");
    let rows: BTreeMap<String, (Value, String)> = shown
        .lines()
        .map(|line| {
            let row: Value = serde_json::from_str(line).expect("JSON");
            let text = |key: &str| row[key].as_str().expect("text").to_owned();
            (text("key"), (row["value"].clone(), text("origin")))
        })
        .collect();
    let row = |key: &str| {
        let (value, origin) = &rows[key];
        (value.as_str().unwrap_or("-").to_owned(), origin.clone())
    };
    let is = |value: &str, origin: &str| (value.to_owned(), origin.to_owned());
    assert_eq!(row("store_cache"), is("512MiB", &format!("{path}, line 1")));
    assert_eq!(
        row("engine_memory"),
        is("3GiB", "variable HINDCAST_ENGINE_MEMORY")
    );
    assert_eq!(row("listen"), is("127.0.0.1:1", "flag --listen"));
    assert_eq!(row("minimum_free"), is("512MiB", "default"));
    assert_eq!(row("warehouse"), is("-", "default"));
    assert_eq!(row("token"), is("p (reader)", &format!("{path}, line 3")));
    let table = stdout(&run(&["config", "show"], &[]));
    assert!(
        table.contains("KEY") && table.contains("otlp_sample_ratio"),
        "{table}"
    );
}

#[test]
fn a_variable_that_is_no_utf_8_is_a_fault() {
    let odd = OsStr::from_bytes(b"/data/\xff");
    let told = |name: &OsStr| {
        let mut command = hindcast();
        command.args(["config", "check"]).env(name, odd);
        let output = command.output().expect("runs");
        (output.status.code(), stderr(&output))
    };
    let (code, text) = told(OsStr::new("HINDCAST_DATA_DIR"));
    assert_eq!(code, Some(64), "{text}");
    assert!(
        text.contains("variable HINDCAST_DATA_DIR: its value is no UTF-8"),
        "{text}"
    );
    let (code, text) = told(OsStr::from_bytes(b"HINDCAST_\xff"));
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("there is no such setting"), "{text}");
    for anothers in ["HINDCAST_SECRET_KEY", "HINDCAST_CA_X_SERVICE_HOST", "OTHER"] {
        let (code, text) = told(OsStr::new(anothers));
        assert_eq!(code, Some(0), "{anothers}: {text}");
    }
}

/// Starts a server by a shell that sets limits first; gives how many files it may open, and what it logs.
#[cfg(target_os = "linux")]
fn served_with_limits(limits: &str) -> (String, String) {
    use std::{
        io::{BufRead, BufReader, Read},
        process::{Command, Stdio},
    };
    let folder = TempDir::new().expect("a folder");
    let script = format!("{limits} && exec \"$0\" serve --listen 127.0.0.1:0 --data-dir \"$1\"");
    let mut server = Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_hindcast")])
        .arg(folder.path().join("data"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut line = String::new();
    BufReader::new(server.stdout.take().expect("piped"))
        .read_line(&mut line)
        .expect("says where it is");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.id()));
    server.kill().expect("runs still");
    server.wait().expect("ends");
    let mut logged = String::new();
    let mut stderr = server.stderr.take().expect("piped");
    stderr.read_to_string(&mut logged).expect("text");
    let limits = limits.unwrap_or_else(|error| panic!("{error}: {line}{logged}"));
    let mut lines = limits.lines();
    let files = lines.find_map(|line| line.strip_prefix("Max open files"));
    let soft = files.and_then(|files| files.split_whitespace().next());
    (soft.expect("a limit").to_owned(), logged)
}

#[cfg(target_os = "linux")]
#[test]
fn a_server_opens_as_many_files_as_it_may() {
    let (files, logged) = served_with_limits("ulimit -Sn 128 && ulimit -Hn 512");
    assert_eq!(files, "512", "{logged}");
    assert!(
        logged.contains("fewer files may be open than connections"),
        "{logged}"
    );
}

#[test]
fn help_names_every_key() {
    let help = stdout(&run(&["serve", "--help"], &[]));
    for key in hindcast::config::KEYS {
        assert!(
            help.contains(&format!("{} <", key.flag()))
                || help.contains(&format!("{}[", key.flag())),
            "{}: {help}",
            key.flag()
        );
        assert!(help.contains(&key.variable()), "{}", key.variable());
    }
}

#[test]
fn the_reference_is_the_page() {
    let printed = stdout(&run(&["config", "reference"], &[]));
    assert_eq!(printed, hindcast::config::reference());
}

#[test]
fn a_server_without_guards_says_why_it_does_not_start() {
    let folder = TempDir::new().expect("a folder");
    let data_dir = folder.path().join("data").display().to_string();
    let output = run(
        &["serve", "--listen", "0.0.0.0:0", "--data-dir", &data_dir],
        &[],
    );
    let told = stderr(&output);
    assert_eq!(output.status.code(), Some(64), "{told}");
    assert!(
        told.contains("there is no TLS") && told.contains("--insecure"),
        "{told}"
    );
}

#[test]
fn roles_of_tokens_are_known() {
    let output = run(&["token", "new", "p", "--role", "king"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("reader, writer, operator, admin"));
    assert_eq!(
        run(&["token", "new", "a b", "--role", "admin"], &[])
            .status
            .code(),
        Some(2)
    );
}
