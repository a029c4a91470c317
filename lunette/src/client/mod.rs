//! The command line's part of control: commands that speak to a daemon which runs.

pub(crate) mod session;
mod table;

use crate::cli::ControlSocket;
use anyhow::{Context, Result};
use lunette_control::Connection;
use serde_json::Value;
use std::io::Write;
use table::is_shown;

/// Connects to the daemon that is meant.
fn connect(control: &ControlSocket) -> Result<Connection> {
    let socket = control.path();
    Connection::open(&socket).with_context(|| socket.display().to_string())
}

fn print_text(text: &str) -> Result<()> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

fn print_json(value: &Value) -> Result<()> {
    print_text(&pretty(value))
}

/// JSON for people and programs: what others have chosen does not move the cursor of a terminal.
fn pretty(value: &Value) -> String {
    let text = format!("{value:#}\n");
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        // All others stand in strings.
        if c == '\n' || is_shown(c) {
            clean.push(c);
        } else {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| clean += &format!("\\u{unit:04x}"));
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_says_the_same_without_what_moves_a_cursor() {
        let value = json!([{ "alias": "a\u{9b}2J\u{202e}b\u{1b}\u{e0041}ä" }]);
        let text = pretty(&value);
        assert!(text.chars().all(|c| c == '\n' || is_shown(c)) && text.contains('ä'), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }
}
