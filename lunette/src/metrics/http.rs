//! Serves the metrics by HTTP/1.1 at a loopback address or a Unix socket, and nothing else.
//!
//! Whoever is on this machine may connect, so all that clients can make us keep is bounded: their number, their requests, and
//! the time in which they have to be done. Each connection serves one request.

use super::Stats;
use super::text::{self, MEDIA_TYPE};
use anyhow::{Context, Result, bail};
use lunette_reactor::Workers;
use lunette_transport_vhost_user::{Access, SocketFile};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Most connections at a time.
const CLIENTS: usize = 16;
/// Bytes of the longest request, with its header fields.
const LONGEST: usize = 8 << 10;
/// How long a connection lasts at most.
const TIME: Duration = Duration::from_secs(10);
/// How often all is looked up and written at most: who asks earlier is told what others were.
const REST: Duration = Duration::from_secs(1);
/// How long no connection is accepted when none can be.
const PAUSE: Duration = Duration::from_secs(1);
/// Only who is in the group of the daemon reads from a Unix socket, besides its user.
const MODE: u32 = 0o660;

/// Where metrics are read.
pub(crate) struct Endpoint {
    listener: Listener,
    file: Option<SocketFile>,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// One side of a connection, whichever it is.
trait Stream: Read + Write + AsFd + Send {}

impl Stream for TcpStream {}
impl Stream for UnixStream {}

impl Endpoint {
    /// Listens at `place`: a loopback address with a port, or the path of a socket.
    ///
    /// # Errors
    /// When it is neither, or cannot be listened at.
    pub(crate) fn open(place: &str) -> Result<Self> {
        let (listener, file) = match place.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => {
                let listener = TcpListener::bind(address).with_context(|| format!("metrics on {address}"))?;
                listener.set_nonblocking(true)?;
                (Listener::Tcp(listener), None)
            }
            Ok(address) => bail!("metrics are read at a loopback address only, and {address} is none"),
            Err(_) if !place.starts_with('/') => {
                bail!(
                    "{place} is neither a loopback address, as 127.0.0.1:9260 is, nor the path of a socket, from / on"
                )
            }
            Err(_) => {
                let access = Access { mode: MODE, user: None, group: None };
                let (listener, file) = SocketFile::bind(Path::new(place), &access)?;
                listener.set_nonblocking(true)?;
                (Listener::Unix(listener), Some(file))
            }
        };
        Ok(Self { listener, file })
    }

    /// How to read them.
    pub(crate) fn summary(&self) -> String {
        match &self.listener {
            Listener::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|_| String::new(), |at| format!("metrics: http://{at}/metrics\n")),
            Listener::Unix(listener) => {
                let address = listener.local_addr().ok();
                let path = address.as_ref().and_then(|address| address.as_pathname());
                path.map_or_else(String::new, |path| format!("metrics: /metrics on {}\n", path.display()))
            }
        }
    }

    /// Serves what `stats` gives, on a thread of its own, until the program ends. The file of a Unix socket is removed when the
    /// value is dropped.
    pub(crate) fn serve(self, stats: impl Fn() -> Stats + Send + 'static) -> Option<SocketFile> {
        let Self { listener, file } = self;
        Workers::new("metrics", 1).run(Box::new(move || serve(&listener, &stats, &Instant::now)));
        file
    }
}

impl Listener {
    fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Box::new(stream)
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Box::new(stream)
            }
        })
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

/// The text that was written last. There is no other one beside it and the one before, however slowly clients read.
struct Texts<'a> {
    stats: &'a dyn Fn() -> Stats,
    last: Option<(Instant, Arc<str>)>,
    before: Weak<str>,
}

impl<'a> Texts<'a> {
    fn new(stats: &'a dyn Fn() -> Stats) -> Self {
        Self { stats, last: None, before: Arc::<str>::downgrade(&Arc::from("")) }
    }

    fn at(&mut self, now: Instant) -> Arc<str> {
        let is_read = self.before.strong_count() > 0;
        if let Some((written, text)) = &self.last
            && (is_read || now < *written + REST)
        {
            return text.clone();
        }
        if let Some((_, text)) = self.last.take() {
            self.before = Arc::downgrade(&text);
        }
        let text: Arc<str> = text::text(&(self.stats)()).into();
        self.last = Some((now, text.clone()));
        text
    }
}

fn serve(listener: &Listener, stats: &dyn Fn() -> Stats, clock: &dyn Fn() -> Instant) {
    let mut texts = Texts::new(stats);
    let mut clients = Vec::<Client>::new();
    let mut pause = None;
    let mut now = clock();
    loop {
        pause = pause.filter(|end| now < *end);
        let accepts = pause.is_none() && clients.len() < CLIENTS;
        if let Err(error) = wait(accepts.then_some(listener), &clients, pause, now) {
            tracing::error!(%error, "metrics are served no more");
            return;
        }
        // It may have waited for as long as nobody has asked.
        now = clock();
        if accepts {
            match listener.accept() {
                Ok(stream) => clients.push(Client::new(stream, now)),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(_) => pause = Some(now + PAUSE),
            }
        }
        clients
            .retain_mut(|client| client.until > now && client.go_on(&mut || texts.at(now)).unwrap_or(false));
    }
}

