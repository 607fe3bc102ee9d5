//! What must hold of the sources themselves: borders between modules, and documents that agree with
//! the code.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::node::TestNode;
use crate::support::process::ECHOCAST;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The code of every source file of the library, without comments, by its path below `src`.
fn code() -> Vec<(String, String)> {
    let src = Path::new(ROOT).join("src");
    let mut found = Vec::new();
    sources(&src, &mut found);
    let code = found.into_iter().map(|path| {
        let text = fs::read_to_string(&path).unwrap();
        let lines = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        (
            path.strip_prefix(&src)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned(),
            lines.collect::<Vec<_>>().join("\n"),
        )
    });
    code.collect()
}

#[test]
fn libraries_stay_behind_the_modules_that_own_them() {
    let borders: [(&[&str], &[&str]); 4] = [
        (
            &["redis::", "deadpool_redis::"],
            &["broker/redis", "redis_address"],
        ),
        (&["axum::"], &["http", "client/", "ws/handshake.rs"]),
        (&["clap::"], &["config", "bin/"]),
        (&["prometheus::"], &["metrics", "http/ops.rs"]),
    ];
    let mut uses = 0;
    for (path, code) in code() {
        for (libraries, owners) in &borders {
            for line in code.lines() {
                // `broker::redis` and `self::redis` are our own modules.
                let foreign = line
                    .replace("broker::redis::", "")
                    .replace("crate::http::", "");
                let used = libraries.iter().any(|library| {
                    foreign
                        .match_indices(library)
                        .any(|(at, _)| !foreign[..at].ends_with([':', '_']))
                });
                uses += usize::from(used);
                assert!(
                    !used || owners.iter().any(|owner| path.starts_with(owner)),
                    "{path}: {line}"
                );
            }
        }
    }
    assert!(uses > 10, "the libraries were found where they belong");
}

#[test]
fn every_file_says_first_what_it_owns() {
    let src = Path::new(ROOT).join("src");
    for (path, _) in code() {
        let text = fs::read_to_string(src.join(&path)).unwrap();
        assert!(text.starts_with("//! "), "{path}");
    }
}

#[tokio::test]
async fn the_readme_lists_every_flag_with_its_default() {
    let help = tokio::process::Command::new(ECHOCAST)
        .args(["serve", "--help"])
        .output()
        .await
        .unwrap();
    // Help is wrapped: one line again, cut into flags.
    let help = String::from_utf8(help.stdout)
        .unwrap()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let readme = fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    let mut flags = 0;
    for flag in help
        .split(" --")
        .skip(1)
        .filter(|flag| flag.contains("[env: "))
    {
        let name = flag.split(' ').next().unwrap();
        let row = readme
            .lines()
            .find(|line| line.starts_with("| `--") && line.contains(&format!("`--{name}`")));
        let row = row.unwrap_or_else(|| panic!("--{name} is not in the README's table"));
        if let Some((_, default)) = flag.split_once("[default: ") {
            let default = default.split("] ").next().unwrap().trim_end_matches(']');
            assert!(
                row.contains(&format!("`{default}`")),
                "--{name} is {default}: {row}"
            );
        }
        flags += 1;
    }
    assert_eq!(flags, 31);
}

#[test]
fn links_in_documents_lead_to_files_and_headings_that_exist() {
    let mut links = 0;
    for document in ["README.md", "deploy/README.md", "tests/README.md"] {
        let path = Path::new(ROOT).join(document);
        let text = fs::read_to_string(&path).unwrap();
        for target in link_targets(&text) {
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let linked = match file {
                "" => path.clone(),
                file => path.parent().unwrap().join(file),
            };
            let text = fs::read_to_string(&linked)
                .unwrap_or_else(|error| panic!("{document}: {target}: {error}"));
            assert!(
                heading.is_empty() || headings(&text).any(|anchor| anchor == heading),
                "{document}: there is no heading {target}"
            );
            links += 1;
        }
    }
    assert!(links > 30, "{links}");
}

/// Targets of the links `[text](target)` within the repository.
fn link_targets(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once(')')?.0))
        .filter(|target| !target.contains("://"))
}

/// The anchors of a document's headings, as GitHub makes them.
fn headings(text: &str) -> impl Iterator<Item = String> {
    let titles = text.lines().filter(|line| line.starts_with("##"));
    titles.map(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        title
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect()
    })
}

#[test]
fn the_readme_can_be_read_at_once() {
    let readme = fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    let words = readme.split_whitespace().count();
    assert!(words <= 2500, "{words} words");
}

#[tokio::test]
async fn the_runbook_names_settings_and_metrics_that_exist() {
    let runbook = fs::read_to_string(Path::new(ROOT).join("deploy/README.md")).unwrap();
    let words: Vec<&str> = runbook
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':')
        .collect();
    let node = TestNode::start(&[]).await;
    let help = tokio::process::Command::new(ECHOCAST)
        .args(["serve", "--help"])
        .output()
        .await
        .unwrap();
    let known = [
        String::from_utf8(help.stdout).unwrap(),
        node.get_ops("/metrics").await.1,
    ]
    .concat();
    let named: Vec<&str> = words
        .into_iter()
        .filter(|word| word.starts_with("ECHOCAST_") || word.starts_with("echocast_"))
        .collect();
    assert!(named.len() > 20, "{named:?}");
    for name in named {
        assert!(known.contains(name), "deploy/README.md: {name}");
    }
}
