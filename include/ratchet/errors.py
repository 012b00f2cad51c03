"""The errors a caller can act on, one class per thing it would do differently.

::

    RatchetError
    ├── Refused             the request breaks a rule; repeating it cannot help
    │   ├── StaleAttempt    another attempt holds the model's lease, or this one has ended
    │   └── ChampionMoved   a compare-and-set lost: the champion is no longer the one that was judged
    ├── CorruptObjectError  stored bytes are not those whose digest was recorded; repeating it cannot help
    └── Unavailable         something we depend on did not answer; repeating may help
"""

from __future__ import annotations


class RatchetError(Exception):
    """Base of all errors raised on purpose. ``retry_helps`` tells an orchestrator what to do with it."""

    retry_helps = False


class Refused(RatchetError):
    """The request breaks a rule: the message says which one, what was got, and what to do."""


class NoData(Refused):
    """A dataset is listed, and its file is not there."""


class StaleAttempt(Refused):
    """The attempt no longer owns its model: its lease was taken over, or it was concluded."""


class ChampionMoved(Refused):
    """The champion changed between the verdict and its promotion: judge again."""


class CorruptObjectError(RatchetError):
    """The bytes stored under a key are not those whose digest was recorded: nothing may be decided on them."""


class Unavailable(RatchetError):
    """A driver did not answer in time."""

    retry_helps = True
