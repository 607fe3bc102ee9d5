//! Flags, variables, help and version: what is told before anything is done.

use super::{USAGE, run};
use crate::support::program::{Program, echocast};

/// Every flag of `serve` and its default, as the public contract lists them.
const SETTINGS: &str = "
    --listen [::]:8080
    --ops-listen [::]:8081
    --redis-url
    --redis-ca
    --redis-cert
    --redis-key
    --redis-prefix echocast
    --history 1000
    --history-bytes 4MiB
    --history-ttl 10m
    --feed-bytes 8MiB
    --memory
    --max-message 64KiB
    --max-connections 0
    --address-connections 0
    --address-rate 0
    --message-rate 0
    --byte-rate 0
    --max-channels 0
    --deflate on
    --slow-client disconnect
    --ping-interval 20s
    --ping-timeout 20s
    --idle-timeout 75s
    --allow-origin *
    --trusted-proxy
    --drain-delay 0s
    --drain-period 10s
    --shutdown-grace 30s
    --log-format auto
    --log-messages auto
";

#[tokio::test]
async fn help_names_every_flag_with_its_default_and_its_variable() {
    for arguments in [&["--help"][..], &["serve", "--help"]] {
        let ended = run(arguments).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let mut described = Vec::new();
        // A flag's description begins with it, ends where the next one's begins, and is broken into
        // lines anywhere.
        for words in ended.output.join("\n").split("\n      --").skip(1) {
            let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
            let flag = words.split(' ').next().unwrap();
            let variable = format!("[env: ECHOCAST_{}", flag.replace('-', "_").to_uppercase());
            assert!(
                [format!("{variable}=]"), format!("{variable}]")]
                    .iter()
                    .any(|env| words.contains(env)),
                "{words}"
            );
            let default = words
                .split_once("[default: ")
                .map(|(_, rest)| rest.split("] ").next().unwrap().trim_end_matches(']'));
            described.push(
                format!("--{flag} {}", default.unwrap_or_default())
                    .trim()
                    .to_owned(),
            );
        }
        let mut contract: Vec<&str> = SETTINGS.trim().lines().map(str::trim).collect();
        contract.sort_unstable();
        described.sort_unstable();
        assert_eq!(described, contract, "{arguments:?}");
    }
}

#[tokio::test]
async fn version_is_name_number_and_commit() {
    let ended = run(&["--version"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let rest = ended.output[0]
        .strip_prefix(concat!("echocast ", env!("CARGO_PKG_VERSION"), " ("))
        .unwrap();
    assert!(rest.len() > 1 && rest.ends_with(')'), "{ended:?}");
}

#[tokio::test]
async fn a_wrong_flag_is_named_and_exits_64() {
    for (arguments, named) in [
        (&["--lissten", "x"][..], "--lissten"),
        (&["serve", "--lissten", "x"], "--lissten"),
        (&["client", "--shout"], "--shout"),
        (&["shell", "-q"], "-q"),
        (&["health", "--ops"], "--ops"),
        (&["top", "--twice"], "--twice"),
        (&["sing"], "sing"),
    ] {
        let ended = run(arguments).await;
        assert_eq!(
            (ended.code, ended.output.len()),
            (USAGE, 0),
            "{arguments:?}: {ended:?}"
        );
        assert!(
            ended.errors.contains(&format!("'{named}'")),
            "{arguments:?}: {ended:?}"
        );
    }
}

#[tokio::test]
async fn bad_settings_are_all_named_at_once_wherever_they_come_from() {
    let mut command = echocast(&[
        "--listen",
        "here",
        "--history",
        "many",
        "--slow-client=kill",
    ]);
    command
        .env("ECHOCAST_PING_INTERVAL", "sometimes")
        .env("ECHOCAST_REDIS_URL", "redis://:secret@");
    let ended = Program::start(command).finish().await;
    assert_eq!((ended.code, ended.output.len()), (USAGE, 0), "{ended:?}");
    let mut named: Vec<&str> = ended
        .errors
        .lines()
        .map(|line| line.split([' ', ':']).next().unwrap())
        .collect();
    named.sort_unstable();
    assert_eq!(
        named,
        [
            "--history",
            "--listen",
            "--ping-interval",
            "--redis-url",
            "--slow-client"
        ],
        "{ended:?}"
    );
    assert!(!ended.errors.contains("secret"), "{ended:?}");
}

#[tokio::test]
async fn a_bad_address_of_a_server_is_a_usage_error_too() {
    for subcommand in ["client", "shell"] {
        let ended = run(&[subcommand, "ftp://example.org"]).await;
        assert_eq!((ended.code, ended.output.len()), (USAGE, 0), "{ended:?}");
        assert!(ended.errors.contains("ftp"), "{ended:?}");
    }
}
