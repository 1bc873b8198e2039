//! Commands as the page calls them, through Tauri's own dispatch, on a window without a screen.

mod support;

use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use support::page::{FakeDesktop, Page};
use tauri::Manager;

#[test]
fn the_page_learns_about_the_app_and_keeps_settings() {
    let page = Page::open(FakeDesktop::default());
    let info = page.get("app_info", json!({}));
    assert_eq!(
        (&info["firstStart"], &info["notices"]),
        (&json!(true), &json!([]))
    );
    assert!(page.get("hardware", json!({}))["ramTotalBytes"].as_u64() > Some(0));

    let mut settings = page.get("load_settings", json!({}));
    assert_eq!(settings, page.get("default_settings", json!({})));
    settings["sampling"]["temperature"] = json!(9.0);
    settings["appearance"]["theme"] = json!("dark");
    let kept = page.get("save_settings", json!({"settings": settings}));
    assert_eq!(
        kept["sampling"]["temperature"],
        json!(2.0),
        "brought into range"
    );
    assert_eq!(page.get("load_settings", json!({})), kept);
}

#[test]
fn the_window_is_zoomed_as_the_settings_say() {
    let desktop = FakeDesktop::default();
    let zooms = Arc::clone(&desktop.zooms);
    let page = Page::open(desktop);
    let mut settings = page.get("load_settings", json!({}));
    for (asked, kept) in [(150, 150), (150, 150), (9000, 300)] {
        settings["appearance"]["zoom"] = json!(asked);
        let saved = page.get("save_settings", json!({"settings": settings}));
        assert_eq!(saved["appearance"]["zoom"], json!(kept));
    }
    assert_eq!(*zooms.lock().expect("no panic"), [150, 300]);
}

#[test]
fn a_chat_goes_from_the_first_message_to_a_file_and_back() {
    let files = tempfile::tempdir().expect("a temporary folder");
    let desktop = FakeDesktop {
        answer: Some(files.path().to_owned()),
        ..FakeDesktop::default()
    };
    let page = Page::open(desktop);
    let mut settings = page.get("load_settings", json!({}));
    settings["sampling"]["maxTokens"] = json!(8);
    settings["offload"]["threads"] = json!(1);
    page.get("save_settings", json!({"settings": settings}));
    let message =
        json!({"chatId": null, "parentId": null, "text": "Hello", "channel": "__CHANNEL__:1"});
    assert_eq!(
        page.refused("send_message", message.clone())["kind"],
        "notLoaded"
    );

    assert_eq!(page.get("model_state", json!({}))["type"], "none");
    let plan = page.get(
        "plan_model",
        json!({"id": "demo", "offload": settings["offload"]}),
    );
    assert_eq!(
        (&plan["device"]["kind"], &plan["fit"]),
        (&json!("cpu"), &json!("fits"))
    );
    let state = page.get("load_model", json!({"id": "demo", "force": false}));
    assert_eq!(state["type"], "ready");
    assert_eq!(state["plan"]["totalExperts"], 32);

    let chat = page.get("send_message", message);
    let stored = page.get("get_chat", json!({"id": chat}));
    assert_eq!(stored["messages"][1]["stats"]["newTokens"], 8);
    let usage = page.get("context_usage", json!({"chatId": chat}));
    assert!(usage["used"].as_u64() > Some(8));
    let listed = page.get("list_chats", json!({"before": null, "limit": 10}));
    assert_eq!(listed["chats"][0]["title"], "Hello");
    let hits = page.get("search_chats", json!({"query": "hel", "limit": 10}));
    assert_eq!(hits[0]["chatId"], chat);

    let export = json!({"chatId": chat, "format": "json"});
    let path = page.get("export_chat", export);
    assert!(Path::new(path.as_str().expect("a path")).is_file());
    page.get("delete_chat", json!({"id": chat}));
    assert_eq!(page.get("import_chats", json!({}))["chats"], 1);
    let listed = page.get("list_chats", json!({"before": null, "limit": 10}));
    assert_eq!(listed["chats"].as_array().map(Vec::len), Some(1));

    let report = page.get("diagnostics", json!({}));
    let report = report.as_str().expect("text");
    assert!(report.contains("experts"), "{report}");
    assert!(
        !report.contains("Hello"),
        "what a chat says stays out: {report}"
    );
}

#[test]
fn only_files_that_were_dropped_are_read() {
    let page = Page::open(FakeDesktop::default());
    let chat = page.get("create_chat", json!({}));
    let files = tempfile::tempdir().expect("a temporary folder");
    let path = files.path().join("chats.json");
    let store = page
        .app
        .state::<octet_app::app::App>()
        .store()
        .expect("open");
    store
        .export(None, octet_store::Format::Json, &path)
        .expect("written");
    let import = json!({ "path": path });
    let refused = page.refused("import_dropped_chats", import.clone());
    assert_eq!(refused, json!({"kind": "fileNotDropped", "path": path}));
    let dropped = page.app.state::<octet_app::drops::DroppedFiles>();
    dropped.take(std::slice::from_ref(&path));
    assert_eq!(page.get("import_dropped_chats", import.clone())["chats"], 1);

    std::fs::write(&path, r#"[{"mapping":{},"create_time":1}]"#).expect("written");
    let refused = page.refused("import_dropped_chats", import);
    assert_eq!(refused, json!({"kind": "importForeign", "what": "chatGpt"}));
    let listed = page.get("list_chats", json!({"before": null, "limit": 10}));
    assert_eq!(listed["chats"].as_array().map(Vec::len), Some(2));
    assert!(chat["id"].is_string());
}

#[test]
fn only_web_and_mail_links_reach_the_desktop() {
    let desktop = FakeDesktop::default();
    let opened = Arc::clone(&desktop.opened);
    let page = Page::open(desktop);
    page.get("open_external", json!({"url": "https://example.org/a"}));
    for bad in ["file:///etc/passwd", "javascript:alert(1)", "octet"] {
        let error = page.refused("open_external", json!({"url": bad}));
        assert_eq!(error["kind"], "linkRefused");
    }
    assert_eq!(*opened.lock().expect("no panic"), ["https://example.org/a"]);
}

#[test]
fn only_folders_from_the_dialog_become_models() {
    let model = octet_tests::model_with_tokenizer("tiny-3bit");
    let page = Page::open(FakeDesktop {
        answer: Some(model.path().to_owned()),
        ..FakeDesktop::default()
    });
    let import = json!({"path": model.path(), "how": "link"});
    for command in ["import_model", "move_models"] {
        let refused = page.refused(command, import.clone());
        assert_eq!(refused["kind"], "folderNotPicked", "{command}");
    }
    assert_eq!(page.get("pick_folder", json!({})), json!(model.path()));
    let id = page.get("import_model", import);
    let models = page.get("list_models", json!({}));
    assert_eq!(
        (
            &models[1]["id"],
            &models[1]["kind"],
            &models[1]["freesBytes"]
        ),
        (&id, &json!("linked"), &json!(0))
    );
    assert!(models[1]["sizeBytes"].as_u64() > Some(0));
    page.get("delete_model", json!({"id": id}));
    assert!(model.path().join("config.json").is_file());
    assert_eq!(
        page.refused("load_model", json!({"id": id, "force": false})),
        json!({"kind": "unknownModel", "id": id})
    );
}

#[test]
fn errors_reach_the_page_as_data() {
    let page = Page::open(FakeDesktop::default());
    let nobody = "01890a5d-ac96-774b-bcce-b302099a8057";
    let error = page.refused("get_chat", json!({"id": nobody}));
    assert_eq!(error, json!({"kind": "notStored", "what": "chat"}));
}
