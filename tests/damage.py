"""Damage: seeded changes to the files omniq reads, from a flipped bit to a description that lies about its file.

`changed` picks what suits the file's kind: bytes of any file; values of JSON and JSON lines; shapes, dtypes and
offsets of safetensors; counts and lengths of GGUF; anchors, tags and dates of YAML. Equal seeds, equal damage.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

Change = Callable[[bytes, Random], bytes]

EDGES = (0, 1, 2, 127, 128, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
"""Whole numbers at which programs go wrong."""
DIGITS, DEEP = "@digits@", "@deep@"
"""Stand for a number of 5000 digits and for lists in lists, which json.dumps cannot write."""
WORDS = (
    "",
    "x",
    "../../../etc/passwd",
    "/dev/zero",
    "a\0b",
    "\ud800",
    "\u202e",
    "x" * 70_000,
    "nan",
    "1",
    "re:(x+x+)+y",
)
VALUES: tuple[Any, ...] = (
    None, True, False, 0.5, -0.0, 1e308, math.nan, math.inf, -math.inf, -1, -(2**63), [], {}, [[]], [None], {"": {}},
    [0] * 1000, DIGITS, DEEP, *EDGES, *WORDS,
)  # fmt: skip
DTYPES = ("BOOL", "U8", "I8", "I16", "I32", "I64", "F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E8M0", "C64", "I4", "")
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
SNIPPETS = (
    BOMB, BOMB + "options: *i\n", "options: &o {let: *o}\n", "seed: 2020-99-99\n", "seed: !!python/name:os.system x\n",
    "data: !!python/object/apply:os.system ['touch stray']\n", "seed: !!binary x\n", "? [1, 2]\n: 3\n", "<<: [1]\n",
    "seed: 1\nseed: 2\n", "seed: 0x" + "f" * 6000 + "\n", "seed: " + "9" * 5000 + "\n", "seed: 1:99:99:" + "9:" * 400,
    "options: " + "[" * 5000, "options: " + "{a: " * 2000, "a: " * 3000, "\t", "\0", "--- \n--- \n", "%YAML 9.9\n",
    "seed: .inf\n", "preset: !!set {a, b}\n", "preset: !!timestamp x\n", "seed: !!int abc\n", "seed: !!float abc\n",
)  # fmt: skip


def changed(name: str, raw: bytes, random: Random) -> bytes:
    """The content of the file `name`, damaged in one to three places."""
    kinds = CHANGES.get(Path(name).suffix, (bytes_changed,))
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        change = random.choice(kinds)
        try:
            raw = change(raw, random)
        except (
            ValueError,
            KeyError,
            IndexError,
            TypeError,
            AttributeError,
            OverflowError,
            struct.error,
            RecursionError,
        ):
            raw = bytes_changed(raw, random)  # damaged beyond the finer kind already
    return raw


def bytes_changed(raw: bytes, random: Random) -> bytes:
    """Bits flipped, a part lost, copied elsewhere or made up, or a number of 1 to 8 bytes set to an edge."""
    where, size = random.randrange(len(raw) + 1), random.choice((1, 2, 4, 8, 64, 4096))
    piece = raw[(start := random.randrange(len(raw) + 1)) : start + size]
    kind = random.randrange(7)
    if kind == 0:
        return raw[:where]
    if kind == 1:
        return raw[:where] + raw[where + size :]
    if kind == 2:
        return raw[:where] + piece + raw[where + len(piece) :]
    if kind == 3:
        return raw[:where] + random.randbytes(size) + raw[where:]
    if kind == 4:
        return (
            raw[:where] + bytes(byte ^ 1 << random.randrange(8) for byte in raw[where : where + 1]) + raw[where + 1 :]
        )
    if kind == 5:
        return raw[:where] + bytes([random.choice((0, 0x7F, 0xFF))]) * min(size, len(raw) - where) + raw[where + size :]
    return with_number(
        raw, random.choice((where, where & ~7, random.randrange(64))), random.choice((1, 2, 4, 8)), random
    )


def with_number(raw: bytes, at: int, width: int, random: Random) -> bytes:
    """A little-endian number of `width` bytes at `at` set to an edge."""
    value = random.choice(EDGES) & (1 << 8 * width) - 1
    return raw[:at] + value.to_bytes(width, "little") + raw[at + width :]


def json_changed(raw: bytes, random: Random) -> bytes:
    """One value of a JSON text of another type or size, dropped, renamed, given twice or put elsewhere."""
    root = [json.loads(raw)]
    places = list(_places(root))
    container, key = random.choice(places)
    kind = random.randrange(8)
    if kind < 4:
        container[key] = random.choice(VALUES)
    elif kind == 4 and container is not root:
        del container[key]
    elif kind == 5 and isinstance(container, dict):
        container[random.choice(WORDS)] = container.pop(key)
    elif kind == 6:
        container[key] = json.loads(json.dumps(_value(random.choice(places))))
    else:
        container[key] = _nudged(container[key], random)
    text = json.dumps(root[0])
    if random.randrange(12) == 0:
        text = text.replace("{", '{"x": 1, "x": 2, ', 1)
    deep = "[" * 100_000 + "]" * 100_000
    return text.replace(f'"{DIGITS}"', "9" * 5000).replace(f'"{DEEP}"', deep).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value in nested lists and mappings; at most 200 of one container."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys)[:200]:
        yield value, key
        yield from _places(value[key])


def _value(place: tuple[Any, Any]) -> Any:
    return place[0][place[1]]


def _nudged(value: Any, random: Random) -> Any:
    """A value of the same type that is somewhat wrong."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return random.choice((-value, value + 1, value - 1, value * 2, value * 2**20, float(value), str(value)))
    if isinstance(value, str):
        return random.choice((value + "x", value[:-1], value.upper(), value * 2, [value], value + "\n"))
    if isinstance(value, list):
        return random.choice(
            (value * 2, value[:-1], value[::-1], {str(i): one for i, one in enumerate(value)}, [value])
        )
    if isinstance(value, dict):
        return random.choice((list(value), list(value.items()), {}, {"x": value}))
    return random.choice(VALUES)


