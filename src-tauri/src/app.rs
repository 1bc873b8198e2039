//! The app without its window: everything that commands work on.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use octet_models::Manager;
use octet_store::settings::SettingsNotice;
use octet_store::{Backup, ChatId, Store};
use serde::Serialize;
use specta::Type;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::chat_file::ChatFile;
use crate::error::{ApiError, AppProblem, Result};
use crate::experts::ExpertsFeed;
use crate::generation::Generations;
use crate::model_list::{DemoSource, ModelList};
use crate::models::{ModelState, Models};
use crate::page::Page;
use crate::paths::Paths;
use crate::settings::CurrentSettings;
use crate::task::blocking;

/// The app's state. One for the whole program.
pub struct App {
    /// Where things are.
    pub paths: Paths,
    /// Settings.
    pub settings: Arc<CurrentSettings>,
    /// The model.
    pub models: Arc<Models>,
    /// Answers being made.
    pub generations: Arc<Generations>,
    /// The Experts view.
    pub experts: ExpertsFeed,
    /// The page in the window.
    pub page: Page,
    /// When the program started.
    pub started: Instant,
    chats: Arc<ChatFile>,
    notices: Vec<Notice>,
    first_start: bool,
    changes: UnboundedSender<Option<ChatId>>,
}

/// What the page shows about the app.
#[derive(Clone, Debug, PartialEq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub struct AppInfo {
    /// Of the app.
    pub version: String,
    /// `linux`, `macos` or `windows`.
    pub os: String,
    /// `x86_64` or `aarch64`.
    pub arch: String,
    /// Where chats are.
    pub data_dir: String,
    /// Where settings are.
    pub config_dir: String,
    /// Where logs are.
    pub log_dir: String,
    /// Where models go.
    pub models_dir: String,
    /// What happened at the start that a person should know.
    pub notices: Vec<Notice>,
    /// Whether there were no settings yet.
    pub first_start: bool,
}

/// Something that happened at the start.
#[derive(Clone, Debug, PartialEq, Serialize, Type)]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum Notice {
    /// Some settings made no sense and have their defaults.
    SettingsReset {
        /// Which, as named in the file.
        fields: Vec<String>,
    },
    /// The settings could not be read and have their defaults.
    SettingsUnreadable {
        /// Where the unreadable file is now.
        path: String,
        /// What the system or the parser says.
        detail: String,
    },
    /// The same, and saving will replace the unreadable file.
    SettingsNotKept {
        /// The unreadable file.
        path: String,
        /// What the system says about renaming it.
        detail: String,
    },
    /// The chats cannot be opened.
    StoreUnavailable {
        /// Their file.
        path: String,
        /// Why.
        error: ApiError,
    },
    /// The chats were damaged; what could be read is there.
    StoreRestored {
        /// Where the damaged file is now.
        path: String,
        /// Chats that could be read.
        chats: u32,
        /// Their messages.
        messages: u32,
    },
    /// Answers were cut off when the program last ended.
    InterruptedAnswers {
        /// How many.
        #[specta(type = u32)]
        count: usize,
    },
}

impl From<SettingsNotice> for Notice {
    fn from(notice: SettingsNotice) -> Self {
        match notice {
            SettingsNotice::Reset { fields } => Self::SettingsReset { fields },
            SettingsNotice::Unreadable { kept, detail } => Self::SettingsUnreadable {
                path: kept.display().to_string(),
                detail,
            },
            SettingsNotice::NotKept { path, detail } => Self::SettingsNotKept {
                path: path.display().to_string(),
                detail,
            },
        }
    }
}

impl App {
    /// Opens everything below `paths`. What cannot be opened is said in the notices, and by the
    /// commands that need it; the window opens in any case. Also gives the changes of chats.
    pub fn open(
        paths: Paths,
        library: octet_models::Result<Manager>,
        demo: Box<DemoSource>,
    ) -> (Self, UnboundedReceiver<Option<ChatId>>) {
        let started = Instant::now();
        if let Err(error) = paths.create() {
            tracing::error!(%error, "folders are missing");
        }
        let (settings, loaded) = CurrentSettings::open(&paths.settings());
        let mut notices: Vec<Notice> = loaded.notice.into_iter().map(Notice::from).collect();
        let chats = Arc::new(ChatFile::open(paths.chats(), &mut notices));
        let settings = Arc::new(settings);
        let models = Arc::new(Models::new(ModelList::new(library, demo)));
        let (changes, changed) = unbounded_channel();
        let (sampling, tell) = (Arc::clone(&settings), changes.clone());
        let generations = Generations::new(
            Arc::clone(&chats),
            Arc::clone(&models),
            Box::new(move || sampling.get().sampling),
            Box::new(move |chat| {
                // Nobody listens once the window is gone.
                let _ = tell.send(chat);
            }),
        );
        let experts = ExpertsFeed::new(Arc::clone(&models), generations.activity());
        let app = Self {
            paths,
            settings,
            models,
            generations: Arc::new(generations),
            experts,
            page: Page::default(),
            started,
            chats,
            notices,
            first_start: loaded.is_new,
            changes,
        };
        (app, changed)
    }

