"""A reader of Aumbry repositories, written from docs/format.md alone.

    independent_reader.py REPOSITORY [TARGET] [--snapshot latest|HEXPREFIX] [--from-packs] [--list]

REPOSITORY is a local folder; TARGET is empty or does not exist yet. The key is in the environment: AUMBRY_PASSWORD
(the passphrase) or AUMBRY_RECOVERY_KEY (the recovery key's 256 bits as 64 hexadecimal digits; not the words, since
their list is not at hand). --from-packs reads no index object, but all of every pack.
What is wrong is named on standard error and does not stop what stands beside it; the exit code is then 1. "note:" is
for what may be passed over (of later versions) or needs privileges. "Section" is one of docs/format.md.
"""
from __future__ import annotations

import argparse
import grp
import os
import pwd
import re
import stat
import struct
import sys
from pathlib import Path
from typing import Iterator, NamedTuple

import zstandard
from argon2.low_level import Type, hash_secret_raw
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

MAGIC = b"\x89AUMBRY\n"
CONFIG, KEY_SLOT, DATA, TREE, INDEX, SESSION, SNAPSHOT, TOMB, _, SWEEP, KEY_UPDATE = *range(1, 11), 15
FRAME, TAG, HEADER, REGION = 1 << 16, 16, 128, 1 << 24
LIMIT, WINDOW = 1 << 26, 1 << 27        # of a segment's or prefix's plaintext; of zstd
PACK_NAME = re.compile(r"packs/([0-9a-f]{2})/[0-9a-f]{8}-\1[0-9a-f]{30}-[0-9a-f]{8}")
INDEX_NAME, SWEEP_NAME = map(re.compile, (r"index/[0-9a-f]{8}-[0-9a-f]{32}-[0-9a-f]{8}", r"gc/([0-9a-f]{8})\.sweep"))
SLOT_NAME = re.compile(r"(?:(snapshots)|tombs)/([0-9a-f]{8}-[0-9a-f]{32})(?(1)|-[0-9a-f]{8})")
KEY_NAME, UPDATE_NAME = re.compile(r"keys/([0-9a-f]{32})"), re.compile(r"keys/([0-9a-f]{8})\.(update|copy)")
ZEROS, NAMES = bytes(REGION), {DATA: "data", TREE: "tree"}
problems: list[str] = []

class Damaged(Exception):
    """Bytes that are not what was written."""
class Newer(Exception):
    """Written by a later version, or with keys that this slot's keyring does not have yet."""
def damage_if(wrong: bool, why: str) -> None:
    if wrong:
        raise Damaged(why)
def newer_if(unknown: bool, what: str) -> None:
    if unknown:
        raise Newer(what)
def problem(what: str, why: Exception, harmless: bool = False) -> None:
    problems.extend([] if harmless else [what])
    print(f"{'note: passed over' if harmless else type(why).__name__.lower()}: {what}: {why}", file=sys.stderr)
def derive(context: str, material: bytes) -> bytes:
    return blake3(material, derive_key_context=context).digest()
def shown(name: bytes) -> str:
    return name.decode(errors="backslashreplace")
# Section 3: primitives
class Cursor:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
    def left(self) -> int:
        return len(self.data) - self.at
    def take(self, length: int) -> bytes:
        damage_if(length > self.left(), "a value ends beyond its bytes")
        self.at += length
        return self.data[self.at - length:self.at]
    def u8(self) -> int:
        return self.take(1)[0]
    def varint(self, below: int = 1 << 64) -> int:
        value = 0
        for i in range(10):
            byte = self.u8()
            value |= (byte & 127) << 7 * i
            if byte < 128:
                damage_if(value >= below, "a number that is too large")
                return value
        raise Damaged("a varint of more than 10 bytes")
    def count(self, least: int) -> range:
        """As many as the count says, of elements of at least that many bytes each."""
        value = self.varint()
        damage_if(value * least > self.left(), "a count of more elements than there are bytes")
        return range(value)
    def bytes(self) -> bytes:
        return self.take(self.varint())
    def text(self) -> str:
        value = self.bytes()
        damage_if(value.decode(errors="ignore").encode() != value, "a text that is not UTF-8")
        return value.decode()
    def time(self) -> int:
        """In nanoseconds."""
        seconds = self.varint()
        return (seconds >> 1 ^ -(seconds & 1)) * 10**9 + self.varint(10**9)
    def end(self) -> None:
        damage_if(self.left() > 0, "bytes behind the end")
