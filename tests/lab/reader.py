"""A reader of repositories that was made from docs/format.md alone and shares no code with eyrie.

It reads small repositories: its BLAKE3 trees are computed in Python."""

import base64
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow
from argon2.low_level import Type, hash_secret_raw
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

# BLAKE3: the compression function, for chaining values (section 6).
IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
CHUNK_START, CHUNK_END, PARENT = 1, 2, 4
MASK = 0xFFFFFFFF
CHUNK = 1024


class Damage(Exception):
    """What is stored is not what the page says."""


def compress(chaining: tuple[int, ...], words: list[int], counter: int, length: int, flags: int) -> tuple[int, ...]:
    v = [*chaining, *IV[:4], counter & MASK, counter >> 32, length, flags]

    def mix(a: int, b: int, c: int, d: int, x: int, y: int) -> None:
        v[a] = (v[a] + v[b] + x) & MASK
        t = v[d] ^ v[a]
        v[d] = (t >> 16 | t << 16) & MASK
        v[c] = (v[c] + v[d]) & MASK
        t = v[b] ^ v[c]
        v[b] = (t >> 12 | t << 20) & MASK
        v[a] = (v[a] + v[b] + y) & MASK
        t = v[d] ^ v[a]
        v[d] = (t >> 8 | t << 24) & MASK
        v[c] = (v[c] + v[d]) & MASK
        t = v[b] ^ v[c]
        v[b] = (t >> 7 | t << 25) & MASK

    m = words
    for _ in range(7):
        mix(0, 4, 8, 12, m[0], m[1])
        mix(1, 5, 9, 13, m[2], m[3])
        mix(2, 6, 10, 14, m[4], m[5])
        mix(3, 7, 11, 15, m[6], m[7])
        mix(0, 5, 10, 15, m[8], m[9])
        mix(1, 6, 11, 12, m[10], m[11])
        mix(2, 7, 8, 13, m[12], m[13])
        mix(3, 4, 9, 14, m[14], m[15])
        m = [m[i] for i in PERMUTATION]
    return tuple(v[i] ^ v[i + 8] for i in range(8))


