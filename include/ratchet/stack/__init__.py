"""The local stack: PostgreSQL, Kafka, MLflow and Airflow on one machine, under one supervisor, in one folder.

``up``, ``down`` and ``status`` are what the commands of the same name do; ``component_pid`` serves the tests that kill
a component and watch what becomes of the work in its hands.
"""

from ratchet.stack.api import COMPONENTS, component_pid, down, status, up
from ratchet.stack.control import StackError

__all__ = ["COMPONENTS", "StackError", "component_pid", "down", "status", "up"]
