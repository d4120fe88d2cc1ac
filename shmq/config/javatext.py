r"""Java's properties syntax, the language of broker.conf.

# or ! first         comment
key=value            also `key: value` and `key value`; blanks around are dropped
line ends in \       the next line goes on, without its leading blanks
\t \n \r \f \uXXXX   in keys and values; \ before anything else is dropped
a key twice          the later one counts
"""

from __future__ import annotations

from typing import Final, NamedTuple

from shmq.errors import ConfigError

BLANKS: Final = " \t\f"
ESCAPES: Final = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
UNICODE_DIGITS: Final = 4
LINE_LENGTH_MAX: Final = 64 * 1024


class Property(NamedTuple):
    """One key with its value and the line that it began on, counted from 1."""

    key: str
    value: str
    line: int


def parse(text: str) -> list[Property]:
    """All properties of `text` in order, repeated keys too.

    Raises:
        ConfigError: a line that is too long, or a broken escape; carries the line.
    """
    return [_split(logical, line) for line, logical in _logical_lines(text)]


def quote(value: str) -> str:
    """`value` as it must stand after `key=` to be read back unchanged."""
    quoted = value.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    quoted = quoted.replace("\t", "\\t").replace("\f", "\\f")
    return "\\" + quoted if quoted.startswith(" ") else quoted


def _logical_lines(text: str) -> list[tuple[int, str]]:
    lines: list[tuple[int, str]] = []
    begun: tuple[int, str] | None = None
    natural_lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number, natural in enumerate(natural_lines, start=1):
        stripped = natural.lstrip(BLANKS)
        if begun is None:
            if not stripped or stripped[0] in "#!":
                continue
            begun = (number, "")
        joined = begun[1] + stripped
        if len(joined) > LINE_LENGTH_MAX:
            raise ConfigError("line too long", line=begun[0], allowed=LINE_LENGTH_MAX)
        backslashes = len(joined) - len(joined.rstrip("\\"))
        if backslashes % 2:
            begun = (begun[0], joined[:-1])
        else:
            lines.append((begun[0], joined))
            begun = None
    if begun is not None and begun[1]:
        lines.append(begun)
    return lines


def _split(logical: str, line: int) -> Property:
    end = 0
    while end < len(logical) and logical[end] not in "=:" + BLANKS:
        end += 2 if logical[end] == "\\" else 1
    rest = logical[end:].lstrip(BLANKS)
    if rest[:1] in ("=", ":"):
        rest = rest[1:].lstrip(BLANKS)
    return Property(_unescape(logical[:end], line), _unescape(rest, line), line)


def _unescape(text: str, line: int) -> str:
    if "\\" not in text:
        return text
    out: list[str] = []
    at = 0
    while at < len(text):
        if text[at] != "\\":
            out.append(text[at])
            at += 1
            continue
        letter = text[at + 1 : at + 2]
        if letter == "u":
            digits = text[at + 2 : at + 2 + UNICODE_DIGITS]
            if len(digits) != UNICODE_DIGITS or not all(
                c in "0123456789abcdefABCDEF" for c in digits
            ):
                raise ConfigError(
                    "broken \\u escape", line=line, found=f"\\u{digits}", allowed="\\uXXXX"
                )
            out.append(chr(int(digits, 16)))
            at += 2 + UNICODE_DIGITS
        else:
            out.append(ESCAPES.get(letter, letter))
            at += 2
    # A pair of surrogates written as two escapes is one character.
    return "".join(out).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
