"""Ratchet: event-driven retraining on Apache Airflow, where a model only ever moves forward."""
