"""Spines, and their features as known at ``decided_at``, from a Feast repository, joined by the engine that it names.

Read in Feast 0.67 and obeyed here:

- ``filter_by_created_timestamp`` must be on, or a value published after the decision is joined;
- the default (dask) engine loses entity rows: any store but ours (``offline_store``) and Feast's DuckDB is refused;
- DuckDB returns rows in any order and would drop columns ending in ``_y``: rows carry a number through the join, and
  the answer is checked to hold every one of them exactly once;
- a ``FileSource`` path is opened relative to the working directory: the registry holds paths below the data folder and
  is therefore derived data, kept there and made anew when a definition changes.

Importing Feast costs six CPU seconds; it happens at the first join, not when this module is read.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from ruamel.yaml import YAML

from ratchet.adapters import file_lock
from ratchet.adapters.catalogue import Catalogue, Dataset, dataset_files
from ratchet.adapters.feature_engine import AS_OF, CONFIG_FILE, engine_of, engine_refused
from ratchet.domain.artifact import targets
from ratchet.domain.rehearsal import SourceDay
from ratchet.domain.sensitive import Role, TaggedColumn, tags_of
from ratchet.errors import NoData, Refused

if TYPE_CHECKING:
    from ratchet.domain.spec import ModelSpec

_DEFINITIONS = "definitions.py"
_DECIDED_AT = "event_timestamp"  # the name by which Feast knows an entity row's time
_ROW = "ratchet_row"
Told = tuple[list[str], str]
"""The tags of a column, and the places where they are set."""


class FeastFeatures:
    """The feature repository ``repo_dir`` and what models below ``models_dir`` bring, over the data ``data_dir``."""

    def __init__(self, repo_dir: Path, data_dir: Path, models_dir: Path | None = None) -> None:
        self.repo_dir = Path(repo_dir).resolve()
        self.data_dir = Path(data_dir).resolve()
        self.models_dir = None if models_dir is None else Path(models_dir).resolve()

    # -- spines: no Feast needed ---------------------------------------------------------------------------------

    def dataset(self, name: str) -> Dataset:
        """The named dataset; raises :class:`Refused` when there is none, its entry does not hold, or it has no file."""
        found = self._catalogue[name]
        if not found.path.exists():
            msg = (
                f"{found.where}: dataset {name!r} must exist at {found.path}, but does not. "
                "Put it there; the flights' datasets are built by: ratchet data build"
            )
            raise NoData(msg)
        return found

    def days(self, spec: ModelSpec) -> list[SourceDay]:
        """The local days of the spine's source that have rows, in order; raises :class:`Refused` as :meth:`spine` does.

        The day of a row is that of its event; one without an event is on no day, and is refused.
        """
        spine = spec.data.spine
        source = self.dataset(spine.source)
        rows = self._read(source, [spine.label, source.event, source.created])
        _known(rows.select([source.event]), source)
        labelled = pc.and_(pc.is_valid(rows[spine.label]), pc.is_valid(rows[source.created]))
        by_day = pa.table(
            {
                "day": _local_days(rows[source.event], ZoneInfo(spine.timezone)),
                "labelled": labelled.cast(pa.int64()),
                "known_at": rows[source.created].cast(pa.timestamp("us", "UTC")),
            }
        )
        found = by_day.group_by("day").aggregate([("labelled", "count"), ("labelled", "sum"), ("known_at", "max")])
        names = ("day", "labelled_count", "labelled_sum", "known_at_max")
        columns = (found.sort_by("day")[name].to_pylist() for name in names)
        return [SourceDay(*each) for each in zip(*columns, strict=True)]

    def spine(self, spec: ModelSpec, *, as_of: datetime, start: date, end: date) -> pa.Table:
        """Labelled decisions of the local days ``[start, end)`` whose labels are mature at ``as_of``.

        A day is mature as a whole or not at all: its local end plus the label delay (elapsed time) must not lie after
        ``as_of``, nor must the publication of any of its rows. The day of a row is that of its event, not of
        ``decided_at``, in the spine's time zone.

        Returns columns: entity keys, join keys, ``decided_at`` (UTC), ``day`` ('YYYY-MM-DD'), ``label`` (int8; of a
        regression float64 and finite), in total order (entity keys, decided_at); none holds nulls. Then the source's
        outcomes that the payoff reads, null where they are not known.
        Raises :class:`Refused` for an unknown source or column, a naive ``as_of``, repeated or missing keys, and when a
        decision would read an outcome.
        """
        if as_of.tzinfo is None:
            msg = f"as_of must be aware of its time zone, but got {as_of.isoformat()}"
            raise Refused(msg)
        spine = spec.data.spine
        source = self.dataset(spine.source)
        keys = [*spine.entity, *(key for key in source.join_keys if key not in spine.entity)]
        outcomes = [name for name in spec.business.payoff.reads if name in source.outcomes]
        if read := spec.business.decided_by_columns & set(outcomes):
            msg = (
                f"business.payoff: {min(read)!r} is known only after the outcome, so that no decision can be "
                "taken by it. Let business.decision.threshold be tuned or a number."
            )
            raise Refused(msg)
        rows = self._read(source, [*keys, *outcomes, spine.label, spine.decided_column, source.event, source.created])
        zone = ZoneInfo(spine.timezone)
        days = _local_days(rows[source.event], zone)
        rows = rows.append_column("day", days).filter(_within(days, start, end))
        rows = rows.filter(self._mature(rows, source, as_of=as_of, zone=zone, label_delay=spine.label_delay))
        table = self._decisions(spec, rows, keys)
        label = rows[spine.label]
        if not spec.business.regression:
            label = _of_decisions(label, f"{source.path}: {spine.label}")
        table = _known(table.append_column("label", label), source)
        if spec.business.regression:
            target = pa.array(targets(table, f"{source.path}: {spine.label}"))
            table = table.set_column(table.column_names.index("label"), "label", target)
        for name in outcomes:
            table = table.append_column(name, rows[name])
        return _in_total_order(table, spec, source)

    def entities(self, spec: ModelSpec, *, start: date, end: date) -> pa.Table:
        """All decisions of the local days ``[start, end)``, labelled or not, as they are to be scored.

        The day of a row is that of its event, as in :meth:`spine`; when its label was published is not looked at.

        Returns columns: entity keys, join keys, ``decided_at`` (UTC), ``day`` ('YYYY-MM-DD'), in total order (entity
        keys, decided_at); none holds nulls. Raises :class:`Refused` for an unknown source or column, and for repeated
        or missing keys.
        """
        spine = spec.data.spine
        source = self.dataset(spine.source)
        keys = [*spine.entity, *(key for key in source.join_keys if key not in spine.entity)]
        zone = ZoneInfo(spine.timezone)
        between = (_end_of_day(start - timedelta(days=1), zone), _end_of_day(end - timedelta(days=1), zone))
        rows = self._read(source, [*keys, spine.decided_column, source.event], between)
        days = _local_days(rows[source.event], zone)
        rows = rows.append_column("day", days).filter(_within(days, start, end))
        return _in_total_order(_known(self._decisions(spec, rows, keys), source), spec, source)

    def count_rows(self, dataset: str, start: date, end: date) -> int:
        """Rows of a dataset whose event lies on the local days ``[start, end)``, in the time zone of its list."""
        source = self.dataset(dataset)
        days = _local_days(self._read(source, [source.event])[source.event], ZoneInfo(source.timezone))
        return int(pc.sum(_within(days, start, end)).as_py() or 0)

    # -- features: Feast ------------------------------------------------------------------------------------------

    def historical(self, spec: ModelSpec, spine: pa.Table) -> pa.Table:
        """The spine with the features of ``spec.data.features``, each as known at the row's ``decided_at``.

        Returns the spine's columns and rows, in total order (entity keys, decided_at), then the service's features in
        its order. A feature is null where no value was known, or the newest known one is older than its TTL.
        Raises :class:`Refused` when the service is unknown, a join key is absent from the spine, a view's file is not
        there, or Feast answers with other rows than it was asked for.
        """
        store = self._store()
        service = self._service(store, spec.data.features)
        join_keys = self._join_keys(store, service)
        absent = [key for key in join_keys if key not in spine.column_names]
        if absent:
            msg = f"{spec.data.features}: the spine must hold every join key, but lacks {', '.join(absent)}."
            raise Refused(msg)
        order = [(key, "ascending") for key in (*spec.data.spine.entity, "decided_at")]
        spine = spine.sort_by(order).combine_chunks()
        if spine.num_rows == 0:
            msg = f"{spec.data.features}: the spine must hold rows to join features to, but is empty."
            raise Refused(msg)
        for projection in service.feature_view_projections:
            if projection.name_alias or projection.join_key_map:
                msg = f"{projection.name}: a renamed view or join key in a feature service is not yet supported."
                raise Refused(msg)
        self._refuse_missing_files(store, service)
        if engine_of(self._config) == AS_OF:
            answers = [self._as_of(store, service, spine, join_keys)]
        else:
            answers = [self._as_known(store, view, spine) for view in service.feature_view_projections]
        for answer in answers:
            for name in answer.column_names:
                spine = spine.append_column(name, answer[name].combine_chunks())
        return spine

    def feature_names(self, spec: ModelSpec) -> tuple[str, ...]:
        """The features of the spec's service, in its order: the columns a model may read."""
        return self._feature_names(self._service(self._store(), spec.data.features))

    def tagged(self, spec: ModelSpec) -> tuple[TaggedColumn, ...]:
        """See the port. Feast is imported only when a definition has changed since the registry was made."""
        spine, source = spec.data.spine, self._catalogue[spec.data.spine.source]
        of_feast = self._applied()
        if spec.data.features not in of_feast["services"]:
            raise self._no_service(spec.data.features, of_feast["services"])
        roles: dict[tuple[str, Role], None] = dict.fromkeys((key, "key") for key in spine.entity)
        roles |= dict.fromkeys((key, "join key") for key in source.join_keys if key not in spine.entity)
        roles |= {(spine.label, "label"): None, (spine.decided_column, "moment"): None, (source.event, "moment"): None}
        roles |= dict.fromkeys((name, "outcome") for name in spec.business.payoff.reads if name in source.outcomes)
        found = []
        for column, role in roles:
            places = [of_feast["keys"][column]] if column in of_feast["keys"] and "key" in role else []
            if column in source.sensitive:
                places.append(([source.sensitive[column]], f"dataset {source.name!r} of {source.where}"))
            if places:
                tags = dict.fromkeys(tag for several, _ in places for tag in several)
                where = dict.fromkeys(at for _, at in places)
                found.append(TaggedColumn(column, tuple(tags), ", ".join(where), role))
        features = of_feast["services"][spec.data.features]
        return (
            *found,
            *(TaggedColumn(name, tuple(tags), at, "feature", text) for name, (tags, at), text in features),
        )

    def apply(self) -> None:
        """Bring the registry up to date with the definitions; a no-op when nothing changed.

        One process does it under a lock, on a copy that then replaces the registry as a whole, so that readers see
        the old or the new one and Feast's view versions go on counting.
        """
        self._applied()

    def _applied(self) -> dict[str, Any]:
        """Which columns the applied definitions tag, as :meth:`_tags` tells them.

        Kept beside the registry, under the digest of the definitions it was made of.
        """
        registry = self._registry_path
        registry.parent.mkdir(parents=True, exist_ok=True)
        applied = registry.with_suffix(".applied")
        wanted = self._definitions_digest()
        if (tags := _stamped(applied, wanted)) is not None and registry.exists():
            return tags
        with file_lock.held(registry.with_suffix(".lock")):
            if (tags := _stamped(applied, wanted)) is not None and registry.exists():
                return tags
            definitions, wrong = self._definitions()
            tags = self._tags(definitions) | {"wrong": wrong}
            with tempfile.TemporaryDirectory(dir=registry.parent, prefix=".applying-") as scratch:
                draft = Path(scratch) / registry.name
                if registry.exists():
                    shutil.copy2(registry, draft)
                self._open(draft).apply(definitions)
                stamp = Path(scratch) / applied.name
                stamp.write_text(json.dumps({"definitions": wanted, "tagged": tags}))
                draft.replace(registry)
                stamp.replace(applied)
            return tags

    def _tags(self, definitions: Sequence[Any]) -> dict[str, Any]:
        """What these Feast objects tag, JSON-able, each with its tags and places.

        ``keys`` are those that join, by name; ``services`` have their features, each also with whether it is text.
        """
        from feast import Entity, FeatureService, FeatureView  # noqa: PLC0415 - six CPU seconds
        from feast.types import String  # noqa: PLC0415

        entities = {one.name: one for one in definitions if isinstance(one, Entity)}
        views = {one.name: one for one in definitions if isinstance(one, FeatureView)}
        places: dict[str, list[tuple[str, Mapping[str, str]]]] = {}
        for entity in entities.values():
            places.setdefault(entity.join_key, []).append((f"entity {entity.name!r}", entity.tags))
        for view in views.values():
            listed = self._of_dataset(view.batch_source)
            for field in view.entity_columns:
                at = places.setdefault(field.name, [])
                at += [(f"feature view {view.name!r}", field.tags), *listed.get(field.name, ())]
        services: dict[str, list[tuple[str, Told, bool]]] = {}
        for service in (one for one in definitions if isinstance(one, FeatureService)):
            features = services.setdefault(service.name, [])
            for projection in service.feature_view_projections:
                view = views.get(projection.name)
                for field in projection.features:
                    at = [(f"feature service {service.name!r}", service.tags), (f"field {field.name!r}", field.tags)]
                    if view is not None:
                        source = view.batch_source
                        at += [(f"feature view {view.name!r}", view.tags), (f"source {source.name!r}", source.tags)]
                        at += self._of_dataset(source).get(field.name, ())
                    if (told := _told(at)) is not None:
                        features.append((field.name, told, field.dtype == String))
        return {"keys": {key: told for key, at in places.items() if (told := _told(at))}, "services": services}

    def _of_dataset(self, source: Any) -> dict[str, list[tuple[str, Mapping[str, str]]]]:
        """What its entry calls sensitive of the dataset that a Feast source reads, by the view's names."""
        if source.name not in self._catalogue:
            return {}
        listed = self._catalogue[source.name]
        at = f"dataset {source.name!r} of {listed.where}"
        return {source.field_mapping.get(name, name): [(at, {tag: "true"})] for name, tag in listed.sensitive.items()}

    def describe(self, spec: ModelSpec) -> dict[str, Any]:
        """What the manifest of the spec's snapshot pins: service, views and datasets, JSON-able and free of paths.

        ``hash`` covers the definitions and the content of every dataset that the spine and the service read: equal
        hashes give equal features.
        """
        store = self._store()
        service = self._service(store, spec.data.features)
        views = [store.get_feature_view(projection.name) for projection in service.feature_view_projections]
        pinned_views = {
            view.name: {
                "version": view.current_version_number,
                "features": {field.name: str(field.dtype) for field in view.features},
                "keys": sorted(view.entities),
                "ttl_seconds": int(view.ttl.total_seconds()),
                "event": view.batch_source.timestamp_field,
                "created": view.batch_source.created_timestamp_column,
            }
            for view in sorted(views, key=lambda view: view.name)
        }
        source = self.dataset(spec.data.spine.source)
        files = {source.path, *(self.data_dir / view.batch_source.path for view in views)}
        read = sorted(dataset.name for dataset in self._catalogue.sound() if dataset.path in files)
        datasets = {
            name: {
                "rows": pq.read_metadata(self.dataset(name).path).num_rows,
                "sha256": hashlib.sha256(self.dataset(name).path.read_bytes()).hexdigest(),
            }
            for name in read
        }
        services = {service.name: list(self._feature_names(service))}
        pinned = {"views": pinned_views, "services": services, "datasets": datasets, "timezone": source.timezone}
        engine = {"offline_store": engine_of(self._config)}
        engine |= {name: version(name) for name in ("duckdb", "feast", "numpy", "pyarrow")}
        # A view's version counts the changes made in this folder's registry: told, but not part of its content.
        content = json.dumps(pinned | {"views": _without_versions(pinned_views)}, sort_keys=True).encode()
        return pinned | {"engine": engine, "hash": hashlib.sha256(content).hexdigest()}

    # -- inner parts ----------------------------------------------------------------------------------------------

    @cached_property
    def _catalogue(self) -> Catalogue:
        return Catalogue(self.repo_dir, self.models_dir, self.data_dir)

    @cached_property
    def _config(self) -> dict[str, Any]:
        text = (self.repo_dir / CONFIG_FILE).read_text().replace("${RATCHET_DATA_DIR}", str(self.data_dir))
        config = dict(YAML(typ="safe").load(text))
        if said := engine_refused(config):
            raise Refused(f"{self.repo_dir / CONFIG_FILE}: {said}")
        return config

    @property
    def _registry_path(self) -> Path:
        return Path(self._config["registry"]["path"])

    def _open(self, registry: Path) -> Any:
        with warnings.catch_warnings():  # Feast turns warnings on for the whole process when it is imported
            from feast import FeatureStore, RepoConfig  # noqa: PLC0415 - six CPU seconds, only where a join is made

        config = self._config | {"registry": self._config["registry"] | {"path": str(registry)}}
        return FeatureStore(config=RepoConfig(**config, repo_path=self.repo_dir))

    def _store(self) -> Any:
        self.apply()
        return self._open(self._registry_path)

    def _definitions(self) -> tuple[list[Any], list[str]]:
        """Every Feast object, and why a dataset has none of its own; importing Feast is behind it."""
        from ratchet.adapters.declared_views import declared_views  # noqa: PLC0415 - Feast

        spec = importlib.util.spec_from_file_location("ratchet_feature_definitions", self.repo_dir / _DEFINITIONS)
        if spec is None or spec.loader is None:
            msg = f"{self.repo_dir / _DEFINITIONS}: must be a Python file, but cannot be loaded."
            raise Refused(msg)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        defined = list(module.objects(self.data_dir))
        declared, wrong = declared_views(self._catalogue.sound(), defined)
        return [*defined, *declared], wrong

    def _definitions_digest(self) -> str:
        digest = hashlib.sha256(f"{version('feast')}\n{self.data_dir}\n".encode())
        own = [self.repo_dir / CONFIG_FILE, self.repo_dir / _DEFINITIONS, Path(__file__).with_name("declared_views.py")]
        for file in (*own, *dataset_files(self.repo_dir, self.models_dir)):
            digest.update(f"{file.parent.name}/{file.name}\n".encode())
            digest.update(file.read_bytes())
        return digest.hexdigest()

    def _no_service(self, name: str, there: Iterable[str]) -> Refused:
        wrong = "".join(f" {said}" for said in (*self._catalogue.problems, *self._applied()["wrong"]))
        at = self.repo_dir / _DEFINITIONS
        return Refused(f"{at}: {name!r} is not a feature service; there are: {', '.join(there)}.{wrong}")

    @staticmethod
    def _refuse_missing_files(store: Any, service: Any) -> None:
        for projection in service.feature_view_projections:
            path = str(store.get_feature_view(projection.name).batch_source.path)
            if "://" not in path and not Path(path).exists():
                raise NoData(f"{projection.name}: its file must exist at {path}, but does not. Put it there.")

    def _service(self, store: Any, name: str) -> Any:
        services = {service.name: service for service in store.list_feature_services()}
        if name not in services:
            raise self._no_service(name, services)
        return services[name]

    @staticmethod
    def _as_of(store: Any, service: Any, spine: pa.Table, join_keys: tuple[str, ...]) -> pa.Table:
        """The service's features for each row of the spine, in its order, by one as-of join."""
        decided_at = spine["decided_at"].cast(pa.timestamp("us", tz="UTC"))
        asked = pa.table({key: spine[key] for key in join_keys} | {_DECIDED_AT: decided_at})
        asked = asked.append_column(_ROW, pa.array(np.arange(asked.num_rows, dtype=np.int64)))
        named = [(view.name, field.name) for view in service.feature_view_projections for field in view.features]
        job = store.get_historical_features(
            entity_df=asked.to_pandas(),
            features=[f"{view}:{feature}" for view, feature in named],
            filter_by_created_timestamp=True,
        )
        return _same_rows(asked, job.to_arrow(), list(join_keys)).select([feature for _, feature in named])

    @staticmethod
    def _as_known(store: Any, projection: Any, spine: pa.Table) -> pa.Table:
        """One view's features for each row of the spine, in its order, by Feast's DuckDB store."""
        view = store.get_feature_view(projection.name)
        keys = [column.name for column in view.entity_columns]
        moments = _canonical(spine["decided_at"], _turning_points(view))
        rows = pa.table({key: spine[key] for key in keys} | {_DECIDED_AT: moments}).to_pandas()
        question = rows.groupby([*keys, _DECIDED_AT], sort=False).ngroup().to_numpy()
        distinct = rows.drop_duplicates(ignore_index=True)
        distinct = distinct.assign(**{_ROW: np.arange(len(distinct), dtype=np.int64)})
        job = store.get_historical_features(
            entity_df=distinct,
            features=[f"{view.name}:{field.name}" for field in projection.features],
            filter_by_created_timestamp=True,
        )
        asked = pa.Table.from_pandas(distinct, preserve_index=False)
        answer = _same_rows(asked, job.to_arrow(), keys).select([field.name for field in projection.features])
        return answer.take(pa.array(question))

    @staticmethod
    def _feature_names(service: Any) -> tuple[str, ...]:
        return tuple(field.name for view in service.feature_view_projections for field in view.features)

    @staticmethod
    def _join_keys(store: Any, service: Any) -> tuple[str, ...]:
        views = (store.get_feature_view(view.name) for view in service.feature_view_projections)
        return tuple(dict.fromkeys(column.name for view in views for column in view.entity_columns))

    @staticmethod
    def _decisions(spec: ModelSpec, rows: pa.Table, keys: list[str]) -> pa.Table:
        """The source's rows (with their ``day``) as decisions: keys, ``decided_at`` and ``day``."""
        spine = spec.data.spine
        decided_at = pc.subtract(rows[spine.decided_column], pa.scalar(spine.decided_lead, pa.duration("us")))
        columns = {key: rows[key] for key in keys}
        return pa.table(columns | {"decided_at": decided_at, "day": rows["day"].cast(pa.string())})

    @staticmethod
    def _read(source: Dataset, columns: list[str], between: tuple[datetime, datetime] | None = None) -> pa.Table:
        """These columns; ``between``, half-open, leaves out what is known not to have happened in it."""
        schema = pq.read_schema(source.path)
        absent = [name for name in columns if name not in schema.names]
        if absent:
            msg = f"{source.path}: must hold {', '.join(absent)}, but has {', '.join(schema.names)}."
            raise Refused(msg)
        chosen = None
        kind = schema.field(source.event).type
        if between is not None and pa.types.is_timestamp(kind):
            first, end = (pa.scalar(moment, pa.timestamp("us", "UTC")).cast(kind) for moment in between)
            chosen = (pc.field(source.event) >= first) & (pc.field(source.event) < end)
        return pq.read_table(source.path, columns=list(dict.fromkeys(columns)), filters=chosen)

    @staticmethod
    def _mature(rows: pa.Table, source: Dataset, *, as_of: datetime, zone: ZoneInfo, label_delay: timedelta) -> Any:
        published = rows.group_by("day").aggregate([(source.created, "max")])
        ready = [
            day
            for day, known_at in zip(
                published["day"].to_pylist(), published[f"{source.created}_max"].to_pylist(), strict=True
            )
            if max(_end_of_day(day, zone) + label_delay, known_at) <= as_of
        ]
        return pc.is_in(rows["day"], pa.array(ready, pa.date32()))


