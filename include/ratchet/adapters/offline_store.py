"""A Feast offline store that joins Parquet files at the speed of an as-of join.

``feature_store.yaml`` names it: ``offline_store: {type: ratchet.adapters.offline_store.AsOfOfflineStore}``. Repository,
registry, sources and ``get_historical_features`` stay Feast's; all but the point-in-time join is Feast's DuckDB store,
whose subclass this is. The answer has the spine's rows in the spine's order, each exactly once.

A source row answers where its event is not after the spine row's, its TTL (inclusive) has not passed and, with
``filter_by_created_timestamp``, it had been created; the latest event wins, then the latest creation, then the later
place in the file (Feast leaves that last case open). Naive moments are UTC.

What the join cannot do exactly is left to Feast's DuckDB store as a whole, and logged: sources that are not one local
Parquet file, keys that are neither whole numbers nor text, moments finer than a microsecond, result columns that bear
the name of a spine column, on-demand views that Feast compiles into its query (``mode="substrait"``).
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import ibis
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast.data_format import ParquetFormat
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig, _write_data_source
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.offline_stores.ibis import IbisRetrievalJob
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.on_demand_feature_view import OnDemandFeatureView
from pydantic import PositiveInt, StrictStr

from ratchet.adapters.point_in_time import AsOf, Int64, LeftToFeast, SourceFile, Spine
from ratchet.adapters.source_index import IndexedFile
from ratchet.errors import Refused

logger = logging.getLogger(__name__)

_LONGEST = 2**62  # microseconds
_WHILE_SORTING = 128  # bytes per row of a spine or a source: sixteen numbers of 64 bits


class AsOfOfflineStoreConfig(DuckDBOfflineStoreConfig):  # type: ignore[misc]
    """Settings below ``offline_store``; those of Feast's DuckDB store hold too."""

    type: StrictStr = "ratchet.adapters.offline_store.AsOfOfflineStore"
    memory_limit_mb: PositiveInt = 4096
    """What one join may take: a result that needs more is refused, ``persist`` writes it in chunks."""
    index_folder: StrictStr | None = None
    """Where the order and the columns of sources are kept between joins; nothing is kept where it is not set."""


