//! Asking a server to subscribe or unsubscribe, with an answer for each channel.

use std::sync::Arc;

use anyhow::Context;
use redis::{RedisResult, Value};

use super::super::receiver::Receiver;
use super::{Subscriber, is_forbidden};

impl Subscriber<'_> {
    /// Sends this command for some pub/sub channels; returns an answer for each.
    pub(super) async fn ask(
        &mut self,
        command: &str,
        names: Vec<String>,
    ) -> anyhow::Result<Vec<RedisResult<Value>>> {
        if self.redis.topology.is_cluster() {
            // A command could name only channels of one slot.
            return self.ask_each(&format!("S{command}"), names).await;
        }
        let asked = match command {
            "SUBSCRIBE" => self.connection.subscribe(&names).await,
            _ => self.connection.unsubscribe(&names).await,
        };
        match asked {
            // One of them is forbidden, and Redis does all or nothing.
            Err(error) if is_forbidden(&error) => self.ask_each(command, names).await,
            asked => {
                asked.with_context(|| command.to_lowercase())?;
                Ok(names.iter().map(|_| Ok(Value::Okay)).collect())
            }
        }
    }

    /// The same with a command for each.
    async fn ask_each(
        &mut self,
        command: &str,
        names: Vec<String>,
    ) -> anyhow::Result<Vec<RedisResult<Value>>> {
        let mut pipeline = redis::pipe();
        pipeline.ignore_errors();
        for name in names {
            pipeline.cmd(command).arg(name);
        }
        self.pushes.set_asking(true);
        let answers = pipeline.query_async(&mut self.connection).await;
        self.pushes.set_asking(false);
        answers.with_context(|| command.to_lowercase())
    }

    /// The pub/sub channels of these receivers.
    pub(super) fn names(&self, receivers: &[Arc<Receiver>]) -> Vec<String> {
        receivers
            .iter()
            .map(|receiver| self.redis.names.pubsub(&receiver.channel.name))
            .collect()
    }
}
