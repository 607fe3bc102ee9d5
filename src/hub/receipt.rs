//! Receipts: how whoever said something learns that the broker holds it.

use tokio::sync::mpsc;

use crate::message::MessageId;

/// What a message is called now, if it can be found again, or why it was not published.
pub type Outcome = Result<Option<MessageId>, PublishError>;

/// Why a message was not published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The broker refused it, in these words.
    #[error("not published: {0}")]
    Rejected(String),
    /// The history has another message under its key.
    #[error("not published: this key belongs to another message")]
    KeyTaken,
}

/// To be answered once, unless the node ends before.
#[derive(Debug)]
pub struct Receipt {
    /// Which of its messages, in the words of whoever asks.
    pub reference: String,
    /// Who asks. It holds at most as many answers as the inbox holds messages.
    pub answers: mpsc::UnboundedSender<Answer>,
}

/// What became of a message.
#[derive(Debug)]
pub struct Answer {
    /// See [`Receipt::reference`].
    pub reference: String,
    /// What became of it.
    pub outcome: Outcome,
}

impl Receipt {
    /// Answers.
    pub fn answer(self, outcome: Outcome) {
        // Who asked may have left.
        let _ = self.answers.send(Answer {
            reference: self.reference,
            outcome,
        });
    }
}
