"""Ways to damage a file. Each is drawn by a seeded generator, so that a mutation is known by its kind and number."""

import copy
import json
import random
import re
import struct
from collections.abc import Callable, Iterator
from typing import Any

import yaml

Mutate = Callable[[bytes, random.Random], bytes]

# What JSON or YAML libraries do not write stands in the values as a mark, and takes its place in their text.
RAW, DOUBLE = "@raw{}@", "@double@"
RAW_TEXTS = {
    "json": [
        *("NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400, "-" + "9" * 5000),
        *("[" * 50_000, '{"a":' * 3000),
    ],
    "yaml": [
        *(".nan", ".inf", "-.inf", "1e999", "1" + "0" * 400, "0x" + "f" * 5000, "1" + ":1" * 9000, "[" * 3000),
        *("!!python/name:os.system ''", "!!binary 'é'", "!!timestamp x", "!function a.b", "*none", "&a [*a]", "@"),
        *("\t- x", "{<<: [1]}", "? [a]\n: b"),
        "[&a [x, x, x, x], &b [*a, *a, *a, *a], &c [*b, *b, *b, *b], [*c, *c, *c, *c]]",
    ],
}
NUMBERS: list[Any] = [
    *(0, -1, 1, 2, 3, 2**31 - 1, 2**31, -(2**31), 2**32, 2**63, -(2**63) - 1),
    *(1e308, -1e308, 1e-320, 0.5),
]
TEXTS = ["", " ", "NaN", "none", "x" * 10_000, "a\0b", "\ud800", "../x", "/dev/zero", "é\u202e", "{{", "$x$", "1"]
OTHERS: list[Any] = [None, True, False, [], {}, [[]], [None], {"a": 1}]

Place = tuple[Any, ...]


def mutated_json(content: bytes, draw: random.Random) -> bytes:
    """A JSON file with other values, or other bytes."""
    if draw.random() < 0.15:
        return mutated_text(content, draw)
    value = _changed(json.loads(content), draw, len(RAW_TEXTS["json"]))
    return _marked_text(json.dumps(value, indent=draw.choice([None, 2])), "json")


def mutated_yaml(content: bytes, draw: random.Random) -> bytes:
    """A YAML file with other values, or other bytes."""
    if draw.random() < 0.2:
        return mutated_text(content, draw)
    value = _changed(yaml.safe_load(content), draw, len(RAW_TEXTS["yaml"]))
    return _marked_text(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), "yaml")


def mutated_text(content: bytes, draw: random.Random) -> bytes:
    """A text in another encoding, cut short, or with a few other characters."""
    text = content.decode("utf-8")
    place = draw.randrange(len(content) + 1)
    return draw.choice(
        [
            lambda: text.encode("utf-16"),
            lambda: b"\xef\xbb\xbf" + content,
            lambda: content[:place] + b"\xe9\xff" + content[place:],
            lambda: content[:place] + b"\0" + content[place:],
            lambda: content[:place],
            lambda: content[:place] + content[place + 1 :],
            lambda: content[:place] + bytes([draw.choice(b'[]{}:,"#&*!%@`-\n\t0')]) + content[place:],
            lambda: content * 2,
            lambda: b"",
            lambda: json.dumps(draw.choice([*OTHERS, *NUMBERS, *TEXTS])).encode(),
        ]
    )()


def mutated_bytes(content: bytes, draw: random.Random, head: int = 2**40) -> bytes:
    """A binary file with a few other bytes. Half of them lie in the first `head`, where most is said."""
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 2, 4, 16])):
        if not changed:
            break
        end = len(changed) if draw.random() < 0.5 else min(head, len(changed))
        place = draw.randrange(end)
        width, kind = draw.choice([(4, "<I"), (8, "<Q")])
        number = draw.choice([0, 1, 2, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**64 - 1])
        other = draw.randrange(len(changed))
        length = draw.choice([1, 4, 8, 64, 1024])
        match draw.randrange(8):
            case 0:
                changed[place] ^= 1 << draw.randrange(8)
            case 1:
                changed[place] = draw.randrange(256)
            case 2 | 3:
                changed[place : place + width] = struct.pack(kind, number % 2 ** (8 * width))
            case 4:
                del changed[place:]
            case 5:
                changed[place : place + length] = changed[other : other + length]
            case 6:
                changed[place : place + length] = bytes(min(length, len(changed) - place))
            case 7:
                changed += draw.randbytes(length)
    return bytes(changed)


