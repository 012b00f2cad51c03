# One image for every service of ours in docker-compose.yaml and in deploy/: Airflow's components, MLflow, the one-off steps.
# The base is named by its exact version; a mirror that has digests can give one: --build-arg BASE=...@sha256:...
ARG BASE=python:3.11.15-slim-bookworm

FROM ${BASE} AS build
ARG UV_VERSION=0.13.9
# The certificates are the system's: a base may bring an authority of its own.
ENV UV_LINK_MODE=copy UV_NO_CACHE=1 UV_SYSTEM_CERTS=1
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir --quiet uv==${UV_VERSION}
WORKDIR /opt/ratchet
COPY requirements-cluster.txt requirements-sbom.txt ./
# NCCL is for several GPUs at once, which no task of ours uses; it would be a quarter of the image (470 MB).
RUN /opt/uv/bin/uv venv --quiet --python "$(command -v python3)" /opt/venv \
    && /opt/uv/bin/uv pip sync --quiet --python /opt/venv/bin/python --require-hashes requirements-cluster.txt \
    && /opt/uv/bin/uv pip uninstall --quiet --python /opt/venv/bin/python nvidia-nccl-cu12 \
    && /opt/uv/bin/uv venv --quiet --python "$(command -v python3)" /opt/sbom \
    && /opt/uv/bin/uv pip sync --quiet --python /opt/sbom/bin/python --require-hashes requirements-sbom.txt
COPY pyproject.toml README.md LICENSE requirements.txt ./
COPY include include
RUN /opt/uv/bin/uv pip install --quiet --python /opt/venv/bin/python --no-deps --editable . \
    && /opt/sbom/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type application --spec-version 1.6 \
       --output-reproducible --output-file /opt/sbom.cdx.json /opt/venv/bin/python

FROM ${BASE}
ENV PATH=/opt/ratchet/deploy/container/bin:/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    RATCHET_ROOT=/opt/ratchet \
    RATCHET_HOME=/var/lib/ratchet \
    UV_CACHE_DIR=/var/lib/ratchet/uv \
    AIRFLOW_HOME=/var/lib/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/ratchet/dags \
    AIRFLOW__CORE__PLUGINS_FOLDER=/opt/ratchet/plugins
# libgomp1 is what XGBoost's wheel needs of the system. The folders are those that volumes are mounted on: a new volume
# takes their owner over.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --gid 0 --no-create-home --home-dir /var/lib/airflow ratchet \
    && for name in ratchet airflow airflow/logs mlflow storage; do install -d -o ratchet -g 0 -m 770 /var/lib/$name; done \
    && for name in authority grafana kafka mlflow operator postgres prometheus ratchet redis storage; do \
         install -d -o ratchet -g 0 -m 755 /secrets/$name; done
WORKDIR /opt/ratchet
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/sbom.cdx.json /usr/share/doc/ratchet/sbom.cdx.json
COPY pyproject.toml README.md LICENSE requirements.txt ./
COPY include include
COPY dags dags
COPY plugins plugins
COPY deploy/container deploy/container
# Airflow's chart calls these by the places they have in Airflow's own image.
RUN ln -s /opt/ratchet/deploy/container/entrypoint /entrypoint && ln -s /opt/ratchet/deploy/container/clean-logs /clean-logs

USER 10001
ENTRYPOINT ["/opt/ratchet/deploy/container/entrypoint"]
