"""A broken audit log is found and the entry named, whatever was done to it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ratchet.domain.audit import GENESIS, AuditEntry, Head, audit_problems, entry_hash, settled

START = datetime(2026, 4, 1, tzinfo=UTC)


def chain(count: int, *, note: str = "") -> list[AuditEntry]:
    entries: list[AuditEntry] = []
    for seq in range(1, count + 1):
        content = {
            "seq": seq,
            "at": START + timedelta(minutes=seq),
            "actor": "ann",
            "action": f"act{seq}",
            "model": "m" if seq % 2 else None,
            "detail": {"number": seq, "note": note},
        }
        previous = entries[-1].hash if entries else GENESIS
        entries.append(AuditEntry(**content, previous_hash=previous, hash=entry_hash(previous, **content)))
    return entries


def head_of(entries: list[AuditEntry], source: str = "the notebook") -> Head:
    return Head(entries[-1].seq, entries[-1].hash, source)


def rehashed(entry: AuditEntry, **changed) -> AuditEntry:
    new = replace(entry, **changed)
    content = {k: v for k, v in vars(new).items() if k not in {"previous_hash", "hash"}}
    return replace(new, hash=entry_hash(new.previous_hash, **content))


def test_a_whole_log_has_no_problems_and_neither_has_an_empty_one():
    entries = chain(5)
    assert audit_problems(entries, [head_of(entries), head_of(entries[:3]), Head(0, GENESIS)]) == []
    assert audit_problems([]) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("actor", "bob"),
        ("action", "nothing"),
        ("model", "other"),
        ("detail", {"number": 99}),
        ("at", START),
        ("hash", "f" * 64),
    ],
)
def test_an_edit_of_any_column_is_named(field, value):
    entries = chain(4)
    entries[1] = replace(entries[1], **{field: value})
    assert any("audit entry 2" in problem and "was edited" in problem for problem in audit_problems(entries))


def test_an_edit_whose_hash_was_made_to_fit_breaks_the_link_to_the_next_entry():
    entries = chain(4)
    entries[1] = rehashed(entries[1], actor="bob")
    (problem,) = audit_problems(entries)
    assert "audit entry 3" in problem
    assert "entry 2 was replaced" in problem


def test_a_removed_entry_is_named():
    entries = chain(6)
    assert audit_problems(entries[:2] + entries[3:]) == ["audit entry 3 was removed"]
    assert audit_problems(entries[:1] + entries[4:]) == ["audit entries 2 to 4 were removed"]
    assert audit_problems(entries[1:]) == ["audit entry 1 was removed"]


def test_two_entries_that_changed_places_are_named():
    entries = chain(4)
    swapped = [entries[0], replace(entries[2], seq=2), replace(entries[1], seq=3), entries[3]]
    assert any("audit entry 2" in problem and "edited" in problem for problem in audit_problems(swapped))
    assert any("audit entry 2" in problem and "moved" in problem for problem in audit_problems(swapped))


def test_an_entry_that_was_put_in_between_is_named():
    entries = chain(3)
    extra = rehashed(entries[1], seq=2, actor="mallory")
    later = [rehashed(entry, seq=entry.seq + 1) for entry in entries[1:]]
    (problem,) = audit_problems([entries[0], extra, *later])[:1]
    assert "does not follow entry 2" in problem


def test_a_log_whose_end_was_cut_off_is_whole_in_itself_and_found_by_its_kept_head():
    entries = chain(5)
    assert audit_problems(entries[:3]) == []
    (problem,) = audit_problems(entries[:3], [head_of(entries)])
    assert problem == "audit entry 5, which the notebook names, is missing: the end of the log was cut off"


def test_a_log_that_was_written_anew_is_found_by_its_kept_head():
    (problem,) = audit_problems(chain(5, note="forged"), [head_of(chain(4))])
    assert problem == "audit entry 4 has another hash than the notebook says: the log was written anew"


@pytest.mark.parametrize("text", ["", "7", "x:" + "0" * 64, "7:" + "0" * 63, "7:" + "G" * 64])
def test_what_is_no_head_is_refused(text):
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        Head.parse(text)


def test_a_head_is_read_as_it_is_written():
    assert Head.parse(str(Head(12, "a" * 64))) == Head(12, "a" * 64)


def test_a_detail_is_settled_before_it_is_hashed():
    assert settled({1: (1.0, 1e20, 0.5), "a": None}) == {"1": [1, 10**20, 0.5], "a": None}
