//! Opens the window and closes it again, many times: the program has to end by itself, and well.
//! Once it crashed at 2 of 46 ends, in a thread that waits for keys.

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use x11rb::connection::Connection;
use x11rb::protocol::xproto::{
    AtomEnum, ClientMessageEvent, ConnectionExt as _, EventMask, KEY_PRESS_EVENT,
    KEY_RELEASE_EVENT, MapState, Window,
};
use x11rb::protocol::xtest::ConnectionExt as _;
use x11rb::rust_connection::RustConnection;
use x11rb::wrapper::ConnectionExt as _;

use crate::driver::{Home, Process};

/// No start and no end takes this long.
const LIMIT: Duration = Duration::from_secs(60);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Key code of the left Shift, which types nothing.
const SHIFT: u8 = 50;

/// A display, as a window manager sees it.
struct Display {
    connection: RustConnection,
    root: Window,
    pid: u32,
    protocols: u32,
    delete: u32,
}

impl Display {
    fn open() -> anyhow::Result<Self> {
        let (connection, screen) = x11rb::connect(None).context("no X display")?;
        let root = connection.setup().roots[screen].root;
        let atom = |name: &str| -> anyhow::Result<u32> {
            Ok(connection
                .intern_atom(false, name.as_bytes())?
                .reply()?
                .atom)
        };
        let (pid, protocols, delete) = (
            atom("_NET_WM_PID")?,
            atom("WM_PROTOCOLS")?,
            atom("WM_DELETE_WINDOW")?,
        );
        Ok(Self {
            connection,
            root,
            pid,
            protocols,
            delete,
        })
    }

    /// The window of a process for which `is_meant` is true, once it is on screen.
    fn window_of(&self, is_meant: impl Fn(u32) -> bool) -> anyhow::Result<Option<Window>> {
        for window in self.connection.query_tree(self.root)?.reply()?.children {
            // Windows come and go meanwhile.
            let Ok(attributes) = self.connection.get_window_attributes(window)?.reply() else {
                continue;
            };
            let owner =
                self.connection
                    .get_property(false, window, self.pid, AtomEnum::CARDINAL, 0, 1)?;
            let Ok(owner) = owner.reply() else {
                continue;
            };
            let owner = owner.value32().and_then(|mut value| value.next());
            if owner.is_some_and(&is_meant) && attributes.map_state == MapState::VIEWABLE {
                return Ok(Some(window));
            }
        }
        Ok(None)
    }

    /// Asks a window to close, as the button of its frame does.
    fn close(&self, window: Window) -> anyhow::Result<()> {
        let message =
            ClientMessageEvent::new(32, window, self.protocols, [self.delete, 0, 0, 0, 0]);
        self.connection
            .send_event(false, window, EventMask::NO_EVENT, message)?;
        self.connection.sync()?;
        Ok(())
    }

    /// Presses a key, of which everybody who listens to the keyboard is told.
    fn press_shift(&self) -> anyhow::Result<()> {
        for event in [KEY_PRESS_EVENT, KEY_RELEASE_EVENT] {
            self.connection
                .xtest_fake_input(event, SHIFT, 0, self.root, 0, 0, 0)?;
        }
        self.connection.sync()?;
        Ok(())
    }
}

/// Closes the one window there is, as a person does, and waits until it is gone.
pub async fn as_a_person() -> anyhow::Result<()> {
    let display = Display::open()?;
    let window = display.window_of(|_| true)?.context("no window")?;
    display.close(window)?;
    while display.window_of(|_| true)?.is_some() {
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// Opens and closes the window `count` times; an error if an end was not clean.
pub async fn clean(home: &Home, count: usize) -> anyhow::Result<()> {
    let display = Display::open()?;
    let mut bad = 0;
    for n in 1..=count {
        // At once, while the page loads, and when it rests.
        let after = Duration::from_millis(n as u64 % 10 * 150);
        let status = one(home, &display, after)
            .await
            .with_context(|| format!("close {n}"))?;
        if !status.success() {
            bad += 1;
            println!("close {n}: {status}");
        }
    }
    println!("{bad} of {count} closes were not clean");
    ensure!(bad == 0, "not every close was clean");
    Ok(())
}

async fn one(home: &Home, display: &Display, after: Duration) -> anyhow::Result<ExitStatus> {
    let mut process: Process = home.launch()?;
    let id = process.0.id();
    let begun = Instant::now();
    let window = loop {
        if let Some(window) = display.window_of(|pid| pid == id)? {
            break window;
        }
        if let Some(status) = process.0.try_wait()? {
            bail!("it ended by itself: {status}");
        }
        ensure!(begun.elapsed() < LIMIT, "no window");
        tokio::time::sleep(PAUSE).await;
    };
    tokio::time::sleep(after).await;
    display.close(window)?;
    let begun = Instant::now();
    loop {
        if let Some(status) = process.0.try_wait()? {
            return Ok(status);
        }
        ensure!(begun.elapsed() < LIMIT, "it does not end");
        display.press_shift()?;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
