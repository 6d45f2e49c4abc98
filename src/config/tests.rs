use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::auth::Role;

const DIGEST: &str = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8";
const OTHER_DIGEST: &str = "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b";

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("hindcast.toml");
    std::fs::write(&path, text).expect("written");
    (folder, path)
}

fn from_file(text: &str) -> Result<Loaded, Faults> {
    let (_folder, path) = file(text);
    load(&Sources {
        file: Some(path),
        ..Sources::default()
    })
}

fn from_variables(variables: &[(&str, &str)]) -> Result<Loaded, Faults> {
    let pair = |(name, value): &(&str, &str)| (OsString::from(name), OsString::from(value));
    load(&Sources {
        environment: variables.iter().map(pair).collect(),
        ..Sources::default()
    })
}

/// The faults of a file, each without the folder.
fn faults(text: &str) -> Vec<String> {
    let faults = from_file(text).expect_err("refused").0;
    let tell = |fault: Fault| {
        let place = fault
            .place
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_owned();
        format!("{place}: {}", fault.problem)
    };
    faults.into_iter().map(tell).collect()
}

fn setting<'a>(loaded: &'a Loaded, key: &str) -> &'a Setting {
    let mut settings = loaded.settings.iter();
    settings.find(|setting| setting.key == key).expect("a key")
}

#[test]
fn defaults_of_the_table_are_those_of_the_server() {
    let loaded = load(&Sources::default()).expect("good");
    let debug = |config: &Config| format!("{config:?}");
    assert_eq!(debug(&loaded.config), debug(&Config::default()));
    assert!(
        loaded
            .settings
            .iter()
            .all(|one| one.origin == Origin::Default)
    );
    for key in KEYS.iter().filter(|key| !key.default.is_empty()) {
        let set = key.shape.set(key.default, &mut Config::default());
        assert_eq!(set, Ok(()), "{}", key.name);
    }
}

#[test]
fn names_of_keys_are_there_once_and_make_flags_and_variables() {
    for (index, key) in KEYS.iter().enumerate() {
        let is_plain = key
            .name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        assert!(is_plain, "{}", key.name);
        assert!(KEYS[..index].iter().all(|other| other.name != key.name));
        assert!(
            !key.help.ends_with('.') && !key.help.contains('|'),
            "{}",
            key.name
        );
    }
    let key = keys::find("store_cache").expect("a key");
    assert_eq!(key.flag(), "--store-cache");
    assert_eq!(key.variable(), "HINDCAST_STORE_CACHE");
}

#[test]
fn later_sources_win() {
    let (_folder, path) =
        file("store_cache = \"1MiB\"\nengine_memory = \"2MiB\"\nlisten = \"127.0.0.1:1\"\n");
    let key = |name| keys::find(name).expect("a key");
    let loaded = load(&Sources {
        file: Some(path.clone()),
        environment: vec![
            ("HINDCAST_ENGINE_MEMORY".into(), "3MiB".into()),
            ("HINDCAST_LISTEN".into(), "127.0.0.1:2".into()),
            ("HINDCAST_WAREHOUSE".into(), OsString::new()),
        ],
        flags: vec![(key("listen"), "127.0.0.1:3".to_owned())],
    })
    .expect("good");
    let server = &loaded.config.server;
    assert_eq!(server.store_cache_bytes, 1 << 20);
    assert_eq!(server.engine_memory_bytes, 3 << 20);
    assert_eq!(server.listen.port(), 3);
    assert_eq!(server.warehouse_dir, None);
    let origin = |key| setting(&loaded, key).origin.clone();
    assert_eq!(origin("store_cache"), Origin::File { path, line: 1 });
    let variable = Origin::Environment("HINDCAST_ENGINE_MEMORY".to_owned());
    assert_eq!(origin("engine_memory"), variable);
    assert_eq!(origin("listen"), Origin::Flag("--listen".to_owned()));
}

#[test]
fn a_file_that_a_variable_names_is_read() {
    let (_folder, path) =
        file("keepalive_interval = \"45s\"\nengine_threads = 3\ninsecure = true\n");
    let path = path.display().to_string();
    let loaded = from_variables(&[(CONFIG_VARIABLE, &path)]).expect("good");
    let server = loaded.config.server;
    assert_eq!(
        server.protection.keepalive_interval,
        Duration::from_secs(45)
    );
    assert_eq!(server.engine_threads, Some(3));
    assert!(server.insecure);
}

