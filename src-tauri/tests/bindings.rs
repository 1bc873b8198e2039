//! The page's types are those of the commands.

use std::path::Path;

use specta_typescript::Typescript;

const FILE: &str = "../ui/src/lib/backend/bindings.ts";

const HEADER: &str = "// Generated from Rust, not to be edited. To write it anew:
//     OCTET_WRITE_BINDINGS=1 cargo test -p octet-app --test bindings
";

fn generate(file: &Path) {
    octet_app::bindings::builder::<tauri::Wry>()
        .export(Typescript::default().header(HEADER), file)
        .expect("every type has a counterpart");
}

/// The names of the kinds of a tagged union.
fn kinds<'a>(bindings: &'a str, union: &str) -> Vec<&'a str> {
    let start = bindings
        .find(&format!("export type {union} ="))
        .unwrap_or_else(|| panic!("there is no {union}"));
    let declaration = &bindings[start..];
    let end = declaration.find("\n\n").unwrap_or(declaration.len());
    let tags = declaration[..end].split("{ kind: \"").skip(1);
    tags.filter_map(|tag| tag.split('"').next()).collect()
}

#[test]
fn every_kind_of_failure_has_a_name_of_its_own() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("bindings.ts");
    generate(&file);
    let bindings = std::fs::read_to_string(file).expect("the page's types");
    let mut all: Vec<&str> = [
        "EngineProblem",
        "PlanError",
        "StoreProblem",
        "ModelsError",
        "AppProblem",
    ]
    .into_iter()
    .flat_map(|union| kinds(&bindings, union))
    .collect();
    assert!(all.len() > 50, "{all:?}");
    all.sort_unstable();
    let twice: Vec<_> = all.windows(2).filter(|two| two[0] == two[1]).collect();
    // To be stopped is the same everywhere, and has no fields.
    assert_eq!(twice, [["cancelled", "cancelled"]]);
}

#[test]
fn the_page_has_the_types_of_the_commands() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    if std::env::var_os("OCTET_WRITE_BINDINGS").is_some() {
        generate(&file);
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let new = dir.path().join("bindings.ts");
    generate(&new);
    let read = |file: &Path| std::fs::read_to_string(file).unwrap_or_default();
    let (kept, new) = (read(&file), read(&new));
    let difference = kept
        .lines()
        .zip(new.lines())
        .find(|(kept, new)| kept != new);
    assert!(
        kept == new,
        "{FILE} is out of date, first at {difference:?}; write it anew with\n    \
         OCTET_WRITE_BINDINGS=1 cargo test -p octet-app --test bindings"
    );
}
