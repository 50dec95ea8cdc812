"""HTML from trees of elements, in which text is text: nothing becomes markup but what this module wrote."""

from html import escape

_VOID = frozenset({"input", "meta"})
_SAFE_SCHEMES = ("./", "../", "#")


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(tag: str, /, *children: str, **attributes: str | int | bool) -> Markup:
    """Return an element.

    Args:
        tag: Its name.
        children: `Markup` as it is, any other text escaped.
        attributes: Values, escaped; `True` stands for an attribute without a value, `False` for none. An underscore in
            a name is a hyphen, one at its end is dropped (`class_`). Links lead into the site or to a part of a page.

    Raises:
        ValueError: If a link leads elsewhere.
    """
    href = attributes.get("href")
    if isinstance(href, str) and not href.startswith(_SAFE_SCHEMES):
        raise ValueError(f"A link out of the site: {href!r}")
    words = [tag, *(_attribute(key, value) for key, value in attributes.items() if value is not False)]
    start = f"<{' '.join(words)}>"
    return Markup(start) if tag in _VOID else Markup(f"{start}{join(*children)}</{tag}>")


def join(*children: str) -> Markup:
    """Return the children one after the other, text escaped."""
    return Markup("".join(child if isinstance(child, Markup) else _text(child) for child in children))


def _attribute(key: str, value: str | int | bool) -> str:
    name = key.rstrip("_").replace("_", "-")
    return name if value is True else f'{name}="{_text(str(value))}"'


def _text(text: str) -> str:
    # A lone surrogate cannot be written as UTF-8, and a control character is no character of HTML.
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return escape("".join(one if one.isprintable() or one in "\n\t" else "�" for one in whole), quote=True)
