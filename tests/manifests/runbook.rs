//! The runbook: everything that its kubectl commands name is in the manifests, and it knows every
//! reason of a rejection. Whether the commands do what it says is not known here.

use std::fs;

use echocast::client::rejection::Rejection;

use super::pod;
use super::rendered::{DEPLOY, RENDERED, find};

#[test]
fn the_runbook_names_what_is_there() {
    let resources = &RENDERED["production"];
    let commands = kubectl_commands();
    assert!(commands.len() > 15, "{commands:?}");
    for command in commands {
        let line = command.join(" ");
        // Of the cluster, or with a namespace of their own.
        let of_all = ["apply", "diff", "drain", "kustomize"].contains(&&*command[1]);
        assert_eq!(line.starts_with("kubectl -n echocast "), !of_all, "{line}");
        for pair in command.windows(2) {
            match (&*pair[0], &*pair[1]) {
                ("-k", "deploy/kubernetes/overlays/mine") => {}
                ("-k" | "-f", path) => {
                    assert!(fs::exists(format!("{DEPLOY}/../{path}")).unwrap(), "{line}")
                }
                ("-l", label) => {
                    let (key, value) = label.split_once('=').unwrap();
                    assert_eq!(pod(resources)["metadata"]["labels"][key], value, "{line}");
                }
                ("top", service) => {
                    let service = find(resources, "Service", service);
                    assert_eq!(service["spec"]["ports"][0]["name"], "ops", "{line}");
                }
                _ => {}
            }
        }
        for (kind, name) in command.iter().filter_map(|word| word.split_once('/')) {
            match kind {
                // Not a path.
                "deploy" | "deployment" if !name.contains('/') => {
                    _ = find(resources, "Deployment", name)
                }
                "service" => _ = find(resources, "Service", name),
                "pod" => assert_eq!(name, "POD", "{line}"),
                _ => {}
            }
        }
    }
}

#[test]
fn the_runbook_explains_every_reason_of_a_refusal() {
    let runbook = fs::read_to_string(format!("{DEPLOY}/README.md")).unwrap();
    let (_, chapter) = runbook
        .split_once("\n### EchocastHandshakesRefused\n")
        .unwrap();
    let chapter = chapter.split("\n### ").next().unwrap();
    for reason in Rejection::LABELS {
        assert!(chapter.contains(&format!("`{reason}`")), "{reason}");
    }
}

/// The words of each kubectl command in the runbook, with what it continues on the next line.
fn kubectl_commands() -> Vec<Vec<String>> {
    let runbook = fs::read_to_string(format!("{DEPLOY}/README.md"))
        .unwrap()
        .replace("\\\n", " ");
    let commands = runbook.match_indices("kubectl ").map(|(at, _)| {
        let end = |c| ['\n', '`', '|', ';', '&', '#', '>'].contains(&c);
        let command = runbook[at..].split(end).next().unwrap();
        command.split_whitespace().map(str::to_owned).collect()
    });
    commands.collect()
}
