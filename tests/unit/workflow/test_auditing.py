"""The end of the audit log is kept outside the ledger, and what is missing there is told once."""

import logging

import pytest
import sqlalchemy as sa

from ratchet.adapters.ledger import schema as t
from ratchet.adapters.storage import ObjectStore
from ratchet.errors import Refused
from ratchet.workflow.auditing import HEAD_KEY, AuditLog


@pytest.fixture
def log(world, tmp_path):
    store = ObjectStore(str(tmp_path / "storage"))
    return AuditLog(world.ledger, lambda: store)


def act(world, count: int) -> None:
    with world.ledger.transaction() as tx:
        for number in range(count):
            tx.audit("ann", f"act{number}", None, {})


def tamper(world, statement) -> None:
    """As somebody can who has the rights of the database's owner."""
    with world.ledger.engine.begin() as db:
        for name in db.execute(sa.text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars().all():
            db.execute(sa.text(f"DROP TRIGGER {name}"))
        db.execute(statement)


def actions(world) -> list[str]:
    with world.ledger.transaction() as tx:
        return [entry["action"] for entry in tx.audit_log()]


def test_a_log_is_whole_and_its_end_is_kept(world, log):
    assert log.verify().problems == ()
    act(world, 3)
    assert log.keep_head()
    assert log.kept().seq == 3
    act(world, 1)
    assert log.keep_head()
    assert (log.verify().kept.seq, log.verify().head.seq, log.verify().problems) == (4, 4, ())


def test_an_end_that_was_cut_off_with_the_count_set_back_is_found_by_what_is_kept(world, log):
    act(world, 3)
    log.keep_head()
    head = log.kept()
    tamper(world, sa.delete(t.audit).where(t.audit.c.seq == 3))
    tamper(world, sa.delete(t.audit_head))
    (problem,) = log.verify().problems
    assert problem.startswith(f"audit entry 3, which {head.source} names, is missing")


def test_a_broken_log_is_logged_each_time_audited_once_and_what_was_kept_stays(world, log, caplog):
    act(world, 2)
    log.keep_head()
    kept = log.kept()
    tamper(world, sa.update(t.audit).where(t.audit.c.seq == 2).values(hash="f" * 64))
    with caplog.at_level(logging.ERROR):
        assert not log.keep_head()
        assert not log.keep_head()
    assert len(caplog.records) == 2
    assert actions(world) == ["act0", "act1", "audit.broken"]
    assert log.kept() == kept


def test_a_restored_log_is_accepted_by_a_person_with_a_reason(world, log):
    act(world, 3)
    log.keep_head()
    tamper(world, sa.delete(t.audit).where(t.audit.c.seq > 1))
    tamper(world, sa.update(t.audit_head).values(seq=1, hash=sa.select(t.audit.c.hash).scalar_subquery()))
    assert not log.keep_head()
    with pytest.raises(Refused, match="needs a reason"):
        log.accept("ann", " ")
    head = log.accept("ann", "restored the backup of Monday")
    assert log.verify().problems == ()
    assert log.keep_head()
    assert str(log.kept()) == str(head)
    assert actions(world)[-1] == "audit.accepted"


def test_a_kept_head_that_is_none_is_named(world, log, tmp_path):
    act(world, 1)
    log.keep_head()
    (tmp_path / "storage" / HEAD_KEY).write_text("nonsense")
    with pytest.raises(Refused, match="audit/head: a head is"):
        log.verify()
