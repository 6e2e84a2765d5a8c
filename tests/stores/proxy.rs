//! A bad network on loopback: stands between a client and a server, and cuts, delays, resets, slows down and swallows
//! replies after the server has done what it was asked.
//!
//! What happens to a connection is drawn from a seed when it is accepted, so that a run can be repeated as far as the
//! order of connections is the same.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What may become of connections, each with its weight among all.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// Nothing happens to it.
    pub fine: u32,
    /// Cut off in both directions after some bytes of a request.
    pub cut_request: u32,
    /// The server answers, and the connection ends before a byte of the answer comes through.
    pub swallow_reply: u32,
    /// Cut off after some bytes of an answer.
    pub cut_reply: u32,
    /// Ended before the first byte.
    pub refuse: u32,
    /// Added to each piece that passes, in either direction.
    pub latency: Duration,
    /// Bytes a second in each direction of one connection, or half of it, or a quarter; 0: as many as there are.
    pub bandwidth: u64,
    /// Cuts fall behind so many bytes, and answers are swallowed behind so many: for what begins with a long
    /// handshake, which would hardly ever come about.
    pub spared: (u64, u64),
}

impl Weather {
    /// A network without faults.
    pub const CLEAR: Weather = Weather {
        fine: 1,
        cut_request: 0,
        swallow_reply: 0,
        cut_reply: 0,
        refuse: 0,
        latency: Duration::ZERO,
        bandwidth: 0,
        spared: (0, 0),
    };

    /// One connection in three meets something.
    pub const STORMY: Weather = Weather {
        fine: 12,
        cut_request: 2,
        swallow_reply: 2,
        cut_reply: 1,
        refuse: 1,
        latency: Duration::from_millis(1),
        bandwidth: 40_000_000,
        spared: (0, 0),
    };
}

/// What was drawn for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Fine,
    /// After so many bytes of requests.
    CutRequest(u64),
    /// At the answer with this number.
    SwallowReply(u64),
    /// After so many bytes of answers.
    CutReply(u64),
    Refuse,
}

/// How often what happened.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections that were accepted.
    pub connections: AtomicU64,
    /// Those cut in a request.
    pub cut_requests: AtomicU64,
    /// Answers that were swallowed.
    pub swallowed_replies: AtomicU64,
    /// Those cut in an answer.
    pub cut_replies: AtomicU64,
    /// Those that were refused.
    pub refused: AtomicU64,
}

impl Counts {
    /// How many connections met a fault.
    pub fn faults(&self) -> u64 {
        [&self.cut_requests, &self.swallowed_replies, &self.cut_replies, &self.refused]
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    }
}

struct Shared {
    server: SocketAddr,
    weather: Mutex<Weather>,
    random: Mutex<u64>,
    counts: Counts,
    ends: AtomicBool,
    // Both ends of what is open, so that a network that dies takes them along.
    open: Mutex<Vec<TcpStream>>,
}