/// Waits until there is something to do.
fn wait(
    listener: Option<&Listener>,
    clients: &[Client],
    pause: Option<Instant>,
    now: Instant,
) -> io::Result<()> {
    let ends = clients.iter().map(|client| client.until).chain(pause);
    let most = ends.min().map(|end| end.saturating_duration_since(now));
    let most = most.and_then(|most| Timespec::try_from(most).ok());
    let listener = listener.map(|listener| PollFd::new(listener, PollFlags::IN));
    let mut sources: Vec<_> = listener.into_iter().chain(clients.iter().map(Client::source)).collect();
    match poll(&mut sources, most.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

struct Client {
    stream: Box<dyn Stream>,
    request: Vec<u8>,
    /// Once the request is there.
    answer: Option<Answer>,
    sent: usize,
    until: Instant,
}

/// What is sent: a head of its own, and a body that others may have as well.
struct Answer {
    head: String,
    body: Arc<str>,
}

impl Answer {
    /// What comes after so many bytes.
    fn rest(&self, sent: usize) -> &[u8] {
        let head = self.head.as_bytes().get(sent..).unwrap_or_default();
        match head.is_empty() {
            true => self.body.as_bytes().get(sent.saturating_sub(self.head.len())..).unwrap_or_default(),
            false => head,
        }
    }
}

impl Client {
    fn new(stream: Box<dyn Stream>, now: Instant) -> Self {
        Self { stream, request: Vec::new(), answer: None, sent: 0, until: now + TIME }
    }

    fn source(&self) -> PollFd<'_> {
        let wanted = if self.answer.is_some() { PollFlags::OUT } else { PollFlags::IN };
        PollFd::from_borrowed_fd(self.stream.as_fd(), wanted)
    }

    /// Goes on as far as it can. Returns whether there is more to come.
    fn go_on(&mut self, text: &mut dyn FnMut() -> Arc<str>) -> io::Result<bool> {
        if self.answer.is_none() {
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Ok(false),
                Ok(count) => self.request.extend_from_slice(&bytes[..count]),
                Err(error) => return later(&error).ok_or(error),
            }
            self.answer = answer(&self.request, text);
        }
        let Some(answer) = &self.answer else { return Ok(true) };
        match self.stream.write(answer.rest(self.sent)) {
            Ok(count) => self.sent += count,
            Err(error) => return later(&error).ok_or(error),
        }
        Ok(!answer.rest(self.sent).is_empty())
    }
}

fn later(error: &io::Error) -> Option<bool> {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted).then_some(true)
}

/// What is answered to a request; `None` if there is more of it to come.
fn answer(request: &[u8], text: &mut dyn FnMut() -> Arc<str>) -> Option<Answer> {
    let is_whole =
        [&b"\r\n\r\n"[..], b"\n\n"].iter().any(|end| request.windows(end.len()).any(|at| at == *end));
    if !is_whole {
        let too_long = request.len() > LONGEST;
        return too_long.then(|| {
            response("431 Request Header Fields Too Large", "", "the request is too long\n".into())
        });
    }
    let line = request.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let mut words = line.trim_ascii().split(|byte| *byte == b' ');
    let (method, target, version) = (words.next(), words.next().unwrap_or_default(), words.next());
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    Some(match (method, path) {
        _ if !version.is_some_and(|version| version.starts_with(b"HTTP/1.")) => {
            response("400 Bad Request", "", "this is no request of HTTP/1.1\n".into())
        }
        (Some(b"GET"), b"/metrics") => response("200 OK", &format!("Content-Type: {MEDIA_TYPE}\r\n"), text()),
        (_, b"/metrics") => {
            response("405 Method Not Allowed", "Allow: GET\r\n", "only GET is possible\n".into())
        }
        _ => response("404 Not Found", "", "there is only /metrics\n".into()),
    })
}

