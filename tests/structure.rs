//! The structure of the sources: imports run one way, and the walk in `src/lib.rs` names only what
//! exists.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// From each name to those that it imports.
type Graph = BTreeMap<String, BTreeSet<String>>;

#[test]
fn no_files_import_each_other_in_a_circle() {
    let sources = Sources::read();
    let graph = imports(&sources);
    assert!(graph.len() > 100, "{} files import others", graph.len());
    assert_eq!(circles(&graph), [""; 0]);
}

#[test]
fn no_modules_of_the_library_import_each_other_in_a_circle() {
    let sources = Sources::read();
    let mut graph = Graph::new();
    for (file, imported) in imports(&sources) {
        let module = top_module(&file);
        let others = imported.iter().map(|file| top_module(file));
        let others = others.filter(|other| *other != module);
        graph.entry(module.clone()).or_default().extend(others);
    }
    graph.retain(|module, _| module != "bin");
    assert!(graph["hub"].contains("feed"), "{graph:?}");
    assert_eq!(circles(&graph), [""; 0]);
}

#[test]
fn a_circle_is_found_and_a_line_is_not() {
    let graph = |edges: &[(&str, &str)]| {
        let mut graph = Graph::new();
        for (from, to) in edges {
            let imported = graph.entry((*from).to_owned()).or_default();
            imported.insert((*to).to_owned());
        }
        graph
    };
    let line = [("a", "b"), ("b", "c"), ("a", "c"), ("c", "d")];
    assert_eq!(circles(&graph(&line)), [""; 0]);
    let circle = [&line[..], &[("d", "b"), ("d", "e")]].concat();
    assert_eq!(circles(&graph(&circle)), ["b c d"]);
}

#[test]
fn every_name_in_the_walk_exists() {
    let library = fs::read_to_string(Path::new(ROOT).join("src/lib.rs")).unwrap();
    let (_, walk) = library.split_once("//! ## A walk\n").unwrap();
    let walk = walk.split("\n//! ## ").next().unwrap();
    let walk = walk.replace("\n//!", "\n");
    let mut names = 0;
    let sources = Sources::read();
    // A step is an item of a list: a file, and names that it or a module in it defines.
    for step in walk.split("\n - ").skip(1) {
        let step = step.split("\n\n").next().unwrap();
        let mut code = step.split('`').skip(1).step_by(2);
        let file = code.next().unwrap().strip_prefix("src/").unwrap();
        let folder = folder_of(file);
        let files = sources.0.iter();
        let text: String = files
            .filter(|(path, _)| *path == file || path.starts_with(&folder))
            .map(|(_, text)| text.as_str())
            .collect();
        assert!(!text.is_empty(), "there is no {file}");
        for name in code {
            assert!(defines(&text, name), "{file} does not define {name}");
            names += 1;
        }
    }
    assert!(names > 40, "{names}");
}

/// Whether a file defines a function `name`, a type `Name` or its function `Name::function`, or
/// contains a text with other characters, such as a flag.
fn defines(text: &str, name: &str) -> bool {
    let is_word = |word: &str| word.chars().all(|c| c.is_alphanumeric() || c == '_');
    name.split("::").all(|part| {
        if !is_word(part) {
            return text.contains(part);
        }
        let keywords = ["fn", "struct", "enum", "trait", "type", "const", "impl"];
        let defined = |keyword: &&str| {
            let definition = format!("{keyword} {part}");
            text.match_indices(&definition).any(|(at, _)| {
                let rest = &text[at + definition.len()..];
                !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_')
            })
        };
        keywords.iter().any(defined)
    })
}

/// The code of all files below `src`, without comments and unit tests.
struct Sources(BTreeMap<String, String>);

impl Sources {
    fn read() -> Self {
        let mut found = BTreeMap::new();
        read_below(&Path::new(ROOT).join("src"), "", &mut found);
        found.retain(|path, _| !path.ends_with("tests.rs"));
        Self(found)
    }

    /// The file of the module that a path leads to, as seen from a file: the last of its segments
    /// that is a module. `None` if that is of another crate, or the root.
    fn resolve(&self, file: &str, path: &str) -> Option<String> {
        let mut segments = path.split("::").map(str::trim).peekable();
        let mut at = match segments.next()? {
            "crate" => root_of(file),
            "self" => file.to_owned(),
            "super" => parent_of(file),
            _ => return None,
        };
        while segments.next_if_eq(&"super").is_some() {
            at = parent_of(&at);
        }
        for segment in segments {
            let child = format!("{}{segment}.rs", folder_of(&at));
            if !self.0.contains_key(&child) {
                break;
            }
            at = child;
        }
        (at != root_of(file)).then_some(at)
    }
}

