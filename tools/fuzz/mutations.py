"""Cases from seeds: what a grammar allows and nobody expects, bytes that flipped, and the known bombs of each form.

A case follows from the seeds and a `random.Random` alone, so that its number gives it again.
"""

import csv
import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from random import Random
from typing import Any, Literal

import yaml

Form = Literal[
    "text", "json", "lines", "yaml", "csv", "picture", "zip", "npz", "pickle", "safetensors", "torch", "bytes"
]
_MOST_BYTES = 40_000
_DIGITS, _DEEP = "@digits@", "@deep@"
_VALUES: Sequence[Any] = (
    None, True, False, 0, -1, 1, 3, 255, 10**9, 10**18, 2**63, -(2**63) - 1, 10**30, 0.5, -0.0, 1e308, 5e-324,
    float("nan"), float("inf"), float("-inf"), "", " ", "a", "0", "-1", "\0", "\x1b[2J", "\ud83d", "\u202e", "x" * 300,
    "../../../x", "/etc/passwd", "..", ".", "C:\\x", "a/b", "ı", "İ", "ſ", "ﬁ", "ß", "é", "肺", "１２", "²", "A", "yes", "nan",
    "2001-99-99", [], {}, [[]], {"": None}, [None], {"a": {}}, _DIGITS, _DEEP,
)  # fmt: skip
_TOKENS = (
    "<answer>", "</answer>", "<think>", "</think>", "\\boxed{", "{", "}", "[", "]", "(", ")", "A", "B", "(C)", "D.", "a",
    "the answer is ", "not ", "or ", "and ", "wait, no: ", "actually ", "yes", "no", "neither", "both", "all of the above",
    "[0.1, 0.2, 0.3, 0.4]", "<box>", "</box>", "<loc_12>", "<0.5>", "x1=", "left: ", "12", "0.5", "-1", "1e999", "%", "px",
    "http://", "https://u:p@h/", "/", "\\", "a.", "a/", "~/", "C:\\", "file:", "hf_", "sk-", "'", '"', "`", "```", "**", "_",
    "$", "^{", "&amp;", "&#39;", "<", ">", "|", ":", ";", ",", ".", "!", "?", "-", "\u2011", "=", "\n", "\r\n", "\t", " ", "\0",
    "\x1b", "\u202e", "\ud83d", "\u200b", "ı", "İ", "ſ", "ﬁ", "½", "１", "²", "肺", "é", "e\u0301", "answer", '"answer": ',
    '{"answer": "A"}', "Final answer: ", "Answer: ", "Q: ", "data: ", "[DONE]", "<|im_end|>", "<|channel|>", "final",
    "analysis", "assistantfinal", "###", "Doctor:", "I don't know", "FINDINGS:", "IMPRESSION:", "___", "x, ", "0, ",
)  # fmt: skip
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)


def case_of(form: Form, seeds: Sequence[bytes], draw: Random) -> bytes:
    """Return one case: of its grammar mostly, else a seed with bytes that are others."""
    seed = draw.choice(seeds)
    if draw.random() < _BY_GRAMMAR:
        # What a form cannot say, or a seed that was broken on purpose, is changed as bytes.
        with suppress(ValueError, TypeError, LookupError, OverflowError, RecursionError, csv.Error, *_BROKEN):
            return _GRAMMARS.get(form, _bytes)(seed, draw)
    return _bytes(seed, draw)


_BROKEN = (yaml.YAMLError, struct.error, zlib.error, zipfile.BadZipFile, pickle.PickleError, EOFError)


_BY_GRAMMAR = 0.7


