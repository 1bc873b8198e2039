//! An app in a temporary folder, with a tiny model, and no desktop.
#![allow(dead_code)] // Not every test uses all of it.

pub mod page;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use octet_app::app::App;
use octet_app::error::Result;
use octet_app::generation::{Ask, GenerationEvent, Sink};
use octet_app::model_list::{DEMO, DemoSource};
use octet_app::models::ModelState;
use octet_app::paths::Paths;
use octet_models::{Environment, Manager, Options};
use octet_store::{Chat, ChatId, Message};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// No step of a test takes this long; one that does has failed.
pub const LIMIT: Duration = Duration::from_secs(60);

/// An app whose demo is a tiny model of random weights.
pub struct Fixture {
    pub app: Arc<App>,
    pub changes: UnboundedReceiver<Option<ChatId>>,
    pub dir: Arc<tempfile::TempDir>,
    pub model: Arc<tempfile::TempDir>,
}

pub fn paths(dir: &Path) -> Paths {
    Paths {
        config_dir: dir.join("config"),
        data_dir: dir.join("data"),
        log_dir: dir.join("logs"),
    }
}

/// A library that knows nothing of the user's own folders, tokens and settings.
pub fn library(dir: &Path, vars: &[(&str, String)]) -> octet_models::Result<Manager> {
    let hub_home = dir.join("hf").display().to_string();
    let environment = Environment::of(|name| {
        let set = vars.iter().find(|(known, _)| *known == name);
        let value = set.map(|(_, value)| value.clone());
        value.or_else(|| (name == "HF_HOME").then(|| hub_home.clone()))
    });
    let paths = paths(dir);
    Manager::open(Options {
        use_keyring: false,
        ..Options::new(paths.config_dir, paths.data_dir, environment)
    })
}

impl Fixture {
    pub fn new() -> Self {
        let model = Arc::new(endless_model());
        let path = model.path().to_owned();
        Self::with_demo(model, Box::new(move || Ok(path.clone())))
    }

    pub fn with_demo(model: Arc<tempfile::TempDir>, demo: Box<DemoSource>) -> Self {
        let dir = Arc::new(tempfile::tempdir().expect("a temporary folder"));
        Self::open(dir, model, demo)
    }

    fn open(
        dir: Arc<tempfile::TempDir>,
        model: Arc<tempfile::TempDir>,
        demo: Box<DemoSource>,
    ) -> Self {
        let library = library(dir.path(), &[]);
        let (app, changes) = App::open(paths(dir.path()), library, demo);
        let fixture = Self {
            app: Arc::new(app),
            changes,
            dir,
            model,
        };
        fixture.greedy(Some(24));
        fixture
    }

    /// The app as it is after a restart.
    pub fn restarted(self) -> Self {
        let (dir, model) = (Arc::clone(&self.dir), Arc::clone(&self.model));
        drop(self);
        let path = model.path().to_owned();
        Self::open(dir, model, Box::new(move || Ok(path.clone())))
    }

    /// The likeliest token always, with which the tiny model's answers do not end.
    pub fn greedy(&self, max_tokens: Option<u32>) {
        let change = |settings: &mut octet_store::settings::Settings| {
            settings.sampling.temperature = 0.0;
            settings.sampling.max_tokens = max_tokens;
            settings.offload.threads = Some(1);
        };
        self.app
            .settings
            .change(change)
            .expect("settings can be written");
    }

    pub async fn load(&self) -> ModelState {
        within(self.app.load_model(DEMO, false))
            .await
            .expect("there is a demo")
    }

    /// Sends a message; all events, and the chat.
    pub async fn send(&self, chat: Option<ChatId>, text: &str) -> (ChatId, Vec<GenerationEvent>) {
        let parent = match chat {
            Some(chat) => self.chat(chat).active_leaf,
            None => None,
        };
        let text = text.to_owned();
        self.ask(chat, Ask::Send { parent, text })
            .await
            .expect("accepted")
    }

    pub async fn ask(
        &self,
        chat: Option<ChatId>,
        ask: Ask,
    ) -> Result<(ChatId, Vec<GenerationEvent>)> {
        let (sink, events) = recorder();
        let chat = within(self.app.generations.run(chat, ask, sink)).await?;
        let events = std::mem::take(&mut *events.lock().expect("no test panicked"));
        Ok((chat, events))
    }

    /// Asks, without waiting; events come as they are sent.
    pub fn begin(
        &self,
        chat: Option<ChatId>,
        text: &str,
    ) -> (
        tokio::task::JoinHandle<Result<ChatId>>,
        UnboundedReceiver<GenerationEvent>,
    ) {
        self.begin_at(chat, text, |_| ())
    }

    /// The same; `after` is called when an event has been sent.
    pub fn begin_at(
        &self,
        chat: Option<ChatId>,
        text: &str,
        after: impl Fn(&GenerationEvent) + Send + Sync + 'static,
    ) -> (
        tokio::task::JoinHandle<Result<ChatId>>,
        UnboundedReceiver<GenerationEvent>,
    ) {
        let (sender, events) = unbounded_channel();
        let sink: Sink = Arc::new(move |event| {
            let _ = sender.send(event.clone());
            after(&event);
        });
        let parent = chat.and_then(|chat| self.chat(chat).active_leaf);
        let ask = Ask::Send {
            parent,
            text: text.to_owned(),
        };
        let generations = Arc::clone(&self.app.generations);
        let task = tokio::spawn(async move { generations.run(chat, ask, sink).await });
        (task, events)
    }

    pub fn chat(&self, id: ChatId) -> Chat {
        self.app.store().expect("a store").chat(id).expect("a chat")
    }

    pub fn database(&self) -> PathBuf {
        self.app.paths.chats()
    }
}

/// A tiny model whose greedy answers do not end, with a context so long that no test sees its end.
pub fn endless_model() -> tempfile::TempDir {
    let model = octet_tests::model_with_tokenizer("tiny-2bit");
    octet_tests::make_endless(model.path());
    let file = model.path().join("config.json");
    let text = std::fs::read_to_string(&file).expect("a configuration");
    let mut config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    config["max_position_embeddings"] = 32768.into();
    std::fs::write(&file, config.to_string()).expect("written");
    model
}

pub async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work)
        .await
        .expect("a step took too long")
}

pub fn recorder() -> (Sink, Arc<Mutex<Vec<GenerationEvent>>>) {
    let events = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&events);
    let sink: Sink = Arc::new(move |event| record.lock().expect("no test panicked").push(event));
    (sink, events)
}

/// The next event that `wanted` takes.
pub async fn next<T>(
    events: &mut UnboundedReceiver<GenerationEvent>,
    mut wanted: impl FnMut(GenerationEvent) -> Option<T>,
) -> T {
    within(async {
        loop {
            let event = events.recv().await.expect("the event comes before the end");
            if let Some(found) = wanted(event) {
                return found;
            }
        }
    })
    .await
}

/// The final message of a generation that went well.
pub fn done(events: &[GenerationEvent]) -> &Message {
    match events.last() {
        Some(GenerationEvent::Done { message, .. }) => message,
        other => panic!("not done: {other:?}"),
    }
}

/// All text that was streamed.
pub fn streamed(events: &[GenerationEvent]) -> String {
    let text = |event: &GenerationEvent| match event {
        GenerationEvent::Text { delta, .. } => Some(delta.clone()),
        _ => None,
    };
    events.iter().filter_map(text).collect()
}
