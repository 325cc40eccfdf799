"""Figures in words, as the report prints them."""

import html
from collections.abc import Iterable

__all__ = ["counted", "escape", "milliseconds", "number", "percent", "seconds", "size", "table"]


def escape(value: object) -> str:
    """Safe as HTML text and in a quoted attribute."""
    return html.escape(str(value), quote=True)


def percent(share: float | None) -> str:
    """0.8712 -> 87.1%, and exactly 1 -> 100%."""
    if share is None:
        return "-"
    return "100%" if share == 1 else f"{share * 100:.1f}%"


def counted(count: int, noun: str) -> str:
    """1 round, 20 rounds."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def number(value: float) -> str:
    """As short as it can be told: 8, 0.25, 1e-5."""
    text = f"{value:.1e}".replace(".0e", "e") if 0 < abs(value) < 1e-3 else f"{value:g}"
    return text.replace("e-0", "e-").replace("e+0", "e")


def size(count: float | None) -> str:
    """Bytes in decimal units."""
    if count is None:
        return "-"
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def seconds(duration: float) -> str:
    """41.7 s, or 3 min 5 s."""
    if duration < 100:
        return f"{duration:.1f} s"
    minutes, rest = divmod(round(duration), 60)
    return f"{minutes} min {rest} s"


def milliseconds(duration: float) -> str:
    """Three digits, in microseconds below a tenth."""
    return f"{duration:.3g} ms" if duration >= 0.1 else f"{duration * 1000:.3g} µs"


def table(headings: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """An HTML table that scrolls by itself where it is too wide; everything is escaped."""
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    body = "\n".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    content = f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"
    return f'<div class="scroll" tabindex="0">{content}</div>'