/// The proxy, until it is dropped.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Stands in front of `server`.
    pub fn start(server: SocketAddr, weather: Weather, seed: u64) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            server,
            weather: Mutex::new(weather),
            random: Mutex::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            counts: Counts::default(),
            ends: AtomicBool::new(false),
            open: Mutex::default(),
        });
        let acceptor = {
            let shared = shared.clone();
            thread::spawn(move || {
                for client in listener.incoming().flatten() {
                    if shared.ends.load(Ordering::SeqCst) {
                        break;
                    }
                    let shared = shared.clone();
                    thread::spawn(move || shared.serve(client));
                }
            })
        };
        Proxy { address, shared, acceptor: Some(acceptor) }
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on the network is like this; what is open stays open.
    pub fn set_weather(&self, weather: Weather) {
        *self.shared.weather.lock().unwrap() = weather;
    }

    /// Ends everything that is open, in the middle of whatever it carries.
    pub fn cut_all(&self) {
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// How often what happened.
    pub fn counts(&self) -> &Counts {
        &self.shared.counts
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::SeqCst);
        self.cut_all();
        // Wakes the acceptor.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    /// xorshift64 (Marsaglia 2003).
    fn draw(&self, below: u64) -> u64 {
        let mut state = self.random.lock().unwrap();
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state % below.max(1)
    }

    fn fate(&self, weather: &Weather) -> Fate {
        // Most requests and answers are short: half of the cuts fall into the first kilobyte, the others into packs. Where
        // one connection carries everything, they fall anywhere.
        let place = match self.draw(2) {
            0 if weather.spared.0 == 0 => self.draw(1_000),
            _ => weather.spared.0 + self.draw(4_000_000),
        };
        let reply = weather.spared.1 + self.draw(6);
        let fates = [
            (weather.fine, Fate::Fine),
            (weather.cut_request, Fate::CutRequest(place)),
            (weather.swallow_reply, Fate::SwallowReply(reply)),
            (weather.cut_reply, Fate::CutReply(place)),
            (weather.refuse, Fate::Refuse),
        ];
        let mut drawn = self.draw(fates.iter().map(|(weight, _)| u64::from(*weight)).sum());
        for (weight, fate) in fates {
            match drawn.checked_sub(u64::from(weight)) {
                Some(rest) => drawn = rest,
                None => return fate,
            }
        }
        Fate::Fine
    }

    fn serve(self: &Arc<Self>, client: TcpStream) {
        self.counts.connections.fetch_add(1, Ordering::Relaxed);
        let mut weather = *self.weather.lock().unwrap();
        let fate = self.fate(&weather);
        weather.bandwidth >>= self.draw(3);
        if fate == Fate::Refuse {
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let Ok(server) = TcpStream::connect(self.server) else { return };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let clones = (client.try_clone(), server.try_clone());
        let (Ok(client_side), Ok(server_side)) = clones else { return };
        let both = [client.try_clone(), server.try_clone()];
        self.open.lock().unwrap().extend(both.into_iter().flatten());
        let asked = Arc::new(AtomicU64::new(0));
        let upwards = {
            let (shared, asked) = (self.clone(), asked.clone());
            thread::spawn(move || {
                shared.pass_requests(client_side, server_side, fate, weather, &asked)
            })
        };
        self.pass_replies(server, client, fate, weather, &asked);
        let _ = upwards.join();
    }

    fn pass_requests(
        &self,
        mut from: TcpStream,
        mut to: TcpStream,
        fate: Fate,
        weather: Weather,
        asked: &AtomicU64,
    ) {
        let mut passed = 0;
        let mut buffer = vec![0; 64 << 10];
        while let Some(length) = read_some(&mut from, &mut buffer) {
            hold_back(length, &weather);
            let allowed = match fate {
                Fate::CutRequest(place) => (place - passed.min(place)).min(length as u64) as usize,
                _ => length,
            };
            asked.fetch_add(1, Ordering::SeqCst);
            if to.write_all(&buffer[..allowed]).is_err() {
                break;
            }
            passed += allowed as u64;
            if allowed < length {
                self.counts.cut_requests.fetch_add(1, Ordering::Relaxed);
                break;
            }
        }
        end(&from, &to);
    }

    fn pass_replies(
        &self,
        mut from: TcpStream,
        mut to: TcpStream,
        fate: Fate,
        weather: Weather,
        asked: &AtomicU64,
    ) {
        let (mut passed, mut replies, mut seen) = (0, 0, 0);
        let mut buffer = vec![0; 64 << 10];
        while let Some(length) = read_some(&mut from, &mut buffer) {
            // The first piece after something was asked is the beginning of an answer.
            let now = asked.load(Ordering::SeqCst);
            if now != seen {
                seen = now;
                if fate == Fate::SwallowReply(replies) {
                    self.counts.swallowed_replies.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                replies += 1;
            }
            hold_back(length, &weather);
            let allowed = match fate {
                Fate::CutReply(place) => (place - passed.min(place)).min(length as u64) as usize,
                _ => length,
            };
            if to.write_all(&buffer[..allowed]).is_err() {
                break;
            }
            passed += allowed as u64;
            if allowed < length {
                self.counts.cut_replies.fetch_add(1, Ordering::Relaxed);
                break;
            }
        }
        end(&from, &to);
    }
}

/// `None` at the end, however it came.
fn read_some(from: &mut TcpStream, buffer: &mut [u8]) -> Option<usize> {
    loop {
        match from.read(buffer) {
            Ok(0) => return None,
            Ok(length) => return Some(length),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

fn hold_back(length: usize, weather: &Weather) {
    let mut wait = weather.latency;
    if weather.bandwidth > 0 {
        wait += Duration::from_secs_f64(length as f64 / weather.bandwidth as f64);
    }
    if !wait.is_zero() {
        #[allow(clippy::disallowed_methods, reason = "a slow line is what this is")]
        thread::sleep(wait);
    }
}

fn end(from: &TcpStream, to: &TcpStream) {
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
