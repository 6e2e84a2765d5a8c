//! Packets byte by byte, and what no server may do to us with one.

use proptest::prelude::{any, prop_assert, proptest};

use super::*;

fn text(text: &[u8]) -> Vec<u8> {
    [&u32::try_from(text.len()).unwrap().to_be_bytes(), text].concat()
}

fn packet(kind: u8, id: u32, rest: &[&[u8]]) -> Vec<u8> {
    let mut packet = vec![kind];
    packet.extend_from_slice(&id.to_be_bytes());
    rest.iter().for_each(|part| packet.extend_from_slice(part));
    packet
}

#[test]
fn requests_are_what_the_draft_says() {
    let frame = Request::Open { path: "a/b", flags: WRITE | CREATE | EXCLUSIVE, mode: Some(0o600) }
        .encode(7);
    let expected: &[u8] = &[
        0, 0, 0, 24, // length
        3, 0, 0, 0, 7, // SSH_FXP_OPEN, id
        0, 0, 0, 3, b'a', b'/', b'b', // path
        0, 0, 0, 0x2a, // pflags
        0, 0, 0, 4, 0, 0, 1, 0o200, // attributes: permissions 0600
    ];
    assert_eq!(frame.head, expected);

    let bytes = Buffer::from(vec![1, 2, 3]);
    let frame = Request::Write { handle: b"h", offset: 0x0102, bytes }.encode(0xff);
    let expected: &[u8] = &[
        0, 0, 0, 25, // length, the three bytes of the body counted
        6, 0, 0, 0, 0xff, // SSH_FXP_WRITE, id
        0, 0, 0, 1, b'h', // handle
        0, 0, 0, 0, 0, 0, 1, 2, // offset
        0, 0, 0, 3, // length of what follows
    ];
    assert_eq!(frame.head, expected);
    assert_eq!(frame.body.to_vec(), [1, 2, 3]);

    let frame = Request::Hardlink { from: "a", to: "b" }.encode(1);
    let expected = [
        &[0, 0, 0, 39][..],
        &packet(200, 1, &[&text(HARDLINK.as_bytes()), &text(b"a"), &text(b"b")]),
    ];
    assert_eq!(frame.head, expected.concat());
    assert_eq!(encode_init(), [0, 0, 0, 5, 1, 0, 0, 0, 3]);
}

#[test]
fn replies_are_read() {
    let status = packet(101, 9, &[&[0, 0, 0, 2], &text(b"No such file"), &text(b"en")]);
    let message = "No such file".to_string();
    assert_eq!(decode(status).unwrap(), (9, Reply::Status { code: Code::NoSuchFile, message }));
    let bare = packet(101, 9, &[&[0, 0, 0, 0]]);
    let message = String::new();
    assert_eq!(decode(bare).unwrap().1, Reply::Status { code: Code::Ok, message });
    assert_eq!(decode(packet(102, 1, &[&text(b"h")])).unwrap(), (1, Reply::Handle(b"h".to_vec())));
    let data = match decode(packet(103, 1, &[&text(b"bytes")])).unwrap() {
        (1, Reply::Data(data)) => data.as_slice().to_vec(),
        _ => Vec::new(),
    };
    assert_eq!(data, b"bytes");

    let all = [
        &0x8000_000f_u32.to_be_bytes()[..],
        &5_000_000_000_u64.to_be_bytes(),
        &[0; 8],
        &0o100_600_u32.to_be_bytes(),
        &[0; 4],
        &1_700_000_000_u32.to_be_bytes(),
        &[0, 0, 0, 1],
        &text(b"x@example.com"),
        &text(b""),
    ]
    .concat();
    let attributes = Attributes {
        size: Some(5_000_000_000),
        mode: Some(0o100_600),
        modified: Some(1_700_000_000),
    };
    assert_eq!(decode(packet(105, 1, &[&all])).unwrap().1, Reply::Attributes(attributes));
    assert_eq!(attributes.kind(), FileKind::File);
    let none = [0; 4];
    let names = packet(
        104,
        1,
        &[&[0, 0, 0, 2], &text(b"a"), &text(b"-rw a"), &all, &text(b"\xff"), &text(b""), &none],
    );
    let second = Name { name: String::new(), attributes: Attributes::default() };
    let names_read = vec![Name { name: "a".to_string(), attributes }, second];
    assert_eq!(decode(names).unwrap().1, Reply::Names(names_read));

    let version = [&[2, 0, 0, 0, 3][..], &text(FSYNC.as_bytes()), &text(b"1")].concat();
    let version = decode_version(&version).unwrap();
    assert_eq!(version.number, 3);
    assert_eq!(version.extensions, [(FSYNC.to_string(), "1".to_string())]);

    let limits = [262_144_u64, 261_120, 261_119, 1_019].map(u64::to_be_bytes).concat();
    let limits = decode_limits(&limits).unwrap();
    assert_eq!(limits, Limits { read_bytes: 261_120, write_bytes: 261_119 });
    let full = [4_096_u64, 512, 9, 9, 3, 100, 0, 0, 0, 3, 255].map(u64::to_be_bytes).concat();
    let full = decode_file_system(&full).unwrap();
    let expected = FileSystem { available_bytes: 1_536, lacks_files: true, is_read_only: true };
    assert_eq!(full, expected);
}

