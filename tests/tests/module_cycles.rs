//! Modules of different concept do not import each other in a circle.
//!
//! Of every crate, the modules below its root and the `crate::` paths between them make a graph;
//! a circle in it fails, and is printed with the files that close it. Tests may import anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Circles that there are, by crate: no others, and none that takes in more modules.
const KNOWN: &[(&str, &[&str])] = &[
    // Block types and the inner loops over them, which are tables of each other.
    ("kernels", &["blocks", "cpu", "outliers", "scratch"]),
    // To be parted into crates.
    (
        "src-tauri/crates/engine",
        &["checkpoint", "hardware", "plan", "spec"],
    ),
    (
        "src-tauri/crates/engine",
        &["prompt", "stream_text", "tokenizer"],
    ),
    // One `Store`, with a file for what it does to each table.
    (
        "src-tauri/crates/store",
        &[
            "answer_stats",
            "atomic_file",
            "backup",
            "chats",
            "database",
            "drafts",
            "error",
            "export",
            "import",
            "markdown",
            "messages",
            "migrate",
            "search",
            "settings",
            "store",
        ],
    ),
    ("src-tauri/crates/models", &["cache", "record"]),
    ("src-tauri/crates/models", &["disk", "error"]),
    ("src-tauri/crates/models", &["download", "tokenizer_source"]),
    (
        "src-tauri/crates/models",
        &["environment", "hub", "token", "transfer"],
    ),
    ("src-tauri", &["app", "chat_file", "generation"]),
    ("src-tauri", &["bindings", "commands", "desktop", "window"]),
];

/// By module and module that it imports: the files that do.
type Imports = BTreeMap<String, BTreeMap<String, BTreeSet<PathBuf>>>;

/// The Rust files below `dir`.
fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            found.push(path);
        }
    }
}

/// The folders of all crates with sources, by their path in the repository.
fn crates(root: &Path) -> Vec<String> {
    let mut found = vec!["kernels".to_owned(), "src-tauri".to_owned()];
    for folder in ["src-tauri/crates", "tests"] {
        for entry in fs::read_dir(root.join(folder)).expect("a folder") {
            let name = entry.expect("an entry").file_name();
            found.push(format!("{folder}/{}", name.to_string_lossy()));
        }
    }
    found.retain(|it| root.join(it).join("Cargo.toml").is_file());
    found.sort();
    found
}

/// `text` without comments on lines of their own and without the tests at its end.
fn code(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().map(str::trim).collect();
    let tests = lines
        .windows(2)
        .position(|two| two[0] == "#[cfg(test)]" && two[1].starts_with("mod "));
    lines.truncate(tests.unwrap_or(lines.len()));
    lines.retain(|line| !line.starts_with("//"));
    lines.join("\n")
}

fn is_of_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The first name of `text`.
fn name(text: &str) -> &str {
    let text = text.trim_start();
    &text[..text.find(|c| !is_of_name(c)).unwrap_or(text.len())]
}

/// What stands between the brace that `text` begins with and its partner, cut at its commas.
fn items(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut items) = (0, 1, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if (c == ',' && depth == 1) || depth == 0 {
            items.push(&text[start..at]);
            start = at + 1;
        }
        if depth == 0 {
            break;
        }
    }
    items
}

/// The names that follow `crate::` in `code`.
fn paths(code: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (at, word) in code.match_indices("crate::") {
        if code[..at].chars().next_back().is_some_and(is_of_name) {
            continue;
        }
        let rest = &code[at + word.len()..];
        match rest.starts_with('{') {
            true => found.extend(items(rest).into_iter().map(name)),
            false => found.push(name(rest)),
        }
    }
    found
}

/// What the root of a crate takes from its modules, by name.
fn reexports(root: &str, modules: &BTreeSet<String>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for (at, word) in root.match_indices("use ") {
        let path = root[at + word.len()..].trim_start_matches("crate::");
        let module = name(path);
        let Some(rest) = path[module.len()..].strip_prefix("::") else {
            continue;
        };
        if !modules.contains(module) {
            continue;
        }
        let names = match rest.starts_with('{') {
            true => items(rest),
            false => vec![rest.split(';').next().unwrap_or(rest)],
        };
        let last = |path: &str| path.rsplit("::").next().map(|it| name(it).to_owned());
        for name in names.into_iter().filter_map(last) {
            found.insert(name, module.to_owned());
        }
    }
    found
}

