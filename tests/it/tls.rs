//! TLS, mutual TLS, certificates that change, and servers that would be unguarded.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hindcast::{
    auth::Role,
    server::{RunningServer, ServerConfig, TlsFiles},
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tempfile::TempDir;
use tokio::{io::AsyncReadExt, net::TcpStream};
use tokio_rustls::TlsConnector;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Error, Identity};

use super::guard_support::{
    Authority, Pair, any_port, call, put, refused_start, reloads, serve, settings, token, token_of,
    until, within,
};

const LIST: &str = "/hindcast.v1.EntityStoreService/ListEntityTypes";

fn files(folder: &TempDir, pair: &Pair) -> TlsFiles {
    TlsFiles {
        cert: put(folder.path(), "tls.crt", &pair.cert),
        key: put(folder.path(), "tls.key", &pair.key),
        client_ca: None,
    }
}

fn with_tls(folder: &TempDir, pair: &Pair) -> ServerConfig {
    ServerConfig {
        tls: Some(files(folder, pair)),
        ..settings(folder)
    }
}

async fn connect(
    server: &RunningServer,
    authority: &Authority,
    client: Option<&Pair>,
) -> Result<Channel, Error> {
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&authority.pem))
        .domain_name("localhost");
    if let Some(pair) = client {
        tls = tls.identity(Identity::from_pem(&pair.cert, &pair.key));
    }
    let url = format!("https://127.0.0.1:{}", server.local_addr().port());
    let endpoint = Channel::from_shared(url).expect("a url").tls_config(tls)?;
    endpoint.connect().await
}

/// Whether a call goes through: a refused client certificate shows only then, in TLS 1.3.
async fn is_served(server: &RunningServer, authority: &Authority, client: Option<&Pair>) -> bool {
    match connect(server, authority, client).await {
        Err(_) => false,
        Ok(channel) => call(&channel, LIST, None).await.is_ok(),
    }
}

#[tokio::test]
async fn a_server_with_a_certificate_speaks_tls_alone() {
    let folder = TempDir::new().expect("a folder");
    let (authority, stranger) = (Authority::new("ours"), Authority::new("theirs"));
    let server = serve(with_tls(&folder, &authority.sign())).await;
    assert!(is_served(&server, &authority, None).await);
    assert!(
        !is_served(&server, &stranger, None).await,
        "an authority that did not sign it"
    );
    let url = format!("http://127.0.0.1:{}", server.local_addr().port());
    let plain = Channel::from_shared(url).expect("a url").connect().await;
    if let Ok(channel) = plain {
        assert!(
            call(&channel, LIST, None).await.is_err(),
            "a client without TLS"
        );
    }
    server.shutdown().await.expect("stops");
}

#[tokio::test]
async fn clients_that_say_nothing_hold_nobody_up() {
    let folder = TempDir::new().expect("a folder");
    let authority = Authority::new("ours");
    let server = serve(with_tls(&folder, &authority.sign())).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(
            TcpStream::connect(server.local_addr())
                .await
                .expect("connects"),
        );
    }
    assert!(is_served(&server, &authority, None).await);
    drop(silent);
    server.shutdown().await.expect("stops");
}

#[tokio::test]
async fn a_client_that_says_nothing_after_its_handshake_is_closed() {
    let folder = TempDir::new().expect("a folder");
    let authority = Authority::new("ours");
    let mut config = with_tls(&folder, &authority.sign());
    config.protection.max_connections = 1;
    config.protection.handshake_timeout = Duration::from_millis(500);
    let server = serve(config).await;
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_slice(authority.pem.as_bytes());
    roots.add(certificate.expect("PEM")).expect("a root");
    let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(server.local_addr())
        .await
        .expect("connects");
    let name = ServerName::try_from("localhost").expect("a name");
    let connecting = TlsConnector::from(Arc::new(client)).connect(name, stream);
    let mut silent = connecting.await.expect("shakes hands");
    let served = within("its place is free", is_served(&server, &authority, None));
    assert!(served.await);
    // It is the end, or a reset.
    let _ = within("it is closed", silent.read_to_end(&mut Vec::new())).await;
    server.shutdown().await.expect("stops");
}