def lines_changed(raw: bytes, random: Random) -> bytes:
    """One line of JSON lines damaged as JSON, lost, or given twice."""
    lines = raw.splitlines(keepends=True)
    number = random.randrange(len(lines))
    if (kind := random.randrange(6)) < 4:
        lines[number] = json_changed(lines[number], random) + b"\n"
    elif kind == 4:
        del lines[number]
    else:
        lines.insert(number, lines[number])
    return b"".join(lines)


def header_changed(raw: bytes, random: Random) -> bytes:
    """The JSON in front of safetensors damaged; its length is made to fit, but not always."""
    (length,) = struct.unpack("<Q", raw[:8])
    text, data = json_changed(raw[8 : 8 + length], random), raw[8 + length :]
    stated = len(text) if random.randrange(5) else random.choice((*EDGES, len(text) - 1, len(text) + 1))
    return struct.pack("<Q", stated) + text + data


def offsets_changed(raw: bytes, random: Random) -> bytes:
    """Offsets in a safetensors file exchanged, moved, made to overlap, or out of the file."""
    header, data = _opened(raw)
    first, second = (random.choice(list(header)) for _ in range(2))
    a, b = header[first]["data_offsets"], header[second]["data_offsets"]
    header[first]["data_offsets"] = random.choice(
        (
            b,
            [a[1], a[0]],
            [a[0], b[1]],
            [a[0] + 1, a[1] + 1],
            [a[0] - 8, a[1] - 8],
            [len(data), len(data) + a[1] - a[0]],
        )
    )
    if random.randrange(2):
        header[second]["data_offsets"] = a
    return _closed(header, data)


def tensors_changed(raw: bytes, random: Random) -> bytes:
    """A sound safetensors file in which one tensor has another dtype or shape, is empty, lost, renamed or infinite."""
    header, data = _opened(raw)
    name = random.choice(list(header))
    start, end = header[name]["data_offsets"]
    dtype, shape, values = header[name]["dtype"], header[name]["shape"], data[start:end]
    kind = random.randrange(8)
    if kind == 0:
        dtype = random.choice(DTYPES)
    elif kind == 1:
        shape = random.choice((shape[::-1], [1, *shape], shape[1:], [math.prod(shape)], [*shape, 1]))
    elif kind == 2:
        shape, values = [0, *shape[1:]], b""
    elif kind == 3:
        values = bytes([random.choice((0, 0x7F, 0x80, 0xFF))]) * len(values)
    elif kind == 4:
        values = random.randbytes(len(values))
    elif kind == 5:
        shape, values = [2**62, 0], b""
    copies = {other: (entry["dtype"], entry["shape"], _data(data, entry)) for other, entry in header.items()}
    copies[name] = (dtype, shape, values)
    if kind == 6:
        del copies[name]
    elif kind == 7:
        copies[random.choice((*WORDS, *(n + "x" for n in header)))] = copies.pop(name)
    return _written(copies)


