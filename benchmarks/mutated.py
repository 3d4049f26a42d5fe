"""Files that were damaged on purpose: bytes, numbers, names and values that no honest program writes."""

import contextlib
import json
import random
import sqlite3
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

Mutate = Callable[[bytes, random.Random], bytes]
"""A file's content -> another one."""
_NUMBERS = (0, -1, 1, 2**31 - 1, 2**31, 2**63, 2**64, 10**400, 1e308, -1e308, 1e-320, 0.5)
_TEXTS = (
    "", ".", "..", "../../outside", "/etc/passwd", "a/../../b", "C:\\Windows\\x", "x\0y", "x\ny", "\x1b[31mred",
    "\ud800", "e\u0301", "\u202egnp", "a" * 255, "a" * 5000, "a/" * 2000, "<img src=x onerror=alert(1)>", "</script>",
    "%s%n{0}", "nan", "-inf", "1e999", "file:///etc/passwd", "\\\\host\\share", "photo_01.jpg", "~", "$HOME", "CON",
)  # fmt: skip


def odd(chance: random.Random) -> Any:
    """A value of JSON that nobody expects."""
    nested: Any = []
    for _ in range(chance.choice((3, 500))):
        nested = [nested]
    kinds = (chance.choice(_NUMBERS), chance.choice(_TEXTS), None, True, False, [], {}, [[]], float("nan"), nested)
    return chance.choice((*kinds, chance.choice(_NUMBERS), chance.choice(_TEXTS), [0] * 10000, {"": {}}))


def bytes_of(content: bytes, chance: random.Random) -> bytes:
    """Bits flipped, parts cut out, doubled, exchanged, filled or appended; up to three times."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 3))):
        size = len(changed)
        # Headers are short and decide the most: half of all places are in the first bytes.
        start = chance.randrange(min(size, 400) or 1) if chance.random() < 0.5 else chance.randrange(size or 1)
        end = min(size, start + chance.choice((1, 2, 4, 8, 64, size // 4 + 1)))
        part = bytes(changed[start:end])
        how = chance.choice(("flip", "flip", "cut", "truncate", "double", "insert", "fill", "append", "move", "empty"))
        if how == "flip" and size:
            for _ in range(chance.choice((1, 1, 8))):
                changed[min(size - 1, start + chance.randrange(8))] ^= 1 << chance.randrange(8)
        elif how == "fill":
            changed[start:end] = bytes([chance.choice((0, 0x7F, 0xFF, 0x80))]) * len(part)
        elif how in ("cut", "move"):
            del changed[start:end]
            place = chance.randrange(len(changed) + 1)
            changed[place:place] = part if how == "move" else b""
        elif how == "truncate" or (how == "empty" and chance.random() < 0.1):
            del changed[start if how == "truncate" else 0 :]
        elif how in ("double", "insert"):
            changed[start:start] = part if how == "double" else chance.randbytes(len(part))
        else:
            changed += chance.randbytes(chance.choice((1, 100, 10000)))
    return bytes(changed)


def png(content: bytes, chance: random.Random) -> bytes:
    """Bytes changed, or one chunk's fields, its checksum put right: what else no reader looks at."""
    if chance.random() < 0.4:
        return bytes_of(content, chance)
    chunks, place = [], 8
    while place + 8 <= len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + length]))
        place += 12 + length
    which = 0 if chance.random() < 0.5 else chance.randrange(len(chunks))
    kind, data = chunks[which]
    if which == 0 and chance.random() < 0.5:  # width and height: a bomb, or nothing
        sides = [chance.choice((0, 1, 2**31 - 1, 10000, 60000, 22000)) for _ in range(2)]
        data = struct.pack(">II", *sides) + data[8:]
    else:
        data = bytes_of(data, chance)
    chunks[which] = (kind, data)
    made = content[:8]
    for name, body in chunks:
        made += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return made


