"""Ratchet over HTTP: the same reads and verbs as the command line, and events from systems that speak no Kafka.

The application is free of Airflow: who asks, and what they may do, is asked of an ``Access`` that is handed in
(``plugins/ratchet_http.py`` asks Airflow). See docs/api.md.
"""
