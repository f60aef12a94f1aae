//! A client that speaks in frames, so that a test can say exactly what goes over the wire and read
//! exactly what comes back. An answer prints itself in the protocol's own letters:
//!
//! ```text
//! 1 ParseComplete    T(a,b) RowDescription   C(SELECT 1) CommandComplete     E(42601) ErrorResponse
//! 2 BindComplete     D(1,x) DataRow          Z(I) ReadyForQuery, I T or E    N(00000) NoticeResponse
//! 3 CloseComplete    t(23) parameter types   s PortalSuspended               A(channel,payload) notification
//! n NoData           I EmptyQueryResponse    S(name=value) ParameterStatus   K BackendKeyData
//! G H CopyIn/OutResponse   d(text) CopyData  c CopyDone                      R(0) authentication   v negotiation
//! ```

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::{message, within};

/// One message from the server.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) tag: u8,
    pub(crate) body: Bytes,
}

/// What the server answered, up to some point.
pub(crate) struct Answer(pub(crate) Vec<Frame>);

/// The fields of an error, by their letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) severity: String,
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) detail: Option<String>,
    pub(crate) hint: Option<String>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send + Sync {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Stream for T {}

/// One client connection.
pub(crate) struct Link {
    stream: Box<dyn Stream>,
    buffer: BytesMut,
    tcp_port: u16,
    /// From BackendKeyData.
    pub(crate) process_id: u32,
    /// From BackendKeyData.
    pub(crate) cancel_key: Bytes,
    /// From ParameterStatus, the last of each name.
    pub(crate) parameters: HashMap<String, String>,
    /// Every frame of the login.
    pub(crate) greeting: Vec<Frame>,
}

// === impl Link: before the session ===

impl Link {
    /// A TCP connection to a port of this machine, nothing said yet.
    pub(crate) async fn tcp(port: u16) -> Self {
        let stream = within("a TCP connection", TcpStream::connect(("127.0.0.1", port))).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream, port)
    }

    /// A connection to a unix socket, nothing said yet.
    pub(crate) async fn unix(path: &Path) -> Self {
        Self::over(within("a unix connection", UnixStream::connect(path)).await.unwrap(), 0)
    }

    fn over(stream: impl Stream + 'static, tcp_port: u16) -> Self {
        Self {
            stream: Box::new(stream),
            buffer: BytesMut::new(),
            tcp_port,
            process_id: 0,
            cancel_key: Bytes::new(),
            parameters: HashMap::new(),
            greeting: Vec::new(),
        }
    }

    /// Asks for TLS (or GSS encryption) and returns the server's one letter.
    pub(crate) async fn request(&mut self, code: u32) -> char {
        self.send(message::packet(code, &[])).await;
        let mut letter = [0; 1];
        within("the answer to an encryption request", self.stream.read_exact(&mut letter)).await.unwrap();
        char::from(letter[0])
    }

    /// Goes on in TLS; fails as the handshake fails.
    pub(crate) async fn tls(self, config: Arc<rustls::ClientConfig>, name: &str) -> std::io::Result<Self> {
        let connector = tokio_rustls::TlsConnector::from(config);
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let stream = within("the TLS handshake", connector.connect(name, self.stream)).await?;
        Ok(Self::over(stream, self.tcp_port))
    }

    /// Sends a 3.0 startup packet.
    pub(crate) async fn startup(&mut self, parameters: &[(&str, &str)]) {
        self.startup_as(message::VERSION_3_0, parameters).await;
    }

    /// Sends a startup packet of any version.
    pub(crate) async fn startup_as(&mut self, version: u32, parameters: &[(&str, &str)]) {
        self.send(message::packet(version, &message::startup_parameters(parameters))).await;
    }

    /// Proves the password by SCRAM and reads on to the first ReadyForQuery, or to the refusal.
    pub(crate) async fn authenticate(&mut self, password: &str) -> Result<(), Fault> {
        let mut scram: Option<ScramSha256> = None;
        loop {
            let frame = self.frame("the login").await;
            self.greeting.push(frame.clone());
            match frame.tag {
                b'E' => return Err(frame.fault()),
                b'Z' => return Ok(()),
                b'R' => self.prove(frame.body, password, &mut scram).await,
                b'K' => {
                    let mut body = frame.body;
                    self.process_id = body.get_u32();
                    self.cancel_key = body;
                }
                b'S' | b'N' | b'v' => {}
                tag => panic!("unexpected in a login: {}", char::from(tag)),
            }
        }
    }

    async fn prove(&mut self, mut body: Bytes, password: &str, scram: &mut Option<ScramSha256>) {
        match body.get_u32() {
            0 => {}
            3 => self.send(message::raw(b'p', &[password.as_bytes(), b"\0"].concat())).await,
            10 => {
                let state = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
                let first = state.message().to_vec();
                let length = u32::try_from(first.len()).unwrap().to_be_bytes();
                self.send(message::raw(b'p', &[b"SCRAM-SHA-256\0", &length[..], &first].concat())).await;
                *scram = Some(state);
            }
            11 => {
                let state = scram.as_mut().unwrap();
                state.update(&body).unwrap();
                let reply = message::raw(b'p', state.message());
                self.send(reply).await;
            }
            12 => scram.as_mut().unwrap().finish(&body).unwrap(),
            method => panic!("unexpected authentication method {method}"),
        }
    }

    /// The SASL mechanisms of the first authentication request.
    pub(crate) async fn offered_mechanisms(&mut self) -> Vec<String> {
        let frame = self.frame("the authentication request").await;
        assert_eq!((frame.tag, &frame.body[..4]), (b'R', &10_u32.to_be_bytes()[..]), "{frame}");
        frame.body[4..].split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(lossy).collect()
    }

    /// Sends a cancel request for this session over a connection of its own, and waits for its end.
    pub(crate) async fn cancel(&self) {
        self.cancel_with(self.process_id, &self.cancel_key).await;
    }

    /// Sends a cancel request with any key.
    pub(crate) async fn cancel_with(&self, process_id: u32, key: &[u8]) {
        let mut link = Self::tcp(self.tcp_port).await;
        let body = [&process_id.to_be_bytes()[..], key].concat();
        link.send(message::packet(message::CANCEL_REQUEST, &body)).await;
        link.closes().await;
    }
}

