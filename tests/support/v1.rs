//! A client that speaks `echocast.v1`.

use serde_json::{Value, json};

use super::client::TestClient;

pub struct V1Client {
    pub client: TestClient,
    /// What the server said first.
    pub welcome: Value,
}

impl V1Client {
    pub async fn connect(url: &str) -> Self {
        let offered = [("sec-websocket-protocol", "other, echocast.v1")];
        let mut client = TestClient::try_connect(url, &offered)
            .await
            .unwrap_or_else(|refused| panic!("{refused:?}"));
        let head = client.response.headers();
        assert_eq!(head["sec-websocket-protocol"], "echocast.v1");
        assert_eq!(head["echocast-version"], echocast::VERSION);
        let welcome = serde_json::from_str::<Value>(&client.hear().await).unwrap();
        assert_eq!(welcome["event"], "welcome");
        Self { client, welcome }
    }

    /// What comes next.
    pub async fn next(&mut self) -> Value {
        serde_json::from_str(&self.client.hear().await).unwrap()
    }

    /// Hears messages of these texts, and nothing between them; returns the id of the last.
    pub async fn expect<'a>(&mut self, texts: impl IntoIterator<Item = &'a str>) -> String {
        let mut id = String::new();
        for text in texts {
            let message = self.next().await;
            assert_eq!(message["data"], text, "{message}");
            id = message["id"].as_str().unwrap().to_owned();
        }
        id
    }

    pub async fn send(&mut self, frame: Value) {
        self.client.say(&frame.to_string()).await;
    }

    /// Says something; returns what its acknowledgement calls it. What else comes first is left
    /// out.
    pub async fn say(&mut self, text: &str) -> String {
        // As long as a reference may be: its beginning.
        let reference: String = text.chars().take(64).collect();
        self.send(json!({ "data": text, "ref": reference })).await;
        self.answer(&reference).await["id"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// The answer to what was said under this reference; what else comes first is left out.
    pub async fn answer(&mut self, reference: &str) -> Value {
        loop {
            let next = self.next().await;
            if next["ack"] == reference || next["ref"] == reference {
                return next;
            }
        }
    }
}
