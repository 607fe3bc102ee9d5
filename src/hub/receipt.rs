//! Receipts: how a publisher learns the result of a message.

use tokio::sync::mpsc;

use crate::message::MessageId;

/// The id of a published message, if the broker keeps history, or why it was not published.
pub(crate) type Outcome = Result<Option<MessageId>, PublishError>;

/// Why a message was not published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PublishError {
    /// The broker rejected it, in these words.
    #[error("not published: {0}")]
    Rejected(String),
    /// The history has another message under its key.
    #[error("not published: this key belongs to another message")]
    KeyTaken,
}

/// A publisher's request for the result of one message. It is answered once, unless the node ends
/// before.
#[derive(Debug)]
pub(crate) struct Receipt {
    /// The publisher's own name for the message.
    pub reference: String,
    /// Where the answer goes. It holds at most as many answers as the inbox holds messages.
    pub answers: mpsc::UnboundedSender<Answer>,
}

/// The result of a message.
#[derive(Debug)]
pub(crate) struct Answer {
    /// See [`Receipt::reference`].
    pub reference: String,
    /// The result.
    pub outcome: Outcome,
}

impl Receipt {
    /// Answers.
    pub(crate) fn answer(self, outcome: Outcome) {
        // The publisher may have left.
        let _ = self.answers.send(Answer {
            reference: self.reference,
            outcome,
        });
    }
}
