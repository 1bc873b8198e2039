//! What a person sees and does on the page.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use fantoccini::Locator;
use fantoccini::elements::Element;
use fantoccini::error::{CmdError, ErrorStatus};
use fantoccini::key::Key;
use serde_json::{Value, json};

use crate::driver::App;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// A page comes to rest within this time.
const MOVING: Duration = Duration::from_secs(5);

/// More than any step takes: steps have limits of their own.
const PATIENCE: Duration = Duration::from_secs(3600);

/// The path to a button.
fn button(label: &str) -> String {
    format!("//button[normalize-space()={label:?}]")
}

/// The path to a button of the last card in a list of the models.
fn in_list(list: &str, label: &str) -> String {
    format!("//ul[@aria-label={list:?}]/li[last()]{}", button(label))
}

/// What was to be clicked is covered or another by now.
fn has_moved(error: &CmdError) -> bool {
    let CmdError::Standard(answer) = error else {
        return false;
    };
    matches!(
        answer.error,
        ErrorStatus::ElementClickIntercepted
            | ErrorStatus::ElementNotInteractable
            | ErrorStatus::StaleElementReference
    )
}

impl App<'_> {
    /// Waits for an element.
    pub async fn find(&self, css: &str) -> anyhow::Result<Element> {
        let wait = self.client.wait().at_most(PATIENCE);
        Ok(wait.for_element(Locator::Css(css)).await?)
    }

    async fn at(&self, path: &str) -> anyhow::Result<Element> {
        let wait = self.client.wait().at_most(PATIENCE);
        Ok(wait.for_element(Locator::XPath(path)).await?)
    }

    /// Waits for a button.
    pub async fn button(&self, label: &str) -> anyhow::Result<Element> {
        self.at(&button(label)).await
    }

    pub async fn click(&self, label: &str) -> anyhow::Result<()> {
        self.click_at(&button(label)).await
    }

    /// Waits for a button of the last card in a list of the models.
    pub async fn find_in(&self, list: &str, label: &str) -> anyhow::Result<Element> {
        self.at(&in_list(list, label)).await
    }

    pub async fn click_in(&self, list: &str, label: &str) -> anyhow::Result<()> {
        self.click_at(&in_list(list, label)).await
    }

    pub async fn click_in_dialog(&self, label: &str) -> anyhow::Result<()> {
        let path = format!("//*[@role='alertdialog']{}", button(label));
        self.click_at(&path).await
    }

    /// Waits for what `path` leads to and clicks it, again where the page moved meanwhile.
    pub async fn click_at(&self, path: &str) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let element = self.at(path).await?;
            let Err(error) = self.click_on(element).await else {
                return Ok(());
            };
            if !has_moved(&error) || begun.elapsed() > MOVING {
                return Err(error).with_context(|| path.to_owned());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The web view does not scroll to what is covered in part, and refuses to click its middle.
    async fn click_on(&self, element: Element) -> Result<(), CmdError> {
        let scroll = "arguments[0].scrollIntoView({block: 'center'})";
        let this = serde_json::to_value(&element)?;
        self.client.execute(scroll, vec![this]).await?;
        element.click().await
    }

    /// Waits for a text anywhere.
    pub async fn text(&self, text: &str) -> anyhow::Result<Element> {
        let path = format!("//*[contains(text(), {text:?})]");
        self.at(&path).await
    }

    pub async fn script(&self, script: &str) -> anyhow::Result<Value> {
        Ok(self.client.execute(script, Vec::new()).await?)
    }

    /// Waits until `script` gives something true.
    pub async fn until(&self, script: &str) -> anyhow::Result<()> {
        while self.script(script).await? != Value::Bool(true) {
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    pub async fn go(&self, hash: &str) -> anyhow::Result<()> {
        self.client
            .execute("location.hash = arguments[0]", vec![json!(hash)])
            .await?;
        self.until(&format!("return location.hash === {hash:?}"))
            .await
    }

    /// Waits until the send button waits for nothing but text.
    pub async fn model_is_ready(&self) -> anyhow::Result<()> {
        let hint = "return document.querySelector('#composer-hint')?.textContent.includes('Enter to send') ?? false";
        self.until(hint).await
    }

    /// Writes into the field for a message.
    pub async fn write(&self, text: &str) -> anyhow::Result<()> {
        let field = self.find(".composer textarea").await?;
        Ok(field.send_keys(text).await?)
    }

    /// Deletes the first chat of the list by its key, and waits until it is gone.
    pub async fn delete_first_chat(&self) -> anyhow::Result<()> {
        let chats = "return document.querySelectorAll('nav a[data-chat]').length";
        let before = self.script(chats).await?.as_u64().context("a number")?;
        self.find("nav a[data-chat]")
            .await?
            .send_keys(&String::from(char::from(Key::Delete)))
            .await?;
        self.until(&format!("{chats} === {}", before.saturating_sub(1)))
            .await
    }

    /// Copies `text` and pastes it into the field for a message, by the page's own context menu.
    pub async fn paste_by_menu(&self, text: &str) -> anyhow::Result<()> {
        let script = "const done = arguments[arguments.length - 1];
             navigator.clipboard.writeText(arguments[0]).then(() => done(null), (error) => done(String(error)))";
        let failed = self.client.execute_async(script, vec![json!(text)]).await?;
        ensure!(failed.is_null(), "nothing was copied: {failed}");
        self.until(
            "const field = document.querySelector('.composer textarea');
             const box = field?.getBoundingClientRect();
             return field?.dispatchEvent(new MouseEvent('contextmenu', {
                 bubbles: true, cancelable: true, clientX: box.x + 5, clientY: box.y + 5 })) === false",
        )
        .await?;
        self.click_at("//*[@role='menuitem'][normalize-space()='Paste']")
            .await?;
        self.until(&format!(
            "return document.querySelector('.composer textarea')?.value.includes({text:?}) ?? false"
        ))
        .await
    }

    pub async fn send(&self, text: &str) -> anyhow::Result<()> {
        let field = self.find(".composer textarea").await?;
        field.send_keys(text).await?;
        field
            .send_keys(&String::from(char::from(Key::Enter)))
            .await?;
        Ok(())
    }

    /// The text of the answer number `n` (from 1), once nothing is being written.
    pub async fn finished_answer(&self, n: usize) -> anyhow::Result<String> {
        let script = format!(
            "const answers = [...document.querySelectorAll('article.answer')];
             return answers.length >= {n} && answers.every((a) => a.getAttribute('aria-busy') === 'false' && a.innerText.trim() !== '')"
        );
        self.until(&script).await?;
        let text = format!(
            "return document.querySelectorAll('article.answer')[{}].innerText",
            n - 1
        );
        let text = self.script(&text).await?;
        Ok(text.as_str().context("an answer has text")?.to_owned())
    }

    /// Clicks Stop, unless the answer has ended before that.
    pub async fn stop_if_writing(&self) -> anyhow::Result<()> {
        let clicked = self
            .script(
                "const stop = [...document.querySelectorAll('.composer button')]
                     .find((button) => button.textContent.trim() === 'Stop');
                 stop?.click();
                 return stop !== undefined",
            )
            .await?;
        println!("     stop clicked: {clicked}");
        Ok(())
    }

    pub async fn switch_theme(&self, name: &str) -> anyhow::Result<()> {
        self.until(&format!(
            "const choice = [...document.querySelectorAll('button, label, [role=radio]')]
                 .find((element) => element.textContent.trim() === {name:?});
             choice?.click();
             return choice !== undefined"
        ))
        .await?;
        self.theme_is(&name.to_lowercase()).await?;
        self.theme_is_kept(&name.to_lowercase()).await
    }

    /// Waits until the theme is on the disk: changes are written a moment after they act.
    async fn theme_is_kept(&self, name: &str) -> anyhow::Result<()> {
        let script = "const done = arguments[arguments.length - 1];
             window.__TAURI_INTERNALS__.invoke('load_settings').then((all) => done(all.appearance.theme))";
        while self.client.execute_async(script, Vec::new()).await? != name {
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    pub async fn theme_is(&self, name: &str) -> anyhow::Result<()> {
        self.until(&format!(
            "return document.documentElement.dataset.theme === {name:?}"
        ))
        .await
    }

    pub async fn open_first_chat(&self) -> anyhow::Result<()> {
        self.until(
            "const link = document.querySelector('a[href*=\"#/chat/\"]');
             link?.click();
             return location.hash.startsWith('#/chat/')",
        )
        .await
    }

    /// Inline scripts and requests elsewhere are refused, and the page has no way around the
    /// app's own commands.
    pub async fn policy_holds(&self) -> anyhow::Result<()> {
        let outcome = self
            .client
            .execute_async(
                "const done = arguments[arguments.length - 1];
                 const blocked = [];
                 document.addEventListener('securitypolicyviolation', (e) => blocked.push(e.effectiveDirective));
                 const script = document.createElement('script');
                 script.textContent = 'window.inlineRan = true';
                 document.head.append(script);
                 const image = new Image();
                 image.src = 'http://127.0.0.1:9/x.png';
                 fetch('http://127.0.0.1:9/').catch(() => undefined);
                 const invoke = window.__TAURI_INTERNALS__.invoke;
                 const refused = invoke('plugin:fs|read_file', {path: '/etc/passwd'}).then(() => 'read', () => 'refused');
                 const global = typeof window.__TAURI__;
                 refused.then((fs) => setTimeout(() => done({
                     inline: window.inlineRan === true, blocked, fs, global,
                 }), 300))",
                Vec::new(),
            )
            .await?;
        ensure!(
            outcome["inline"] == false,
            "an inline script ran: {outcome}"
        );
        ensure!(
            outcome["fs"] == "refused",
            "the page reads files: {outcome}"
        );
        ensure!(
            outcome["global"] == "undefined",
            "the global API is there: {outcome}"
        );
        let blocked = outcome["blocked"].as_array().context("directives")?;
        for directive in ["img-src", "connect-src"] {
            if !blocked.iter().any(|name| name == directive) {
                bail!("{directive} lets requests out: {outcome}");
            }
        }
        Ok(())
    }
}