/// The imports between the modules of the crate whose sources are in `src`.
fn imports(src: &Path) -> Imports {
    let mut files = Vec::new();
    sources(src, &mut files);
    let top = |file: &Path| -> String {
        let inside = file.strip_prefix(src).expect("BUG: found in it");
        let first = Path::new(inside.iter().next().expect("a name"));
        first.with_extension("").to_string_lossy().into_owned()
    };
    let is_root = |module: &str| matches!(module, "lib" | "main");
    let modules: BTreeSet<String> = files.iter().map(|file| top(file)).collect();
    let read = |file: &Path| code(&fs::read_to_string(file).expect("a source"));
    let roots = files.iter().filter(|file| is_root(&top(file)));
    let reexported: BTreeMap<String, String> = roots
        .flat_map(|file| reexports(&read(file), &modules))
        .collect();
    let mut found = Imports::new();
    for file in &files {
        let module = top(file);
        let is_test = file
            .iter()
            .any(|part| part == "tests" || part == "tests.rs");
        if is_root(&module) || is_test {
            continue;
        }
        for name in paths(&read(file)) {
            let target = modules.get(name).or_else(|| reexported.get(name));
            if let Some(target) = target.filter(|target| **target != module) {
                let of_module = found.entry(module.clone()).or_default();
                let files = of_module.entry(target.clone()).or_default();
                files.insert(file.strip_prefix(src).expect("BUG: found in it").to_owned());
            }
        }
    }
    found
}

/// The modules that `from` reaches.
fn reached<'a>(imports: &'a Imports, from: &'a str) -> BTreeSet<&'a str> {
    let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(module) = next.pop() {
        for target in imports.get(module).into_iter().flat_map(BTreeMap::keys) {
            if seen.insert(target.as_str()) {
                next.push(target);
            }
        }
    }
    seen
}

/// The largest sets of modules that all reach each other.
fn circles(imports: &Imports) -> BTreeSet<BTreeSet<&str>> {
    let reach: BTreeMap<&str, BTreeSet<&str>> = imports
        .keys()
        .map(|module| (module.as_str(), reached(imports, module)))
        .collect();
    let in_circle = reach.iter().filter(|(module, seen)| seen.contains(*module));
    in_circle
        .map(|(module, seen)| {
            let back = |other: &&&str| reach.get(**other).is_some_and(|it| it.contains(module));
            seen.iter().filter(back).copied().collect()
        })
        .collect()
}

#[test]
fn modules_import_each_other_in_no_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    if !root.join("kernels/src").is_dir() {
        println!("left out: the sources are not on this machine");
        return;
    }
    let mut bad = String::new();
    for krate in crates(&root) {
        let src = root.join(&krate).join("src");
        if !src.is_dir() {
            continue;
        }
        let imports = imports(&src);
        for circle in circles(&imports) {
            let is_known = |(of, known): &(&str, &[&str])| {
                *of == krate && circle.iter().all(|module| known.contains(module))
            };
            if KNOWN.iter().any(is_known) {
                continue;
            }
            bad += &format!("{krate}: {circle:?}\n");
            for (module, targets) in imports
                .iter()
                .filter(|(it, _)| circle.contains(it.as_str()))
            {
                let inside = targets
                    .iter()
                    .filter(|(it, _)| circle.contains(it.as_str()));
                for (target, files) in inside {
                    bad += &format!("    {module} imports {target} in {files:?}\n");
                }
            }
        }
    }
    assert!(
        bad.is_empty(),
        "modules import each other in a circle:\n{bad}"
    );
}

#[test]
fn a_circle_is_found_and_its_files_are_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("written");
    };
    write(
        "lib.rs",
        "mod a;\nmod b;\nmod c;\npub use c::{Error, Other};\n",
    );
    write("a/mod.rs", "use crate::{b::{self, Thing}, d};\n");
    write(
        "b.rs",
        "// crate::a is fine here\nfn f() -> crate::Error {}\n",
    );
    write(
        "c.rs",
        "use crate::b::Thing;\n\n#[cfg(test)]\nmod tests {\n    use crate::a::X;\n}\n",
    );
    let imports = imports(dir.path());
    let found: Vec<Vec<&str>> = circles(&imports)
        .into_iter()
        .map(|circle| circle.into_iter().collect())
        .collect();
    assert_eq!(found, [["b", "c"]]);
    let files: Vec<&PathBuf> = imports["b"]["c"].iter().collect();
    assert_eq!(files, [Path::new("b.rs")]);
    assert!(imports["a"].contains_key("b"));
}