    /// What the page shows about the app.
    pub fn info(&self) -> AppInfo {
        let text = |path: PathBuf| path.display().to_string();
        AppInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            os: std::env::consts::OS.to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            data_dir: text(self.paths.data_dir.clone()),
            config_dir: text(self.paths.config_dir.clone()),
            log_dir: text(self.paths.log_dir.clone()),
            models_dir: text(self.models_dir()),
            notices: self.notices.clone(),
            first_start: self.first_start,
        }
    }

    /// Where models go.
    pub fn models_dir(&self) -> PathBuf {
        let library = self.models.list.library();
        library.map_or_else(|_| self.paths.data_dir.clone(), Manager::folder)
    }

    /// The chats.
    ///
    /// # Errors
    /// Why they could not be opened.
    pub fn store(&self) -> Result<Arc<Store>> {
        self.chats.store()
    }

    /// The backups of the chats, the newest first.
    ///
    /// # Errors
    /// None in practice.
    pub async fn backups(&self) -> Result<Vec<Backup>> {
        let chats = Arc::clone(&self.chats);
        blocking(move || Ok(chats.backups())).await
    }

    /// Opens the chats if they could not be opened before; what there is to know about it.
    ///
    /// # Errors
    /// Why they cannot be opened still.
    pub async fn retry_chats(&self) -> Result<Vec<Notice>> {
        let chats = Arc::clone(&self.chats);
        let notices = blocking(move || chats.retry()).await?;
        self.chats_changed(None);
        Ok(notices)
    }

    /// Has `backup` take the place of the chats; where they are kept.
    ///
    /// # Errors
    /// [`AppProblem::AnswerBusy`] while an answer is made, and as [`ChatFile::restore`].
    pub async fn restore_backup(&self, backup: PathBuf) -> Result<PathBuf> {
        if self.generations.is_busy() {
            return Err(AppProblem::AnswerBusy.into());
        }
        let chats = Arc::clone(&self.chats);
        let aside = blocking(move || chats.restore(&backup)).await?;
        self.chats_changed(None);
        Ok(aside)
    }

    /// Runs `work` on the chats where it may block.
    ///
    /// # Errors
    /// What `work` gives, or that the chats could not be opened.
    pub async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> octet_store::Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = self.store()?;
        blocking(move || Ok(work(&store)?)).await
    }

    /// The same, and says that `chat` changed.
    ///
    /// # Errors
    /// As [`App::with_store`].
    pub async fn change_chat<T: Send + 'static>(
        &self,
        chat: ChatId,
        work: impl FnOnce(&Store) -> octet_store::Result<T> + Send + 'static,
    ) -> Result<T> {
        let done = self.with_store(work).await?;
        self.chats_changed(Some(chat));
        Ok(done)
    }

    /// Says that `chat`, or any, changed.
    pub fn chats_changed(&self, chat: Option<ChatId>) {
        // Nobody listens once the window is gone.
        let _ = self.changes.send(chat);
    }

    /// Loads a model with the settings of the moment, and remembers it for the next start.
    ///
    /// # Errors
    /// Where there is no such model.
    pub async fn load_model(&self, id: &str, force: bool) -> Result<ModelState> {
        let offload = self.settings.get().offload;
        let state = self.models.load(id, offload, force).await?;
        if let ModelState::Ready { model, .. } = &state {
            let (settings, last) = (Arc::clone(&self.settings), model.id.clone());
            let kept = blocking(move || settings.change(|s| s.last_model = Some(last))).await;
            if let Err(error) = kept {
                tracing::warn!(%error, "the model is not remembered for the next start");
            }
        }
        Ok(state)
    }

    /// Loads the model that was loaded last, if the settings say so.
    pub async fn load_last_model(&self) {
        let settings = self.settings.get();
        let Some(last) = settings
            .last_model
            .filter(|_| settings.load_last_model_on_start)
        else {
            return;
        };
        if let Err(error) = self.load_model(&last, false).await {
            tracing::warn!(%error, "the last model is gone");
        }
    }
}