#[test]
fn every_fault_is_told_with_its_line() {
    let told = faults(
        "store_cach = \"1GiB\"\nlisten = \"localhost\"\n\nmax_active_partitions = 0\nzzz = 1\nstore_cache = [1]\n\
         keepalive_interval = \"soon\"\notlp_sample_ratio = 1.5\ninsecure = \"yes\"\nengine_memory = \"1KiB\"\n",
    );
    assert_eq!(
        told,
        [
            "hindcast.toml, line 1: there is no key \"store_cach\"; is store_cache meant?",
            "hindcast.toml, line 6: store_cache: it cannot be of type array",
            "hindcast.toml, line 5: there is no key \"zzz\"",
            "hindcast.toml, line 2: listen: \"localhost\" is not an IP address and port such as 0.0.0.0:4780",
            "hindcast.toml, line 9: insecure: \"yes\" is neither true nor false",
            "hindcast.toml, line 4: max_active_partitions: \"0\" is not a whole number from 1 to 64",
            "hindcast.toml, line 10: engine_memory: 1KiB is too little: at least 1MiB",
            "hindcast.toml, line 7: keepalive_interval: cannot read \"soon\" as a duration such as 90s, 6h or 1h30m \
             (units: ms, s, m, h, d, w)",
            "hindcast.toml, line 8: otlp_sample_ratio: \"1.5\" is not a number from 0 to 1",
        ]
    );
}

#[test]
fn what_is_no_toml_names_its_line() {
    let told = faults("listen = \"127.0.0.1:1\"\nstore_cache = \n");
    assert!(
        told[0].starts_with("hindcast.toml, line 2: it is no TOML"),
        "{told:?}"
    );
    assert!(faults("listen = \"127.0.0.1:1\"\nlisten = \"127.0.0.1:2\"\n")[0].contains("line 2"));
}

#[test]
fn a_file_that_is_not_there_is_a_fault() {
    let refused = load(&Sources {
        file: Some(PathBuf::from("/nowhere/hindcast.toml")),
        ..Sources::default()
    });
    let text = refused.expect_err("refused").to_string();
    assert!(
        text.contains("/nowhere/hindcast.toml: cannot read it"),
        "{text}"
    );
}

#[test]
fn unknown_variables_are_refused_and_others_variables_are_not() {
    let refused = from_variables(&[("HINDCAST_STORE_CASH", "1"), ("HINDCAST_listen", "1")]);
    assert_eq!(
        refused.expect_err("refused").to_string(),
        "cannot use the configuration: 2 faults\n  \
         variable HINDCAST_STORE_CASH: there is no such setting; is HINDCAST_STORE_CACHE meant?\n  \
         variable HINDCAST_listen: there is no such setting; is HINDCAST_LISTEN meant?"
    );
    let refused = from_variables(&[("HINDCAST_CONFIG_FILE", "/etc/hindcast.toml")]);
    assert_eq!(
        refused.expect_err("refused").to_string(),
        "cannot use the configuration: variable HINDCAST_CONFIG_FILE: there is no such setting; is HINDCAST_CONFIG meant?"
    );
    from_variables(&[
        ("HINDCAST_SERVER", "http://h:1"),
        ("HINDCAST_TOKEN", "hct_secret"),
        ("HINDCAST_TEST_PYTHON", "python3"),
        ("HINDCAST_CRASH_KILLS", "3"),
        ("HINDCAST_SECRET_SALESFORCE", "s"),
        ("HINDCAST_SERVICE_HOST", "10.0.0.1"),
        ("HINDCAST_SERVICE_PORT", "4780"),
        ("HINDCAST_SERVICE_PORT_GRPC", "4780"),
        ("HINDCAST_PORT", "tcp://10.0.0.1:4780"),
        ("HINDCAST_PORT_4780_TCP", "tcp://10.0.0.1:4780"),
        ("HINDCAST_PORT_4780_TCP_PROTO", "tcp"),
        ("HINDCAST_PORT_4780_TCP_ADDR", "10.0.0.1"),
        ("HINDCAST_METRICS_SERVICE_HOST", "10.0.0.1"),
        ("PATH", "/bin"),
    ])
    .expect("good");
    for not_kubernetes in ["HINDCAST_PORT", "HINDCAST_PORT_X_TCP", "HINDCAST_PORTS"] {
        assert!(
            from_variables(&[(not_kubernetes, "4780")]).is_err(),
            "{not_kubernetes}"
        );
    }
}

#[test]
fn the_house_name_of_the_log_filter_wins() {
    let filter =
        |variables: &[(&str, &str)]| from_variables(variables).expect("good").config.log_filter;
    let rust_log = ("RUST_LOG", "debug");
    assert_eq!(filter(&[rust_log]).as_deref(), Some("debug"));
    let own = ("HINDCAST_LOG_FILTER", "info");
    assert_eq!(filter(&[own, rust_log]).as_deref(), Some("info"));
    assert_eq!(filter(&[rust_log, own]).as_deref(), Some("info"));
    assert!(from_variables(&[("RUST_LOG", "=,=")]).is_err());
}

