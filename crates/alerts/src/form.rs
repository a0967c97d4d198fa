//! Messages as each kind of receiver wants them.

use std::{
    borrow::Cow,
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use crate::{Condition, Message, MessageKind};

/// What a receiver understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The payload of Standard Webhooks, for programs
    /// (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md#payload-structure>).
    Standard,
    /// A Slack incoming webhook (<https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks>), which Mattermost and
    /// Rocket.Chat understand, too.
    Slack,
    /// A Discord webhook (<https://discord.com/developers/docs/resources/webhook#execute-webhook>).
    Discord,
    /// A topic of ntfy (<https://docs.ntfy.sh/publish/>).
    Ntfy,
}

impl Form {
    /// All forms by the words of the configuration.
    pub const WORDS: [(&str, Self); 4] = [
        ("standard", Self::Standard),
        ("slack", Self::Slack),
        ("discord", Self::Discord),
        ("ntfy", Self::Ntfy),
    ];

    /// The most characters of a text that a receiver takes: Discord 2,000, ntfy 4,096 bytes, Slack more than is sent.
    fn most(self) -> usize {
        match self {
            Self::Standard | Self::Slack => 30_000,
            Self::Discord => 2_000,
            Self::Ntfy => 1_000,
        }
    }
}

/// A message in a form.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Formed {
    pub(crate) body: String,
    pub(crate) headers: Vec<(&'static str, Cow<'static, str>)>,
}

/// `dashboard` is the URL of the dashboard without a path, if messages are to have links.
pub(crate) fn formed(message: &Message, form: Form, dashboard: Option<&str>) -> Formed {
    const JSON: (&str, Cow<'static, str>) = ("content-type", Cow::Borrowed("application/json"));
    let json = |value: Value| Formed { body: value.to_string(), headers: vec![JSON] };
    match form {
        Form::Standard => json(standard(message, dashboard)),
        Form::Slack => {
            // <https://docs.slack.dev/messaging/formatting-message-text#escaping>
            let text = text(message, form, dashboard);
            let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            json(json!({ "text": text, "mrkdwn": false, "unfurl_links": false }))
        }
        Form::Discord => {
            // No name of a model may call everybody; 4 is "no embeds".
            let content = text(message, form, dashboard);
            json(json!({ "content": content, "allowed_mentions": { "parse": [] }, "flags": 4 }))
        }
        Form::Ntfy => ntfy(message, dashboard),
    }
}

fn ntfy(message: &Message, dashboard: Option<&str>) -> Formed {
    let is_bad = message.items.iter().any(|item| item.is_bad);
    let (priority, tag) = match message.kind {
        MessageKind::Firing if is_bad => ("high", "rotating_light"),
        MessageKind::Firing => ("default", "warning"),
        MessageKind::Resolved => ("default", "white_check_mark"),
        MessageKind::Test => ("default", "wrench"),
    };
    let headers = vec![
        ("content-type", "text/plain; charset=utf-8".into()),
        ("title", title(message).into()),
        ("priority", priority.into()),
        ("tags", tag.into()),
    ];
    Formed { body: text(message, Form::Ntfy, dashboard), headers }
}

/// ASCII, for a header.
pub(crate) fn title(message: &Message) -> String {
    let count = message.ids.len();
    match (message.kind, count) {
        (MessageKind::Test, _) => "Modelgate: test".into(),
        (MessageKind::Firing, 1) => "Modelgate: something needs attention".into(),
        (MessageKind::Firing, _) => format!("Modelgate: {count} things need attention"),
        (MessageKind::Resolved, 1) => "Modelgate: over".into(),
        (MessageKind::Resolved, _) => format!("Modelgate: {count} things are over"),
    }
}

fn time(at: SystemTime) -> String {
    let whole = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    humantime::format_rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(whole)).to_string()
}

fn link(condition: &Condition, dashboard: Option<&str>) -> Option<String> {
    Some(format!("{}{}", dashboard?, condition.page.as_deref()?))
}

fn standard(message: &Message, dashboard: Option<&str>) -> Value {
    // What is over needs nothing done.
    let is_over = message.kind == MessageKind::Resolved;
    let item = |condition: &Condition| {
        json!({
            "code": condition.id.code,
            "about": condition.id.about,
            "severity": if condition.is_bad { "bad" } else { "warn" },
            "what": condition.what,
            "advice": condition.advice.as_ref().filter(|_| !is_over),
            "link": link(condition, dashboard),
        })
    };
    json!({
        "type": format!("alert.{}", message.kind.name()),
        "timestamp": time(message.at),
        "data": {
            "alerts": message.items.iter().map(item).collect::<Vec<_>>(),
            "more": message.more(),
        },
    })
}

