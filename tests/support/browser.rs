//! Chromium as people use it: a chromedriver and pages of nodes in it. What a page must show is
//! each test's business.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use thirtyfour::prelude::*;
use thirtyfour::{ChromiumLikeCapabilities, LoggingPrefsLogLevel};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::{PATIENCE, soon};

/// No window, no sandbox (tests may run as root), and nothing of its own to say to the network.
const ARGUMENTS: [&str; 10] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    // It ends when its chromedriver does, however that ends.
    "--remote-debugging-pipe",
];

/// Keys as WebDriver writes them in a text.
pub const ENTER: &str = "\u{e007}";
pub const SHIFT_ENTER: &str = "\u{e008}\u{e007}\u{e008}";

const TEXTS: &str =
    "return [...document.querySelectorAll('#messages .message .text')].map(e => e.textContent)";
const NOTES: &str =
    "return [...document.querySelectorAll('#messages > .note')].map(e => e.textContent)";

/// Times that a chromedriver is started before a test gives up.
const STARTS: usize = 5;

/// A chromedriver of one test.
pub struct Chromium {
    port: u16,
    _process: Child,
    _output: Lines<BufReader<ChildStdout>>,
    /// Where browsers keep their profiles and all else.
    home: TempDir,
}

/// A page in a browser of its own, so that none of them is in the background.
pub struct Page {
    // Ends before its chromedriver.
    driver: WebDriver,
    _chromium: Arc<Chromium>,
}

impl Chromium {
    pub async fn start() -> Arc<Self> {
        let mut said = Vec::new();
        // It takes a free port of IPv4 and then the same one of IPv6. Where somebody has that it
        // ends, and must be started again.
        for _ in 0..STARTS {
            if let Some(chromium) = Self::try_start(&mut said).await {
                return Arc::new(chromium);
            }
        }
        panic!("chromedriver ends before it says its port: {said:?}");
    }

    /// Starts one; `None` if it ends before it serves. Adds to `said` what it prints until then.
    async fn try_start(said: &mut Vec<String>) -> Option<Self> {
        let home = tempfile::tempdir().unwrap();
        let mut process = Command::new("chromedriver")
            .arg("--port=0")
            .env("HOME", home.path())
            .env("TMPDIR", home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("cannot start chromedriver (Debian: apt install chromium-driver): {error}")
            });
        let mut output = BufReader::new(process.stdout.take().unwrap()).lines();
        let port = soon("chromedriver says its port", async {
            while let Some(line) = output.next_line().await.unwrap() {
                if let Some((_, port)) = line.split_once("successfully on port ") {
                    return Some(port.trim_end_matches('.').parse().unwrap());
                }
                said.push(line);
            }
            None
        });
        Some(Self {
            port: port.await?,
            _process: process,
            _output: output,
            home,
        })
    }

    /// Opens a page and waits until it is connected.
    pub async fn open(self: &Arc<Self>, url: &str) -> Page {
        self.open_as(url, &[], Value::Null).await
    }

    /// The same with more arguments, or in the shape of a device (chromedriver's
    /// `mobileEmulation`).
    pub async fn open_as(self: &Arc<Self>, url: &str, arguments: &[&str], device: Value) -> Page {
        let mut wanted = DesiredCapabilities::chrome();
        let profile = tempfile::tempdir_in(self.home.path()).unwrap().keep();
        for argument in ARGUMENTS.iter().chain(arguments) {
            wanted.add_arg(argument).unwrap();
        }
        wanted
            .add_arg(&format!("--user-data-dir={}", profile.display()))
            .unwrap();
        wanted
            .set_browser_log_level(LoggingPrefsLogLevel::All)
            .unwrap();
        if !device.is_null() {
            wanted
                .add_experimental_option("mobileEmulation", device)
                .unwrap();
        }
        let driver = WebDriver::new(format!("http://127.0.0.1:{}", self.port), wanted)
            .await
            .unwrap_or_else(|error| {
                panic!("cannot start chromium (Debian: apt install chromium): {error}")
            });
        let page = Page {
            driver,
            _chromium: self.clone(),
        };
        page.go_to(url).await;
        page
    }
}

impl Page {
    /// Opens an address and waits until the page is connected.
    pub async fn go_to(&self, url: &str) {
        self.visit(url).await;
        self.is_open().await;
    }

    /// Opens an address, whatever is there.
    pub async fn visit(&self, url: &str) {
        self.driver.goto(url).await.unwrap();
    }

    pub async fn is_open(&self) {
        self.has("state", "dataset.state", "open").await;
    }

    /// Waits until it shows these messages and no others.
    pub async fn shows(&self, texts: &[&str]) {
        self.becomes(TEXTS, &json!(texts)).await;
    }

    /// Waits until it shows these remarks of its own and no others.
    pub async fn remarks(&self, notes: &[&str]) {
        self.becomes(NOTES, &json!(notes)).await;
    }

    /// Waits until a property of the element with this id is this.
    pub async fn has(&self, id: &str, property: &str, value: impl Into<Value>) {
        self.becomes(
            &format!("return document.getElementById('{id}').{property}"),
            &value.into(),
        )
        .await;
    }

    /// Runs a script in the page.
    pub async fn run(&self, script: &str) -> Value {
        self.driver
            .execute(script, Vec::new())
            .await
            .unwrap_or_else(|error| panic!("{script}: {error}"))
            .json()
            .clone()
    }

    /// Runs a script again until it returns this.
    pub async fn becomes(&self, script: &str, wanted: &Value) {
        let mut is = Value::Null;
        let so = tokio::time::timeout(PATIENCE, async {
            loop {
                // A page that is being left or is not complete yet fails scripts: that is no
                // answer, but worth telling.
                is = match self.driver.execute(script, Vec::new()).await {
                    Ok(result) => result.json().clone(),
                    Err(error) => Value::String(error.to_string()),
                };
                if is == *wanted {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        });
        let in_time = so.await.is_ok();
        assert!(
            in_time,
            "not within {PATIENCE:?}: {script}\n wanted: {wanted}\n     is: {is}"
        );
    }

    /// Types into the element with this id; [`ENTER`] and other keys may be part of the text.
    pub async fn type_into(&self, id: &str, text: &str) {
        self.element(id).await.send_keys(text).await.unwrap();
    }

    pub async fn click(&self, id: &str) {
        self.element(id).await.click().await.unwrap();
    }

    /// Types a line and Enter.
    pub async fn say(&self, text: &str) {
        self.type_into("text", &format!("{text}{ENTER}")).await;
    }

    /// What the browser has complained of since this was last asked: errors, and what the page's
    /// policy forbids.
    pub async fn complaints(&self) -> Vec<String> {
        self.driver
            .browser_log()
            .await
            .unwrap()
            .into_iter()
            .map(|entry| entry.message)
            .collect()
    }

    /// The page as it looks, for people: `SCREENSHOTS=folder` keeps it there.
    pub async fn screenshot(&self, name: &str) {
        if let Some(folder) = std::env::var_os("SCREENSHOTS") {
            self.driver
                .screenshot(&std::path::Path::new(&folder).join(name))
                .await
                .unwrap();
        }
    }

    async fn element(&self, id: &str) -> WebElement {
        self.driver.find(By::Id(id)).await.unwrap()
    }
}