def _known(table: pa.Table, source: Dataset) -> pa.Table:
    """The table, if every value is known; :class:`Refused` names a column where one is not."""
    for name in table.column_names:
        if table[name].null_count:
            msg = f"{source.path}: {name} must be known on every row, but {table[name].null_count} rows have none."
            raise Refused(msg)
    return table


def _in_total_order(table: pa.Table, spec: ModelSpec, source: Dataset) -> pa.Table:
    """By (entity keys, decided_at), which must be unique, or :class:`Refused`."""
    order = [*spec.data.spine.entity, "decided_at"]
    table = table.sort_by([(key, "ascending") for key in order]).combine_chunks()
    repeated = table.num_rows - table.group_by(order).aggregate([]).num_rows
    if repeated:
        keys = ", ".join(spec.data.spine.entity)
        raise Refused(f"{source.path}: {keys} must be unique, but {repeated} rows repeat one.")
    return table


def _local_days(moments: pa.ChunkedArray, zone: ZoneInfo) -> pa.ChunkedArray:
    """The local calendar dates (date32) of UTC instants."""
    return (
        pc.local_timestamp(moments.cast(pa.timestamp("us", tz=zone.key)))
        .cast(pa.timestamp("s"), safe=False)
        .cast(pa.date32(), safe=False)
    )