// === impl Link: in the session ===

impl Link {
    /// Sends bytes as they are.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within("sending", async {
            self.stream.write_all(bytes.as_ref()).await.unwrap();
            self.stream.flush().await.unwrap();
        })
        .await;
    }

    /// Sends bytes that the other side may refuse to take.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        within("sending", async {
            self.stream.write_all(bytes.as_ref()).await?;
            self.stream.flush().await
        })
        .await
    }

    /// Sends bytes and reads to the next ReadyForQuery.
    pub(crate) async fn ask(&mut self, bytes: impl AsRef<[u8]>) -> Answer {
        self.send(bytes).await;
        self.answer().await
    }

    /// Opens a transaction block and has a server for it: a BEGIN alone waits for its first statement.
    pub(crate) async fn hold(&mut self) {
        assert_eq!(self.query("BEGIN").await, "C(BEGIN) Z(T)");
        assert_eq!(self.query("SELECT").await, "T() D() C(SELECT 1) Z(T)");
    }

    /// Runs a simple query.
    pub(crate) async fn query(&mut self, sql: &str) -> Answer {
        self.ask(message::query(sql)).await
    }

    /// Runs one statement by the extended protocol, unnamed.
    pub(crate) async fn extended(&mut self, sql: &str, values: &[&str]) -> Answer {
        self.ask([message::unnamed(sql, values), message::sync()].concat()).await
    }

    /// Reads to the next ReadyForQuery.
    pub(crate) async fn answer(&mut self) -> Answer {
        self.until(b'Z').await
    }

    /// Reads so many answers.
    pub(crate) async fn answers(&mut self, count: usize) -> Vec<String> {
        let mut answers = Vec::new();
        for _ in 0..count {
            answers.push(self.answer().await.to_string());
        }
        answers
    }

    /// Reads to the next frame with this tag; an error that ends the session ends the reading too.
    pub(crate) async fn until(&mut self, tag: u8) -> Answer {
        let mut frames = Vec::new();
        loop {
            let wanted = format!("{} after: {}", char::from(tag), Answer(frames.clone()));
            let frame = self.frame(&wanted).await;
            let last = frame.tag == tag || (frame.tag == b'E' && frame.fault().severity == "FATAL");
            frames.push(frame);
            if last {
                return Answer(frames);
            }
        }
    }

    /// The next frame.
    pub(crate) async fn frame(&mut self, wanted: &str) -> Frame {
        match self.try_frame(wanted).await {
            Some(frame) => frame,
            None => panic!("the connection was closed instead of {wanted}"),
        }
    }

    /// The next frame, or nothing if the connection ends.
    pub(crate) async fn try_frame(&mut self, wanted: &str) -> Option<Frame> {
        let length = loop {
            if let Some(header) = self.buffer.get(1..5) {
                let length = usize::try_from(u32::from_be_bytes(header.try_into().unwrap())).unwrap();
                if self.buffer.len() > length {
                    break length;
                }
            }
            let read = within(wanted, self.stream.read_buf(&mut self.buffer)).await;
            if read.unwrap_or(0) == 0 {
                return None;
            }
        };
        let mut bytes = self.buffer.split_to(length + 1).freeze();
        let frame = Frame { tag: bytes.get_u8(), body: bytes.split_off(4) };
        if frame.tag == b'S' {
            let (name, value) = frame.pair();
            self.parameters.insert(name, value);
        }
        Some(frame)
    }

    /// Whether bytes arrive within a short while; the one place that has to wait for nothing to happen.
    pub(crate) async fn stays_silent(&mut self, time: std::time::Duration) -> bool {
        self.buffer.is_empty()
            && tokio::time::timeout(time, self.stream.read_buf(&mut self.buffer)).await.is_err()
    }

    /// Waits until the other side closes; returns the frames that came before.
    pub(crate) async fn closes(&mut self) -> Answer {
        let mut frames = Vec::new();
        while let Some(frame) = self.try_frame("the end of the connection").await {
            frames.push(frame);
        }
        Answer(frames)
    }

    /// Closes our sending side and goes on reading.
    pub(crate) async fn shut(&mut self) {
        within("closing our side", self.stream.shutdown()).await.unwrap();
    }

    /// Says goodbye and waits for the other side to hang up.
    pub(crate) async fn leave(mut self) {
        self.send(message::terminate()).await;
        let last = self.closes().await;
        assert_eq!(last, "", "nothing is said after Terminate");
    }
}

