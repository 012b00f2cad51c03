"""A lock file says what is installed, whoever installs it and wherever: every package by version and hash."""

from __future__ import annotations

import pytest

from ratchet.domain.locks import Pin, pins_of
from ratchet.errors import Refused

A, B = "a" * 64, "b" * 64


def test_a_package_is_pinned_with_all_its_hashes_over_several_lines_and_where_its_marker_holds() -> None:
    text = f"""
# made by the resolver
xgboost==3.1.2 ; sys_platform == 'linux' \\
    --hash=sha256:{A} \\
    --hash=sha256:{B}
    # via the model
Scikit_Learn[extra]==1.8.0+cpu --hash=sha256:{A}
"""
    assert pins_of(text) == [Pin("xgboost", "3.1.2", "sys_platform == 'linux'"), Pin("scikit-learn", "1.8.0+cpu")]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("xgboost==3.1.2", "line 2: xgboost must have a hash"),
        (f"xgboost>=3 --hash=sha256:{A}", "line 2 must be a pin as name==version, but is 'xgboost>=3'"),
        (f"xgboost==3.* --hash=sha256:{A}", "line 2 must be a pin"),
        ("--index-url https://elsewhere.example/simple", "line 2 must be a pin"),
        (f"xgboost==3.1.2 --index-url https://elsewhere.example --hash=sha256:{A}", "must have a hash, as --hash"),
        ("-r others.txt", "line 2 must be a pin"),
        ("-e ./mine", "line 2 must be a pin"),
        (f"xgboost @ https://elsewhere.example/x.whl --hash=sha256:{A}", "line 2 must be a pin"),
        (f"xgboost==3.1.2 --hash=md5:{A}", "line 2: xgboost must have a hash, as --hash=sha256"),
    ],
)
def test_what_could_be_another_thing_elsewhere_is_refused_by_its_line(line: str, said: str) -> None:
    with pytest.raises(Refused, match=said.replace("*", r"\*")):
        pins_of(f"# a comment\n{line}\n")


def test_a_file_without_a_package_is_no_lock_file() -> None:
    with pytest.raises(Refused, match="pins no package"):
        pins_of("# nothing\n\n")
