"""Which system calls of a command change what is on the disk, as strace lists them, and the errors each may meet."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_FULL = ("ENOSPC", "EDQUOT")
_NAMES = (*_FULL, "EROFS", "EACCES", "EIO")
ERRORS: Mapping[str, tuple[str, ...]] = {
    "openat": (*_NAMES, "ENAMETOOLONG", "EMFILE"),
    **dict.fromkeys(("mkdir", "mkdirat"), (*_NAMES, "ENAMETOOLONG")),
    **dict.fromkeys(("link", "linkat", "symlink", "symlinkat"), (*_NAMES, "EPERM")),
    **dict.fromkeys(("rename", "renameat", "renameat2"), (*_NAMES, "EXDEV")),
    **dict.fromkeys(("unlink", "unlinkat", "rmdir"), ("EROFS", "EACCES", "EIO", "EBUSY")),
    **dict.fromkeys(("write", "writev", "pwrite64", "pwritev"), (*_FULL, "EIO", "EFBIG")),
    **dict.fromkeys(("sendfile", "copy_file_range"), (*_FULL, "EIO", "EINVAL")),
    "fallocate": (*_FULL, "EIO", "EOPNOTSUPP"),
    **dict.fromkeys(("ftruncate", "truncate"), ("EIO", "EROFS", "EACCES")),
    **dict.fromkeys(("fsync", "fdatasync"), (*_FULL, "EIO", "EROFS", "EINVAL")),
    "flock": ("ENOLCK", "EOPNOTSUPP", "ENOSYS", "EINVAL", "EIO", "EACCES", "EAGAIN"),
    **dict.fromkeys(("chmod", "fchmod", "fchmodat", "utimensat"), ("EPERM", "EROFS", "EIO")),
}
"""The errors that a call may meet on disks, network file systems and where something may not be done, by its name."""

_LINE = re.compile(r"(?P<thread>\d+) +(?P<name>\w+)\((?P<rest>.*)")
_PATH = re.compile(r'<(/[^>]*)>|"(/(?:[^"\\]|\\.)*)"')
_WRITES = re.compile(r"O_(WRONLY|RDWR|CREAT|TRUNC)")
# Names that hold the time or chance, so that the next process has others: TensorBoard's, and those that safetensors
# writes to first (its renaming is met by the name that it gives).
_UNFORESEEN = re.compile(r"/events\.out\.tfevents|/\.tmp\w{6}$")
_HERE = re.compile(r"AT_FDCWD<[^>]*>")


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """One call of a command, so named that the same command's next process is met at the same call."""

    path: str  # What the call touches first; {pid} stands for the number of the process.
    name: str  # Of the system call.
    number: int  # Which of the calls of this name that touch this path, from 1.

    def inject(self, pid: int, what: str) -> list[str]:
        """Return the words that let strace do something to this call of a process, such as `error=EIO`."""
        path = self.path.replace("{pid}", str(pid))
        return ["-P", path, "-e", f"trace={self.name}", "-e", f"inject={self.name}:{what}:when={self.number}"]


LISTING = ("-e", f"trace={','.join(ERRORS)}")
"""The words that let strace list all calls that may be points."""


def points(trace: str, folder: Path, pid: int) -> list[Point]:
    """Return the calls of a trace that change something below a folder, in their order."""
    counted: Counter[tuple[str, str, str]] = Counter()
    found = []
    for thread, name, args in _entered(trace):
        paths = [path for path in dict.fromkeys(_paths(args, folder, pid)) if not _UNFORESEEN.search(path)]
        for path in paths:
            counted[thread, name, path] += 1
        if paths and (name != "openat" or _WRITES.search(args)):
            found.append(Point(paths[0], name, counted[thread, name, paths[0]]))
    return found


def _entered(trace: str) -> Iterator[tuple[str, str, str]]:
    """Yield thread, name and arguments of each call."""
    for line in trace.splitlines():
        if match := _LINE.match(line):
            yield match["thread"], match["name"], match["rest"].rsplit(") = ", 1)[0]


def _paths(args: str, folder: Path, pid: int) -> Iterable[str]:
    root = str(folder)
    for match in _PATH.finditer(_HERE.sub("", args)):
        path = match[1] or match[2]
        if path == root or path.startswith(f"{root}/"):
            yield root + path.removeprefix(root).replace(f".{pid}.", ".{pid}.")