#[test]
fn a_claim_is_not_believed_beyond_the_packet() {
    let many = packet(104, 1, &[&[0xff; 4]]);
    assert_eq!(decode(many), Err(Malformed("a packet is cut")));
    let extended = packet(105, 1, &[&HAS_EXTENDED.to_be_bytes(), &[0xff; 4]]);
    assert_eq!(decode(extended), Err(Malformed("a packet is cut")));
    let long = packet(103, 1, &[&[0xff; 4], &[0; 100]]);
    assert_eq!(decode(long), Err(Malformed("a packet is cut")));
    let handle = packet(102, 1, &[&text(&[7; 257])]);
    assert_eq!(decode(handle), Err(Malformed("a handle is too long")));
    assert!(decode(packet(103, 1, &[&text(b"a"), b"b"])).is_err());
    assert!(decode(packet(99, 1, &[])).is_err());
    assert!(decode(packet(105, 1, &[&[0, 0, 0, 0x10]])).is_err());
    assert!(decode(Vec::new()).is_err());
    assert!(decode_version(&[2, 0, 0, 0, 3, 0, 0, 0, 9]).is_err());
    assert!(decode_version(&[3, 0, 0, 0, 3]).is_err());
}

/// How many bytes a reply holds.
fn held_bytes(reply: &Reply) -> usize {
    match reply {
        Reply::Status { message, .. } => message.capacity(),
        Reply::Handle(bytes) | Reply::Extended(bytes) => bytes.capacity(),
        Reply::Data(data) => data.as_slice().len(),
        Reply::Names(names) => {
            let texts: usize = names.iter().map(|name| name.name.capacity()).sum();
            texts + names.capacity() * size_of::<Name>()
        }
        Reply::Attributes(_) => 0,
    }
}

proptest! {
    /// Whatever comes is read or refused, and never costs more than a few times its own length: an entry of a
    /// folder is at least 12 bytes and is kept in 64, in a list that may be half empty.
    #[test]
    fn no_packet_panics_or_grows(mut packet: Vec<u8>, kind in 100u8..=106, plain in any::<bool>()) {
        if plain && !packet.is_empty() {
            packet[0] = kind;
        }
        let length = packet.len();
        let _ = decode_version(&packet);
        let _ = decode_limits(&packet);
        let _ = decode_file_system(&packet);
        if let Ok((_, reply)) = decode(packet) {
            // A message that is not UTF-8 grows to three times its length.
            prop_assert!(held_bytes(&reply) <= 16 * length + 1_024);
        }
    }

    /// Packets that are almost right, with one byte changed or the end cut.
    #[test]
    fn no_damaged_packet_panics(place: usize, byte: u8, cut: usize, entries in 0u32..40) {
        let mut names = packet(104, 3, &[&entries.to_be_bytes()]);
        for entry in 0..entries {
            names.extend(text(format!("{entry:032x}").as_bytes()));
            names.extend(text(b"-rw------- 1 a b 5 Jan 1 00:00 x"));
            names.extend([0, 0, 0, 4, 0, 0, 0x81, 0x80]);
        }
        let place = place % names.len();
        names[place] = byte;
        names.truncate(names.len() - cut % 8);
        let length = names.len();
        if let Ok((_, reply)) = decode(names) {
            prop_assert!(held_bytes(&reply) <= 16 * length + 1_024);
        }
    }
}