fn response(status: &str, fields: &str, body: Arc<str>) -> Answer {
    let fields = if fields.is_empty() { "Content-Type: text/plain\r\n" } else { fields };
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {length}\r\nConnection: close\r\n\r\n");
    Answer { head, body }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Shutdown;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc;

    fn stats() -> Stats {
        Stats { reactors: vec![super::super::ReactorStats::default()], ..Stats::default() }
    }

    /// What is answered to `request`, all of it.
    fn ask(stream: &mut (impl Read + Write), request: &str) -> String {
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn start() -> SocketAddr {
        let endpoint = Endpoint::open("127.0.0.1:0").unwrap();
        let Listener::Tcp(listener) = &endpoint.listener else { panic!() };
        let address = listener.local_addr().unwrap();
        assert!(endpoint.summary().contains(&address.to_string()));
        assert!(endpoint.serve(stats).is_none());
        address
    }

    #[test]
    fn metrics_and_nothing_else_are_served() {
        let address = start();
        let ask = |request: &str| ask(&mut TcpStream::connect(address).unwrap(), request);
        let answer = ask("GET /metrics?x=y HTTP/1.1\r\nHost: x\r\n\r\n");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text;"), "{head}");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
        assert!(
            body.contains("lunette_reactor_busy_seconds_total{reactor=\"0\"}") && body.ends_with("# EOF\n")
        );
        for (request, status) in [
            ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
            ("GET / HTTP/1.0\r\n\r\n", "404"),
            ("GET /metrics/../etc HTTP/1.1\n\n", "404"),
            ("GET /metrics\r\n\r\n", "400"),
            ("\r\n\r\n", "400"),
            ("GET /metrics HTTP/2.0\r\n\r\n", "400"),
        ] {
            let answer = ask(request);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
        }
    }

    #[test]
    fn who_says_too_much_or_nothing_is_no_trouble_for_others() {
        let address = start();
        let mut silent: Vec<_> = (1..CLIENTS).map(|_| TcpStream::connect(address).unwrap()).collect();
        let mut long = TcpStream::connect(address).unwrap();
        // It may be told before it has sent everything.
        let _ = (0..9).try_for_each(|_| long.write_all(&[b'x'; 1024]));
        let mut byte = [0];
        assert!(matches!(long.read(&mut byte), Ok(1) | Err(_)));
        drop(long);
        let request = "GET /metrics HTTP/1.1\r\n\r\n";
        let answer = ask(&mut TcpStream::connect(address).unwrap(), request);
        assert!(answer.ends_with("# EOF\n"));
        // In pieces.
        let mut slow = silent.pop().unwrap();
        slow.write_all(b"GET /metrics HT").unwrap();
        assert!(ask(&mut slow, "TP/1.1\r\n\r\n").ends_with("# EOF\n"));
        // One that ends before it has asked.
        silent.iter().for_each(|stream| stream.shutdown(Shutdown::Both).unwrap());
        assert!(ask(&mut TcpStream::connect(address).unwrap(), request).ends_with("# EOF\n"));
    }

    #[test]
    fn all_share_one_text_and_slow_ones_keep_no_more_than_one_beside_it() {
        let written = AtomicU32::new(0);
        let stats = || Stats { time: written.fetch_add(1, Ordering::Relaxed).into(), ..Stats::default() };
        let mut texts = Texts::new(&stats);
        let begin = Instant::now();
        let mut at = |seconds: u64| texts.at(begin + Duration::from_secs(seconds));
        let first = at(0);
        assert!(Arc::ptr_eq(&first, &at(0)));
        let second = at(1);
        assert!(!Arc::ptr_eq(&first, &second));
        // Somebody still reads the first one.
        assert!(Arc::ptr_eq(&second, &at(9)));
        drop(first);
        let third = at(9);
        assert!(!Arc::ptr_eq(&second, &third));
        drop((second, third));
        assert!(at(11).contains("lunette_uptime_seconds 3\n"));
    }

    #[test]
    fn a_text_is_sent_in_whatever_pieces() {
        let answer = Answer { head: "head".into(), body: "body".into() };
        let (mut sent, mut all) = (0, Vec::new());
        while let Some(byte) = answer.rest(sent).first() {
            all.push(*byte);
            sent += 1;
        }
        assert_eq!(all, b"headbody");
    }

    #[test]
    fn who_comes_after_a_long_silence_has_his_time() {
        let Endpoint { listener, .. } = Endpoint::open("127.0.0.1:0").unwrap();
        let Listener::Tcp(tcp) = &listener else { panic!() };
        let address = tcp.local_addr().unwrap();
        let (looks, looked) = mpsc::channel();
        // An hour goes by before the first one comes.
        let (begin, looked_at) = (Instant::now(), AtomicU32::new(0));
        let clock = move || {
            let _ = looks.send(());
            let hours = looked_at.fetch_add(1, Ordering::Relaxed).min(1);
            begin + Duration::from_secs(3600) * hours
        };
        std::thread::spawn(move || serve(&listener, &stats, &clock));
        looked.recv().unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        looked.recv().unwrap();
        assert!(ask(&mut stream, "GET /metrics HTTP/1.1\r\n\r\n").ends_with("# EOF\n"));
    }

    #[test]
    fn a_unix_socket_is_as_good_and_other_places_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics");
        let endpoint = Endpoint::open(path.to_str().unwrap()).unwrap();
        assert!(endpoint.summary().contains(path.to_str().unwrap()));
        let file = endpoint.serve(stats);
        let answer = ask(&mut UnixStream::connect(&path).unwrap(), "GET /metrics HTTP/1.1\r\n\r\n");
        assert!(answer.ends_with("# EOF\n"));
        drop(file);
        assert!(!path.exists());
        for (place, part) in
            [("192.0.2.1:80", "loopback"), ("0.0.0.0:80", "loopback"), ("metrics", "neither")]
        {
            let error = Endpoint::open(place).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(part), "{place}: {error}");
        }
    }
}
