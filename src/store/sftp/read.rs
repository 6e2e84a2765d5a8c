//! Reading an object: many pieces of it under way at once.

use std::collections::VecDeque;
use std::sync::Arc;

use opendal::{Buffer, BytesRange, Error, ErrorKind, Result};

use super::connection::{Answer, Connection, Handle, Refusal};
use super::packet::{Code, FileKind, READ, Request};
use super::{Remote, WINDOW_BYTES, failed};

/// How many pieces are asked for before the object's length is known: enough for most that are read whole.
const GUESSED_PIECES: usize = 2;
/// How much room is made at once for an object, by what the server says of its length.
const MOST_RESERVED: usize = 64 * 1024 * 1024;

/// A piece on its way.
struct Piece {
    length: u32,
    answer: Answer,
}

impl Remote {
    /// The bytes of `range`, or to the end, and the object's length.
    pub(super) async fn read(&self, name: &str, range: BytesRange) -> Result<(Buffer, u64)> {
        let connection = self.lease().await?;
        let path = self.path(name);
        let open = Request::Open { path: &path, flags: READ, mode: None };
        let handle = match connection.send(open).handle().await? {
            Ok(handle) => handle,
            Err(Refusal { code: Code::NoSuchFile, .. }) => {
                return Err(self.absent(&connection).await);
            }
            Err(refusal) => return Err(failed("cannot open", &refusal)),
        };
        let stat = connection.send(Request::FileStat { handle: handle.as_slice() });
        let mut pieces = Pieces::new(&connection, &handle);
        match range {
            BytesRange::Range { offset, size: Some(length) } => {
                pieces.next = offset;
                pieces.ask(offset.saturating_add(length), usize::MAX);
            }
            BytesRange::Range { offset, size: None } => {
                pieces.next = offset;
                pieces.ask(u64::MAX, GUESSED_PIECES);
            }
            BytesRange::Suffix { .. } => {}
        }
        let attributes = match stat.attributes().await? {
            Ok(attributes) => attributes,
            Err(refusal) => return Err(failed("cannot open", &refusal)),
        };
        let size = match (attributes.kind(), attributes.size) {
            // A server that tells no mode of an open file means a file.
            (FileKind::File | FileKind::Unknown, Some(size)) => size,
            _ => return Err(Error::new(ErrorKind::IsADirectory, "is not a file")),
        };
        let (start, end) = match range {
            BytesRange::Range { offset, size: Some(length) } => {
                (offset, offset.checked_add(length).ok_or_else(beyond)?)
            }
            BytesRange::Range { offset, size: None } => (offset.min(size), size),
            BytesRange::Suffix { size: length } => (size.saturating_sub(length), size),
        };
        if end > size {
            return Err(beyond());
        }
        if let BytesRange::Suffix { .. } = range {
            pieces.next = start;
        }
        Ok((Buffer::from(pieces.collect(start, end).await?), size))
    }
}

fn beyond() -> Error {
    Error::new(ErrorKind::RangeNotSatisfied, "range exceeds content length")
}

/// The pieces of one object that are under way, in the order in which they are asked for.
struct Pieces<'a> {
    connection: &'a Arc<Connection>,
    handle: &'a Handle,
    under_way: VecDeque<Piece>,
    /// Where the next one begins.
    next: u64,
}

impl<'a> Pieces<'a> {
    fn new(connection: &'a Arc<Connection>, handle: &'a Handle) -> Self {
        Pieces { connection, handle, under_way: VecDeque::new(), next: 0 }
    }

    /// Asks for more, up to `end` or to so many pieces under way.
    fn ask(&mut self, end: u64, most: usize) {
        let largest = self.connection.features.read_bytes;
        let most = most.min(WINDOW_BYTES / largest as usize);
        while self.next < end && self.under_way.len() < most {
            let length = (end - self.next).min(u64::from(largest)) as u32;
            let answer = self.send(self.next, length);
            self.under_way.push_back(Piece { length, answer });
            self.next += u64::from(length);
        }
    }

    fn send(&self, offset: u64, length: u32) -> Answer {
        let handle = self.handle.as_slice();
        self.connection.send(Request::Read { handle, offset, length })
    }

    /// All bytes from `start`, where the first piece begins, to `end`.
    async fn collect(mut self, start: u64, end: u64) -> Result<Vec<u8>> {
        let length = usize::try_from(end.saturating_sub(start)).map_err(|_| beyond())?;
        let mut bytes = Vec::with_capacity(length.min(MOST_RESERVED));
        while bytes.len() < length {
            self.ask(end, usize::MAX);
            let Some(piece) = self.under_way.pop_front() else { return Err(beyond()) };
            let (mut answer, mut wanted) = (piece.answer, piece.length as usize);
            loop {
                // Guessed pieces may reach beyond the end.
                let useful = wanted.min(length - bytes.len());
                let data = match answer.data().await? {
                    Ok(Some(data)) => data,
                    // Somebody cut it while we read.
                    Ok(None) => return Err(beyond()),
                    Err(refusal) => return Err(failed("cannot read", &refusal)),
                };
                let data = data.as_slice();
                if data.is_empty() || data.len() > wanted {
                    return Err(Error::new(
                        ErrorKind::Unexpected,
                        "the server sent bytes that nobody asked for",
                    ));
                }
                bytes.extend_from_slice(&data[..data.len().min(useful)]);
                wanted -= data.len();
                if wanted == 0 || bytes.len() == length {
                    break;
                }
                // A server may always answer with less.
                answer = self.send(start + bytes.len() as u64, wanted as u32);
            }
        }
        Ok(bytes)
    }
}