#[test]
fn keys_that_need_each_other_say_so() {
    assert_eq!(
        faults("tls_cert = \"c\"\n"),
        ["tls_cert: it needs tls_key too"]
    );
    assert_eq!(
        faults("tls_key = \"c\"\n"),
        ["tls_key: it needs tls_cert too"]
    );
    assert_eq!(
        faults("tls_client_ca = \"c\"\n"),
        ["tls_client_ca: it needs tls_cert and tls_key too"]
    );
    assert_eq!(
        faults("client_burst = 3\n"),
        ["client_burst: it needs client_rate too"]
    );
}

#[test]
fn tokens_are_read_and_shown_without_their_digests() {
    let loaded = from_file(&format!(
        "insecure = true\n\n[[token]]\nname = \"p\"\nsha256 = \"{DIGEST}\"\nrole = \"writer\"\n\
         [[token]]\nname = \"q\"\nsha256 = \"{OTHER_DIGEST}\"\nrole = \"reader\"\n"
    ))
    .expect("good");
    let tokens = &loaded.config.server.tokens;
    assert_eq!((tokens[0].role, tokens[0].line), (Role::Writer, 3));
    assert_eq!(tokens[0].sha256[..2], [0x5e, 0x88]);
    assert_eq!(setting(&loaded, "token").value, "p (writer), q (reader)");
    assert!(!format!("{loaded:?}").contains("5e88"));
}

#[test]
fn bad_tokens_are_told_without_their_digests() {
    let told = faults(&format!(
        "[[token]]\nname = \"a b\"\nsha256 = \"{DIGEST}\"\nrole = \"reader\"\n\
         [[token]]\nname = \"p\"\nsha256 = \"{DIGEST}0\"\nrole = \"reader\"\n\
         [[token]]\nname = \"p\"\nsha256 = \"{DIGEST}\"\nrole = \"king\"\n\
         [[token]]\nname = \"p\"\nsha265 = \"{DIGEST}\"\nrole = \"reader\"\n"
    ));
    assert_eq!(
        told,
        [
            "hindcast.toml, line 1: \"a b\" is no name of a token: 1 to 64 letters, digits, '-', '_' and '.'",
            "hindcast.toml, line 5: token \"p\": sha256 must be 64 hexadecimal digits, as `hindcast token new` prints them",
            "hindcast.toml, line 9: token \"p\": \"king\" is none of reader, writer, operator, admin",
            "hindcast.toml, line 15: a token has no \"sha265\"; is sha256 meant?",
            "hindcast.toml, line 13: a token needs a sha256",
        ]
    );
    assert!(faults("token = 3\n")[0].contains("[[token]]"));
}

#[test]
fn a_name_or_a_token_that_is_there_twice_is_told_of_both() {
    let table = |name: &str, digest: &str| {
        format!("[[token]]\nname = \"{name}\"\nsha256 = \"{digest}\"\nrole = \"reader\"\n")
    };
    let told = faults(&[table("p", DIGEST), table("p", OTHER_DIGEST)].concat());
    assert_eq!(
        told,
        ["hindcast.toml, line 5: token \"p\" is there twice: line 1"]
    );
    let told = faults(&[table("p", DIGEST), table("q", &DIGEST.to_uppercase())].concat());
    assert_eq!(
        told,
        [
            "hindcast.toml, line 5: tokens \"q\" and \"p\" (line 1) have the same sha256: a token has one name and one role"
        ]
    );
}

#[test]
fn a_tokens_file_holds_tokens_alone() {
    let (_folder, path) = file("listen = \"127.0.0.1:1\"\n");
    let refused = read_tokens(&path).expect_err("refused").to_string();
    assert!(
        refused.contains("line 1: \"listen\": a tokens file holds [[token]] alone"),
        "{refused}"
    );
}

#[test]
fn a_password_in_a_url_is_hidden() {
    let loaded =
        from_file("otlp_endpoint = \"https://user:word@collector:4317/x\"\n").expect("good");
    assert_eq!(
        setting(&loaded, "otlp_endpoint").value,
        "https://(hidden)@collector:4317/x"
    );
    let told = faults("otlp_endpoint = \"ftp://user:word@collector\"\n");
    assert!(!told[0].contains("word"), "{told:?}");
}

#[test]
fn the_page_of_keys_is_what_the_table_says() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let page = std::fs::read_to_string(path).expect("the page");
    assert_eq!(
        page,
        reference(),
        "write it anew: hindcast config reference > docs/configuration.md"
    );
}

proptest! {
    #[test]
    fn whatever_stands_in_a_file_is_read_or_refused(text in "[a-z_=\\[\\]\". 0-9\n{},'#-]{0,200}") {
        if let Err(faults) = from_file(&text) {
            prop_assert!(!faults.0.is_empty());
        }
    }
}
