//! The primitives that every payload is made of: little-endian numbers, varints, byte strings and
//! numbered fields that a reader may skip.

use super::FormatError;
use crate::units::Timestamp;

/// Appends an unsigned LEB128 number: 7 bits a byte, low bits first, at most 10 bytes.
pub fn put_varint(output: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        output.push(number as u8 | 0x80);
        number >>= 7;
    }
    output.push(number as u8);
}

/// Appends a signed number as a varint, zigzag: 0, -1, 1, -2 … become 0, 1, 2, 3 …
pub fn put_signed(output: &mut Vec<u8>, number: i64) {
    put_varint(output, ((number << 1) ^ (number >> 63)) as u64);
}

/// Appends a byte string: its length as a varint, then its bytes.
pub fn put_bytes(output: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(output, bytes.len() as u64);
    output.extend_from_slice(bytes);
}

/// Appends a moment: seconds as a signed varint, nanoseconds as a varint.
pub fn put_time(output: &mut Vec<u8>, time: Timestamp) {
    put_signed(output, time.seconds);
    put_varint(output, u64::from(time.nanoseconds));
}

/// Appends a field: its number, its length, its bytes. Number 0 is not used.
pub fn put_field(output: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    put_varint(output, number);
    put_bytes(output, bytes);
}

/// Appends a field that is one varint.
pub fn put_number_field(output: &mut Vec<u8>, number: u64, value: u64) {
    let mut bytes = Vec::with_capacity(10);
    put_varint(&mut bytes, value);
    put_field(output, number, &bytes);
}

/// Reads primitives one after another; every read checks its bounds.
#[derive(Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader at the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    /// Whether everything was read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// How many bytes are left.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `length` bytes.
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], FormatError> {
        if length > self.rest.len() {
            return Err(FormatError::corrupt(format!(
                "{length} bytes expected where {} are left",
                self.rest.len()
            )));
        }
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(taken)
    }

    /// The next `N` bytes, as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let taken = self.take(N)?;
        Ok(taken.try_into().expect("take returns the length it was asked for"))
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, FormatError> {
        Ok(self.array::<1>()?[0])
    }

    /// Two bytes, little endian.
    pub fn u16(&mut self) -> Result<u16, FormatError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Four bytes, little endian.
    pub fn u32(&mut self) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Eight bytes, little endian.
    pub fn u64(&mut self) -> Result<u64, FormatError> {
        self.array().map(u64::from_le_bytes)
    }

    /// An unsigned LEB128 number.
    pub fn varint(&mut self) -> Result<u64, FormatError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(FormatError::corrupt("a number larger than 64 bits"))
    }

    /// A varint that must fit.
    pub fn varint_u32(&mut self) -> Result<u32, FormatError> {
        u32::try_from(self.varint()?)
            .map_err(|_| FormatError::corrupt("a number larger than 32 bits"))
    }

    /// A zigzag number.
    pub fn signed(&mut self) -> Result<i64, FormatError> {
        let number = self.varint()?;
        Ok((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    /// A byte string.
    pub fn bytes(&mut self) -> Result<&'a [u8], FormatError> {
        let length = self.varint()?;
        let length = usize::try_from(length)
            .map_err(|_| FormatError::corrupt("a byte string longer than memory"))?;
        self.take(length)
    }

    /// A byte string that must be UTF-8.
    pub fn text(&mut self) -> Result<&'a str, FormatError> {
        std::str::from_utf8(self.bytes()?)
            .map_err(|_| FormatError::corrupt("a text that is not UTF-8"))
    }

    /// A moment.
    pub fn time(&mut self) -> Result<Timestamp, FormatError> {
        let seconds = self.signed()?;
        let nanoseconds = self.varint_u32()?;
        if nanoseconds >= 1_000_000_000 {
            return Err(FormatError::corrupt("a second with more than 999 999 999 nanoseconds"));
        }
        Ok(Timestamp { seconds, nanoseconds })
    }

    /// The next field: its number and its bytes; `None` at the end.
    pub fn field(&mut self) -> Result<Option<(u64, Reader<'a>)>, FormatError> {
        if self.is_empty() {
            return Ok(None);
        }
        let number = self.varint()?;
        Ok(Some((number, Reader::new(self.bytes()?))))
    }

    /// How many elements of at least `element_length` bytes are said to follow: more than the rest can
    /// hold is damage, so that nothing is allocated for a lie.
    pub fn count(&mut self, element_length: usize) -> Result<usize, FormatError> {
        let count = self.varint()?;
        if count > (self.rest.len() / element_length.max(1)) as u64 {
            return Err(FormatError::corrupt(format!(
                "{count} elements said to be in {} bytes",
                self.rest.len()
            )));
        }
        Ok(count as usize)
    }

    /// Nothing may follow.
    pub fn finish(&self) -> Result<(), FormatError> {
        match self.rest.len() {
            0 => Ok(()),
            more => Err(FormatError::corrupt(format!("{more} bytes too many"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_at_every_width() {
        for shift in 0..64 {
            for number in [1 << shift, (1u64 << shift) - 1, u64::MAX >> shift] {
                let mut bytes = Vec::new();
                put_varint(&mut bytes, number);
                put_signed(&mut bytes, number as i64);
                let mut reader = Reader::new(&bytes);
                assert_eq!(reader.varint(), Ok(number));
                assert_eq!(reader.signed(), Ok(number as i64));
                assert!(reader.finish().is_ok());
            }
        }
    }

    #[test]
    fn too_long_too_large_and_too_many_are_errors() {
        assert!(Reader::new(&[0x80; 11]).varint().is_err());
        assert!(Reader::new(&[0xff; 10]).varint().is_err());
        assert!(Reader::new(&[5, 1, 2]).bytes().is_err());
        assert!(Reader::new(&[0xff, 0xff, 3]).count(1).is_err());
        assert!(Reader::new(&[1, 0xff]).text().is_err());
        assert!(Reader::new(&[]).u32().is_err());
        assert!(Reader::new(&[0]).finish().is_err());
    }
}
