//! The management interface of a simulated Milvus: as much HTTP as it needs.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

use super::{GcRoute, State};
use crate::base::env::lock;

const MAX_REQUEST: usize = 64 << 10;

pub(super) async fn serve(listener: TcpListener, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(answer(stream, state.clone()));
    }
}

async fn answer(mut stream: TcpStream, state: Arc<State>) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|window| window == b"\r\n\r\n") && request.len() < MAX_REQUEST {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let head = String::from_utf8_lossy(&request);
    let target = head.split_whitespace().nth(1).unwrap_or("/");
    let Ok(url) = Url::parse(&format!("http://milvus{target}")) else {
        return Ok(());
    };
    let parameter = |name: &str| {
        url.query_pairs()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    };
    let (status, body) = match url.path() {
        "/healthz" if lock(&state.inner).script.healthy => ("200 OK", "OK".to_owned()),
        "/healthz" => (
            "500 Internal Server Error",
            "Not all components are healthy: not healthy".to_owned(),
        ),
        "/management/datacoord/garbage_collection/pause" if has_pause(&state) => {
            if lock(&state.inner).script.gc == GcRoute::Hangs {
                std::future::pending::<()>().await;
            }
            pause(&state, parameter("pause_seconds"))
        }
        "/management/datacoord/garbage_collection/resume" if has_pause(&state) => {
            resume(&state, parameter("ticket"))
        }
        _ => ("404 Not Found", "404 page not found".to_owned()),
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

fn has_pause(state: &State) -> bool {
    state.version.at_least(2, 3, 9) && lock(&state.inner).script.gc != GcRoute::Absent
}

fn pause(state: &State, seconds: Option<String>) -> (&'static str, String) {
    let mut inner = lock(&state.inner);
    let failed = |why: &str| {
        let body = format!(r#"{{"msg": "failed to pause garbage collection, {why}"}}"#);
        ("500 Internal Server Error", body)
    };
    if inner.script.gc_failures > 0 {
        inner.script.gc_failures -= 1;
        return failed("context deadline exceeded");
    }
    let Some(seconds) = seconds.and_then(|seconds| seconds.parse::<u64>().ok()) else {
        return failed("duration is not an integer");
    };
    inner.gc_tickets += 1;
    let ticket = STANDARD.encode(format!(
        r#"{{"token":"token-{}>>","collection_id":""}}"#,
        inner.gc_tickets
    ));
    inner.gc_pauses.push(ticket.clone());
    let number = inner.gc_tickets;
    inner
        .gc_calls
        .push(format!("pause {number} for {seconds} s"));
    if state.version.at_least(2, 6, 8) {
        (
            "200 OK",
            format!(r#"{{"msg": "OK", "ticket": "{ticket}"}}"#),
        )
    } else {
        ("200 OK", r#"{"msg": "OK"}"#.to_owned())
    }
}

fn resume(state: &State, ticket: Option<String>) -> (&'static str, String) {
    let mut inner = lock(&state.inner);
    if state.version.at_least(2, 6, 8) {
        let ticket = ticket.unwrap_or_default();
        let before = inner.gc_pauses.len();
        inner.gc_pauses.retain(|pause| *pause != ticket);
        let known = before - inner.gc_pauses.len();
        inner.gc_calls.push(format!("resume {known} of {before}"));
    } else {
        inner.gc_pauses.clear();
        inner.gc_calls.push("resume all".to_owned());
    }
    ("200 OK", r#"{"msg": "OK"}"#.to_owned())
}