def _within(days: pa.ChunkedArray, start: date, end: date) -> pa.ChunkedArray:
    """Which days lie in the half-open range."""
    return pc.and_(pc.greater_equal(days, pa.scalar(start)), pc.less(days, pa.scalar(end)))


def _end_of_day(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day + timedelta(days=1), time(), zone).astimezone(UTC)


def _turning_points(view: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The moments, in microseconds since 1970, at which any row of a view's source appears or expires; sorted."""
    source = view.batch_source
    table = pq.read_table(source.path, columns=list({source.timestamp_field, source.created_timestamp_column}))
    event = _microseconds(table[source.timestamp_field])
    created = _microseconds(table[source.created_timestamp_column])
    expired = event + int(view.ttl / timedelta(microseconds=1)) + 1  # a value still counts at event + TTL exactly
    return np.unique(np.concatenate([event, created, expired]))


def _canonical(decided_at: pa.ChunkedArray, turning_points: np.ndarray[Any, np.dtype[np.int64]]) -> pa.Array:
    """For each moment the last turning point not after it, else itself: between two, no answer can change.

    Feast pairs every entity row with every value of its key that has not expired, so that 160,000 flights cost it half
    a minute; asked once per key and turning point, the same answers cost seconds.
    """
    asked = _microseconds(decided_at)
    index = np.searchsorted(turning_points, asked, side="right") - 1
    moments = np.where(index >= 0, turning_points[np.maximum(index, 0)], asked)
    return pa.array(moments, pa.int64()).cast(pa.timestamp("us", tz="UTC"))


def _microseconds(moments: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.int64]]:
    result: np.ndarray[Any, np.dtype[np.int64]] = moments.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    return result