def fields(payload: bytes, *critical: int, optional: tuple[int, ...] = ()) -> dict[int, list[bytes]]:
    """The fields, with the numbers from 1000 on that are known: required, or optional."""
    cursor, found = Cursor(payload), dict[int, list[bytes]]()
    while cursor.left():
        number, value = cursor.varint(), cursor.bytes()
        newer_if(number >= 1000 and number not in critical + optional, f"field {number}")
        found.setdefault(number, []).append(value)
    damage_if(any(number not in found for number in critical), f"not all of the fields {critical}")
    return found
# Section 4: sealed objects
def check_kind(header: bytes, length: int, *kinds: int) -> None:
    damage_if(len(header) < length or header[:8] != MAGIC or header[8:10] == b"\0\0", "not an object of Aumbry")
    version, kind = struct.unpack_from("<HB", header, 8)
    newer_if(version > 1 or kind > 16, f"format version {version}, kind {kind}")
    damage_if(kind not in kinds, f"an object of kind {kind} under this name")
def check_header(header: bytes, kinds: tuple[int, ...], repository: bytes | None) -> None:
    check_kind(header, HEADER, *kinds)
    suite, owner, source, parity, envelope, features, shards, plain = struct.unpack_from("<B4x16sBBHIH6xQ", header, 11)
    newer_if((suite, source, envelope, features) != (1, 1, 0, 0) or parity > (header[10] in (DATA, TREE)),
             f"suite {suite}, key source {source}, parity {parity}, envelope {envelope}, features {features:#x}")
    damage_if(any(header[42:48] + header[56:64]), "zeros of the header that are not zero")
    damage_if(not (parity == shards == plain == 0 or parity == 1 <= shards and 1 <= plain <= 1 << 32), "wrong parity")
    damage_if(repository not in (None, owner), "of another repository")
def unseal(what: str, key: bytes, nonce: bytes, sealed: bytes, associated: bytes | None = None) -> bytes:
    try:
        return ChaCha20Poly1305(key).decrypt(nonce, sealed, associated)
    except (InvalidTag, ValueError) as error:
        raise Damaged(f"{what} does not open") from error