def value_of(value: Any, chance: random.Random) -> Any:
    """JSON with one value replaced, removed, renamed or exchanged with another."""
    places = _places(value)
    if not places:
        return odd(chance)
    holder, key = chance.choice(places)
    how = chance.choice(("odd", "odd", "odd", "odd", "remove", "rename", "swap", "wrap"))
    if how == "odd":
        holder[key] = odd(chance)
    elif how == "remove":
        del holder[key]
    elif how == "rename" and isinstance(holder, dict):
        holder[chance.choice(_TEXTS)] = holder.pop(key)
    elif how == "swap":
        other, at = chance.choice(places)
        holder[key], other[at] = other[at], holder[key]
        with contextlib.suppress(ValueError, RecursionError):
            json.dumps(value)  # else it holds itself now
            return value
        other[at], holder[key] = holder[key], odd(chance)
    else:
        holder[key] = [holder[key]]
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (object or list, key or index) in a value."""
    found, waiting = [], [value]
    while waiting:
        one = waiting.pop()
        keys = list(one) if isinstance(one, dict) else range(len(one)) if isinstance(one, list) else ()
        found += [(one, key) for key in keys]
        waiting += [one[key] for key in keys]
    return found


def json_text(content: bytes, chance: random.Random) -> bytes:
    """JSON with odd values, of endless digits, nested too deep, or with its bytes changed."""
    how = chance.random()
    if how < 0.15:
        return bytes_of(content, chance)
    if how < 0.2:
        return chance.choice((b"[" * 200000, b'{"images":' * 100000, b'{"format_version":' + b"9" * 6000 + b"}"))
    value = json.loads(content)
    for _ in range(chance.choice((1, 1, 1, 3))):
        value = value_of(value, chance)
    text = json.dumps(value)
    if how < 0.25:
        digits = [place for place, letter in enumerate(text) if letter.isdigit()] or [0]
        place = chance.choice(digits)
        text = text[:place] + "9" * 5000 + text[place:]
    return text.encode("utf-8", "surrogatepass")


def safetensors(content: bytes, chance: random.Random) -> bytes:
    """A header that lies, values that no one wrote, or bytes changed."""
    how = chance.random()
    if how < 0.3:
        return bytes_of(content, chance)
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), bytearray(content[8 + length :])
    if how < 0.6:
        header = value_of(header, chance)
    elif data:
        for _ in range(chance.choice((1, 10, 1000))):
            place = chance.randrange(len(data))
            data[place : place + 4] = chance.choice((b"\0\0\x80\x7f", b"\0\0\xc0\x7f", chance.randbytes(4)))
        data = data[: len(content) - 8 - length]
    text = json.dumps(header).encode()
    if how < 0.35:
        return struct.pack("<Q", chance.choice((0, 1, 2**40, 2**63 - 1, 2**64 - 1))) + text + data
    return struct.pack("<Q", len(text)) + text + bytes(data)


def text(content: bytes, chance: random.Random) -> bytes:
    """Lines of settings, points or names with odd words in them, or bytes changed."""
    if chance.random() < 0.3:
        return bytes_of(content, chance)
    lines = content.decode("latin-1").split("\n")
    for _ in range(chance.choice((1, 2))):
        number = chance.randrange(len(lines))
        words = lines[number].replace(",", " , ").split(" ")
        word = odd(chance)
        words[chance.randrange(len(words))] = word if isinstance(word, str) else json.dumps(word)
        lines[number] = " ".join(words)
        if chance.random() < 0.2:
            lines.insert(number, lines[number])
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def database(content: bytes, chance: random.Random) -> bytes:
    """A cell of one of SQLite's tables changed, a table emptied or dropped, or bytes changed."""
    if chance.random() < 0.3:
        return bytes_of(content, chance)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "database.db"
        path.write_bytes(content)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
            file.execute("PRAGMA foreign_keys = OFF")
            tables = [name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for _ in range(chance.choice((1, 1, 3))):
                with contextlib.suppress(sqlite3.Error, IndexError):  # what a table forbids
                    _change_table(file, chance.choice(tables), chance)
        return path.read_bytes()


def _change_table(file: sqlite3.Connection, table: str, chance: random.Random) -> None:
    how = chance.random()
    if how < 0.05:
        file.execute(f"DROP TABLE {table}")
    elif how < 0.15:
        file.execute(f"DELETE FROM {table} WHERE rowid % 2 = {chance.randrange(2)}")
    else:
        columns = [row[1] for row in file.execute(f"PRAGMA table_info({table})")]
        column = chance.choice(columns)
        value: Any = chance.choice(
            (chance.choice(_NUMBERS[:5]), chance.choice(_TEXTS[:10]), None, chance.randbytes(40))
        )
        if isinstance(value, str):
            value = value.encode("utf-8", "surrogatepass") if "\ud800" in value else value
        file.execute(f"UPDATE {table} SET {column} = ? WHERE rowid % 3 = {chance.randrange(3)}", (value,))
