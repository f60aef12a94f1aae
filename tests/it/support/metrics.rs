//! What `/metrics` said at one moment.

use std::collections::BTreeMap;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::within;

/// Every sample, by its full name with labels: `pgtenant_clients{tenant="acme"}`.
#[derive(Debug, Clone)]
pub(crate) struct Metrics(pub(crate) BTreeMap<String, f64>);

impl Metrics {
    /// Parses the text format; panics on a line that is not of it.
    pub(crate) fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(
            samples
                .map(|line| {
                    let (name, value) =
                        line.rsplit_once(' ').unwrap_or_else(|| panic!("not a sample: {line}"));
                    (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("not a number: {line}")))
                })
                .collect(),
        )
    }

    /// The sum of all series of a metric that carry all these labels; nothing counted is zero.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.series(name, labels).map(|(_, value)| value).sum()
    }

    /// The series of a metric that carry all these labels.
    pub(crate) fn series<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&str, &str)],
    ) -> impl Iterator<Item = (&'a str, f64)> {
        self.0.iter().filter_map(move |(series, value)| {
            let rest = series.strip_prefix(name)?;
            let labelled = rest.is_empty() || rest.starts_with('{');
            let all = labels.iter().all(|(label, wanted)| rest.contains(&format!("{label}=\"{wanted}\"")));
            (labelled && all).then_some((series.as_str(), *value))
        })
    }
}

/// GETs a path; returns status and body.
pub(crate) async fn get(port: u16, path: &str) -> std::io::Result<(u16, String)> {
    within("an HTTP answer", async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        Ok((status, if chunked { unchunked(body) } else { body.to_owned() }))
    })
    .await
}

fn unchunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        if size == 0 {
            break;
        }
        whole.push_str(&rest[..size]);
        body = &rest[size + 2..];
    }
    whole
}
