"""What systems and programs leave among files: never data, never a picture, never a reason for another split."""

_LITTER = frozenset(
    {"__macosx", "__pycache__", "@eadir", "#recycle", "#snapshot", "$recycle.bin", "system volume information"}
    | {"lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
)


def is_litter(name: str) -> bool:
    """Return whether a file or folder of this name is hidden or left by a system.

    That is every name that begins with a period (`.DS_Store`, `._scan.png`, `.ipynb_checkpoints`), and a few others
    (`__MACOSX`, `Thumbs.db`, `desktop.ini`, `@eaDir`).
    """
    return name.startswith(".") or name.lower() in _LITTER