// === impl Frame ===

impl Frame {
    /// The fields of an ErrorResponse or NoticeResponse.
    pub(crate) fn fault(&self) -> Fault {
        let field = |letter: u8| {
            let mut fields = self.body.split(|byte| *byte == 0).filter(|field| !field.is_empty());
            fields.find(|field| field[0] == letter).map(|field| lossy(&field[1..]))
        };
        Fault {
            severity: field(b'V').unwrap_or_default(),
            code: field(b'C').unwrap_or_default(),
            message: field(b'M').unwrap_or_default(),
            detail: field(b'D'),
            hint: field(b'H'),
        }
    }

    /// The values of a DataRow.
    pub(crate) fn values(&self) -> Vec<String> {
        let mut body = self.body.clone();
        let count = body.get_u16();
        (0..count)
            .map(|_| match usize::try_from(body.get_i32()) {
                Ok(length) => lossy(&body.split_to(length)),
                Err(_) => "NULL".to_owned(),
            })
            .collect()
    }

    fn columns(&self) -> Vec<String> {
        let mut body = self.body.clone();
        let count = body.get_u16();
        (0..count)
            .map(|_| {
                let end = body.iter().position(|byte| *byte == 0).unwrap();
                let name = lossy(&body.split_to(end));
                body.advance(19);
                name
            })
            .collect()
    }

    fn pair(&self) -> (String, String) {
        let mut texts = self.body.split(|byte| *byte == 0);
        (lossy(texts.next().unwrap()), lossy(texts.next().unwrap()))
    }

    fn notification(&self) -> String {
        let texts: Vec<String> = self.body[4..].split(|byte| *byte == 0).map(lossy).collect();
        format!("{},{}", texts[0], texts[1])
    }

    fn parameter_types(&self) -> Vec<String> {
        self.body[2..].chunks(4).map(|oid| u32::from_be_bytes(oid.try_into().unwrap()).to_string()).collect()
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tag = char::from(self.tag);
        let inside = match self.tag {
            b'T' => self.columns().join(","),
            b'D' => self.values().iter().map(|value| shortened(value)).collect::<Vec<_>>().join(","),
            b'C' => lossy(self.body.strip_suffix(b"\0").unwrap()),
            b'Z' | b'd' => shortened(&lossy(&self.body)),
            b'E' | b'N' => self.fault().code,
            b'S' => {
                let (name, value) = self.pair();
                format!("{name}={value}")
            }
            b't' => self.parameter_types().join(","),
            b'A' => self.notification(),
            b'R' => self.body.clone().get_u32().to_string(),
            _ => return write!(f, "{tag}"),
        };
        write!(f, "{tag}({inside})")
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

// === impl Answer ===

impl Answer {
    /// The values of the first column of all rows.
    pub(crate) fn column(&self) -> Vec<String> {
        self.0.iter().filter(|frame| frame.tag == b'D').map(|frame| frame.values()[0].clone()).collect()
    }

    /// The only value there is.
    pub(crate) fn value(&self) -> String {
        let column = self.column();
        assert_eq!(column.len(), 1, "one row wanted, got: {self}");
        column.into_iter().next().unwrap()
    }

    /// The first error.
    pub(crate) fn fault(&self) -> Fault {
        let frame = self.0.iter().find(|frame| frame.tag == b'E');
        frame.unwrap_or_else(|| panic!("an error wanted, got: {self}")).fault()
    }

    /// The SQLSTATE of the first error, if there is one.
    pub(crate) fn bytes(&self) -> Vec<(char, Vec<u8>)> {
        self.0.iter().map(|frame| (char::from(frame.tag), frame.body.to_vec())).collect()
    }

    /// The SQLSTATE of the first error.
    pub(crate) fn code(&self) -> Option<String> {
        self.0.iter().find(|frame| frame.tag == b'E').map(|frame| frame.fault().code)
    }

    /// The same without the frames of these tags.
    pub(crate) fn without(mut self, tags: &[u8]) -> Self {
        self.0.retain(|frame| !tags.contains(&frame.tag));
        self
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<String> = self.0.iter().take(60).map(Frame::to_string).collect();
        f.write_str(&shown.join(" "))?;
        if self.0.len() > 60 {
            write!(f, " … {} frames in all", self.0.len())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl PartialEq<&str> for Answer {
    fn eq(&self, other: &&str) -> bool {
        self.to_string().as_str() == *other
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= 60 {
        text.to_owned()
    } else {
        format!("{}…", text.chars().take(60).collect::<String>())
    }
}
