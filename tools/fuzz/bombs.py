"""Small files and texts that are known to take long, to take the machine, or to bring a reader down; by their form."""

import struct
import zlib
from collections.abc import Mapping, Sequence

from tools.fuzz.mutations import Form, png, zipped

_MANY = 40_000
_NINE = "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9))
_MERGES = "".join(f"{chr(98 + n)}: &{chr(98 + n)} {{<<: [{', '.join([f'*{chr(97 + n)}'] * 9)}]}}\n" for n in range(9))
_DEEP = (b"[" * 100_000, b"[" * 50_000 + b"]" * 50_000, b'{"a":' * 50_000, b"9" * 5000, b'{"a": ' + b"9" * 5000 + b"}",
         b'{"a": -' + b"9" * _MANY + b"}", b"1e" + b"9" * 5000, b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf{}", b'"\\ud83d"', b"\xed\xa0\xbd",
         b'{"\\ud83d": "\\ud83d"}', b"null", b"[]", b"{}", b"NaN", b"[1, NaN]")  # fmt: skip


def repeated(*parts: str) -> list[bytes]:
    """Return texts of one part over and over, as long as an answer can be before a square of its length shows."""
    return [(part * (_MANY // len(part))).encode("utf-8", "surrogatepass") for part in parts]


def _png(width: int, height: int, depth: int, colour: int, packed: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return png([(b"IHDR", header), (b"IDAT", packed), (b"IEND", b"")])


def _npy(said: str, content: bytes = b"") -> bytes:
    header = f"{said}\n".encode("latin-1")
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + content


def _arrays(said: str, content: bytes = b"") -> bytes:
    names = [f"{split}_{what}.npy" for split in ("train", "val", "test") for what in ("images", "labels")]
    return zipped(dict.fromkeys(names, _npy(said, content)))


def _shape(shape: str, kind: str = "|u1") -> str:
    return f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}"


BOMBS: Mapping[Form, Sequence[bytes]] = {
    "json": _DEEP,
    "lines": (*_DEEP, b"{}\n" * 5000),
    "yaml": (
        ("a: &a [x, x, x, x, x, x, x, x, x]\n" + _NINE).encode(), ("a: &a {x: 1}\n" + _MERGES).encode(),
        b"a: " + b"[" * 50_000, b"a: " + b"{a: " * 50_000, b"? " * 40_000, b"a: " + b"9" * 5000, b"a: 2001-99-99",
        b"a: 1:59:59:59.5", b"a: " + b"1:" * 5000 + b"5", b"a: \0", b"- a", b"a: *b", b"a: &a [*a]", b"a: !!python/object/apply:os.system [id]",
        b"a: !!binary x", b"a: !!float x", b"a: !!set {[1]: 2}", b"{[1]: 2}", b"<<: 3", b"", b"settings: " + b"- " * 30_000,
    ),
    "csv": (b'"' * _MANY, b"," * _MANY, b"sep=\0\na", b'a,"b', b"\0,\0", b"name,type,context\n" + b'"' + b"x" * 200_000, b"\n" * _MANY),
    "text": (
        *repeated("<answer>", "</answer>", "<answer>A", "<think>", "</think>", "<think></think>", "{", "[", "(", "a.", "a ", "A ", "a/", "\\", "\\boxed{", "1",
                  "1 ", "0.1 ", ".", ",", "-", "\n", " ", "\t", "**", "_", "`", "~~", "$", "<", "&amp;", "A or B ", "not ", "is ", "the answer is ",
                  "wait, ", "http://", "x://", "'", '"', '{"answer": ', '"answer":', "answer: ", "data: {}\n\n", "data: ", "x1=1 ", "[0.1,0.2,", "<box>",
                  "the ", "no longer ", "(A) ", "A, ", "actually ", "yes no ", "FINDINGS: ", "IMPRESSION:", "___", "hf_", "sk-", "\u200b", "\ud83d", "ı", "é",
                  "/a", "~/", "a:", "file:", "Q: ", "if ", ", or ", "rather than ", "a-", "option A ", "A. ", "I think ", "$\\text{", "<|", "*", "#", "=", "a\n"),
        b"", b"\0", *_DEEP[:4],
    ),
    "picture": (
        _png(60_000, 60_000, 8, 2, zlib.compress(bytes(1000))), _png(2**31 - 1, 1, 16, 0, b""), _png(0, 0, 8, 0, b""),
        _png(8000, 8000, 16, 6, zlib.compress(bytes(1000))), _png(1, 1, 16, 2, b"x"), _png(1000, 1000, 16, 2, b""),
        png([]), png([(b"IHDR", b"")]), png([(b"IDAT", b"")]), png([(b"IHDR", bytes(13)), (b"IDAT", b"")]),
        png([(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0)), *[(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**6)))] * 80]),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n",
        struct.pack("<4s7I44x8I200x", b"DDS ", 124, 0, 16, 16, 0, 0, 0, 32, *[0] * 7), b"\0\0\1\0\1\0" + bytes(100),
        b"P6 99999 99999 255\n", b"P5 5000 5000 65535\n" + bytes(100), b"P1\n" + b"1 " * 20_000, b"GIF89a" + b"\xff" * 300,
        b"BM" + bytes(16) + struct.pack("<iiHHI", 30_000, -30_000, 1, 1, 1) + bytes(24), b"RIFF\xff\xff\xff\xffWEBPVP8X" + bytes(30),
        b"\xff\xd8" + b"\xff\xe1\xff\xff" * 2000, b"II*\0\x08\0\0\0\xff\xff" + b"\1" * 3000, b"II*\0\x08\0\0\0\0\0\x08\0\0\0", b"",
    ),
    "zip": (
        zipped({"a": bytes(5 * 10**7)}), zipped(dict.fromkeys((f"f{n}" for n in range(3000)), b"")), zipped({"a" * 60_000: b""}),
        zipped({"/".join(["a"] * 900): b"x"}), b"PK\5\6" + bytes(18), b"PK\5\6" + b"\xff" * 18, b"",
    ),
    "npz": (
        *(_arrays(_shape(shape)) for shape in ("(10**9,)", "(2147483648, 3, 3)", "(4000000000,)", "(60000, 224, 224, 3)", "()", "(-1, 2)", "(0,)",
                                               "(1, 0, 0)", "(3, 3", "(True, 3)", "(10000000000000000000000,)", "(7, 28, 28, 3)")),
        *(_arrays(_shape("(2,)", kind)) for kind in ("|O", "<U999999999", "<U2147483647", "|V1000000000", "M8[s]", "x", "3u1")),
        _arrays(_shape("(4000000000,)"), bytes(10**6)), _arrays("(" * 3000), _arrays("9" * 5000), _arrays("__import__('os')"), _arrays("{" * 60),
        _arrays(_shape("(7, 28, 28, 3)"), bytes(4 * 10**8)), zipped({"train_images.npy": b""}), b"PK\5\6" + bytes(18),
    ),
    "pickle": (
        bytes.fromhex("80044e72000000102e"), b"\x80\x04\x96" + b"\xff" * 7 + b"\x7f" + b".", b"\x80\x04\x8d" + b"\xff" * 7 + b"\x0f.",
        b"\x80\x04\x8e" + b"\0\0\0\0\1\0\0\0.", b"cos\nsystem\n(S'id'\ntR.", b"\x80\x04" + b"]" * 30_000 + b"a" * 29_999 + b".", b"(" * _MANY + b"t.", b"I" + b"9" * 5000 + b"\n.",
        b"\x80\x04\x8b" + b"\xff\xff\xff\x7f.", b"L" + b"9" * 20_000 + b"L\n.", b"\x80\x04\x95" + b"\xff" * 8 + b".", b"\x80\x04\x8b\x40\x9c\0\0" + b"\x7f" * 40_000 + b".",
        b"\x80\x04]" + b"2" * 200 + b"e.", b"(lp0\n" + b"g0\na" * 9000 + b".", b"\x80\x04(" + b"K\1" * 20_000 + b"\x91.", b"\x80\x04\x8f(" + b"]\x94" * 5 + b"\x90.", b".", b"N", b"", b"P1\n.", b"\x80\xff.",
    ),
    "safetensors": (
        b"\xff" * 8, (2**63).to_bytes(8, "little"), (10**8).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"{}", b"", bytes(8),
        (100_000).to_bytes(8, "little") + b"[" * 100_000,
    ),
    "torch": (
        b"", b"PK\5\6" + bytes(18), zipped({"archive/data.pkl": b"cos\nsystem\n(S'id'\ntR.", "archive/version": b"3"}), zipped({"data.pkl": b"."}),
        zipped({"archive/data.pkl": bytes.fromhex("80024e72000000102e"), "archive/version": b"3", "archive/byteorder": b"little"}),
        b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", b"cos\nsystem\n(S'id'\ntR.", bytes.fromhex("80024e72000000102e"), b"\x80\x02]q\1.", b"I" + b"9" * 5000 + b"\n.",
    ),
    "bytes": (b"", b"\0", b"\x1f\x8b\x08" + bytes(20)),
}  # fmt: skip
"""By form; what is lawful and merely large is bounded by `Reader.seconds`, not left out."""
