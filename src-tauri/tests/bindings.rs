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
