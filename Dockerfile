# One image for every service of docker-compose.yaml: Airflow's components, MLflow and the one-off init.
FROM python:3.11-slim-bookworm

ARG UV_VERSION=0.13.9
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RATCHET_ROOT=/opt/ratchet \
    RATCHET_HOME=/var/lib/ratchet \
    AIRFLOW_HOME=/var/lib/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/ratchet/dags \
    AIRFLOW__CORE__PLUGINS_FOLDER=/opt/ratchet/plugins

# libgomp1 is what XGBoost's wheel needs of the system.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/airflow ratchet \
    && install -d -o ratchet -g ratchet -m 750 /var/lib/ratchet /var/lib/airflow /var/lib/airflow/logs /var/lib/mlflow

WORKDIR /opt/ratchet
COPY requirements.txt ./
RUN pip install --no-cache-dir uv==${UV_VERSION} \
    && uv venv /opt/venv \
    && uv pip sync --no-cache --python /opt/venv/bin/python --require-hashes requirements.txt

COPY pyproject.toml README.md LICENSE ./
COPY include include
COPY dags dags
COPY plugins plugins
COPY deploy/container deploy/container
RUN uv pip install --no-cache --python /opt/venv/bin/python --no-deps --editable .

USER ratchet
ENTRYPOINT ["/opt/ratchet/deploy/container/entrypoint"]
