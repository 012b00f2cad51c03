"""Notifications through Airflow's own notifiers, to a mail server and a webhook that listen, and the DAG that sends."""

from __future__ import annotations

import email
import email.policy
import json
import socketserver
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.smtp.notifications.smtp import SmtpNotifier
from airflow.sdk import BaseNotifier
from airflow.serialization.serialized_objects import DagSerialization

import ratchet_airflow
import ratchet_notifiers
from ratchet.adapters.channels import load_channels
from ratchet.adapters.ledger import SqlLedger
from ratchet.adapters.specs import load_spec
from ratchet.domain.notifications import Channel
from ratchet.errors import Refused, Unavailable
from ratchet_notifiers import WebhookNotifier, deliver

pytestmark = pytest.mark.airflow

SMTP = "airflow.providers.smtp.notifications.smtp.SmtpNotifier"
EVIL = "2 loses 3 USD; <script>alert(1)</script> {{ conn.smtp_default.password }}\r\nBcc: all@a.org"


class MailServer(socketserver.ThreadingTCPServer):
    """Takes mail, as little SMTP as a client needs; ``refuse`` are recipients that it does not know."""

    allow_reuse_address = daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), MailSession)
        self.got: list[tuple[list[str], Any]] = []
        self.refuse: set[str] = set()


class MailSession(socketserver.StreamRequestHandler):
    server: MailServer

    def handle(self) -> None:
        to: list[str] = []
        self.say("220 test")
        while line := self.rfile.readline().decode().strip():
            verb = line[:4].upper()
            if verb == "RCPT":
                address = line.partition("<")[2].partition(">")[0]
                known = address not in self.server.refuse
                to.extend([address] if known else [])
                self.say("250 ok" if known else "550 nobody of that name")
            elif verb == "DATA":
                self.say("354 go on")
                lines = iter(self.rfile.readline, b".\r\n")
                mail = email.message_from_bytes(b"".join(lines), policy=email.policy.default)
                self.server.got.append((to, mail))
                self.say("250 ok")
            else:
                self.say("221 bye" if verb == "QUIT" else "250 ok")

    def say(self, answer: str) -> None:
        self.wfile.write(f"{answer}\r\n".encode())


class Hook(BaseHTTPRequestHandler):
    """Takes JSON and answers with the server's status."""

    server: Any

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, dict(self.headers), json.loads(content)))
        self.send_response(self.server.status)
        self.end_headers()
        quoted = f", to {self.path} with {self.headers['Authorization']}" if self.server.quotes else ""
        self.wfile.write(f"said the server{quoted}".encode())

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def mails(monkeypatch: pytest.MonkeyPatch) -> Iterator[MailServer]:
    with MailServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        uri = f"smtp://127.0.0.1:{port}/?disable_ssl=true&disable_tls=true&from_email=ratchet%40a.org&retry_limit=0"
        monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", uri)
        yield server
        server.shutdown()


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        server.got, server.status, server.quotes = [], 200, False  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AIRFLOW_CONN_OPS_HOOK", f"http://:t0ken@127.0.0.1:{server.server_port}/")
        chat = {"conn_type": "slackwebhook", "host": f"127.0.0.1:{server.server_port}", "schema": "http"}
        monkeypatch.setenv("AIRFLOW_CONN_CHAT", json.dumps(chat | {"password": "T0/B0/s3cret"}))
        yield server
        server.shutdown()


@pytest.fixture
def ledger(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqlLedger]:
    monkeypatch.setenv("RATCHET_HOME", str(tmp_path))
    monkeypatch.setenv("AIRFLOW_CONN_RATCHET_LEDGER", f"sqlite:////{tmp_path}/ledger.db")
    made = SqlLedger(f"sqlite:///{tmp_path}/ledger.db")
    made.migrate()
    spec = load_spec(root / "include" / "models" / "flight_delay")
    with made.transaction() as tx:
        tx.publish_spec(spec.model, spec.digest, spec.model_dump(mode="json"))
    yield made
    made.dispose()


CHANNELS = f"""\
channels:
  mail: {{notifier: {SMTP}}}
  hook: {{notifier: ratchet_notifiers.WebhookNotifier, with: {{conn_id: ops_hook, endpoint: /ratchet}}}}
  chat:
    notifier: ratchet_notifiers.WebhookNotifier
    with:
      conn_id: chat
      body: {{text: "{{{{ notification.mrkdwn }}}}"}}
"""