#[tokio::test]
async fn with_a_client_authority_every_client_shows_a_certificate() {
    let folder = TempDir::new().expect("a folder");
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let mut config = with_tls(&folder, &servers.sign());
    if let Some(tls) = &mut config.tls {
        tls.client_ca = Some(put(folder.path(), "clients.crt", &clients.pem));
    }
    let server = serve(config).await;
    assert!(is_served(&server, &servers, Some(&clients.sign())).await);
    assert!(!is_served(&server, &servers, None).await);
    assert!(
        !is_served(&server, &servers, Some(&servers.sign())).await,
        "of another authority"
    );
    assert!(
        !is_served(&server, &servers, Some(&clients.sign_for(2000..=2001))).await,
        "too old"
    );
    server.shutdown().await.expect("stops");
}

#[tokio::test]
async fn new_certificates_are_taken_without_a_restart_and_broken_ones_are_not() {
    let folder = TempDir::new().expect("a folder");
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let config = ServerConfig {
        metrics_listen: Some(any_port()),
        ..with_tls(&folder, &old.sign())
    };
    let server = serve(config).await;
    let failed_more_than = async |before: u64| {
        until("the broken files are looked at", || async {
            (reloads(&server, "certificates", "failed").await > before).then_some(())
        })
        .await;
    };
    let open = connect(&server, &old, None).await.expect("connects");
    assert!(!is_served(&server, &new, None).await);

    // A certificate whose key is not there yet: between two writes, that is what is found.
    let pair = new.sign();
    put(folder.path(), "tls.crt", &pair.cert);
    failed_more_than(0).await;
    assert!(is_served(&server, &old, None).await);
    put(folder.path(), "tls.key", &pair.key);
    until("the new certificate is shown", || async {
        is_served(&server, &new, None).await.then_some(())
    })
    .await;
    assert!(!is_served(&server, &old, None).await);
    call(&open, LIST, None)
        .await
        .expect("open connections stay");

    // Usable files are in place: from here on every failure is one of nonsense.
    let before = reloads(&server, "certificates", "failed").await;
    put(folder.path(), "tls.crt", "nonsense");
    put(folder.path(), "tls.key", "nonsense");
    failed_more_than(before).await;
    assert!(is_served(&server, &new, None).await);
    drop(open);
    server.shutdown().await.expect("stops");
}

#[tokio::test]
async fn bad_certificates_are_refused_at_the_start() {
    let folder = TempDir::new().expect("a folder");
    let authority = Authority::new("ours");
    let (good, other) = (authority.sign(), authority.sign());
    let secret = good.key.lines().nth(1).expect("a line").to_owned();
    let pair = |cert: &str, key: &str| Pair {
        cert: cert.to_owned(),
        key: key.to_owned(),
    };
    let old = authority.sign_for(2000..=2001);
    let early = authority.sign_for(3000..=3001);
    let cut = &good.cert[..good.cert.len() / 2];
    let cut_key = &good.key[..good.key.len() / 2];
    for (pair, expected) in [
        (
            &pair(&good.cert, &other.key),
            "tls.key: it is not the key of the certificate in ",
        ),
        (&old, "tls.crt: its certificate is valid from 2000-01-01"),
        (&early, "tls.crt: its certificate is valid from 3000-01-01"),
        (
            &pair("", &good.key),
            "tls.crt: there is no certificate in it",
        ),
        (
            &pair("hello", &good.key),
            "tls.crt: there is no certificate in it",
        ),
        (
            &pair(&good.key, &good.cert),
            "tls.crt: there is no certificate in it",
        ),
        (
            &pair(&good.cert, &good.cert),
            "tls.key: there is no private key in it",
        ),
        (
            &pair(cut, &good.key),
            "tls.crt: a section of it does not end",
        ),
        (
            &pair(&good.cert, cut_key),
            "tls.key: a section of it does not end",
        ),
    ] {
        let text = refused_start(with_tls(&folder, pair)).await;
        assert!(text.contains(expected), "{expected}: {text}");
        assert!(!text.contains(&secret), "{text}");
    }
    let mut config = with_tls(&folder, &good);
    if let Some(tls) = &mut config.tls {
        tls.client_ca = Some(put(folder.path(), "clients.crt", "hello"));
    }
    assert!(
        refused_start(config)
            .await
            .contains("clients.crt: there is no certificate in it")
    );
    let mut config = with_tls(&folder, &good);
    std::fs::remove_file(folder.path().join("tls.key")).expect("removed");
    config.listen.set_port(0);
    assert!(
        refused_start(config)
            .await
            .contains("tls.key: No such file")
    );
    assert!(!folder.path().join("data").exists(), "nothing was touched");
}

