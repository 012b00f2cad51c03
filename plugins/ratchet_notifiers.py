# ruff: noqa: PLC0415 (every component loads this file: what is heavy is imported where it is used)
"""How notifications leave: through any notifier of Airflow, which a channel names by its dotted path.

A channel's arguments are what the notifier takes, as templates; ``notification`` is the message. For the notifiers in
``USUAL`` what the message needs is said already. ``WebhookNotifier`` posts JSON to anything that takes it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseNotifier

import ratchet_airflow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Context

    from ratchet.domain.notifications import Channel

USUAL: Mapping[str, Mapping[str, Any]] = {
    "airflow.providers.smtp.notifications.smtp.SmtpNotifier": {
        "to": "{{ notification.to }}",
        "subject": "{{ notification.subject }}",
        "html_content": "{{ notification.html }}",
        "custom_headers": {"Message-ID": "{{ notification.message_id }}", "Auto-Submitted": "auto-generated"},
    },
    "airflow.providers.slack.notifications.slack_webhook.SlackWebhookNotifier": {"text": "{{ notification.mrkdwn }}"},
    "airflow.providers.slack.notifications.slack.SlackNotifier": {"text": "{{ notification.mrkdwn }}"},
}
"""What a channel need not say; what it says itself wins."""
FORMS = ("html", "mrkdwn")
"""Whole messages for other eyes than a program's."""
SLACK = "https://hooks.slack.com/services"
MOST_ANSWER = 200


class WebhookNotifier(BaseNotifier):
    """Post JSON to a URL that an Airflow connection keeps.

    The address is the connection's, as of an ``http`` connection; of a ``slackwebhook`` connection its password is the
    end of the address, as Airflow's Slack provider has it. Login and password are basic authentication, a password
    alone is a bearer token, extra fields are headers. ``Idempotency-Key`` is the message's id, the same at each try.

    :param conn_id: the connection.
    :param endpoint: what is added to its address.
    :param body: what is posted; left out, the message itself.
    :param timeout: in seconds.
    """

    template_fields = ("conn_id", "endpoint", "body")

    def __init__(
        self,
        conn_id: str,
        endpoint: str | None = None,
        body: dict[str, Any] | None = None,
        timeout: float = 10.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self.endpoint = endpoint
        self.body = body
        self.timeout = timeout

    def notify(self, context: Context) -> None:
        """Post; anything but a 2xx is an error, without the address: it may be the secret."""
        import httpx

        told: dict[str, Any] = context["notification"]  # type: ignore[typeddict-item]
        body = self.body or {key: value for key, value in told.items() if key not in FORMS}
        url, login, headers = self._where()
        try:
            answer = httpx.post(
                url, json=body, auth=login, headers=headers | {"Idempotency-Key": told["id"]}, timeout=self.timeout
            )
        except httpx.InvalidURL:
            raise ConnectionError(f"connection {self.conn_id}: what its fields give is no address") from None
        except httpx.HTTPError as error:
            raise ConnectionError(f"connection {self.conn_id}: {type(error).__name__}: {error}") from None
        if not answer.is_success:
            said = self._without_secrets(answer.text, url, login, headers)[:MOST_ANSWER]
            raise ConnectionError(f"connection {self.conn_id} answered {answer.status_code}: {said}")

    @staticmethod
    def _without_secrets(text: str, url: str, login: tuple[str, str] | None, headers: dict[str, str]) -> str:
        """What a server answers may quote what it was sent: the path, which is the secret of some, or a header."""
        path = "/" + url.partition("://")[2].partition("/")[2]
        values = [part for value in headers.values() for part in (value, value.removeprefix("Bearer "))]
        for secret in sorted({path, *values, *(login or ())} - {"", "/"}, key=len, reverse=True):
            text = text.replace(secret, "…")
        return text

    def _where(self) -> tuple[str, tuple[str, str] | None, dict[str, str]]:
        """Address, login and headers."""
        from dataclasses import replace

        from ratchet.adapters.connections import http_url

        info = ratchet_airflow.AirflowResolver().resolve(self.conn_id)
        headers = {key: str(value) for key, value in info.extra.items()}
        if info.conn_type == "slackwebhook":
            host = info.host or SLACK
            address = host if "://" in host else f"{info.schema or 'https'}://{host}"
            return f"{address.rstrip('/')}/{info.password}", None, headers
        url = http_url(replace(info, login=None, password=None))
        if self.endpoint:
            url = f"{url}/{self.endpoint.lstrip('/')}"
        if info.password and not info.login:
            return url, None, headers | {"Authorization": f"Bearer {info.password}"}
        return url, (info.login, info.password or "") if info.login else None, headers


def deliver(channel: Channel, message: Mapping[str, Any]) -> None:
    """Hand the message to the channel's notifier; whatever it raises, nothing was sent."""
    path, _, name = channel.notifier.rpartition(".")
    notifier = getattr(import_module(path), name)
    if not (isinstance(notifier, type) and issubclass(notifier, BaseNotifier)):
        raise TypeError(f"{channel.notifier} is no notifier of Airflow (a subclass of airflow.sdk.BaseNotifier)")
    notifier(**{**USUAL.get(channel.notifier, {}), **channel.arguments})({"notification": dict(message)})


def send(channel: str) -> int:
    """Send what is due on a channel; returns how many messages were sent."""
    from airflow.sdk.configuration import conf

    address = conf.get("api", "base_url", fallback=None)
    sent: int = ratchet_airflow.verbs().send_notifications(channel, deliver, address)
    return sent