def _same_rows(asked: pa.Table, answer: pa.Table, join_keys: list[str]) -> pa.Table:
    """The answer in the order asked; raises :class:`Refused` unless it holds each asked row once, unchanged."""
    if answer.num_rows != asked.num_rows:
        msg = f"Feast must answer with the {asked.num_rows} rows it was asked for, but gave {answer.num_rows}."
        raise Refused(msg)
    if not answer[_ROW].equals(asked[_ROW]):
        answer = answer.sort_by(_ROW)
    for name in (_ROW, *join_keys, _DECIDED_AT):
        got = answer[name].cast(asked.schema.field(name).type)
        if not got.equals(asked[name]):
            msg = f"Feast must answer with the rows it was asked for, but changed or repeated {name}."
            raise Refused(msg)
    return answer


def _without_versions(views: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: {key: value for key, value in view.items() if key != "version"} for name, view in views.items()}


def _stamped(path: Path, wanted: str) -> dict[str, Any] | None:
    """The tags that were kept of the definitions with this digest; None where others, or none, were applied."""
    try:
        stamp = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    current = isinstance(stamp, dict) and stamp.get("definitions") == wanted
    return dict(stamp["tagged"]) if current else None


def _told(places: Sequence[tuple[str, Mapping[str, str]]]) -> Told | None:
    """The tags set at these places, and at which; None where none is."""
    found = [(where, several) for where, given in places if (several := tags_of(given))]
    if not found:
        return None
    tags = dict.fromkeys(tag for _, several in found for tag in several)
    return list(tags), ", ".join(dict.fromkeys(where for where, _ in found))


def _of_decisions(label: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """Labels as int8; raises :class:`Refused`, which quotes none of them, where they are no small whole numbers."""
    try:
        return label.cast(pa.int8())
    except pa.ArrowInvalid:
        raise Refused(f"{where} must hold 0 and 1, but holds {label.type} with other values.") from None
