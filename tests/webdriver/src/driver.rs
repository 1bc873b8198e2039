//! A session with the app: processes, limits, pictures.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use fantoccini::error::CmdError;
use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::json;

use crate::Task;

/// No step takes this long.
const STEP_LIMIT: Duration = Duration::from_secs(60);

/// A folder that stands in for the user's home, removed at the end.
pub struct Home {
    dir: tempfile::TempDir,
    app: PathBuf,
    hub: String,
    screenshots: Option<PathBuf>,
    /// Figures are taken, and no pictures.
    is_measured: bool,
}

impl Home {
    /// `hub` is where models are downloaded from.
    pub fn new(app: &Path, hub: String, task: &Task) -> anyhow::Result<Self> {
        let screenshots = match task {
            Task::Smoke { screenshots } => screenshots.clone(),
            Task::Measure { .. } | Task::Closes { .. } => None,
        };
        if let Some(dir) = &screenshots {
            std::fs::create_dir_all(dir)?;
        }
        Ok(Self {
            dir: tempfile::tempdir()?,
            app: app.to_owned(),
            hub,
            screenshots,
            is_measured: matches!(task, Task::Measure { .. }),
        })
    }

    /// What isolates a process from the real home.
    pub fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        let dir = self.dir.path();
        let mut environment = vec![
            ("HOME", dir.to_owned()),
            ("XDG_CONFIG_HOME", dir.join(".config")),
            ("XDG_DATA_HOME", dir.join(".local/share")),
            ("XDG_CACHE_HOME", dir.join(".cache")),
            ("HF_HOME", dir.join(".cache/huggingface")),
            ("HF_ENDPOINT", PathBuf::from(&self.hub)),
            ("NO_PROXY", "127.0.0.1".into()),
            ("OCTET_TEST", "1".into()),
        ];
        if self.is_measured {
            environment.push(("OCTET_LOG", "info,octet_engine::generate=trace".into()));
            // What the app sets for itself where it is not driven.
            if !Path::new("/dev/dri").exists() {
                environment.push(("WEBKIT_DISABLE_COMPOSITING_MODE", "1".into()));
            }
        }
        environment
    }

    /// Starts the app by itself, as a person does.
    pub fn launch(&self) -> anyhow::Result<Process> {
        let mut command = Command::new(&self.app);
        command.envs(self.environment());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Process(command.spawn()?))
    }

    /// The newest log of the app.
    pub fn log(&self) -> String {
        let logs = self.dir.path().join(".local/share/octet/logs");
        let entries = std::fs::read_dir(logs).into_iter().flatten().flatten();
        let newest = entries.map(|entry| entry.path()).max();
        newest
            .and_then(|path| std::fs::read_to_string(path).ok())
            .unwrap_or_default()
    }
}

/// The app under WebDriver.
pub struct App<'a> {
    pub client: Client,
    pub home: &'a Home,
    driver: Process,
}

/// A process, ended when it is dropped.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(None)) {
            return;
        }
        // SIGTERM has it end its own children, too; SIGKILL would leave them behind.
        let id = self.0.id() as libc::pid_t;
        // SAFETY: plain system call on a process that was started here and not waited for yet.
        unsafe { libc::kill(id, libc::SIGTERM) };
        let _ = self.0.wait();
    }
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl<'a> App<'a> {
    pub async fn start(home: &'a Home) -> anyhow::Result<Self> {
        let (port, native) = (free_port()?, free_port()?);
        let mut command = Command::new("tauri-driver");
        command
            .args([
                "--port",
                &port.to_string(),
                "--native-port",
                &native.to_string(),
            ])
            .env_remove("HF_TOKEN")
            .env_remove("HF_HUB_CACHE")
            .env_remove("HF_HUB_OFFLINE")
            // Set, this would make screenshots hang.
            .env_remove("WEBKIT_DISABLE_DMABUF_RENDERER")
            .env_remove("WEBKIT_DISABLE_COMPOSITING_MODE")
            .envs(home.environment())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let driver = Process(command.spawn().context("tauri-driver is not on the path")?);
        let begun = Instant::now();
        // tauri-driver listens before the driver behind it does.
        for port in [native, port] {
            while TcpStream::connect(("127.0.0.1", port)).is_err() {
                if begun.elapsed() > STEP_LIMIT {
                    bail!("tauri-driver does not listen");
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        let capabilities = json!({
            "browserName": "wry",
            "tauri:options": {"application": home.app},
        });
        let serde_json::Value::Object(capabilities) = capabilities else {
            bail!("capabilities are an object");
        };
        let address = format!("http://127.0.0.1:{port}");
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder.capabilities(capabilities);
        let connected = tokio::time::timeout(STEP_LIMIT, builder.connect(&address)).await;
        let client = connected
            .context("no session in time")?
            .context("no session")?;
        println!("session after {} ms", begun.elapsed().as_millis());
        Ok(Self {
            client,
            home,
            driver,
        })
    }

    /// One step, within its limit.
    pub async fn step<T>(
        &self,
        what: &str,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let begun = Instant::now();
        let done = tokio::time::timeout(STEP_LIMIT, work).await;
        let failed = match done {
            Ok(Ok(value)) => {
                println!("ok   {what} ({} ms)", begun.elapsed().as_millis());
                return Ok(value);
            }
            Ok(Err(error)) => error,
            Err(_) => anyhow::anyhow!("it took longer than {} s", STEP_LIMIT.as_secs()),
        };
        println!("FAIL {what}\n{}", self.home.log());
        // Its text leaves out what kind of error it is.
        if let Some(error) = failed.downcast_ref::<CmdError>() {
            println!("{error:?}");
        }
        let _ = self.screenshot("failed").await;
        Err(failed.context(what.to_owned()))
    }

    /// A picture of the window, if pictures are wanted.
    pub async fn screenshot(&self, name: &str) -> anyhow::Result<()> {
        let Some(dir) = &self.home.screenshots else {
            return Ok(());
        };
        // What was found may not be painted yet.
        tokio::time::sleep(Duration::from_millis(400)).await;
        let picture = tokio::time::timeout(STEP_LIMIT, self.client.screenshot()).await;
        std::fs::write(
            dir.join(format!("{name}.png")),
            picture.context("no picture in time")??,
        )?;
        Ok(())
    }

    /// Ends the app where the session is lost.
    pub async fn abandon(self) -> anyhow::Result<()> {
        let Self { home, driver, .. } = self;
        drop(driver);
        ended(&home.app).await
    }

    /// Ends the session and the app.
    pub async fn close(self) -> anyhow::Result<()> {
        let Self {
            client,
            driver,
            home,
        } = self;
        let closed = tokio::time::timeout(STEP_LIMIT, client.close()).await;
        closed.context("the app does not close")??;
        // WebKit's driver kills the app after it has answered: ended too early, it leaves it behind.
        let gone = ended(&home.app).await;
        drop(driver);
        gone
    }
}

/// Waits until no process runs `app` any more: a second one would not start beside it.
async fn ended(app: &Path) -> anyhow::Result<()> {
    let begun = Instant::now();
    let is_running = || {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let programs = entries.map(|entry| entry.path().join("exe").read_link());
        programs.flatten().any(|program| program == app)
    };
    while is_running() {
        if begun.elapsed() > STEP_LIMIT {
            bail!("the app does not end");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