/// For people.
pub(crate) fn text(message: &Message, form: Form, dashboard: Option<&str>) -> String {
    let mut text = match form {
        // It has the title above its text.
        Form::Ntfy => String::new(),
        Form::Standard | Form::Slack | Form::Discord => format!("{}\n", title(message)),
    };
    for condition in &message.items {
        let Condition { id, what, advice, .. } = condition;
        let _ = match message.kind {
            MessageKind::Resolved => writeln!(text, "{}: no longer ({})", id.about, id.code),
            MessageKind::Firing | MessageKind::Test => {
                let advice = advice.as_deref().map(|advice| format!(" {advice}")).unwrap_or_default();
                let link = link(condition, dashboard).map(|link| format!(" {link}")).unwrap_or_default();
                writeln!(text, "{}: {what} ({}).{advice}{link}", id.about, id.code)
            }
        };
    }
    if message.more() > 0 {
        let _ = writeln!(text, "… and {} more", message.more());
    }
    // Names come from labels and servers: none may look like another line, or move the cursor of a terminal.
    let text: String =
        text.trim_end().chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect();
    cut(&text, form.most())
}

fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some(_) => text.chars().take(most - 1).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ConditionId;

    fn message(kind: MessageKind) -> Message {
        let condition = Condition {
            id: ConditionId { code: "model_lost", about: "model <!channel> & co\u{1b}[2J".into() },
            is_bad: true,
            what: "no server is ready".into(),
            advice: Some("Look at its page.".into()),
            page: Some("/models/a".into()),
            owner: None,
            higher: Vec::new(),
        };
        let ids = vec![condition.id.clone(); 3];
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_764_316_800_500);
        Message { id: "msg_1".into(), at, kind, items: vec![condition], ids }
    }

    #[test]
    fn each_receiver_gets_what_it_understands_and_nobody_is_called() {
        let dashboard = Some("https://admin.example.com");
        let of = |kind, form| formed(&message(kind), form, dashboard);
        let standard: Value =
            serde_json::from_str(&of(MessageKind::Firing, Form::Standard).body).expect("JSON");
        assert_eq!(
            (&standard["type"], &standard["timestamp"]),
            (&json!("alert.firing"), &json!("2025-11-28T08:00:00Z"))
        );
        assert_eq!(standard["data"]["alerts"][0]["link"], "https://admin.example.com/models/a");
        assert_eq!(
            (&standard["data"]["alerts"][0]["severity"], &standard["data"]["more"]),
            (&json!("bad"), &json!(2))
        );
        assert_eq!(standard["data"]["alerts"][0]["advice"], "Look at its page.");
        // Regression: that it was over was told with the advice of what to do.
        let over: Value =
            serde_json::from_str(&of(MessageKind::Resolved, Form::Standard).body).expect("JSON");
        let alert = &over["data"]["alerts"][0];
        assert_eq!((&alert["code"], &alert["advice"]), (&json!("model_lost"), &Value::Null));
        for form in [Form::Slack, Form::Discord, Form::Ntfy] {
            let over = of(MessageKind::Resolved, form).body;
            assert!(!over.contains("Look at its page."), "{over}");
        }

        let text = "Modelgate: 3 things need attention\nmodel &lt;!channel&gt; &amp; co [2J: no server is ready (model_lost). Look at \
                    its page. https://admin.example.com/models/a\n… and 2 more";
        let slack: Value = serde_json::from_str(&of(MessageKind::Firing, Form::Slack).body).expect("JSON");
        assert_eq!(slack["text"], text);
        let discord: Value =
            serde_json::from_str(&of(MessageKind::Resolved, Form::Discord).body).expect("JSON");
        assert_eq!(discord["allowed_mentions"], json!({ "parse": [] }));
        assert!(discord["content"].as_str().is_some_and(|text| text.contains("no longer (model_lost)")));
        let ntfy = of(MessageKind::Firing, Form::Ntfy);
        assert!(
            ntfy.headers.contains(&("priority", "high".into())) && ntfy.body.starts_with("model <!channel>")
        );
        assert!(ntfy.headers.iter().all(|(_, value)| value.is_ascii()));
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöüß", 3), "äö…");
        let mut long = message(MessageKind::Firing);
        long.items[0].what = "ß".repeat(5_000);
        for (form, most) in [(Form::Discord, 2_000), (Form::Ntfy, 1_000)] {
            assert_eq!(text(&long, form, None).chars().count(), most);
        }
    }
}