@pytest.fixture
def channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "notifications.yaml"
    file.write_text(CHANNELS)
    monkeypatch.setenv("RATCHET_NOTIFICATIONS", str(file))
    return file


def dag(root: Path) -> Any:
    bag = DagBag(str(root / "dags" / "ratchet_notify.py"))
    assert bag.import_errors == {}
    return bag.dags.get("ratchet__notify")


def run(root: Path) -> dict[str, Any]:
    """What the tasks of the DAG do, one after the other; what each ``send`` raised, or how many it sent."""
    tasks = dag(root).task_dict
    done: dict[str, Any] = {}
    for channel in tasks["plan"].python_callable():
        try:
            done[channel] = tasks["send"].python_callable(channel)
        except Unavailable as error:
            done[channel] = str(error)
    return done


def revert(ledger: SqlLedger, seq: int = 2) -> None:
    with ledger.transaction() as tx:
        detail = {"seq": seq, "version": 2, "reason": EVIL}
        tx.audit("ratchet (probation)", "probation.reverted", "flight_delay", detail)


def test_there_is_a_dag_where_there_are_channels_and_none_where_there_are_none(
    root: Path, channels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = dag(root)
    assert (made.timetable.expression, made.max_active_runs, made.catchup) == ("* * * * *", 1, False)
    assert made.is_paused_upon_creation is False
    assert made.task_dict["send"].is_mapped, "a process per channel: one that hangs holds up no other"
    assert {task.task_id for task in DagSerialization.from_dict(DagSerialization.to_dict(made)).tasks} == {
        "plan",
        "send",
    }
    channels.unlink()
    assert dag(root) is None


def test_owner_and_escalation_get_one_mail_and_text_of_others_does_nothing_in_it(
    root: Path, ledger: SqlLedger, channels: Path, mails: MailServer, hook: Any
) -> None:
    assert run(root) == {}
    revert(ledger)
    assert run(root) == {"chat": 1, "hook": 1, "mail": 1}
    ((to, mail),) = mails.got
    assert to == ["ops@example.com", "head-of-ops@example.com"]
    assert mail["Subject"] == "[Ratchet] flight_delay: version 2 was worse, and its predecessor serves again"
    assert (mail["From"], mail["Bcc"], mail["Auto-Submitted"]) == ("ratchet@a.org", None, "auto-generated")
    html = mail.get_body(("html",)).get_content()
    assert "&lt;script&gt;" in html
    assert "<script" not in html
    assert "{{ conn.smtp_default.password }}" in html, "what an event says is no template"
    assert run(root) == {}, "it was told"


def test_a_webhook_gets_the_message_as_json_with_its_secret_and_its_id(
    root: Path, ledger: SqlLedger, channels: Path, mails: MailServer, hook: Any
) -> None:
    run(root)
    revert(ledger)
    run(root)
    got = {path: (headers, body) for path, headers, body in hook.got}
    headers, body = got["/ratchet"]
    assert headers["Authorization"] == "Bearer t0ken"
    assert (body["kind"], body["model"], body["stage"], body["urgent"]) == ("reverted", "flight_delay", "owner", True)
    assert headers["Idempotency-Key"] == body["id"]
    _, chat = got["/T0/B0/s3cret"]
    assert set(chat) == {"text"}
    assert chat["text"].startswith("*[Ratchet] flight_delay: version 2 was worse")
    assert "<script" not in chat["text"]
    ids = {mails.got[0][1]["Message-ID"], f"<{headers['Idempotency-Key']}@ratchet>"}
    assert len(ids) == 2, "each channel's message is its own"


@pytest.mark.parametrize("status", [302, 404, 500])
def test_a_webhook_that_refuses_is_told_of_without_its_secret_address_and_tried_again_under_the_same_id(
    root: Path, ledger: SqlLedger, channels: Path, mails: MailServer, hook: Any, status: int
) -> None:
    run(root)
    revert(ledger)
    hook.status = status
    done = run(root)
    assert done["mail"] == 1
    assert f"connection chat answered {status}: said the server" in done["chat"]
    with ledger.transaction() as tx:
        failed = {post.channel: post.last_error for post in tx.posts() if post.sent_at is None}
        assert set(failed) == {"chat", "hook"}
        assert "s3cret" not in str(failed) + str(done)
        for post in tx.posts():
            tx.try_post(post.id, timedelta(0))
    hook.status = 200
    assert run(root) == {"chat": 1, "hook": 1}
    keys = [headers["Idempotency-Key"] for path, headers, _ in hook.got if path == "/ratchet"]
    assert (len(keys), len(set(keys))) == (2, 1)


def test_of_an_answer_that_quotes_the_request_no_secret_is_kept(
    root: Path, ledger: SqlLedger, channels: Path, mails: MailServer, hook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(root)
    revert(ledger)
    hook.status, hook.quotes = 404, True
    done = run(root)
    with ledger.transaction() as tx:
        kept = str([post.last_error for post in tx.posts()])
    said = f"{done} {kept}"
    assert "said the server, to" in said
    assert not [secret for secret in ("s3cret", "T0/B0", "t0ken") if secret in said]
    chat = {"conn_type": "slackwebhook", "host": "127.0.0.1:s3cret", "schema": "http", "password": "T0/B0"}
    monkeypatch.setenv("AIRFLOW_CONN_CHAT", json.dumps(chat))
    revert(ledger, seq=3)
    done = run(root)
    assert "is no address" in str(done)
    assert "s3cret" not in str(done)


def test_a_mail_that_is_refused_holds_back_neither_the_next_mail_nor_another_channel(
    root: Path, ledger: SqlLedger, channels: Path, mails: MailServer, hook: Any
) -> None:
    run(root)
    revert(ledger)
    mails.refuse = {"ops@example.com", "head-of-ops@example.com"}
    done = run(root)
    assert "nobody of that name" in done["mail"]
    assert (done["chat"], done["hook"]) == (1, 1)
    mails.refuse = set()
    revert(ledger, seq=3)
    assert run(root)["mail"] == 1


def test_a_server_that_is_away_costs_nothing_but_the_message(
    root: Path, ledger: SqlLedger, channels: Path, mails: MailServer, hook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(root)
    revert(ledger)
    monkeypatch.setenv("AIRFLOW_CONN_OPS_HOOK", "http://127.0.0.1:9/")
    monkeypatch.delenv("AIRFLOW_CONN_CHAT")
    done = run(root)
    assert done["mail"] == 1
    assert "connection ops_hook: ConnectError" in done["hook"]
    assert "connection 'chat' is not defined" in done["chat"]


class Kept(BaseNotifier):
    """Any notifier of anybody's."""

    template_fields = ("words",)
    said: list[str] = []  # noqa: RUF012 - a test's memory

    def __init__(self, words: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.words = words

    def notify(self, context: Any) -> None:
        self.said.append(self.words)


def test_any_notifier_is_a_channel_and_its_arguments_are_templates(root: Path) -> None:
    mine = Channel.model_validate({"notifier": f"{__name__}.Kept", "with": {"words": "{{ notification.title }}!"}})
    deliver(mine, {"title": "{{ 7 * 7 }}"})
    assert Kept.said == ["{{ 7 * 7 }}!"]


@pytest.mark.parametrize("path", ["json.loads", "ratchet_notifiers.Nothing", "no_such_module.Notifier"])
def test_what_is_no_notifier_is_refused_by_its_name(path: str) -> None:
    with pytest.raises((TypeError, AttributeError, ImportError), match=path.rpartition(".")[0]):
        deliver(Channel(notifier=path), {})


def test_every_usual_argument_is_one_that_the_notifier_takes() -> None:
    assert set(ratchet_notifiers.USUAL[SMTP]) <= set(SmtpNotifier.template_fields)
    assert issubclass(WebhookNotifier, BaseNotifier)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("channels: {mail: {notifer: a.B}}", "channels.mail.notifer: is not a known key"),
        ("channels: {}", "channels: Dictionary should have at least 1 item"),
        ("channels: {mail: {notifier: a.B}}\ndefault: [chat]", "default: names no channel: chat; there are mail"),
        ("channels: [", "not valid YAML"),
        ("- a", "the file: Input should be"),
    ],
)
def test_a_file_of_channels_that_breaks_a_rule_is_refused_with_place_and_remedy(
    tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "notifications.yaml"
    file.write_text(text)
    with pytest.raises(Refused) as refused:
        load_channels(file)
    assert said in str(refused.value)
    assert str(refused.value).startswith(f"{file}: ")
    assert "docs/notifications.md" in str(refused.value)


def test_the_links_lead_to_airflows_own_address(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Verbs:
        def send_notifications(self, *given: Any) -> int:
            asked.append(given)
            return 0

    monkeypatch.setattr(ratchet_airflow, "verbs", Verbs)
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.a.org")
    assert ratchet_notifiers.send("mail") == 0
    assert asked == [("mail", deliver, "https://airflow.a.org")]
