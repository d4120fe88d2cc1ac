"""JSON as Java's fastjson writes and reads it, which is not always JSON.

loads() understands, besides JSON: names without quotes (`{0:"a"}`), objects as names
(`{{"topic":"T","queueId":0}:5}`, the result is an ObjectKeyed), single quotes, stray commas, and
references (`{"$ref":"$.a[0]"}`, put in place of an object that was written before).

A reference to an object around it ("$", "..", "@", or a path that leads there) is refused: it
would make a circle, no body of the protocol has one, and who walks the value would not end.

dumps() writes compact JSON: Go's route parser keeps blanks. fastjson2 takes a map whose keys are
objects only when they are raw objects: dumps_object_keyed(), or an ObjectKeyed inside a value.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NoReturn

import msgspec
import orjson

from shmq.errors import ProtocolError
from shmq.units import MiB

if TYPE_CHECKING:
    from collections.abc import Iterable

SIZE_MAX: Final = 16 * MiB
LOOSE_SIZE_MAX: Final = 1 * MiB  # The tolerant parser is slow: about a second for this.
DEPTH_MAX: Final = 64
EXPANDED_COUNT_MAX: Final = 1_000_000  # values in a document with its references written out

# A string (skipped; possessive, so that time grows with the size only), or a name without quotes.
_BARE_NAME: Final = re.compile(
    rb'"(?:[^"\\]++|\\.)*+"?+|([{,]\s*+)(-?\d++|[A-Za-z_$][\w$]*+)(?=\s*+:)', re.DOTALL
)
_BLANK: Final = re.compile(r"[ \t\r\n]*")
_BLANK_COMMA: Final = re.compile(r"[ \t\r\n,]*")
_NUMBER: Final = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?")
_IDENTIFIER: Final = re.compile(r"[A-Za-z_$][\w$.-]*")
_PLAIN: Final = {
    '"': re.compile(r'[^"\\]*'),
    "'": re.compile(r"[^'\\]*"),
}
_HEX4: Final = re.compile(r"[0-9a-fA-F]{4}")
_HEX2: Final = re.compile(r"[0-9a-fA-F]{2}")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_ESCAPES: Final = {
    '"': '"', "'": "'", "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r",
    "t": "\t", "v": "\v", "0": "\0",
}  # fmt: skip
_LITERALS: Final = {"true": True, "false": False, "null": None}
_DIGITS_MAX: Final = 40
_PATH_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d{1,9})\]|\[[\"']([^\"']+)[\"']\]")


class ObjectKeyed(list[tuple[dict[str, Any], Any]]):
    """A map whose keys are objects: pairs of key and value, in their order."""


def loads(data: bytes | bytearray | memoryview) -> Any:
    """Value of `data`; numbers up to 64 bits are exact.

    Returns:
        dict, list, ObjectKeyed, str, int, float, bool or None. An object that was referred to is
        the same Python object in all its places; there are no circles.

    Raises:
        ProtocolError: neither JSON nor what fastjson writes, or above the limits.
    """
    if len(data) > SIZE_MAX:
        raise ProtocolError("JSON too long", size=len(data), size_max=SIZE_MAX)
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        value = _loads_loose(bytes(data))
    if b"$ref" in bytes(data):
        value = _References(value).resolved()
    return value


def dumps(value: Any) -> bytes:
    """Compact JSON; int keys become text, an ObjectKeyed becomes a map with raw object keys."""
    return orjson.dumps(
        value,
        default=_plain_form,
        option=orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_SUBCLASS,
    )


def dumps_object_keyed(pairs: Iterable[tuple[dict[str, Any], Any]]) -> bytes:
    """A map with raw objects as keys, e.g. message queues: `{{"topic":"T"}:5}`."""
    return b"{%b}" % b",".join([b"%b:%b" % (dumps(key), dumps(value)) for key, value in pairs])


def _plain_form(value: Any) -> Any:
    """What orjson shall write for a value that it does not know."""
    if isinstance(value, ObjectKeyed):
        return orjson.Fragment(dumps_object_keyed(value))
    plain: type[Any]
    for plain in (str, int, list, dict):
        if isinstance(value, plain):
            return plain(value)
    return msgspec.to_builtins(value)


def _loads_loose(data: bytes) -> Any:
    """Value of what is not JSON: names without quotes are common, the rest is rare."""
    try:
        return orjson.loads(_BARE_NAME.sub(_quoted, data))
    except orjson.JSONDecodeError:
        pass
    if len(data) > LOOSE_SIZE_MAX:
        raise ProtocolError("loose JSON too long", size=len(data), size_max=LOOSE_SIZE_MAX)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ProtocolError("JSON is not UTF-8", position=error.start) from None
    return _LooseParser(text).document()


def _quoted(match: re.Match[bytes]) -> bytes:
    """A name with quotes; a string as it was."""
    return b'%b"%b"' % (match[1], match[2]) if match[2] is not None else match[0]


class _LooseParser:
    """Recursive descent over a text; every step consumes, so time grows with the size only."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._depth = 0

    def document(self) -> Any:
        """The one value that the text is."""
        value = self._value(self._skip(_BLANK))
        if self._skip(_BLANK):
            self._fail("JSON goes on after its end")
        return value

    def _skip(self, pattern: re.Pattern[str]) -> str:
        """Step over `pattern`; gives the character that follows, "" at the end."""
        match = pattern.match(self._text, self._position)
        assert match is not None, "the patterns match the empty text"
        self._position = match.end()
        return self._text[self._position : self._position + 1]

    def _fail(self, what: str) -> NoReturn:
        found = self._text[self._position : self._position + 20]
        raise ProtocolError(what, position=self._position, found=repr(found))

    def _value(self, first: str) -> Any:
        if first == "{":
            return self._object()
        if first == "[":
            return self._array()
        if first in ('"', "'") and first:
            return self._string(first)
        return self._number_or_literal()

    def _number_or_literal(self) -> Any:
        if match := _NUMBER.match(self._text, self._position):
            text = match[0]
            whole = match[1] is None and match[2] is None
            if whole and len(text) > _DIGITS_MAX:
                self._fail("number too long")
            self._position = match.end()
            return int(text) if whole else float(text)
        match = _IDENTIFIER.match(self._text, self._position)
        if match is None or match[0] not in _LITERALS:
            self._fail("not a JSON value")
        self._position = match.end()
        return _LITERALS[match[0]]

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise ProtocolError("JSON too deep", depth_max=DEPTH_MAX, position=self._position)
        self._position += 1

    def _leave(self) -> None:
        self._depth -= 1
        self._position += 1

    def _array(self) -> list[Any]:
        self._enter()
        items: list[Any] = []
        while (first := self._skip(_BLANK_COMMA)) != "]":
            if not first:
                self._fail("array without end")
            items.append(self._value(first))
            if self._skip(_BLANK) not in {",", "]"}:
                self._fail("comma or end of array expected")
        self._leave()
        return items

    def _object(self) -> dict[str, Any] | ObjectKeyed:
        self._enter()
        named: dict[str, Any] = {}
        keyed = ObjectKeyed()
        while (first := self._skip(_BLANK_COMMA)) != "}":
            if not first:
                self._fail("object without end")
            name = self._name(first)
            if self._skip(_BLANK) != ":":
                self._fail("colon expected")
            self._position += 1
            value = self._value(self._skip(_BLANK))
            if isinstance(name, dict):
                keyed.append((name, value))
            else:
                named[name] = value
            if self._skip(_BLANK) not in {",", "}"}:
                self._fail("comma or end of object expected")
        if named and keyed:
            self._fail("object with both texts and objects as names")
        self._leave()
        return keyed or named

    def _name(self, first: str) -> str | dict[str, Any]:
        if first in ('"', "'"):
            return self._string(first)
        if first == "{":
            name = self._object()
            if isinstance(name, ObjectKeyed):
                self._fail("map as a name")
            return name
        match = _NUMBER.match(self._text, self._position) or _IDENTIFIER.match(
            self._text, self._position
        )
        if match is None:
            self._fail("name expected")
        self._position = match.end()
        return match[0]

    def _string(self, quote: str) -> str:
        self._position += 1
        plain = _PLAIN[quote]
        parts: list[str] = []
        while True:
            match = plain.match(self._text, self._position)
            assert match is not None, "the patterns match the empty text"
            parts.append(match[0])
            self._position = match.end()
            stop = self._text[self._position : self._position + 1]
            if not stop:
                self._fail("string without end")
            self._position += 1
            if stop == quote:
                return _joined(parts)
            parts.append(self._escape())

    def _escape(self) -> str:
        kind = self._text[self._position : self._position + 1]
        self._position += 1
        pattern = {"u": _HEX4, "x": _HEX2}.get(kind)
        if pattern is not None:
            match = pattern.match(self._text, self._position)
            if match is None:
                self._fail("escape without hex digits")
            self._position = match.end()
            return chr(int(match[0], 16))
        if kind not in _ESCAPES:
            self._fail("unknown escape")
        return _ESCAPES[kind]


