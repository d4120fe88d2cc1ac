from __future__ import annotations

import pytest

from shmq.layout.javahash import hash_code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", 0),
        ("a", 97),
        ("hello", 99162322),
        ("polygenelubricants", -(2**31)),
        ("Aa", 2112),
        ("BB", 2112),
        ("😀", 31 * 0xD83D + 0xDE00),
        ("\x00\x01", 1),
    ],
)
def test_hash_code(text: str, code: int) -> None:
    assert hash_code(text) == code
