//! A network that is far away and fast, on loopback: what comes in goes out again after a while, and as much of it as
//! there is.
//!
//! `rustc -O delay.rs`, then `delay TARGET MILLISECONDS`: says on which port it listens. Bytes take so many milliseconds in
//! each direction. A connection takes as long again both ways before its first byte, as TCP's does. What is left out: a
//! window that opens slowly, losses, and a line that is full.

use std::collections::VecDeque;
use std::env;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes that are under way in one direction of one connection: 10 ms at 6 GB a second.
const MOST_UNDER_WAY: usize = 64 << 20;
const PIECE: usize = 256 << 10;

/// Pieces under way, each with when it arrives; `None` at the end.
#[derive(Default)]
struct Line {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    pieces: VecDeque<(Instant, Option<Vec<u8>>)>,
    bytes: usize,
    is_cut: bool,
}

impl Line {
    /// `false`: nobody takes it any more.
    fn send(&self, arrives: Instant, piece: Option<Vec<u8>>) -> bool {
        let mut state = self.state.lock().unwrap();
        while state.bytes > MOST_UNDER_WAY && !state.is_cut {
            state = self.changed.wait(state).unwrap();
        }
        state.bytes += piece.as_ref().map_or(0, Vec::len);
        state.pieces.push_back((arrives, piece));
        self.changed.notify_all();
        !state.is_cut
    }

    fn receive(&self) -> (Instant, Option<Vec<u8>>) {
        let mut state = self.state.lock().unwrap();
        loop {
            if let Some((arrives, piece)) = state.pieces.pop_front() {
                state.bytes -= piece.as_ref().map_or(0, Vec::len);
                self.changed.notify_all();
                return (arrives, piece);
            }
            state = self.changed.wait(state).unwrap();
        }
    }

    fn cut(&self) {
        self.state.lock().unwrap().is_cut = true;
        self.changed.notify_all();
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let line = Arc::new(Line::default());
    let arriving = line.clone();
    thread::spawn(move || {
        loop {
            let (arrives, piece) = arriving.receive();
            thread::sleep(arrives.saturating_duration_since(Instant::now()));
            let Some(piece) = piece else { break };
            if to.write_all(&piece).is_err() {
                arriving.cut();
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
    thread::spawn(move || {
        let mut buffer = vec![0; PIECE];
        loop {
            let piece = match from.read(&mut buffer) {
                Ok(0) | Err(_) => None,
                Ok(length) => Some(buffer[..length].to_vec()),
            };
            let is_end = piece.is_none();
            if !line.send(Instant::now() + delay, piece) || is_end {
                let _ = from.shutdown(Shutdown::Read);
                return;
            }
        }
    });
}

fn main() {
    let arguments: Vec<String> = env::args().collect();
    let target: SocketAddr = arguments[1].parse().expect("TARGET is an address and a port");
    let milliseconds = arguments[2].parse().expect("MILLISECONDS is a number");
    let delay = Duration::from_micros((1000.0 * f64::max(0.0, milliseconds)) as u64);
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    println!("{}", listener.local_addr().expect("it is bound").port());
    for client in listener.incoming().flatten() {
        thread::spawn(move || {
            thread::sleep(2 * delay);
            let Ok(server) = TcpStream::connect(target) else { return };
            let both = (client.try_clone(), server.try_clone());
            let (Ok(client_too), Ok(server_too)) = both else { return };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            pass(client, server, delay);
            pass(server_too, client_too, delay);
        });
    }
}