class Sealed(NamedTuple):                               # in a file; its frames are opened as they are needed
    path: Path
    kind: int
    key: bytes
    plain: int
    def read(self, start: int, end: int) -> bytes:
        damage_if(not 0 <= start <= end <= self.plain, "a part that lies beyond the object")
        first, last, opened = start // FRAME, (self.plain - 1) // FRAME, bytearray()
        with self.path.open("rb") as file:
            file.seek(HEADER + first * (FRAME + TAG))
            for i in range(first, -(-end // FRAME)):
                frame = file.read(min(FRAME, self.plain - i * FRAME) + TAG)
                opened += unseal(f"frame {i}", self.key, struct.pack("<Q3xB", i, i == last), frame)
        return bytes(opened[start - first * FRAME:end - first * FRAME])
    def payload(self) -> bytes:
        plain = self.read(0, self.plain)
        length = int.from_bytes(plain[-8:], "little")
        damage_if(length > len(plain) - 8 or any(plain[length:-8]), "a wrong trailer, or padding that is not zero")
        return plain[:length]
# Section 5: keyrings
Keyring = NamedTuple("Keyring", [("id_key", bytes), ("epochs", dict[int, tuple[bytes, bytes]]), ("revision", int)])
def xchacha_open(key: bytes, nonce: bytes, associated: bytes, sealed: bytes) -> bytes:
    x = list(struct.unpack("<16I", b"expand 32-byte k" + key + nonce[:16]))
    for shift in (0, 1) * 10:                           # the columns, then the diagonals
        for i in range(4):
            a, b, c, d = i, (i + shift) % 4 + 4, (i + 2 * shift) % 4 + 8, (i + 3 * shift) % 4 + 12
            for p, q, r, n in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                x[p] = (x[p] + x[q]) & 0xffffffff
                v = x[r] ^ x[p]
                x[r] = (v << n | v >> (32 - n)) & 0xffffffff
    return unseal("it", struct.pack("<8I", *x[:4], *x[12:]), bytes(4) + nonce[16:], sealed, associated)
def read_keyring(payload: bytes) -> Keyring:
    found = fields(payload, 1001, 1002, 1003)
    # Of two epochs with one number the first counts; a data key without bytes was dropped.
    epochs = {c.varint(1 << 32): (Cursor(data).take(32) if (data := c.bytes()) else b"", Cursor(c.bytes()).take(32))
              for c in map(Cursor, reversed(found[1003]))}
    return Keyring(Cursor(found[1001][-1]).take(32), epochs, Cursor(found.get(4, [b"\0"])[-1]).varint())
# Section 7: packs
Segment = NamedTuple("Segment", [("encoding", int), ("offset", int), ("stored", int), ("plain", int),
                                 ("bases", list[bytes]), ("blobs", list[tuple[bytes, int]])])
Pack = NamedTuple("Pack", [("name", str), ("sealed", Sealed), ("segments", list[Segment])])
def read_directory(cursor: Cursor) -> tuple[list[Segment], int]:
    """The segments (those of unknown encodings without blobs), and where the last one ends."""
    segments, offset = [], 0
    for _ in cursor.count(4):
        record, bases, blobs = Cursor(cursor.bytes()), list[bytes](), list[tuple[bytes, int]]()
        encoding, stored = record.u8(), record.varint(1 << 32)
        if encoding == 2:
            bases = [record.take(32) for _ in record.count(32)]
        if encoding <= 2:
            blobs = [(record.take(32), record.varint(1 << 32)) for _ in record.count(33)]
            record.end()
        plain = sum(length for _, length in blobs)
        damage_if(plain > LIMIT or encoding == 0 and plain != stored, f"a segment of {plain} bytes in {stored}")
        segments.append(Segment(encoding, offset, stored, plain, bases, blobs))
        offset += stored
    return segments, offset
def decompress(stored: bytes, length: int, prefix: bytes) -> bytes:
    try:
        frame = zstandard.get_frame_parameters(stored)
        damage_if(frame.window_size > WINDOW or frame.dict_id != 0 or frame.content_size not in
                  (zstandard.CONTENTSIZE_UNKNOWN, length), "a wrong window, dictionary or size")
        dictionary = zstandard.ZstdCompressionDict(prefix, zstandard.DICT_TYPE_RAWCONTENT) if prefix else None
        plain = zstandard.ZstdDecompressor(dictionary, max_window_size=WINDOW).decompress(
            stored, max_output_size=max(length, 1), allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Damaged(f"not one zstd frame of {length} bytes: {error}") from error
    damage_if(len(plain) != length, f"a zstd frame of {len(plain)} bytes instead of {length}")
    return plain
Snapshot = NamedTuple("Snapshot", [("time", int), ("session", str), ("digits", str), ("height", int), ("root", bytes),
                                   ("texts", dict[int, str])])
class Repository:
    def __init__(self, root: Path, passphrase: str | None, recovery: bytes | None) -> None:
        self.root = root
        try:
            header = (root / "config").read_bytes()[:HEADER]
            check_header(header, (CONFIG,), None)
            self.id = header[16:32]
            self.id_key, self.epochs, _ = self.unlock(passphrase, recovery)
            form = fields(self.open("config", CONFIG).payload(), 1001, optional=(1002, 1003)).get(1002, [b"\2"])[-1]
            if Cursor(form).varint() != 2:
                raise Newer("an unknown form of the protocol")
        except (Damaged, Newer, OSError) as error:
            sys.exit(f"{type(error).__name__.lower()}: config: {error}")
        self.blob_keys = {kind: derive(f"aumbry v1 {NAMES[kind]} blob id", self.id_key) for kind in (DATA, TREE)}
        self.places: dict[tuple[int, bytes], list[tuple[Pack, Segment, int, int]]] = {}
        self.kept: dict[tuple[str, int], bytes] = {}    # segments that were opened
    def names(self, folder: str, pattern: re.Pattern[str]) -> list[re.Match[str]]:
        names = sorted(path.relative_to(self.root).as_posix() for path in (self.root / folder).rglob("*"))
        return [match for name in names if (match := pattern.fullmatch(name))]
    # Section 5: key slots and key updates
    def unlock(self, passphrase: str | None, recovery: bytes | None) -> Keyring:
        for match in self.names("keys", KEY_NAME):
            try:
                if opened := self.open_slot(match[0], bytes.fromhex(match[1]), passphrase, recovery):
                    return opened
            except (Damaged, Newer) as error:
                problem(match[0], error, isinstance(error, Newer))
        sys.exit("no key slot opens with this passphrase or recovery key")
    def open_slot(self, name: str, slot_id: bytes, passphrase: str | None, recovery: bytes | None) -> Keyring | None:
        """None when the passphrase or recovery key is not this slot's."""
        slot = (self.root / name).read_bytes()
        check_kind(slot, 176, KEY_SLOT)
        way, memory, owner, own_id, passes, lanes, features, length = struct.unpack_from("<BI16s16sIIII", slot, 11)
        newer_if(way not in (1, 2) or features != 0, f"way {way}, features {features:#x}")
        if owner != self.id:
            return None
        damage_if(own_id != slot_id, "of another name")
        stretched = b""
        if way == 1 and passphrase is not None:
            damage_if(not (65536 <= memory <= 4194304 and 3 <= passes <= 1024 and 1 <= lanes <= 64)
                      or memory * passes > 67108864, f"refused: argon2id: {memory} KiB, {passes} passes, {lanes} lanes")
            stretched = hash_secret_raw(passphrase.encode(), slot[64:96], time_cost=passes, memory_cost=memory,
                                        parallelism=lanes, hash_len=32, type=Type.ID, version=0x13)
        elif way == 2 and recovery is not None:
            stretched = derive("aumbry v1 recovery key", recovery + slot[64:96])
        if not stretched or derive("aumbry v1 slot commitment", stretched) != slot[96:128]:
            return None
        damage_if(not TAG <= length <= len(slot) - 176, "cut short")
        wrapping_key = derive("aumbry v1 slot wrapping key", stretched)
        keyring = read_keyring(xchacha_open(wrapping_key, slot[128:152], slot[:176], slot[176:176 + length]))
        return self.newest(slot_id, derive("aumbry v1 slot exchange key", stretched), keyring)
    def newest(self, slot_id: bytes, exchange_key: bytes, own: Keyring) -> Keyring:
        """The keyring of the newest update for this slot, or the slot's own."""
        newer = [match for match in self.names("keys", UPDATE_NAME) if int(match[1], 16) > own.revision]
        for match in reversed(newer):                   # an update before its copy
            try:
                if found := self.open_update(match[0], int(match[1], 16), slot_id, exchange_key, own.id_key):
                    return found
                problem(match[0], Newer("for other key slots, and so is what its keys have sealed"), harmless=True)
            except (Damaged, Newer, ValueError) as error:
                problem(match[0], error, isinstance(error, Newer))
        return own
    def open_update(self, name: str, revision: int, slot_id: bytes, secret: bytes, id_key: bytes) -> Keyring | None:
        update, own = (self.root / name).read_bytes(), X25519PrivateKey.from_private_bytes(secret)
        check_kind(update, 136, KEY_UPDATE)
        suite, named, owner, features, recipients, length = struct.unpack_from("<BI16sIII", update, 11)
        newer_if(suite != 1 or features != 0, f"suite {suite}, features {features:#x}")
        start, public = 136 + 64 * recipients, update[48:80]
        damage_if((named, owner, start + length) != (revision, self.id, len(update)) or any(update[44:48]), "misplaced")
        for entry in [update[at:at + 64] for at in range(136, start, 64) if update[at:at + 16] == slot_id]:
            shared = own.exchange(X25519PublicKey.from_public_bytes(public))        # ValueError: 32 zeros
            key = derive("aumbry v1 key update recipient", shared + public + own.public_key().public_bytes_raw()
                         + derive("aumbry v1 key update secret", id_key) + self.id + slot_id + update[12:16])
            content_key = xchacha_open(key, bytes(24), update[:136], entry[16:])
            damage_if(derive("aumbry v1 key update commitment", content_key) != update[80:112], "a wrong commitment")
            wrapping_key = derive("aumbry v1 key update wrapping key", content_key)
            keyring = read_keyring(xchacha_open(wrapping_key, update[112:136], update[:start], update[start:]))
            damage_if((keyring.id_key, keyring.revision) != (id_key, revision), "another repository's keys")
            return keyring
        return None
    def key_of(self, name: str, header: bytes, *kinds: int) -> bytes:
        check_header(header, kinds, self.id)
        epoch, = struct.unpack_from("<I", header, 12)
        newer_if(epoch not in self.epochs, f"sealed in epoch {epoch}, which this key slot's keyring does not have")
        epoch_key = self.epochs[epoch][0 if header[10] in (DATA, TREE) else 1]
        key = derive("aumbry v1 object key", epoch_key + header[:96] + name.encode())
        damage_if(derive("aumbry v1 key commitment", key) != header[96:128],
                  "the commitment does not fit: another key, another name or a damaged header")
        return key
    def open(self, name: str, *kinds: int) -> Sealed:
        with (self.root / name).open("rb") as file:
            header, sealed = file.read(HEADER), os.fstat(file.fileno()).st_size - HEADER
        key, (shards, length) = self.key_of(name, header, *kinds), struct.unpack_from("<H6xQ", header, 40)
        if shards > 0:                                  # section 7: it stands behind the frames; nothing is mended here
            sealed -= HEADER + shards * (TAG + (FRAME + TAG if length > FRAME else (length + TAG + 1) // 2 * 2))
        plain = sealed - TAG * -(-sealed // (FRAME + TAG))
        damage_if(not 0 < plain == (length or plain) or plain + TAG * -(-plain // FRAME) != sealed, "a wrong length")
        return Sealed(self.root / name, header[10], key, plain)
    # Sections 7, 8 and 12, step 5: where blobs are
    def own_directory(self, name: str) -> Pack:
        sealed = self.open(name, DATA, TREE)
        plain = sealed.read(0, sealed.plain)
        start = len(plain) - 4 - int.from_bytes(plain[-4:], "little")
        damage_if(start < 0, "a directory that is larger than the pack")
        cursor = Cursor(plain[start:-4])
        segments, end = read_directory(cursor)
        cursor.end()
        damage_if(end > start, "segments that reach too far")
        if any(plain[end:start]):
            problem(name, Damaged("padding that is not zero"))
        return Pack(name, sealed, segments)
    def read_index(self, name: str, sizes: dict[str, int]) -> Iterator[tuple[str, list[Segment]]]:
        for cursor in map(Cursor, fields(self.open(name, INDEX).payload()).get(2, [])):
            generation, session, number = struct.unpack("<I16sI", cursor.take(24))
            pack = f"packs/{session.hex()[:2]}/{generation:08x}-{session.hex()}-{number:08x}"
            try:
                check_header(cursor.take(HEADER), (DATA, TREE), None)
            except Newer:
                continue                                # not listed; its own header is as new
            size, (segments, end) = cursor.varint(), read_directory(cursor)     # what follows may be skipped
            damage_if(end > size, f"the segments of {pack} are longer than the pack")
            if sizes.get(pack) == size:
                yield pack, segments
    def locate(self, from_packs: bool) -> None:
        sizes = {match[0]: (self.root / match[0]).stat().st_size for match in self.names("packs", PACK_NAME)}
        listed = dict[str, list[Segment]]()
        for match in [] if from_packs else self.names("index", INDEX_NAME):
            try:
                listed.update(list(self.read_index(match[0], sizes)))
            except (Damaged, Newer) as error:
                problem(match[0], error, isinstance(error, Newer))
        for name in sizes:
            try:
                pack = self.own_directory(name) if name not in listed else Pack(
                    name, self.open(name, DATA, TREE), listed[name])
                for segment in pack.segments:
                    at = 0
                    for blob, length in segment.blobs:
                        self.places.setdefault((pack.sealed.kind, blob), []).append((pack, segment, at, length))
                        at += length
            except (Damaged, Newer) as error:
                problem(name, error)
    # Section 7: blobs
    def segment(self, pack: Pack, segment: Segment) -> bytes:
        place = pack.name, segment.offset
        if place not in self.kept:
            plain = pack.sealed.read(segment.offset, segment.offset + segment.stored)
            if segment.encoding != 0:
                prefix = bytearray()
                for base in segment.bases:
                    prefix += self.blob(pack.sealed.kind, base, of_delta=True)
                    damage_if(len(prefix) > LIMIT, "a prefix of more than 64 MiB")
                plain = decompress(plain, segment.plain, bytes(prefix))
            while len(self.kept) > 16:
                del self.kept[next(iter(self.kept))]
            self.kept[place] = plain
        return self.kept[place]
    def blob(self, kind: int, blob: bytes, of_delta: bool = False) -> bytes:
        name = f"{NAMES[kind]} blob {blob.hex()}"
        for pack, segment, at, length in self.places.get((kind, blob), []):
            if of_delta and segment.encoding == 2:
                continue
            try:
                plain = self.segment(pack, segment)[at:at + length]
                damage_if(blake3(plain, key=self.blob_keys[kind]).digest() != blob, "its hash is not its id")
                return plain
            except (Damaged, OSError) as error:
                problem(f"{pack.name}: segment at {segment.offset}: {name}", error)
        raise Damaged(f"{name} has no copy that can be read" + (" outside deltas" if of_delta else ""))
    # Section 10: snapshots
    def checkpoint(self) -> tuple[str, set[str]]:
        for match in self.names("gc", SWEEP_NAME)[-1:]:
            try:
                live = map(Cursor, fields(self.open(match[0], SWEEP).payload(), 1001, optional=(1002,)).get(1002, []))
                return match[1], {f"{int.from_bytes(c.take(4), 'little'):08x}-{c.take(16).hex()}" for c in live}
            except (Damaged, Newer) as error:
                problem(match[0], error)
        return "", set()
    def snapshots(self) -> list[Snapshot]:
        found, forgotten, (swept, live) = list[Snapshot](), set[str](), self.checkpoint()
        for match in [match for f in ("tombs", "snapshots") for match in self.names(f, SLOT_NAME)]:
            name, is_tomb, session, undone = match[0], not match[1], match[2], self.root / f"{match[0]}.undone"
            try:
                if session in forgotten or session[:8] < swept and session not in live or undone.exists():
                    continue
                payload = self.open(name, TOMB if is_tomb else SNAPSHOT).payload()
                forgotten.update({session} if is_tomb else ())
                if is_tomb or payload[:1] == b"\2":           # ABORT
                    continue
                newer_if(payload[:1] not in (b"", b"\1"), f"a slot that begins with {payload[:1]!r}")
                values = fields(payload[1:])
                damage_if(2 not in values, "a snapshot without root directory")
                root, time = Cursor(values[2][-1]), Cursor(values.get(1, [b"\0\0"])[-1]).time()
                texts = {n: " ".join(map(shown, values.get(n, []))) for n in (3, 4, 5, 6)}
                found.append(Snapshot(time, session, session[9:], root.u8(), root.take(32), texts))
            except (Damaged, Newer) as error:
                problem(name, error)
        return sorted(found, key=lambda s: s[:2])       # by time, generation, digits
# Section 9: trees
Extents = tuple[tuple[int, bytes | None], ...]
class Content(NamedTuple):
    size: int = 0
    inline: bytes = b""                                 # of a symbolic link: its target
    extents: Extents = ()
    root: tuple[int, bytes] | None = None               # height and node of a list or directory
    number: int = 0                                     # st_rdev
    digest: bytes | None = None
Entry = NamedTuple("Entry", [
    ("name", bytes), ("kind", int), ("mode", int), ("owner", tuple[int, int, str, str]), ("mtime", int), ("inode", int),
    ("device", int), ("links", int), ("attributes", list[tuple[bytes, bytes]]), ("content", Content)])
def node(repo: Repository, blob: bytes, leaf: int, height: int) -> Cursor:
    cursor = Cursor(repo.blob(TREE, blob))
    first = cursor.u8()
    newer_if(not 1 <= first <= 4, f"tree blob {blob.hex()}: first byte {first}")
    damage_if(first != leaf + (height > 0), f"tree blob {blob.hex()}: first byte {first} at height {height}")
    return cursor
def read_extents(cursor: Cursor) -> Extents:
    lengths = (cursor.varint() for _ in cursor.count(1))
    extents = tuple((length >> 1, None if length & 1 else cursor.take(32)) for length in lengths)
    damage_if(any(length == 0 for length, _ in extents), "an extent of length 0")
    return extents
def read_content(cursor: Cursor, kind: int) -> Content:
    newer_if(kind > 6, f"kind of entry {kind}")
    if kind == 1:
        return Content(root=(cursor.u8(), cursor.take(32)))
    if kind != 0:
        return Content(inline=cursor.bytes() if kind == 2 else b"", number=cursor.varint() if kind in (5, 6) else 0)
    size, form = cursor.varint(), cursor.u8()
    newer_if(form & 0x7f > 2, f"form of content {form}")
    inline = cursor.take(size) if form & 0x7f == 0 else b""
    extents = read_extents(cursor) if form & 0x7f == 1 else ()
    root = (cursor.u8(), cursor.take(32)) if form & 0x7f == 2 else None
    return Content(size, inline, extents, root, 0, cursor.take(32) if form & 0x80 else None)
def read_leaf(cursor: Cursor) -> list[Entry]:
    owners = [(cursor.varint(1 << 32), cursor.varint(1 << 32), cursor.text(), cursor.text()) for _ in cursor.count(4)]
    entries = list[Entry]()
    for _ in cursor.count(10):
        name, flags, mode, owner = cursor.bytes(), cursor.u8(), cursor.varint(), cursor.varint()
        damage_if(name in (b"", b".", b"..") or b"/" in name or b"\0" in name, f"the name {name!r}")
        damage_if(mode > 0o7777 or owner >= len(owners), f"{name!r}: mode {mode:o}, owner {owner} of {len(owners)}")
        damage_if(entries != [] and name <= entries[-1].name, f"entries out of order at {name!r}")
        mtime, _, inode, device = cursor.time(), cursor.time(), cursor.varint(), cursor.varint()
        if flags & 0x20:
            cursor.time()                               # birth
        links = cursor.varint() if flags & 0x40 else 1
        attributes = [(cursor.bytes(), cursor.bytes()) for _ in cursor.count(2)] if flags & 0x10 else []
        content = read_content(cursor, flags & 15)
        if flags & 0x80:
            fields(cursor.bytes())                      # of later versions
        entries.append(Entry(name, flags & 15, mode, owners[owner], mtime, inode, device, links, attributes, content))
    cursor.end()
    return entries
def directory(repo: Repository, where: str, height: int, root: bytes) -> Iterator[Entry]:
    """The entries of a directory. A node that is not right is named, and the others are read."""
    waiting: list[tuple[int, bytes, bytes | None, bytes | None]] = [(height, root, None, None)]
    while waiting:
        height, blob, first, after = waiting.pop()      # from its first name, to below the first name of the next
        try:
            cursor = node(repo, blob, 1, height)
            children = [(cursor.bytes(), cursor.take(32)) for _ in cursor.count(33)] if height else []
            entries = read_leaf(cursor) if height == 0 else []
            cursor.end()
            names = [name for name, _ in children] or [entry.name for entry in entries]
            damage_if(height > 0 and not names or any(a >= b for a, b in zip(names, names[1:])), "names out of order")
            damage_if(first is not None and names[:1] != [first] or after is not None and names[-1] >= after,
                      "names that are not those that the branch above promises")
            yield from entries
            waiting += [(height - 1, child, n, end) for (n, child), end in zip(children, [*names[1:], after])][::-1]
        except (Damaged, Newer) as error:
            problem(f"{where}: directory node {blob.hex()}", error)
def extents_of(repo: Repository, content: Content) -> Iterator[tuple[int, bytes | None]]:
    yield from content.extents
    waiting = [(*content.root, content.size)] if content.root else []
    while waiting:
        height, blob, covers = waiting.pop()
        cursor = node(repo, blob, 3, height)
        children = [(cursor.varint(), cursor.take(32)) for _ in cursor.count(33)] if height else []
        extents = read_extents(cursor) if height == 0 else ()
        cursor.end()
        lengths = [length for length, _ in children or extents]
        damage_if(sum(lengths) != covers or 0 in lengths, f"tree blob {blob.hex()}: covers {sum(lengths)} bytes "
                  f"instead of {covers}, or has a child that covers nothing")
        yield from extents
        waiting += [(height - 1, child, length) for length, child in children][::-1]
class Digest:                                           # of a file, by regions
    def __init__(self, id_key: bytes) -> None:
        self.region_key = derive("aumbry v1 region digest", id_key)
        self.file_key = derive("aumbry v1 file digest", id_key)
        self.digests, self.region, self.filled = list[bytes](), blake3(key=self.region_key), 0
    def add(self, data: bytes | None, length: int) -> None:
        """Data, or None for a hole."""
        while length > 0:
            part = min(length, REGION - self.filled)
            self.region.update(ZEROS[:part] if data is None else data[:part])
            self.filled += part
            if self.filled == REGION:
                self.digests.append(self.region.digest())
                self.region, self.filled = blake3(key=self.region_key), 0
            data, length = None if data is None else data[part:], length - part
    def digest(self) -> bytes:
        digests = self.digests + ([self.region.digest()] if self.filled or not self.digests else [])
        return digests[0] if len(digests) == 1 else blake3(b"".join(digests), key=self.file_key).digest()
# Section 12, steps 7 to 9: restoring
class Restore:
    def __init__(self, repo: Repository) -> None:
        self.repo, self.privileged = repo, os.geteuid() == 0
        self.users = {user.pw_name: user.pw_uid for user in pwd.getpwall()}
        self.groups = {group.gr_name: group.gr_gid for group in grp.getgrall()}
        self.made: dict[tuple[int, int, int, Content], bytes] = {}      # the first name of each hard-linked file
    def restore(self, snapshot: Snapshot, target: bytes) -> None:
        directories = list[tuple[bytes, str, Entry]]()
        waiting = [(target, b"/", snapshot.height, snapshot.root)]      # not recursive: a tree may be deep
        while waiting:
            folder, where, height, root = waiting.pop()
            for entry in directory(self.repo, shown(where), height, root):
                path, inside = os.path.join(folder, entry.name), os.path.join(where, entry.name)
                try:
                    if entry.kind == 1 and entry.content.root:
                        os.mkdir(path, 0o700)
                        directories.append((path, shown(inside), entry))
                        waiting.append((path, inside, *entry.content.root))
                    else:
                        self.make(path, entry)
                        self.metadata(path, shown(inside), entry)
                except (Damaged, Newer, OSError, OverflowError) as error:
                    problem(shown(inside), error, entry.kind in (5, 6) and not self.privileged)
        for path, place, entry in reversed(directories):
            try:
                self.metadata(path, place, entry)
            except (OSError, OverflowError) as error:
                problem(place, error)
    def make(self, path: bytes, entry: Entry) -> None:
        key, n = (entry.device, entry.inode, entry.kind, entry.content), entry.content.number
        if entry.links > 1 and key in self.made:
            os.link(self.made[key], path, follow_symlinks=False)
        elif entry.kind == 0:
            self.file(path, entry.content)
        elif entry.kind == 2:
            os.symlink(entry.content.inline, path)
        else:
            device = os.makedev(n >> 8 & 0xfff | n >> 44 << 12, n & 0xff | (n >> 20 & 0xffffff) << 8)
            os.mknod(path, (stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)[entry.kind - 3] | 0o600, device)
        if entry.links > 1:
            self.made.setdefault(key, path)
    def file(self, path: bytes, content: Content) -> None:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
        try:
            with open(handle, "wb") as file:
                file.truncate(content.size)             # leaves holes where nothing is written
                digest, at = Digest(self.repo.id_key), len(content.inline)
                file.write(content.inline)
                digest.add(content.inline, at)
                for length, blob in extents_of(self.repo, content):
                    data = self.repo.blob(DATA, blob) if blob else None
                    damage_if(at + length > content.size or data is not None and len(data) != length,
                              f"an extent of {length} bytes at {at}, which its blob or the file's size does not have")
                    if data is not None:
                        file.seek(at)
                        file.write(data)
                    digest.add(data, length)
                    at += length
                damage_if(at != content.size, f"its extents are {at} bytes, its size is {content.size}")
                damage_if(content.digest not in (None, digest.digest()), "its digest does not fit")
        except BaseException:
            os.unlink(path)                             # nothing unproven stays behind
            raise
    def metadata(self, path: bytes, where: str, entry: Entry) -> None:
        if self.privileged:
            user, group, user_name, group_name = entry.owner
            os.chown(path, self.users.get(user_name, user), self.groups.get(group_name, group), follow_symlinks=False)
        for name, value in entry.attributes:
            try:
                os.setxattr(path, name, value, follow_symlinks=False)
            except PermissionError as error:
                problem(f"{where}: extended attribute {shown(name)}", error, not self.privileged)
        if entry.kind != 2:
            os.chmod(path, entry.mode)
        os.utime(path, ns=(entry.mtime, entry.mtime), follow_symlinks=False)

def main() -> None:
    parser = argparse.ArgumentParser(description="Restores an Aumbry repository by its documented format alone.")
    parser.add_argument("repository", type=Path)
    parser.add_argument("target", nargs="?")
    parser.add_argument("--snapshot", default="latest", help="latest, or the first digits of one")
    parser.add_argument("--from-packs", action="store_true", help="read packs' own directories instead of the index")
    parser.add_argument("--list", action="store_true", help="list the snapshots")
    asked = parser.parse_args()
    passphrase, recovery = os.environ.get("AUMBRY_PASSWORD"), os.environ.get("AUMBRY_RECOVERY_KEY")
    if recovery is not None and not re.fullmatch("[0-9a-fA-F]{64}", recovery) or not (recovery or passphrase):
        sys.exit("AUMBRY_PASSWORD or AUMBRY_RECOVERY_KEY (64 hexadecimal digits) is needed")
    repo = Repository(asked.repository, passphrase, bytes.fromhex(recovery) if recovery else None)
    snapshots = repo.snapshots()
    for time, _, digits, _, _, texts in snapshots if asked.list else []:
        print(digits, f"{time // 10**9}.{time % 10**9:09}", f"{texts[4]}@{texts[3]}", texts[5], texts[6])
    if asked.target:
        fit = [s for s in snapshots if asked.snapshot == "latest" or s.digits.startswith(asked.snapshot)]
        if not fit or asked.snapshot != "latest" and len(fit) > 1:
            sys.exit(f"{len(fit)} snapshots fit {asked.snapshot}")
        os.makedirs(asked.target, exist_ok=True)
        if os.listdir(asked.target):
            sys.exit(f"{asked.target} is not empty")
        repo.locate(asked.from_packs)
        Restore(repo).restore(fit[-1], os.fsencode(asked.target))
    sys.exit(1 if problems else 0)

if __name__ == "__main__":
    main()