fn read_below(directory: &Path, prefix: &str, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_dir() {
            read_below(&entry.path(), &format!("{prefix}{name}/"), found);
        } else if name.ends_with(".rs") {
            let text = fs::read_to_string(entry.path()).unwrap();
            found.insert(format!("{prefix}{name}"), without_tests(&text));
        }
    }
}

fn without_tests(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let lines = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

fn root_of(file: &str) -> String {
    match file.strip_prefix("bin/echocast/") {
        Some(_) => "bin/echocast/main.rs".to_owned(),
        None => "lib.rs".to_owned(),
    }
}

/// The folder with the child modules of a file.
fn folder_of(file: &str) -> String {
    match file {
        "lib.rs" => String::new(),
        "bin/echocast/main.rs" => "bin/echocast/".to_owned(),
        file => format!("{}/", file.trim_end_matches(".rs")),
    }
}

fn parent_of(file: &str) -> String {
    match file.rsplit_once('/') {
        None | Some(("bin/echocast", _)) => root_of(file),
        Some((folder, _)) => format!("{folder}.rs"),
    }
}

fn top_module(file: &str) -> String {
    let module = file.split('/').next().unwrap();
    module.trim_end_matches(".rs").to_owned()
}

/// From each file to those that it imports. A module and the modules in it may import each other:
/// they are one idea.
fn imports(sources: &Sources) -> Graph {
    let mut graph = Graph::new();
    for (file, code) in &sources.0 {
        let paths = imported_paths(code);
        let imported = paths.filter_map(|path| sources.resolve(file, &path));
        let is_family = |other: &str| {
            other == file
                || other.starts_with(&folder_of(file))
                || file.starts_with(&folder_of(other))
        };
        let others: BTreeSet<String> = imported.filter(|other| !is_family(other)).collect();
        if !others.is_empty() && *file != root_of(file) {
            graph.insert(file.clone(), others);
        }
    }
    graph
}

/// The paths of all `use` declarations, each on its own.
fn imported_paths(code: &str) -> impl Iterator<Item = String> {
    code.split(';').flat_map(|statement| {
        // Before it may be the end of a block, an attribute, or its visibility.
        let declaration = match statement.rsplit_once("use ") {
            Some((before, tree)) if before.trim_end().ends_with(['}', ']', ')']) => Some(tree),
            Some((before, tree)) if before.trim().is_empty() || before.trim() == "pub" => {
                Some(tree)
            }
            _ => None,
        };
        declaration.map_or(Vec::new(), paths_of_tree)
    })
}

/// `a::{b, c::{d, e}}` as `a::b`, `a::c::d` and `a::c::e`.
fn paths_of_tree(tree: &str) -> Vec<String> {
    let Some((prefix, rest)) = tree.split_once('{') else {
        return vec![tree.trim().to_owned()];
    };
    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let mut branches = vec![String::new()];
    let mut depth = 0;
    for c in inner.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                branches.push(String::new());
                continue;
            }
            _ => {}
        }
        branches.last_mut().unwrap().push(c);
    }
    let branches = branches.iter().filter(|branch| !branch.trim().is_empty());
    let paths = branches.flat_map(|branch| paths_of_tree(branch));
    paths
        .map(|path| format!("{}{path}", prefix.trim()))
        .collect()
}

/// The names that reach each other, sorted, one line for each circle.
fn circles(graph: &Graph) -> Vec<String> {
    let reached: BTreeMap<&String, BTreeSet<&String>> = graph
        .keys()
        .map(|name| (name, reached_from(graph, name)))
        .collect();
    let circles = reached.iter().map(|(name, others)| {
        let circle = others
            .iter()
            .filter(|other| reached.get(*other).is_some_and(|back| back.contains(name)));
        circle.map(|name| name.as_str()).collect::<Vec<_>>()
    });
    // Each circle is found from each of its names.
    let circles: BTreeSet<String> = circles
        .filter(|circle| circle.len() > 1)
        .map(|circle| circle.join(" "))
        .collect();
    circles.into_iter().collect()
}

/// All names that a name imports, also through others.
fn reached_from<'a>(graph: &'a Graph, name: &str) -> BTreeSet<&'a String> {
    let mut reached = BTreeSet::new();
    let mut waiting: Vec<&String> = graph.get(name).into_iter().flatten().collect();
    while let Some(next) = waiting.pop() {
        if reached.insert(next) {
            waiting.extend(graph.get(next).into_iter().flatten());
        }
    }
    reached
}
