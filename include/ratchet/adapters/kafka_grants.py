"""Who may do what with the topics: the ACLs that ``ratchet topics ensure --grants`` makes, and those in deploy/.

A grant lets one principal do some operations on a topic, or on a consumer group by its exact name or by its beginning.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourceType,
)
from kafka.errors import KafkaError

from ratchet.adapters.connections import ConnectionInfo, kafka_config
from ratchet.adapters.kafka_bus import CLIENT, probe
from ratchet.errors import Refused, Unavailable
from ratchet.ports.bus import DEAD_LETTER, DECISIONS, INBOUND_TOPICS, TOPICS

ANY_HOST = "*"
AUDIENCE_GROUPS = "ratchet-audience-"
"""How the consumer groups of those begin who listen to the decisions."""


@dataclass(frozen=True)
class Grant:
    """Operations on one resource; ``pattern`` says whether the name is whole or a beginning."""

    resource: Literal["topic", "group"]
    name: str
    operations: tuple[Literal["Read", "Write", "Describe"], ...]
    pattern: Literal["literal", "prefixed"] = "literal"


def grants(group_id: str) -> Mapping[str, tuple[Grant, ...]]:
    """The rights of each principal; ``group_id`` is the intake's consumer group.

    ``ratchet``: every component of ours; it reads what comes in, and writes it too for those who come by HTTP or the
    command line. ``monitor``: who publishes events. ``audience``: who listens to what was decided.
    """
    return {
        "ratchet": (
            *(Grant("topic", name, ("Read", "Write", "Describe")) for name in TOPICS),
            Grant("group", group_id, ("Read", "Describe")),
        ),
        "monitor": tuple(Grant("topic", name, ("Write", "Describe")) for name in INBOUND_TOPICS),
        "audience": (
            *(Grant("topic", name, ("Read", "Describe")) for name in (DECISIONS, DEAD_LETTER)),
            Grant("group", AUDIENCE_GROUPS, ("Read", "Describe"), "prefixed"),
        ),
    }


def _acls(group_id: str) -> list[ACL]:
    return [
        ACL(
            f"User:{principal}",
            ANY_HOST,
            ACLOperation[operation.upper()],
            ACLPermissionType.ALLOW,
            ResourcePattern(
                ResourceType[grant.resource.upper()], grant.name, ACLResourcePatternType[grant.pattern.upper()]
            ),
        )
        for principal, given in grants(group_id).items()
        for grant in given
        for operation in grant.operations
    ]


def give(info: ConnectionInfo, group_id: str) -> list[str]:
    """Make the ACLs, which may be there already, and return the principals that have them.

    Raises:
        Refused: the broker keeps no ACLs, or we may not make any.
        Unavailable: no broker answered; repeating may help.

    """
    config = kafka_config(info)
    probe(config)
    try:
        with closing(KafkaAdminClient(**CLIENT, **config)) as admin:
            failed = admin.create_acls(_acls(group_id))["failed"]
    except KafkaError as error:
        raise Unavailable(f"Kafka made no ACLs: {error!r}") from error
    if failed:
        raise Refused(
            f"Kafka made no ACLs: {failed[0].__name__}. The brokers need an authorizer, and the connection "
            "ratchet_kafka a principal that may alter the cluster."
        )
    return list(grants(group_id))
