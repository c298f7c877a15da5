"""Texts that others wrote, in Markdown: they are shown as they are, whatever they hold."""

import re

from longspan.terminal import on_one_line

# what CommonMark, GitHub and the hub give a meaning inside a line
MARKUP = re.compile(r"[\\`*\[\]|~$@]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=\bwww)\.")


def plain(text: str) -> str:
    """Neither markup, link, mention, formula nor HTML; on one line."""
    escaped = MARKUP.sub(r"\\\g<0>", on_one_line(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;")


def code(text: str) -> str:
    """A span of code, whose fence is longer than any in it."""
    inside = on_one_line(text)
    longest = max(map(len, re.findall("`+", inside)), default=0)
    fence = "`" * (longest + 1)
    room = " " if longest else ""
    return f"{fence}{room}{inside}{room}{fence}"
