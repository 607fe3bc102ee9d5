//! What `kubectl kustomize` makes of the overlays and of every choice of components, once for all
//! tests, and the programs that look at it (installed by `tests/setup/install`). What it must look
//! like is for the tests.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use serde_json::{Value, json};

pub const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy");
pub const CHECKERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/checkers");

/// Both autoscale on connections: one at a time.
const EITHER: [&str; 2] = ["autoscale-connections", "keda"];

/// The resources of one rendering.
pub type Resources = Vec<Value>;

/// All renderings: the overlays by their names, choices of components as `+gateway+redis`.
pub static RENDERED: LazyLock<BTreeMap<String, Resources>> = LazyLock::new(|| {
    let overlays = names_in("overlays").into_iter().map(|name| {
        let resources = kustomize(&kubernetes().join("overlays").join(&name));
        (name, resources)
    });
    let components = names_in("components");
    let choices = choices(&components).into_iter().map(|chosen| {
        let name = chosen.iter().map(|name| format!("+{name}")).collect();
        (name, base_with(&chosen))
    });
    let rendered: BTreeMap<String, Resources> = overlays.chain(choices).collect();
    assert_eq!(
        (components.len(), rendered.len()),
        (5, 2 + 24),
        "{:?}",
        rendered.keys()
    );
    rendered
});

/// Every choice of components that makes sense.
fn choices(components: &[String]) -> Vec<Vec<&str>> {
    let mut choices: Vec<Vec<&str>> = vec![Vec::new()];
    for component in components {
        let with = choices
            .iter()
            .map(|chosen| [&chosen[..], &[component]].concat());
        choices = choices.iter().cloned().chain(with).collect();
    }
    choices.retain(|chosen| !EITHER.iter().all(|name| chosen.contains(name)));
    choices
}

/// The base with these components.
fn base_with(components: &[&str]) -> Resources {
    let scratch = scratch();
    // kustomize takes relative paths only: up to the root first.
    let up = vec![
        "..";
        fs::canonicalize(scratch.path())
            .unwrap()
            .components()
            .count()
            - 1
    ]
    .join("/");
    let path = |part: &str| {
        format!(
            "{up}{}/{part}",
            fs::canonicalize(kubernetes()).unwrap().display()
        )
    };
    let kustomization = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "echocast",
        "resources": [path("base")],
        "images": [{"name": "echocast", "newTag": "local"}],
        "components": components.iter().map(|name| path(&format!("components/{name}"))).collect::<Vec<_>>(),
    });
    fs::write(
        scratch.path().join("kustomization.yaml"),
        kustomization.to_string(),
    )
    .unwrap();
    kustomize(scratch.path())
}

/// Every different resource of all renderings: most are in all of them.
pub fn resources() -> Resources {
    let mut all: Vec<&Value> = Vec::new();
    for resource in RENDERED.values().flatten() {
        if !all.contains(&resource) {
            all.push(resource);
        }
    }
    all.into_iter().cloned().collect()
}

/// The only resource of this kind and name.
pub fn find<'a>(resources: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let mut found = resources
        .iter()
        .filter(|it| it["kind"] == kind && it["metadata"]["name"] == name);
    found
        .next()
        .filter(|_| found.next().is_none())
        .unwrap_or_else(|| panic!("one {kind} {name}"))
}

/// Resources as a file that any tool reads: JSON is YAML.
pub fn documents(resources: &[Value]) -> String {
    resources
        .iter()
        .map(|resource| format!("---\n{resource}\n"))
        .collect()
}

/// A directory for a test's files; checkov does not look into hidden ones, as others would be.
pub fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("echocast-manifests")
        .tempdir()
        .unwrap()
}

/// A program of `tests/checkers`.
pub fn checker(program: &str) -> Command {
    let mut command = Command::new(format!("{CHECKERS}/.venv/bin/{program}"));
    // Some look for settings of their own where they are.
    command.current_dir(DEPLOY);
    command
}

/// Runs it, with this input if any; returns what it printed. It must succeed.
pub fn run(mut command: Command, input: &str) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = output(&mut command, input);
    let (stdout, stderr) = (
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr),
    );
    assert!(
        status.success(),
        "{command:?}: {status}\n{stdout}\n{stderr}"
    );
    format!("{stdout}{stderr}")
}

/// What is in YAML, by a parser that is not ours.
pub fn parse_yaml(text: &str) -> Vec<Value> {
    let mut python = checker("python");
    python.args([
        "-c",
        "import json, sys, yaml; json.dump(list(yaml.load_all(sys.stdin, yaml.CSafeLoader)), sys.stdout)",
    ]);
    serde_json::from_slice(&output(&mut python, text).stdout).unwrap()
}

fn output(command: &mut Command, input: &str) -> Output {
    let pipes = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = pipes
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; tests/setup/install installs it"));
    // All of these read their input before they write.
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

fn kustomize(directory: &Path) -> Resources {
    let mut kubectl = checker("kubectl");
    kubectl.arg("kustomize").arg(directory);
    let Output {
        status,
        stdout,
        stderr,
    } = output(&mut kubectl, "");
    // It warns of what it will not understand some day.
    assert!(
        status.success() && stderr.is_empty(),
        "{directory:?}: {}",
        String::from_utf8_lossy(&stderr)
    );
    parse_yaml(&String::from_utf8(stdout).unwrap())
}

fn kubernetes() -> PathBuf {
    Path::new(DEPLOY).join("kubernetes")
}

fn names_in(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(kubernetes().join(directory))
        .unwrap()
        .map(|entry| entry.unwrap());
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
