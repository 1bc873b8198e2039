//! What the window's page may do is little, and nobody widens it by accident.

use std::path::Path;

use serde_json::Value;

fn json(path: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = std::fs::read_to_string(&path).expect("the file is there");
    serde_json::from_str(&text).expect("it is JSON")
}

/// Directives and their sources.
fn policy() -> Vec<(String, Vec<String>)> {
    let configuration = json("tauri.conf.json");
    let policy = configuration["app"]["security"]["csp"]
        .as_object()
        .expect("a policy");
    let words = |sources: &Value| {
        let sources = sources.as_str().expect("text");
        sources.split_whitespace().map(str::to_owned).collect()
    };
    policy
        .iter()
        .map(|(directive, sources)| (directive.clone(), words(sources)))
        .collect()
}

#[test]
fn the_page_loads_nothing_but_itself() {
    let policy = policy();
    let own = ["'self'", "'none'", "ipc:", "http://ipc.localhost"];
    for (directive, sources) in &policy {
        for source in sources {
            assert!(
                own.contains(&source.as_str()),
                "{directive} allows {source}"
            );
            assert!(!source.contains("unsafe"), "{directive} allows {source}");
        }
        let talks = sources.iter().any(|source| source.contains("ipc"));
        assert!(
            !talks || directive == "connect-src",
            "{directive} allows IPC"
        );
    }
    let of = |name: &str| policy.iter().find(|(directive, _)| directive == name);
    let only_self = Some(vec!["'self'".to_owned()]);
    for name in ["default-src", "script-src", "style-src"] {
        assert_eq!(
            of(name).map(|(_, sources)| sources.clone()),
            only_self,
            "{name}"
        );
    }
    for name in ["object-src", "frame-src", "base-uri", "form-action"] {
        assert_eq!(
            of(name).map(|(_, sources)| sources[0].as_str()),
            Some("'none'"),
            "{name}"
        );
    }
}

#[test]
fn the_configuration_opens_no_back_door() {
    let configuration = json("tauri.conf.json");
    let app = &configuration["app"];
    assert_eq!(app["withGlobalTauri"], false);
    let security = app["security"].as_object().expect("security");
    for name in [
        "dangerousDisableAssetCspModification",
        "assetProtocol",
        "devCsp",
    ] {
        assert!(!security.contains_key(name), "{name} is set");
    }
    assert_eq!(security["capabilities"], serde_json::json!(["main"]));
    assert!(
        configuration.get("plugins").is_none(),
        "plugins are configured for the page"
    );
}

#[test]
fn the_only_capability_holds_only_events() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("capabilities");
    let files = std::fs::read_dir(dir).expect("the folder").count();
    assert_eq!(files, 1, "one capability file");
    let capability = json("capabilities/main.json");
    assert!(capability.get("remote").is_none());
    assert_eq!(capability["windows"], serde_json::json!(["main"]));
    assert_eq!(
        capability["permissions"],
        serde_json::json!(["core:event:allow-listen", "core:event:allow-unlisten"])
    );
}

#[test]
fn no_plugin_lets_the_page_run_programs_or_touch_files() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let manifest = std::fs::read_to_string(manifest).expect("the manifest");
    for plugin in ["shell", "fs", "http", "process", "upload"] {
        assert!(
            !manifest.contains(&format!("tauri-plugin-{plugin}")),
            "{plugin}"
        );
    }
}