def _opened(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """(description by tensor name, data) of a safetensors file."""
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__", None)
    return header, raw[8 + length :]


def _data(data: bytes, entry: dict[str, Any]) -> bytes:
    return data[slice(*entry["data_offsets"])]


def _closed(header: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _written(tensors: dict[str, tuple[str, list[int], bytes]]) -> bytes:
    """A safetensors file of (dtype, shape, data) by name."""
    header, at = {}, 0
    for name, (dtype, shape, values) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(values)]}
        at += len(values)
    return _closed(header, b"".join(values for _, _, values in tensors.values()))


def gguf_changed(raw: bytes, random: Random) -> bytes:
    """A count, length, type or offset of a GGUF file set to an edge."""
    at, width = random.choice(list(gguf_numbers(raw)))
    return with_number(raw, at, width, random)


GGUF_WIDTHS = (1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8)
"""Bytes of each type of value; text and lists, 8 and 9, have none of their own."""


def gguf_numbers(raw: bytes) -> Iterator[tuple[int, int]]:
    """(place, bytes) of every number in the description of a GGUF file that decides how it is read."""
    yield from ((4, 4), (8, 8), (16, 8))
    tensors, pairs = struct.unpack_from("<QQ", raw, 8)
    at = 24
    for _ in range(pairs):
        yield at, 8
        at += 8 + struct.unpack_from("<Q", raw, at)[0]
        yield at, 4
        (kind,) = struct.unpack_from("<I", raw, at)
        places, at = _gguf_value(raw, at + 4, kind)
        yield from places
    for _ in range(tensors):
        yield at, 8
        at += 8 + struct.unpack_from("<Q", raw, at)[0]
        (dims,) = struct.unpack_from("<I", raw, at)
        if dims > 8:
            return  # damaged already
        yield from (
            (at, 4),
            *((at + 4 + 8 * i, 8) for i in range(dims)),
            (at + 4 + 8 * dims, 4),
            (at + 8 + 8 * dims, 8),
        )
        at += 16 + 8 * dims


def _gguf_value(raw: bytes, at: int, kind: int) -> tuple[list[tuple[int, int]], int]:
    """(numbers of one value, place after it); of a list its type, its length and its first values."""
    if kind == 8:
        return [(at, 8)], at + 8 + struct.unpack_from("<Q", raw, at)[0]
    if kind != 9:
        return [(at, GGUF_WIDTHS[kind])], at + GGUF_WIDTHS[kind]
    inner, count = struct.unpack_from("<IQ", raw, at)
    places, end = [(at, 4), (at + 4, 8)], at + 12
    if inner < len(GGUF_WIDTHS) and GGUF_WIDTHS[inner]:
        return places, end + count * GGUF_WIDTHS[inner]
    for number in range(count):
        found, end = _gguf_value(raw, end, inner)
        places += found if number < 3 else []
    return places, end


def yaml_changed(raw: bytes, random: Random) -> bytes:
    """A line lost or given twice, or one that asks for what YAML can do and a recipe must not."""
    lines = raw.splitlines(keepends=True)
    number = random.randrange(len(lines))
    if (kind := random.randrange(6)) == 0:
        del lines[number]
    elif kind == 1:
        lines.insert(number, lines[number])
    else:
        lines.insert(random.choice((0, len(lines))), random.choice(SNIPPETS).encode())
    return b"".join(lines)


def yaml_value_changed(raw: bytes, random: Random) -> bytes:
    """A value of one line replaced by another, written as JSON, which is YAML too."""
    lines = raw.splitlines(keepends=True)
    number = random.randrange(len(lines))
    key = lines[number].split(b":")[0]
    value = (
        json.dumps(random.choice(VALUES))
        .replace(f'"{DIGITS}"', "9" * 5000)
        .replace(f'"{DEEP}"', "[" * 2000 + "]" * 2000)
    )
    lines[number] = key + b": " + value.encode() + b"\n"
    return b"".join(lines)


CHANGES: dict[str, tuple[Change, ...]] = {
    ".json": (json_changed, json_changed, json_changed, bytes_changed),
    ".jsonl": (lines_changed, lines_changed, bytes_changed),
    ".safetensors": (header_changed, offsets_changed, tensors_changed, tensors_changed, bytes_changed),
    ".gguf": (gguf_changed, gguf_changed, bytes_changed),
    ".yaml": (yaml_changed, yaml_value_changed, bytes_changed),
}
"""Kinds of damage by the file's suffix; of any other file, bytes."""
