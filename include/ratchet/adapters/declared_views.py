"""Datasets that are feature views by themselves, as Feast objects: a model that comes from a file needs no Python.

Each row of such a dataset is known at the decision it belongs to, and is carried for a day.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64, PrimitiveFeastType, String

from ratchet.adapters.catalogue import FEATURE_TYPES, Dataset

TTL = timedelta(days=1)
_TYPES: dict[str, PrimitiveFeastType] = dict(zip(FEATURE_TYPES, (Float64, Int64, String), strict=True))


def declared_views(datasets: Iterable[Dataset], defined: Sequence[Any]) -> tuple[list[Any], list[str]]:
    """The entities, views and services of those datasets that list features, and why others have none.

    Args:
        datasets: every dataset; those without features are passed over.
        defined: the objects of the repository's own definitions; an entity of theirs is used as it is, the name of a
            view or a service of theirs is taken.
    """
    entities = {one.name: one for one in defined if isinstance(one, Entity)}
    taken = {one.name for one in defined if isinstance(one, FeatureView | FeatureService)}
    made: list[Any] = []
    problems = []
    for dataset in datasets:
        if dataset.service is None:
            continue
        if clash := sorted({dataset.name, dataset.service} & taken):
            at = f"{dataset.where}: datasets.{dataset.name}"
            problems.append(f"{at}: {clash[0]!r} is the name of another view or service. Rename it.")
            continue
        for key in dataset.keys:
            if key not in entities:
                entities[key] = Entity(name=key, join_keys=[key], value_type=ValueType.STRING)
                made.append(entities[key])
        view = _view(dataset, [entities[key] for key in dataset.keys])
        taken |= {dataset.name, dataset.service}
        made += [view, FeatureService(name=dataset.service, features=[view])]
    return made, problems


def _view(dataset: Dataset, entities: list[Entity]) -> FeatureView:
    return FeatureView(
        name=dataset.name,
        description=f"known at each decision of {dataset.service}",
        entities=entities,
        ttl=TTL,
        schema=[Field(name=entity.join_key, dtype=String) for entity in entities]
        + [Field(name=feature, dtype=_TYPES[kind]) for feature, kind in dataset.features.items()],
        source=FileSource(
            name=dataset.name,
            path=str(dataset.path),
            timestamp_field=dataset.event,
            created_timestamp_column=dataset.created,
        ),
        online=False,
    )