def _joined(parts: list[str]) -> str:
    """One text; two escaped surrogates become one character, a lone one U+FFFD."""
    text = "".join(parts)
    if _SURROGATE.search(text) is None:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class _References:
    """Puts the objects that are referred to in the places of the references."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._targets: dict[int, Any] = {}  # by id of the reference, which _root keeps alive
        self._open: set[int] = set()  # references whose path is being walked
        self._measures: dict[int, tuple[int, int]] = {}  # count and height by id of a container
        self._inside: set[int] = set()  # containers around the one being measured

    def resolved(self) -> Any:
        """The document, all references replaced; circles and blow-ups are refused."""
        places = self._places()
        targets = [self._target(path, place, depth=0) for _, _, place, path in places]
        for (container, key, _, _), target in zip(places, targets, strict=True):
            if isinstance(container, ObjectKeyed):
                pair = list(container[key[0]])
                pair[key[1]] = target
                container[key[0]] = (pair[0], pair[1])
            else:
                container[key] = target
        self._measure(self._root, 0)
        return self._root

    def _places(self) -> list[tuple[Any, Any, dict[str, Any], str]]:
        """Every reference: container, key in it, the reference itself, its path."""
        if _path_of(self._root) is not None:
            raise ProtocolError("reference to an object around it", path=_path_of(self._root))
        places: list[tuple[Any, Any, dict[str, Any], str]] = []
        todo = [self._root]
        while todo:
            container = todo.pop()
            for key, value in _children(container):
                path = _path_of(value)
                if path is not None:
                    places.append((container, key, value, path))
                elif isinstance(value, dict | list):
                    todo.append(value)
        return places

    def _target(self, path: str, place: dict[str, Any], *, depth: int) -> Any:
        """What the reference `place` means, through other references if need be."""
        if id(place) in self._targets:
            return self._targets[id(place)]
        if path in {"$", "@", ".."} or id(place) in self._open:
            raise ProtocolError("reference to an object around it", path=path)
        if not path.startswith("$") or depth > DEPTH_MAX:
            raise ProtocolError("reference not understood", path=path[:100])
        self._open.add(id(place))
        value, position = self._root, 1
        while position < len(path):
            step = _PATH_STEP.match(path, position)
            if step is None:
                raise ProtocolError("reference not understood", path=path[:100])
            position = step.end()
            value = _child(value, step, path)
            inner = _path_of(value)
            if inner is not None:
                value = self._target(inner, value, depth=depth + 1)
        self._open.discard(id(place))
        self._targets[id(place)] = value
        return value

    def _measure(self, value: Any, depth: int) -> tuple[int, int]:
        """Number of values under `value` when written out, and their depth."""
        if not isinstance(value, dict | list):
            return 1, 0
        known = self._measures.get(id(value))
        if known is not None and depth + known[1] <= DEPTH_MAX:
            return known
        if id(value) in self._inside:
            raise ProtocolError("reference to an object around it")
        if depth > DEPTH_MAX:
            raise ProtocolError("JSON too deep", depth_max=DEPTH_MAX)
        self._inside.add(id(value))
        count, height = 1, 0
        for _, child in _children(value):
            child_count, child_height = self._measure(child, depth + 1)
            count += child_count
            height = max(height, child_height + 1)
        if count > EXPANDED_COUNT_MAX:
            raise ProtocolError("references blow the document up", count_max=EXPANDED_COUNT_MAX)
        self._inside.discard(id(value))
        self._measures[id(value)] = (count, height)
        return count, height


def _path_of(value: object) -> str | None:
    """Path of a reference; None for any other value."""
    if isinstance(value, dict) and len(value) == 1:
        path = value.get("$ref")
        return path if isinstance(path, str) else None
    return None


def _children(container: Any) -> list[tuple[Any, Any]]:
    """Keys and values of a container; of an ObjectKeyed both halves of each pair."""
    if isinstance(container, dict):
        return list(container.items())
    if isinstance(container, ObjectKeyed):
        return [((n, half), container[n][half]) for n in range(len(container)) for half in (0, 1)]
    return list(enumerate(container)) if isinstance(container, list) else []


def _child(value: Any, step: re.Match[str], path: str) -> Any:
    """One step of a path."""
    name = step[1] or step[3]
    if name is not None and isinstance(value, dict) and name in value:
        return value[name]
    if step[2] is not None and isinstance(value, list) and not isinstance(value, ObjectKeyed):
        index = int(step[2])
        if index < len(value):
            return value[index]
    raise ProtocolError("reference leads nowhere", path=path[:100])