#[tokio::test]
async fn beyond_loopback_a_server_is_guarded_or_told_to_be_insecure() {
    let folder = TempDir::new().expect("a folder");
    let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let pair = Authority::new("ours").sign();
    let open = ServerConfig {
        listen: everywhere,
        ..settings(&folder)
    };
    let text = refused_start(open.clone()).await;
    assert!(
        text.contains("there is no TLS") && text.contains("--insecure"),
        "{text}"
    );
    let with_token = ServerConfig {
        tokens: vec![token("t", Role::Reader)],
        ..open.clone()
    };
    assert!(
        refused_start(with_token.clone())
            .await
            .contains("there is no TLS")
    );
    let with_tls = ServerConfig {
        tls: Some(files(&folder, &pair)),
        ..open.clone()
    };
    let text = refused_start(with_tls.clone()).await;
    assert!(text.contains("whoever does may do everything"), "{text}");
    for guarded in [
        ServerConfig {
            insecure: true,
            ..open
        },
        ServerConfig {
            tokens: with_token.tokens,
            ..with_tls
        },
    ] {
        serve(guarded).await.shutdown().await.expect("stops");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn client_commands_speak_tls_and_show_their_token() {
    let folder = TempDir::new().expect("a folder");
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let mut config = with_tls(&folder, &servers.sign());
    if let Some(tls) = &mut config.tls {
        tls.client_ca = Some(put(folder.path(), "clients.crt", &clients.pem));
    }
    config.tokens = vec![token("r", Role::Reader)];
    let server = serve(config).await;
    let pair = clients.sign();
    let file = |name: &str, text: &str| put(folder.path(), name, text).display().to_string();
    let (ca, cert, key) = (
        file("ca.crt", &servers.pem),
        file("client.crt", &pair.cert),
        file("client.key", &pair.key),
    );
    let token_file = file("token", &format!("{}\n", token_of("r")));
    let run = |line: &[&str], token: Option<&str>| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_hindcast"));
        command
            .args([
                "--server",
                &format!("https://localhost:{}", server.local_addr().port()),
            ])
            .args(["--client-cert", &cert, "--client-key", &key])
            .args(line)
            .env_remove("HINDCAST_TOKEN");
        if let Some(token) = token {
            command.env("HINDCAST_TOKEN", token);
        }
        let output = command.output().expect("runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), text)
    };
    let list = ["type", "list", "--ca", &ca];
    for noun in ["type", "source", "transform", "table", "backfill", "limit"] {
        let list = [noun, "list", "--ca", &ca];
        assert_eq!(run(&list, Some(&token_of("r"))), (Some(0), String::new()));
    }
    let with_file = [list.as_slice(), &["--token-file", &token_file]].concat();
    assert_eq!(run(&with_file, None), (Some(0), String::new()));
    let (code, text) = run(&list, None);
    assert_eq!(code, Some(1));
    assert!(text.contains("[TOKEN_MISSING]"), "{text}");
    let (code, text) = run(&list, Some("hct_forged"));
    assert_eq!(code, Some(1));
    assert!(
        text.contains("[TOKEN_UNKNOWN]") && !text.contains("forged"),
        "{text}"
    );
    let (code, text) = run(&["type", "list"], Some(&token_of("r")));
    assert_eq!(
        code,
        Some(1),
        "the system's authorities did not sign it: {text}"
    );
    assert!(!text.contains(&token_of("r")), "{text}");
    tokio::task::spawn_blocking(|| {}).await.expect("runs");
    server.shutdown().await.expect("stops");
}