@cache
def chaining_value(data: bytes, offset: int) -> bytes:
    """The non-root output of the subtree of `data` at `offset`."""
    if len(data) <= CHUNK:
        chaining = IV
        blocks = [data[at : at + 64] for at in range(0, len(data), 64)]
        for number, block in enumerate(blocks):
            flags = (CHUNK_START if number == 0 else 0) | (CHUNK_END if number == len(blocks) - 1 else 0)
            words = list(struct.unpack("<16I", block.ljust(64, b"\0")))
            chaining = compress(chaining, words, offset // CHUNK, len(block), flags)
        return struct.pack("<8I", *chaining)
    left = CHUNK
    while left * 2 < len(data):
        left *= 2
    both = chaining_value(data[:left], offset) + chaining_value(data[left:], offset + left)
    return struct.pack("<8I", *compress(IV, list(struct.unpack("<16I", both)), 0, 64, PARENT))


def keyed(key: bytes, *parts: bytes) -> bytes:
    return blake3(b"".join(parts), key=key).digest()


def derive(context: str, key: bytes) -> bytes:
    return blake3(key, derive_key_context=context).digest()


def unseal(key: bytes, aad: bytes, sealed: bytes) -> bytes:
    try:
        return AESGCM(key).decrypt(sealed[:12], sealed[12:], aad)
    except Exception as error:
        raise Damage("it is not authentic") from error


def expand(frame: bytes, size: int) -> bytes:
    out = pyarrow.decompress(frame, decompressed_size=size, codec="zstd", asbytes=True)
    if len(out) != size:
        raise Damage("a frame expands to another size")
    return bytes(out)


def frame_size(frame: bytes) -> int:
    """The content size that a zstd frame carries (RFC 8878, 3.1.1.1)."""
    descriptor = frame[4]
    single, flag = descriptor >> 5 & 1, descriptor >> 6
    at = 5 + (0 if single else 1) + (0, 1, 2, 4)[descriptor & 3]
    width = (1 if single else 0, 2, 4, 8)[flag]
    size = int.from_bytes(frame[at : at + width], "little")
    return size + 256 if flag == 1 else size


class Bytes:
    """Reads integers and strings, section 1."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, length: int) -> bytes:
        if self.at + length > len(self.data):
            raise Damage("it ends early")
        self.at += length
        return self.data[self.at - length : self.at]

    def u(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def varint(self) -> int:
        value, shift = 0, 0
        while True:
            byte = self.u(1)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def bytes(self) -> bytes:
        return self.take(self.varint())

    def end(self) -> None:
        if self.at != len(self.data):
            raise Damage("bytes follow the end")


@dataclass
class Place:
    pack: Path
    position: int
    stored: int


class Repository:
    def __init__(self, root: Path, passphrase: str | None) -> None:
        self.root = root
        line, total, mac = (root / "config").read_text().splitlines()
        if blake3(line.encode()).hexdigest() != total:
            raise Damage("the sum of config is wrong")
        self.config = json.loads(line)
        self.id = bytes.fromhex(self.config["repository"])
        self._open_keys(passphrase)
        if keyed(derive("eyrie 1 config", self.meta_key), line.encode()).hex() != mac:
            raise Damage("the MAC of config is wrong")
        self._features()
        self.places: dict[bytes, list[Place]] = {}
        self._load_index()

    def files(self, directory: str) -> list[Path]:
        def is_id(name: str) -> bool:
            return len(name) == 64 and all(c in "0123456789abcdef" for c in name)

        # A directory is made with its first file.
        return sorted(path for path in (self.root / directory).glob("*") if is_id(path.name) and path.is_file())

    def _open_keys(self, passphrase: str | None) -> None:
        master = None
        for path in self.files("keys"):
            line, total = path.read_text().splitlines()
            if blake3(line.encode()).hexdigest() != total:
                raise Damage(f"the sum of {path.name} is wrong")
            file = json.loads(line)
            kdf = file["kdf"]
            if kdf["name"] == "none":
                key = derive("eyrie 1 no encryption", self.id)
            else:
                key = hash_secret_raw(
                    (passphrase or "").encode(), bytes.fromhex(kdf["salt"]), kdf["t"], kdf["m_kib"], kdf["p"], 32, Type.ID, 0x13
                )
            if derive("eyrie 1 key check", key).hex() != file["check"]:
                continue
            aad = b"eyrie 1 key" + self.id + bytes.fromhex(file["id"])
            master = unseal(derive("eyrie 1 key wrap", key), aad, base64.b64decode(file["sealed"]))
        if master is None:
            raise Damage("no key file opens")
        self.data_keys: dict[int, list[bytes]] = {}
        for path in sorted((self.root / "keys").glob(f"ring-*-{self.id[:4].hex()}-*-[ab]")):
            aad = b"eyrie 1 keyring" + self.id + path.name.encode()
            ring = json.loads(unseal(derive("eyrie 1 keyring", master), aad, path.read_bytes()))
            self.id_key, self.meta_key = bytes.fromhex(ring["id_key"]), bytes.fromhex(ring["meta_key"])
            for entry in ring["data"]:
                keys = self.data_keys.setdefault(entry["epoch"], [])
                if bytes.fromhex(entry["key"]) not in keys:
                    keys.append(bytes.fromhex(entry["key"]))

    def _features(self) -> None:
        for path in self.files("features"):
            line, total, mac = path.read_text().splitlines()
            features = json.loads(line)
            good = keyed(derive("eyrie 1 features", self.meta_key), line.encode()).hex() == mac
            if not good or blake3(line.encode()).hexdigest() != total or features["id"] != path.name:
                raise Damage(f"{path} is damaged")
            if features["required_read"]:
                raise NotImplementedError(features["required_read"])

    def json(self, path: Path, kind: int) -> Any:
        """Opens a sealed file, section 5."""
        name, data = path.relative_to(self.root).as_posix(), path.read_bytes()
        if data[:6] != b"EYRIE1" or data[6] != kind:
            raise Damage(f"{name} is of another kind")
        key = keyed(self.meta_key, b"eyrie 1 file", name.encode())
        body = unseal(key, data[:8] + self.id + name.encode(), data[8:])
        if data[7] == 1:
            body = expand(body, frame_size(body))
        return json.loads(body)

    def _load_index(self) -> None:
        """Section 8."""
        segments = {path.name: self._segment(path) for path in self.files("index")}
        gone = {superseded for _, supersedes, _ in segments.values() for superseded in supersedes}
        for name, (packs, _, records) in segments.items():
            if name in gone:
                continue
            for blob, pack, position, stored in records:
                self.places.setdefault(blob, []).append(Place(packs[pack], position, stored))

    def _segment(self, path: Path) -> tuple[list[Path], list[str], list[tuple[bytes, int, int, int]]]:
        name, data = path.relative_to(self.root).as_posix(), path.read_bytes()
        if data[:8] != b"EYRIE1\x01\x00" or data[-8:] != b"EYRIEIDX":
            raise Damage(f"{name} is no segment")
        key = keyed(self.meta_key, b"eyrie 1 file", name.encode())
        aad = data[:8] + self.id + name.encode()
        length = int.from_bytes(data[-12:-8], "little")
        footer = Bytes(unseal(key, aad + b"footer", data[-12 - length : -12]))
        packs = []
        for _ in range(footer.u(4)):
            pack, _hash, _size, kind = footer.take(32).hex(), footer.take(32), footer.u(8), footer.u(1)
            footer.take(3 + 4)
            packs.append(self.root / ("data", "tree")[kind - 1] / pack[:2] / pack)
        supersedes = [footer.take(32).hex() for _ in range(footer.u(4))]
        records = []
        for number in range(footer.u(4)):
            first, position, length, count = footer.take(32), footer.u(8), footer.u(4), footer.u(4)
            block = Bytes(unseal(key, aad + b"block" + struct.pack("<I", number), data[position : position + length]))
            for _ in range(count):
                records.append((block.take(32), block.u(4), block.u(4), block.u(4)))
                block.take(8)
            block.end()
            if records[-count][0] != first:
                raise Damage(f"a fence of {name} is wrong")
        footer.end()
        return packs, supersedes, records

    def blob(self, kind: int, cv: bytes, offset: int, length: int) -> bytes:
        """Section 6."""
        blob = keyed(self.id_key, b"eyrie 1 blob", bytes([kind]), cv, struct.pack("<QI", offset, length))
        for place in self.places.get(blob, []):
            if not place.pack.exists():
                continue
            stored = place.pack.read_bytes()[place.position : place.position + place.stored]
            return self._open_blob(blob, kind, cv, offset, length, stored)
        raise Damage(f"blob {blob.hex()} is nowhere")

    def _open_blob(self, blob: bytes, kind: int, cv: bytes, offset: int, length: int, stored: bytes) -> bytes:
        header = Bytes(stored)
        if header.take(4) != b"EYB1":
            raise Damage("no blob begins there")
        found = (header.u(1), codec := header.u(1), epoch := header.u(2), header.u(8), header.u(4), header.u(4))
        if found != (kind, codec, epoch, offset, length, len(stored)) or header.take(32) != blob:
            raise Damage(f"the header of blob {blob.hex()} is another's")
        nonce, zero = header.take(12), header.take(8)
        aad = b"eyrie 1 blob" + self.id + struct.pack("<BBHQI", kind, codec, epoch, offset, length) + blob
        if zero != bytes(8):
            raise Damage("the reserved part is not zero")
        for key in [self.meta_key] if kind == 2 else self.data_keys[epoch]:
            try:
                plain = unseal(keyed(key, b"eyrie 1 blob key", blob), aad, nonce + stored[76:])
            except Damage:
                continue
            plain = expand(plain, length) if codec == 1 else plain
            if len(plain) != length or chaining_value(plain, offset) != cv:
                raise Damage(f"blob {blob.hex()} has another content")
            return plain
        raise Damage(f"blob {blob.hex()} is not authentic")

    def entries(self, root: dict[str, Any] | None) -> Iterator[tuple[bytes, bytes, dict[str, Any]]]:
        """The entries of a map, section 9: key, value, content."""
        if root is not None:
            yield from self._node(bytes.fromhex(root["cv"]), root["length"], root["level"])

    def _envelope(self, cv: bytes, length: int, level: int, shape: int) -> tuple[Bytes, list[Any], list[Any], list[Any], list[bytes]]:
        node = Bytes(self.blob(2, cv, 0, length))
        if node.take(8) != b"EYT1" + bytes([level, shape, 0, 0]):
            raise Damage("a node is of another level or shape")
        counts = [node.u(4) for _ in range(4)]
        nodes = [(node.take(32), node.u(4), node.u(1), node.u(1)) for _ in range(counts[0])]
        blobs = [(node.take(32), node.u(8), node.u(4)) for _ in range(counts[1])]
        values = [(node.take(32), node.u(4)) for _ in range(counts[2])]
        pins = [node.bytes() for _ in range(counts[3])]
        return node, nodes, blobs, values, pins

    def _node(self, cv: bytes, length: int, level: int) -> Iterator[tuple[bytes, bytes, dict[str, Any]]]:
        node, nodes, blobs, values, pins = self._envelope(cv, length, level, 1 if level == 0 else 2)
        if level:
            for child, (child_cv, child_length, child_level, _) in zip(range(node.varint()), nodes, strict=True):
                first, _entries, _bytes = node.bytes(), node.varint(), node.varint()
                below = list(self._node(child_cv, child_length, child_level))
                if below[0][0] != first:
                    raise Damage(f"child {child} begins with another key")
                yield from below
            node.end()
            return
        apart = Bytes(b"".join(self.blob(3, *value[:1], 0, value[1]) for value in values)) if values else None
        key, used = b"", [iter(nodes), iter(blobs), iter(pins)]
        for _ in range(node.varint()):
            key = key[: node.varint()] + node.bytes()
            value = apart.take(node.varint()) if apart else node.bytes()
            yield key, value, self._content(node, *used)
        node.end()
        if apart:
            apart.end()

    def _content(self, node: Bytes, nodes: Iterator[Any], blobs: Iterator[Any], pins: Iterator[bytes]) -> dict[str, Any]:
        kind = node.u(1)
        if kind == 0:
            return {"kind": "none"}
        digest, size = node.take(32).hex(), node.varint()
        if kind == 1:
            return self._object(digest, size, [next(blobs) for _ in range(node.varint())])
        if kind == 2:
            pieces = []
            for _ in range(node.varint()):
                cv, length, level, shape = next(nodes)
                inner, _, below, _, _ = self._envelope(cv, length, level, shape)
                inner.end()
                pieces += below
            return self._object(digest, size, pieces)
        owed = None if node.u(1) else digest
        if kind == 3:
            return {"kind": "external", "hash": owed, "size": size, "pin": next(pins)}
        piece, content = node.varint(), bytearray(size)
        for _ in range(node.varint()):
            inner, _, below, _, _ = self._envelope(*next(nodes))
            for cv, offset, length in below:
                at = inner.varint() * piece
                content[at : at + length] = self.blob(1, cv, offset, length)
            inner.end()
        return {"kind": "volume", "hash": owed, "size": size, "piece": piece, "bytes": bytes(content)}

    def _object(self, digest: str, size: int, pieces: list[tuple[bytes, int, int]]) -> dict[str, Any]:
        content = b"".join(self.blob(1, cv, offset, length) for cv, offset, length in pieces)
        if len(content) != size or blake3(content).hexdigest() != digest:
            raise Damage("an object is not what its hash says")
        return {"kind": "object", "hash": digest, "size": size, "bytes": content}

    def forgotten(self) -> list[dict[str, Any]]:
        files = {path.name: self.json(path, 7) for path in self.files("forgotten")}
        gone = {name for file in files.values() for name in file.get("supersedes", [])}
        return [record for name, file in files.items() if name not in gone for record in file["records"]]

    def snapshots(self) -> tuple[list[dict[str, Any]], list[str]]:
        """The snapshots with `hash`, and the manifests that are none, section 10."""
        manifests = []
        for path in self.files("snapshots"):
            manifest = self.json(path, 2)
            manifest["hash"] = blake3(path.read_bytes()).hexdigest()
            manifest["lineage"] = (manifest.get("origin", {}).get("repository", self.id.hex()), manifest["instance"])
            manifests.append(manifest)
        records = self.forgotten()
        marks = [self.json(path, 5).get("dead", {}) for path in self.files("marks")]

        def late(dead: dict[str, list[str]], of: dict[str, Any]) -> bool:
            return of["session"] in dead and of["snapshot"] not in dead[of["session"]]

        def lineage(of: dict[str, Any]) -> tuple[str, str]:
            return of.get("origin", {}).get("repository", self.id.hex()), of["instance"]

        # A record stands for its manifest. Whether what each says counts is found out one after the other.
        speakers = [*manifests, *records]
        counts: dict[int, bool] = {at: False for at, of in enumerate(speakers) if any(late(dead, of) for dead in marks)}
        told = True
        while told:
            told = False
            for at, of in enumerate(speakers):
                by = [
                    number
                    for number, other in enumerate(speakers)
                    if number != at and lineage(other) == lineage(of) and late(other.get("dead", {}), of)
                ]
                if at not in counts and all(counts.get(number) is False for number in by):
                    counts[at] = told = True
                elif at not in counts and any(counts.get(number) for number in by):
                    counts[at], told = False, True
        if len(counts) < len(speakers):
            raise Damage("manifests name each other in a circle")
        valid = [m for at, m in enumerate(manifests) if counts[at]]
        void = [m for at, m in enumerate(manifests) if not counts[at]]
        gone = {(record["snapshot"], record["manifest"]) for record in records}
        valid = [m for m in valid if (m["snapshot"], m["hash"]) not in gone]
        return sorted(valid, key=lambda m: m["snapshot"]), [m["snapshot"] for m in void]

    def maps(self, manifest: dict[str, Any]) -> dict[str, list[tuple[bytes, bytes, dict[str, Any]]]]:
        """The maps of a snapshot as its amendments leave them, section 12."""
        known_as = manifest.get("origin", {}).get("manifest", manifest["hash"])
        amendments = [self.json(path, 8) for path in self.files("amendments")]
        amendments = [a for a in amendments if (a["snapshot"], a["manifest"]) == (manifest["snapshot"], known_as)]
        maps = {}
        for name, root in manifest["roots"].items():
            said: dict[bytes, list[tuple[bytes, dict[str, Any]]]] = {}
            for amendment in amendments:
                for key, value, content in self.entries(amendment["roots"].get(name)):
                    said.setdefault(key, []).append((value, content))
            entries = []
            for key, value, content in self.entries(root):
                # First the hashes, then the losses.
                for words, after in sorted(said.get(key, []), key=lambda pair: pair[1]["kind"] == "none"):
                    if after["kind"] == "none":
                        lost = json.loads(words)["lost"]
                        after = {"kind": "lost", "hash": content["hash"], "size": content["size"], "why": lost}
                    content = after
                entries.append((key, value, content))
            maps[name] = entries
        return maps