def mutated_safetensors(content: bytes, draw: random.Random) -> bytes:
    """A safetensors file with another header, another length of it, or other bytes."""
    size = int.from_bytes(content[:8], "little")
    header, body = content[8 : 8 + size], content[8 + size :]
    match draw.randrange(4):
        case 0:
            return mutated_bytes(content, draw, head=8 + size)
        case 1:
            length = draw.choice([0, 1, size - 1, size + 1, len(content), 2**31, 2**40, 2**63, 2**64 - 1])
            return struct.pack("<Q", length) + header + body
    changed = mutated_json(header, draw)
    return struct.pack("<Q", len(changed)) + changed + body


def mutated_metadata(content: bytes, draw: random.Random) -> bytes:
    """As `mutated_safetensors`, and half of the time the JSON inside one of the header's texts instead."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    inner = [key for key, text in header.get("__metadata__", {}).items() if text[:1] in ("{", "[")]
    if not inner or draw.random() < 0.5:
        return mutated_safetensors(content, draw)
    key = draw.choice(inner)
    changed = mutated_json(header["__metadata__"][key].encode(), draw)
    header["__metadata__"][key] = changed.decode("utf-8", "replace")
    written = json.dumps(header).encode()
    return struct.pack("<Q", len(written)) + written + content[8 + size :]


def mutated_gguf(content: bytes, draw: random.Random) -> bytes:
    """A GGUF file with other bytes, most of them where keys, lengths and shapes stand."""
    return mutated_bytes(content, draw, head=draw.choice([64, 1024, 16 * 1024]))


def _changed(value: Any, draw: random.Random, raw_texts: int) -> Any:
    """A copy of a value that differs in one place, now and then in a few."""
    value = copy.deepcopy(value)
    for _ in range(draw.choice([1, 1, 1, 1, 2, 3])):
        places = list(_places(value))
        place = draw.choice(places)
        if not place:
            if draw.random() < 0.1:
                return _other(value, draw, raw_texts)
            continue
        owner = value
        for part in place[:-1]:
            owner = owner[part]
        if isinstance(owner, dict) and draw.random() < 0.3:
            _change_key(owner, place[-1], draw, raw_texts)
        elif isinstance(owner, list) and draw.random() < 0.2:
            _change_length(owner, place[-1], draw)
        else:
            owner[place[-1]] = _other(owner[place[-1]], draw, raw_texts)
    return value


def _places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Where values stand. Of a long list a few places are enough."""
    yield place
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    for key, inner in items if len(items) <= 64 else [*items[:16], *items[-4:]]:
        yield from _places(inner, (*place, key))


def _change_key(owner: dict[Any, Any], key: Any, draw: random.Random, raw_texts: int) -> None:
    match draw.randrange(4):
        case 0:
            del owner[key]
        case 1:
            owner[f"{key}{DOUBLE}"] = _other(owner[key], draw, raw_texts)
        case 2:
            owner[draw.choice([*TEXTS, f"{key}x", str(key).upper()])] = owner.pop(key)
        case 3:
            other = draw.choice(list(owner))
            owner[key], owner[other] = owner[other], owner[key]


def _change_length(owner: list[Any], index: int, draw: random.Random) -> None:
    match draw.randrange(4):
        case 0:
            del owner[index]
        case 1:
            owner.append(owner[index])
        case 2:
            del owner[index:]
        case 3:
            owner.reverse()


def _other(value: Any, draw: random.Random, raw_texts: int) -> Any:
    near: list[Any] = [[value], {"a": value}, str(value)]
    if isinstance(value, int | float) and not isinstance(value, bool):
        near = [value + 1, -value, value * 2, value / 2, value * 1000, float(value), str(value)]
    elif isinstance(value, str):
        near = [value * 2, value[:-1], value.upper(), f" {value}", f"{value}x", [value]]
    elif isinstance(value, list):
        near = [value * 2, [0] * 30_000, dict.fromkeys(map(str, range(len(value))))]
    pool = draw.choice([near, near, NUMBERS, NUMBERS, TEXTS, OTHERS, [RAW.format(n) for n in range(raw_texts)]])
    return copy.deepcopy(draw.choice(pool))


def _marked_text(text: str, form: str) -> bytes:
    """The text with the marks replaced by what they stand for."""
    text = text.replace(DOUBLE, "")
    marks = re.compile(r"""(["']?)""" + RAW.format(r"(\d+)") + r"\1")
    text = marks.sub(lambda mark: RAW_TEXTS[form][int(mark[2])], text)
    return text.encode("utf-8", "surrogatepass")