def _bytes(seed: bytes, draw: Random) -> bytes:
    data = bytearray(seed)
    for _ in range(1 + int(draw.expovariate(0.7))):
        place = draw.randrange(len(data) + 1)
        end = min(len(data), place + 1 + int(draw.expovariate(0.1)))
        kind = draw.randrange(7)
        if kind == 0 and place < len(data):
            data[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[place:end] = draw.randbytes(end - place)
        elif kind == 2:
            del data[place:end]
        elif kind == 3:
            data[place:place] = data[place:end] * draw.randrange(1, 20)
        elif kind == 4:
            width, order = draw.choice((1, 2, 4, 8)), draw.choice((">", "<"))
            number = draw.choice(_NUMBERS) & ((1 << 8 * width) - 1)
            data[place : place + width] = struct.pack(order + {1: "B", 2: "H", 4: "I", 8: "Q"}[width], number)
        elif kind == 5:
            del data[place:]
        else:
            data[place:place] = draw.choice(_TOKENS).encode(errors="surrogatepass")
    return bytes(data[: max(_MOST_BYTES, len(seed))])


def _text(seed: bytes, draw: Random) -> bytes:
    text = seed.decode("utf-8", "surrogatepass")
    for _ in range(1 + int(draw.expovariate(0.5))):
        place = draw.randrange(len(text) + 1)
        end = min(len(text), place + int(draw.expovariate(0.05)))
        kind, token = draw.randrange(6), "".join(draw.choices(_TOKENS, k=draw.randrange(1, 4)))
        if kind == 0:
            text = text[:place] + token + text[place:]
        elif kind == 1:
            text = text[:place] + token + text[end:]
        elif kind == 2:
            text = text[:place] + text[end:]
        elif kind == 3:
            # Now and then long enough to tell a square from a line.
            most = int(200 * 200 ** draw.random()) if draw.random() < _LONG else 200
            text = text[:place] + token * draw.randrange(1, max(2, most // len(token))) + text[place:]
        elif kind == 4:
            text = text[:place] + text[place:end] * draw.randrange(2, 9) + text[end:]
        else:
            text = text[:place] + draw.choice((str.upper, str.lower, str.swapcase))(text[place:end]) + text[end:]
    return text[:_MOST_BYTES].encode("utf-8", "surrogatepass")


_LONG = 0.03


def mutated(tree: Any, draw: Random) -> Any:  # noqa: ANN401 - any JSON
    """Return plain values of which one is another, is gone, is there under another name, or is there twice."""
    if draw.random() < _HERE or not isinstance(tree, dict | list) or not tree:
        return _other(tree, draw)
    if isinstance(tree, list):
        place = draw.randrange(len(tree))
        kind = draw.randrange(8)
        if kind == 0:
            return tree[:place] + tree[place + 1 :]
        if kind == 1:
            return tree[:place] + [tree[place]] * draw.randrange(2, 5) + tree[place + 1 :]
        return [*tree[:place], mutated(tree[place], draw), *tree[place + 1 :]]
    name = draw.choice(list(tree))
    kind = draw.randrange(10)
    if kind == 0:
        return {key: value for key, value in tree.items() if key != name}
    if kind == 1:
        other = draw.choice([value for value in _VALUES if isinstance(value, str)])
        return {(other if key == name else key): value for key, value in tree.items()}
    return tree | {name: mutated(tree[name], draw)}


_HERE = 0.12


def _other(value: Any, draw: Random) -> Any:  # noqa: ANN401 - any JSON
    kind = draw.randrange(4)
    if kind == 0 and isinstance(value, str):
        return _text(value.encode(errors="surrogatepass"), draw).decode("utf-8", "replace")
    if kind == 1 and isinstance(value, int | float) and not isinstance(value, bool):
        return draw.choice((-value, value * 10**6, value + 1, value - 1, float(value), str(value), 0))
    if kind == 2:
        return draw.choice(([value], {"a": value}, str(value), [value] * 3))
    return draw.choice(_VALUES)


def _as_json(tree: object, draw: Random) -> bytes:
    text = json.dumps(tree, ensure_ascii=draw.random() < 0.5)
    deep = "[" * 3000 + "]" * draw.choice((0, 3000))
    return text.replace(f'"{_DIGITS}"', "9" * 5000).replace(f'"{_DEEP}"', deep).encode("utf-8", "surrogatepass")


def _json(seed: bytes, draw: Random) -> bytes:
    tree = json.loads(seed)
    for _ in range(1 + int(draw.expovariate(0.8))):
        tree = mutated(tree, draw)
    return _as_json(tree, draw)


def _lines(seed: bytes, draw: Random) -> bytes:
    lines = seed.splitlines()
    for _ in range(1 + int(draw.expovariate(0.8))):
        place = draw.randrange(len(lines))
        lines[place] = draw.choice((_json, _json, _json, _bytes, lambda *_: b""))(seed.splitlines()[0], draw)
    return b"\n".join(lines) + draw.choice((b"", b"\n", b"\n\n", b"\r\n"))


def _yaml(seed: bytes, draw: Random) -> bytes:
    tree = mutated(yaml.safe_load(seed), draw)
    return yaml.safe_dump(tree, allow_unicode=draw.random() < 0.5).encode("utf-8", "surrogatepass")


def _csv(seed: bytes, draw: Random) -> bytes:
    rows: Any = list(csv.reader(io.StringIO(seed.decode())))
    for _ in range(1 + int(draw.expovariate(0.8))):
        rows = [[str(cell) for cell in row] for row in mutated(rows, draw) if isinstance(row, list)] or [["a"]]
    stream = io.StringIO()
    csv.writer(stream, delimiter=draw.choice(",,,;\t")).writerows(rows)
    text = stream.getvalue().encode("utf-8", "surrogatepass")
    return _bytes(text, draw) if draw.random() < 0.2 else text


def _picture(seed: bytes, draw: Random) -> bytes:
    if not seed.startswith(b"\x89PNG"):
        return _bytes(seed, draw)
    chunks, place = [], 8
    while place + 8 <= len(seed):
        length, name = struct.unpack_from(">I4s", seed, place)
        chunks.append((name, seed[place + 8 : place + 8 + length]))
        place += 12 + length
    at = draw.randrange(len(chunks))
    name, content = chunks[at]
    whole = zlib.decompress(content) if name == b"IDAT" and draw.random() < 0.5 else None
    content = _bytes(content, draw) if whole is None else zlib.compress(_bytes(whole, draw))
    more = [(name, content)] * draw.choice((0, 1, 1, 1, 1, 2, 50))
    return png(chunks[:at] + more + chunks[at + 1 :])


def png(chunks: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return a PNG file of chunks, whose sums are right."""
    parts = (
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def zipped(members: Mapping[str, bytes], *, packed: bool = True) -> bytes:
    """Return a zip archive, whose members have no time: the same case has the same bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED)
    return stream.getvalue()


def _zip(seed: bytes, draw: Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(seed)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = draw.choice(list(members))
    kind = draw.randrange(5)
    if kind == 0:
        other = draw.choice(("../x", "/x", "a\\..\\x", "a/../b", " ", "é", "a" * 300, "C:x", name.upper()))
        members = {(other if one == name else one): content for one, content in members.items()}
    elif kind == 1:
        del members[name]
    else:
        members[name] = (_pickle_codes if name.endswith(".pkl") else _header if name.endswith(".npy") else _bytes)(
            members[name], draw
        )
    return zipped(members or {"a": b""}, packed=draw.random() < 0.5)


def _header(seed: bytes, draw: Random) -> bytes:
    """Return a NumPy array whose header says something else; its length is right."""
    end = 10 + int.from_bytes(seed[8:10], "little")
    shape = tuple(draw.choice((0, 1, 2, 7, 28, 10**5, 2**31, 2**63, -1)) for _ in range(draw.randrange(5)))
    kind = draw.choice(("|u1", "<f8", "<f4", "<i8", "|O", "<U999999999", "|S1", "<M8[s]", "|b1", "|V8", ">u2", "<c16"))
    said = {"descr": kind, "fortran_order": draw.random() < 0.2, "shape": shape}
    text = draw.choice((repr(said), repr(said), repr(mutated({**said, "shape": list(shape)}, draw)), "(" * 300))
    header = f"{text}\n".encode("latin-1", "replace")
    version = draw.choice((b"\1\0", b"\1\0", b"\2\0", b"\3\0", b"\7\7"))
    length = len(header).to_bytes(2 if version == b"\1\0" else 4, "little")
    return b"\x93NUMPY" + version + length + header + seed[end : end + draw.randrange(4000)]


def _pickle(seed: bytes, draw: Random) -> bytes:
    if draw.random() < 0.5:
        with_sets: Any = pickle.loads(seed)  # noqa: S301 - our own seed
        return pickle.dumps(mutated(with_sets, draw), protocol=draw.randrange(5))
    return _pickle_codes(seed, draw)


def _pickle_codes(seed: bytes, draw: Random) -> bytes:
    """Return a pickle with other codes in it."""
    codes = b"().012FGIJKLMNPQRSTUVX]abcdeghijloqrstu}\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f"
    codes += b"\x90\x91\x92\x93\x94\x95\x96\x97\x98"
    data = bytearray(seed)
    for _ in range(1 + int(draw.expovariate(0.6))):
        place = draw.randrange(len(data) + 1)
        name = draw.choice(
            (b"", b"", b"\xff\xff\xff\x7f", b"cos\nsystem\n", b"cnumpy\ndtype\n", b"ccollections\nOrderedDict\n")
        )
        data[place : place + draw.randrange(2)] = bytes([draw.choice(codes)]) + name
    return bytes(data)


def _safetensors(seed: bytes, draw: Random) -> bytes:
    length = int.from_bytes(seed[:8], "little")
    header = _json(seed[8 : 8 + length], draw)
    said = draw.choice((len(header), len(header), len(header), len(header) + 1, 0, 2**63, 10**8))
    return said.to_bytes(8, "little") + header + seed[8 + length :]


_GRAMMARS: Mapping[Form, Callable[[bytes, Random], bytes]] = {
    "text": _text, "json": _json, "lines": _lines, "yaml": _yaml, "csv": _csv, "picture": _picture, "zip": _zip,
    "npz": _zip, "pickle": _pickle, "safetensors": _safetensors, "torch": _zip,
}  # fmt: skip
