//! The JavaScript module in a Node process that does what a test tells it.

use super::program::Program;
use crate::node_clients::node;

/// A Node process that has subscribed with the module.
pub struct Module {
    program: Program,
}

impl Module {
    /// Subscribes with these options, in JSON.
    pub fn start(url: String, options: &str) -> Self {
        Self {
            program: Program::start(node(&["module.mjs", &url, options])),
        }
    }

    /// Gives it a command; tests/node/module.mjs has them all.
    pub async fn told(&mut self, command: &str) {
        self.program.type_line(command).await;
    }

    /// The next answer to something it published.
    pub async fn answer(&mut self) -> String {
        self.program.notice().await
    }

    /// The next thing that it heard or that happened to it.
    pub async fn line(&mut self) -> String {
        self.program.line().await
    }

    /// These come next, and nothing between them.
    pub async fn prints<const N: usize>(&mut self, lines: [&str; N]) {
        self.program.prints(lines).await;
    }

    /// These numbers come next.
    pub async fn hears(&mut self, numbers: std::ops::Range<u32>) {
        for number in numbers {
            assert_eq!(self.line().await, format!("heard {number}"));
        }
    }

    /// Waits until it is connected again, however many tries that takes.
    pub async fn reopens(&mut self, open: &str) {
        loop {
            let line = self.line().await;
            if !line.starts_with("waiting ") {
                assert_eq!(line, open);
                return;
            }
        }
    }
}