class AsOfOfflineStore(DuckDBOfflineStore):  # type: ignore[misc]
    """Feast's DuckDB store with another point-in-time join."""

    @staticmethod
    def get_historical_features(
        config: Any,
        feature_views: list[Any],
        feature_refs: list[str],
        entity_df: Any,
        registry: Any,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> Any:
        """A job that joins the views to ``entity_df``, a pandas frame; nothing is read before it is asked."""
        if not isinstance(entity_df, pd.DataFrame):
            msg = f"entity_df must be a pandas DataFrame, but is {type(entity_df).__name__}: files answer no SQL."
            raise Refused(msg)

        def by_feast() -> Any:
            return DuckDBOfflineStore.get_historical_features(
                config=config,
                feature_views=feature_views,
                feature_refs=feature_refs,
                entity_df=entity_df,
                registry=registry,
                project=project,
                full_feature_names=full_feature_names,
                filter_by_created_timestamp=filter_by_created_timestamp,
            )

        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        try:
            _none_compiled(on_demand)
            time = infer_event_timestamp_from_entity_df(dict(zip(entity_df.columns, entity_df.dtypes, strict=True)))
            spine = _spine(entity_df, time)
            opened = _opener(config.offline_store.index_folder)
            views = [
                _view(
                    view,
                    opened,
                    spine,
                    feature_refs,
                    full_names=full_feature_names,
                    known_at=filter_by_created_timestamp,
                )
                for view in feature_views
            ]
            _distinct([*spine.table.column_names, *(name for view in views for name in view.columns)])
        except LeftToFeast as why:
            _tell(why)
            return by_feast()
        moments = spine.table[time].to_pandas()
        return AsOfRetrievalJob(
            spine,
            views,
            by_feast,
            on_demand=on_demand,
            full_feature_names=full_feature_names,
            metadata=RetrievalMetadata(
                features=feature_refs,
                keys=[name for name in spine.table.column_names if name != time],
                min_event_timestamp=moments.min().to_pydatetime(),
                max_event_timestamp=moments.max().to_pydatetime(),
            ),
            config=config,
        )


@dataclass(frozen=True)
class _View:
    """One feature view, ready to be joined: its file, how it answers, and result column -> column of the file."""

    file: SourceFile
    by: AsOf
    columns: Mapping[str, str]


class AsOfRetrievalJob(RetrievalJob):  # type: ignore[misc]
    """The join of a spine with views, made when it is asked for; on-demand views are Feast's part."""

    def __init__(
        self,
        spine: Spine,
        views: list[_View],
        by_feast: Callable[[], Any],
        *,
        on_demand: list[Any],
        full_feature_names: bool,
        metadata: Any,
        config: Any,
    ) -> None:
        super().__init__()
        self._spine = spine
        self._views = views
        self._by_feast = by_feast
        self._on_demand = on_demand
        self._full_feature_names = full_feature_names
        self._metadata = metadata
        self._config = config

    @property
    def full_feature_names(self) -> bool:
        """Whether features bear their view's name."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[Any]:
        """Views that Feast computes from the result."""
        return self._on_demand

    @property
    def metadata(self) -> Any:
        """Features, keys and the range of moments asked for."""
        return self._metadata

    def needed_bytes(self) -> tuple[int, int]:
        """What the join takes whatever is made of it, and what each row of the result takes: estimates.

        Text and lists are guessed at 32 bytes a value.
        """
        rows = self._spine.table.num_rows
        width = self._spine.table.nbytes // max(rows, 1)
        fixed, each = rows * (width + _WHILE_SORTING + 8 * len(self._views)), width
        reading = 0
        for view in self._views:
            columns = list(view.columns.values())
            each += view.file.row_bytes(columns)
            reading = max(reading, view.file.num_rows * _WHILE_SORTING, view.file.decoding_bytes(columns))
        return fixed + reading, each

    def persist(self, storage: Any, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Write the result; to a local Parquet file in chunks, as a whole or not at all."""
        source = storage.to_data_source()
        if self._on_demand or not _is_parquet(source) or "://" in source.path:
            answer = ibis.memtable(self.to_arrow())
            _write_data_source(answer, source, str(self._config.repo_path), "overwrite", allow_overwrite)
            return
        target = Path(FileSource.get_uri_for_file_path(self._config.repo_path, source.path))
        if target.exists() and not allow_overwrite:
            raise SavedDatasetLocationAlreadyExists(location=source.path)
        size = self._chunk_rows()
        try:
            answers = self._answers()
        except LeftToFeast as why:
            _tell(why)
            self._by_feast().persist(storage, allow_overwrite, timeout)
            return
        partial = target.with_name(f"{target.name}.{uuid.uuid4().hex}.partial")
        try:
            chunks = self._chunks(answers, size)
            first = next(chunks)
            with pq.ParquetWriter(partial, first.schema, compression="zstd") as writer:
                writer.write_table(first)
                for chunk in chunks:
                    writer.write_table(chunk)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def supports_remote_storage_export(self) -> bool:
        """As Feast's DuckDB store: where a staging location is set."""
        return self._config.offline_store.staging_location is not None

    def to_remote_storage(self) -> Any:
        """Write the result to the staging location by Feast's own code."""
        offline = self._config.offline_store
        return IbisRetrievalJob(
            table=ibis.memtable(self.to_arrow()),
            on_demand_feature_views=[],
            full_feature_names=self._full_feature_names,
            metadata=self._metadata,
            data_source_writer=_write_data_source,
            staging_location=offline.staging_location,
            staging_location_endpoint_override=offline.staging_location_endpoint_override,
            repo_path=str(self._config.repo_path),
        ).to_remote_storage()

    # -- inner parts ------------------------------------------------------------------------------------------------

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        rows = self._spine.table.num_rows
        fixed, each = self.needed_bytes()
        limit = self._config.offline_store.memory_limit_mb * 2**20
        if fixed + rows * each > limit:
            msg = (
                f"offline_store.memory_limit_mb: {rows:,} rows must fit into {limit / 2**30:.1f} GiB, but need about "
                f"{(fixed + rows * each) / 2**30:.1f}. Persist them to a Parquet file, which goes by chunks, ask for "
                "fewer rows, or raise the limit."
            )
            raise Refused(msg)
        try:
            return self._part(self._answers(), 0, rows)
        except LeftToFeast as why:
            _tell(why)
            return self._by_feast()._to_arrow_internal(timeout)  # noqa: SLF001 - Feast's own protocol

    def _to_df_internal(self, timeout: int | None = None) -> Any:
        return self._to_arrow_internal(timeout).to_pandas()

    def _answers(self) -> list[Int64]:
        return [view.file.answers(self._spine, view.by) for view in self._views]

    def _chunk_rows(self) -> int:
        """How many rows of the result fit into memory beside what the join takes."""
        fixed, each = self.needed_bytes()
        room = self._config.offline_store.memory_limit_mb * 2**20 - fixed
        if room < each:
            msg = (
                f"offline_store.memory_limit_mb: sorting {self._spine.table.num_rows:,} rows takes about "
                f"{fixed / 2**30:.1f} GiB. Ask for fewer rows, or raise the limit."
            )
            raise Refused(msg)
        return max(int(room // max(each, 1)), 1)

    def _chunks(self, answers: list[Int64], size: int) -> Iterator[pa.Table]:
        """The result in the spine's order, in parts of ``size`` rows; at least one."""
        rows = self._spine.table.num_rows
        for start in range(0, max(rows, 1), size):
            yield self._part(answers, start, min(start + size, rows))

    def _part(self, answers: list[Int64], start: int, stop: int) -> pa.Table:
        table = self._spine.table.slice(start, stop - start)
        for view, rows in zip(self._views, answers, strict=True):
            for name, values in view.file.fetch(rows[start:stop], view.columns).items():
                table = table.append_column(name, values)
        return table


def _spine(entity_df: pd.DataFrame, time: str) -> Spine:
    """The frame as a table whose moments are microseconds; text and objects are read as moments, as Feast does."""
    moments = entity_df[time]
    if pd.api.types.is_string_dtype(moments) or pd.api.types.is_object_dtype(moments):
        entity_df = entity_df.assign(**{time: pd.to_datetime(moments, utc=True)})
    try:
        table = pa.Table.from_pandas(entity_df, preserve_index=False)
        exact = table[time].cast(pa.timestamp("us", table[time].type.tz))
    except (AttributeError, TypeError, ValueError, pa.ArrowException) as unknown:
        raise LeftToFeast(f"the spine is no table of Arrow's: {unknown}") from unknown
    table = table.set_column(table.column_names.index(time), time, exact)
    return Spine(table.replace_schema_metadata(None), time)


def _opener(index_folder: str | None) -> Callable[[Path], SourceFile]:
    return SourceFile if index_folder is None else lambda path: IndexedFile(path, Path(index_folder))


def _view(
    view: Any,
    opened: Callable[[Path], SourceFile],
    spine: Spine,
    feature_refs: list[str],
    *,
    full_names: bool,
    known_at: bool,
) -> _View:
    source, projection = view.batch_source, view.projection
    if not isinstance(source, FileSource) or not _is_parquet(source) or not Path(source.path).is_file():
        raise LeftToFeast(f"{view.name} does not read one local Parquet file")
    file = opened(Path(source.path))
    there = {source.field_mapping.get(name, name): name for name in file.schema.names}
    _distinct([source.field_mapping.get(name, name) for name in file.schema.names])
    keys = {column.name: projection.join_key_map.get(column.name, column.name) for column in view.entity_columns}
    prefix = f"{projection.name_to_use()}:"
    features = [ref.removeprefix(prefix) for ref in feature_refs if ref.startswith(prefix)]
    shown = f"{projection.name_alias or view.name}__" if full_names else ""
    created = source.created_timestamp_column
    needed = [*keys, *features, source.timestamp_field, *([created] if created else [])]
    absent = [name for name in needed if name not in there]
    absent += [name for name in keys.values() if name not in spine.table.column_names]
    if absent or not keys:
        raise LeftToFeast(f"{view.name} is not there to be joined by a key: {', '.join(absent) or 'it has none'}")
    return _View(
        file=file,
        by=AsOf(
            keys=tuple((there[ours], theirs) for ours, theirs in keys.items()),
            event=there[source.timestamp_field],
            created=there[created] if created else None,
            ttl=min(view.ttl // timedelta(microseconds=1), _LONGEST) if view.ttl else None,
            known_at=known_at,
        ),
        columns={shown + name: there[name] for name in features},
    )


def _none_compiled(on_demand: list[Any]) -> None:
    if compiled := [view.name for view in on_demand if view.mode == "substrait"]:
        raise LeftToFeast(f"on-demand views are part of Feast's query: {', '.join(compiled)}")


def _is_parquet(source: Any) -> bool:
    return isinstance(source.file_format, ParquetFormat) or (
        source.file_format is None and source.path.endswith(".parquet")
    )


def _distinct(names: list[str]) -> None:
    if repeated := {name for name in names if names.count(name) > 1}:
        raise LeftToFeast(f"several columns have one name: {', '.join(sorted(repeated))}")


def _tell(why: LeftToFeast) -> None:
    logger.info("left to Feast's DuckDB store, which is right but slower: %s", why)
