"""The API and the pages with 200 models and 10,000 events, as Airflow's own api-server serves them on PostgreSQL.

200 models are deployed and given a past (`bench.web_history`); Airflow knows the DAGs of each. A viewer and a user
with tokens of their own ask for every GET route of the API (those of its own OpenAPI description, and lists at their
longest), for every page that links lead to from the first one, and for Airflow's list of as many DAGs, in turn: one
client, then four at once. Then a headless Chromium opens the Models page, and Airflow's page of DAGs in turn, with an
empty cache and with a full one: from the start of navigation until a frame was painted that has all rows in it.

    python -m bench.web             # its own servers, ports from 28680; always stopped at the end
    python -m bench.web --quick     # few rounds, to see that it works; writes nothing
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import psutil
from ruamel.yaml import YAML

from bench.intake_stack import ROOT, SHIPPED, Stack
from bench.reports import machine, write
from bench.web_history import Past
from ratchet.api.app import PREFIX, document
from ratchet.bootstrap import wire
from ratchet.settings import environment, load_settings
from ratchet.stack import plan, units
from ratchet.stack.config import load_config

MODELS, TEAMS = 200, 10
ROUNDS, AT_ONCE, ROUNDS_AT_ONCE, VIEWS = 200, 4, 50, 9
API_GOAL_MS, VIEW_GOAL_S = 100.0, 1.0
LONGEST, SHOWN = 200, 10
PEOPLE = ("vic", "ursula")
"""Airflow's viewer and user of the local stack."""
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FIRST_PAGE = f"{PREFIX}/models"
AIRFLOW_LIST = f"/api/v2/dags?limit={LONGEST}&dag_id_prefix_pattern=retrain__"
LIST = f"{PREFIX}/v1/models?limit={LONGEST}"
PAINTED = """
(() => {
  const look = () => {
    if (document.querySelectorAll(%s).length < %d) { requestAnimationFrame(look); return; }
    requestAnimationFrame(() => { setTimeout(() => { window.ratchetPainted = performance.now(); }, 0); });
  };
  requestAnimationFrame(look);
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) window.ratchetLargest = entry.startTime;
  }).observe({type: "largest-contentful-paint", buffered: true});
})();
"""

MOMENTS = """() => ({
  painted: window.ratchetPainted ?? null,
  largest: window.ratchetLargest ?? null,
  first: performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? null,
})"""
PATIENCE_SECONDS = 60.0


def say(text: str) -> None:
    """One line of progress."""
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", file=sys.stderr, flush=True)


class Servers(Stack):
    """PostgreSQL and the api-server alone."""

    def prepare(self) -> None:
        """A new home, 200 deployed models with a past, and their DAGs in Airflow's database."""
        self._prepare_ledger()
        say("a past for each")
        made = wire()
        say(", ".join(f"{name} {count:,}" for name, count in Past(made).write().items()))
        made.ledger.dispose()
        self._run(sys.executable, "-m", "ratchet.stack.prepare", "airflow-migrate")
        dags = self.home / "dags"
        dags.mkdir()
        (dags / "retrain.py").symlink_to(ROOT / "dags" / "retrain.py")
        say("the DAGs")
        command = [sys.executable, "-m", "airflow", "dags", "reserialize"]
        variables = environment() | {"AIRFLOW__CORE__DAGS_FOLDER": str(dags)}
        subprocess.run(command, env=variables, check=True, stdout=subprocess.DEVNULL)
        self.query("airflow", "ANALYZE")

    def write_specs(self) -> None:
        """The models' specs, below the home."""
        write_specs(self.home / "models", self.models)

    def _prepare_ledger(self) -> None:
        """A new home, and PostgreSQL in it with the models deployed."""
        self.down()
        shutil.rmtree(self.home)
        self.write_specs()
        self.config = load_config(load_settings(), environment())
        self._apply(units.closure(plan.build(self.config), plan.GROUPS["postgres"]))
        ratchet = str(Path(sys.executable).with_name("ratchet"))
        for words in ("ledger migrate", "deploy"):
            self._run(ratchet, *words.split())

    def serve(self, *, with_ratchet: bool = True) -> int:
        """Start the api-server anew; its process."""
        self._apply(self._services("postgres"))
        variables = {"AIRFLOW__API__MAXIMUM_PAGE_LIMIT": str(LONGEST)}
        if not with_ratchet:
            bare = self.home / "no-plugins"
            bare.mkdir(exist_ok=True)
            variables["AIRFLOW__CORE__PLUGINS_FOLDER"] = str(bare)
        (server,) = self._services("api-server")
        self._apply([*self._services("postgres"), replace(server, env={**server.env, **variables})])
        return self.pids(["api-server"])["api-server"]

    def token(self, person: str) -> str:
        """Log in as a person does."""
        asked = {"username": person, "password": self.config.secrets[person]}
        answer = httpx.post(f"{self.config.airflow_url}/auth/token", json=asked, timeout=60)
        return str(answer.raise_for_status().json()["access_token"])

    def client(self, person: str) -> httpx.Client:
        """Who asks as this person."""
        headers = {"Authorization": f"Bearer {self.token(person)}"}
        return httpx.Client(base_url=self.config.airflow_url, headers=headers, timeout=60)


def write_specs(folder: Path, models: Sequence[str]) -> None:
    """The shipped spec without its monitor, under other names and of ten teams."""
    yaml = YAML()
    for number, model in enumerate(models):
        spec = yaml.load(SHIPPED.read_text())
        del spec["monitor"]
        spec["model"] = model
        spec["owner"]["team"] = f"team-{number % TEAMS}"
        file = folder / model / "model.yaml"
        file.parent.mkdir(parents=True)
        with file.open("w") as stream:
            yaml.dump(spec, stream)


# What is asked -------------------------------------------------------------------------------------------------------


def api_paths(client: httpx.Client, model: str) -> list[str]:
    """Every GET route of the API's description, and lists in other ways; what a path names is found by asking."""

    def first(path: str, **params: Any) -> dict[str, Any]:
        return dict(client.get(f"{PREFIX}{path}", params=params).raise_for_status().json()["items"][0])

    named = {"model": model, "number": str(first("/v1/events", model=model)["number"])}
    named["attempt"] = first("/v1/attempts", model=model, state="concluded")["id"]
    routes = [PREFIX + path for path, methods in document()["paths"].items() if "get" in methods]
    found = [re.sub(r"{(\w+)}", lambda part: quote(named[part[1]], safe="@"), path) for path in routes]
    answers = {path: client.get(path).raise_for_status() for path in found}
    listed = [path for path, answer in answers.items() if "json" in answer.headers["content-type"]]
    longest = [f"{path}?limit={LONGEST}" for path in listed if "next" in answers[path].json()]
    deep = client.get(f"{PREFIX}/v1/events", params={"limit": LONGEST}).json()["next"]
    narrowed = [
        f"{PREFIX}/v1/models?owner=team-3",
        f"{PREFIX}/v1/events?model={model}",
        f"{PREFIX}/v1/events?fate=pending&fate=claimed&fate=deferred",
        f"{PREFIX}/v1/events?cursor={quote(deep)}",
        f"{PREFIX}/v1/attempts?state=awaiting_approval",
        f"{PREFIX}/v1/audit?action=champion",
        f"{PREFIX}/v1/dead-letters?reason=JSON",
    ]
    return [*found, *longest, *narrowed]


def page_paths(client: httpx.Client, models: Sequence[str]) -> list[str]:
    """One of each kind of page that links lead to from the first page; none where there are no pages yet."""
    shapes: dict[str, str] = {}
    waiting = [FIRST_PAGE]
    while waiting:
        path = waiting.pop(0)
        shape = re.sub(
            r"(?<=/)(?:" + "|".join(map(re.escape, models)) + r")(?:[.@]\d+)?(?=/|$)|(?<=/)\d+(?=/|$)", "*", path
        )
        if shape in shapes:
            continue
        answer = client.get(path)
        if answer.status_code != 200 or "html" not in answer.headers.get("content-type", ""):
            continue
        shapes[shape] = path
        for link in re.findall(r'\bhref="([^"]+)"', answer.text):
            parts = urlsplit(unescape(link))
            if not parts.netloc and parts.path.startswith(f"{PREFIX}/") and "/static/" not in parts.path:
                waiting.append(parts.path)
    return list(shapes.values())


# Asking --------------------------------------------------------------------------------------------------------------


@dataclass
class Asked:
    """What one path took, in milliseconds of wall time and of the api-server's CPU, and how much it answered."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    bytes: int = 0

    def told(self) -> dict[str, Any]:
        """Median and 95th percentile."""
        cpu = {"cpu_ms": round(statistics.mean(self.cpu), 2)} if self.cpu else {}
        return {
            "p50": round(statistics.median(self.wall), 2),
            "p95": round(p95(self.wall), 2),
            **cpu,
            "bytes": self.bytes,
        }


def p95(values: Sequence[float]) -> float:
    """The value that 95 % do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * 95 // 100) - 1)]


def cpu_of(pid: int) -> Callable[[], float]:
    """Milliseconds of CPU that the process and its children have had, to the nanosecond: the scheduler's own count."""
    top = psutil.Process(pid)
    folders = [Path(f"/proc/{each.pid}/task") for each in (top, *top.children(recursive=True))]

    def spent() -> float:
        total = 0
        for folder in folders:
            for thread in folder.iterdir():
                try:
                    total += int((thread / "schedstat").read_text().split()[0])
                except (FileNotFoundError, ProcessLookupError):
                    continue
        return total / 1e6

    return spent


def memory_mb(pid: int) -> float:
    """Resident memory of the process and its children, what they share counted once (PSS)."""
    top = psutil.Process(pid)
    return sum(each.memory_full_info().pss for each in (top, *top.children(recursive=True))) / 1e6


def ask(
    clients: Sequence[httpx.Client], paths: Sequence[str], rounds: int, spent: Callable[[], float] | None = None
) -> dict[str, Asked]:
    """All paths once in each round, each round by the next person; the first two rounds are for warming up."""
    asked = {path: Asked() for path in paths}
    for turn in range(-2, rounds):
        client = clients[turn % len(clients)]
        for path in paths:
            before = spent() if spent else 0.0
            began = time.perf_counter()
            answer = client.get(path)
            wall = (time.perf_counter() - began) * 1e3
            if answer.status_code != 200:
                raise SystemExit(f"GET {path}: {answer.status_code} {answer.text[:500]}")
            if turn >= 0:
                asked[path].wall.append(wall)
                asked[path].bytes = len(answer.content)
                if spent:
                    asked[path].cpu.append(spent() - before)
    return asked


def ask_at_once(servers: Servers, paths: Sequence[str], rounds: int) -> dict[str, Asked]:
    """The same by four clients at once, each beginning at another path."""
    found: list[dict[str, Asked]] = []

    def one(number: int) -> None:
        with servers.client(PEOPLE[number % len(PEOPLE)]) as client:
            start = number * len(paths) // AT_ONCE
            found.append(ask([client], [*paths[start:], *paths[:start]], rounds))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(found) < AT_ONCE:
        raise SystemExit("a client of four ended early: see above")
    return {
        path: Asked([wall for each in found for wall in each[path].wall], [], found[0][path].bytes) for path in paths
    }


# Looking -------------------------------------------------------------------------------------------------------------


def look(servers: Servers, views: int) -> dict[str, dict[str, list[float]]]:
    """Seconds until each page was painted in a browser, by page and cache; what the browser says besides."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - the other parts do without it

    pages = {
        "ours": (f"{FIRST_PAGE}?limit={LONGEST}", "main tbody tr", MODELS),
        "airflow": ("/dags", 'a[href*="/dags/"]', SHOWN),
    }
    seen: dict[str, dict[str, list[float]]] = {name: {} for name in pages}
    program = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    cookie = {"name": "_token", "value": servers.token(PEOPLE[0]), "url": servers.config.airflow_url}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for _ in range(views):
            for name, (path, selector, count) in pages.items():
                context = browser.new_context(viewport={"width": 1280, "height": 800})
                context.add_cookies([cookie])
                page = context.new_page()
                page.add_init_script(PAINTED % (json.dumps(selector), count))
                for cache in ("cold", "warm"):
                    page.goto(f"{servers.config.airflow_url}{path}")
                    told = painted(page)
                    for what, moment in told.items():
                        seen[name].setdefault(f"{cache} {what}", []).append(round(moment / 1e3, 4))
                context.close()
        browser.close()
    return seen


def painted(page: Any) -> dict[str, float]:
    """When the whole was painted, and what the browser calls the first and the largest paint, in milliseconds.

    The page is asked again and again from here: its own policy forbids what the library would have it evaluate.
    """
    end = time.monotonic() + PATIENCE_SECONDS
    while None in (told := page.evaluate(MOMENTS)).values():
        if time.monotonic() > end:
            raise SystemExit(f"{page.url} was not painted within {PATIENCE_SECONDS:.0f} s: {page.content()[:3_000]}")
        time.sleep(0.02)
    return dict(told) | {"painted": max(told["painted"], told["first"])}


# Rows ----------------------------------------------------------------------------------------------------------------


def row(
    name: str, peer: str, ours: float, theirs: float | None, unit: str, goal: float | None, **more: Any
) -> dict[str, Any]:
    """A row of the summary; a goal is a bound in the row's unit."""
    return {
        "name": name,
        "peer": peer,
        "ours": round(ours, 3),
        "theirs": None if theirs is None else round(theirs, 3),
        "ratio": None if theirs is None else round(theirs / ours, 2),
        "unit": unit,
        "goal": None if goal is None else f"< {goal:g} {unit}",
        "met": None if goal is None else ours < goal,
        **more,
    }


def api_rows(alone: Mapping[str, Asked], together: Mapping[str, Asked], pages: Sequence[str]) -> list[dict[str, Any]]:
    """The list of all models, the slowest route and the pages, beside Airflow's list of as many DAGs."""
    peer = f"Airflow's GET /api/v2/dags, {MODELS} DAGs"
    theirs = alone[AIRFLOW_LIST]
    rows = [
        row(f"GET /v1/models, {MODELS} models: p95", peer, p95(alone[LIST].wall), p95(theirs.wall), "ms", API_GOAL_MS),
        row(
            f"GET /v1/models, {MODELS} models: CPU of the api-server",
            peer,
            statistics.mean(alone[LIST].cpu),
            statistics.mean(theirs.cpu),
            "CPU ms",
            None,
        ),
    ]
    for clients, asked in ((1, alone), (AT_ONCE, together)):
        who = "one client" if clients == 1 else f"{clients} clients at once"
        theirs = asked[AIRFLOW_LIST]
        routes = {path: each for path, each in asked.items() if path.startswith(f"{PREFIX}/v1/")}
        slowest = max(routes, key=lambda path: p95(routes[path].wall))
        every = [wall for each in routes.values() for wall in each.wall]
        goal = API_GOAL_MS if clients == 1 else None
        rows += [
            row(f"the API, all GETs, {who}: p95", peer, p95(every), p95(theirs.wall), "ms", goal),
            row(
                f"the API, its slowest GET, {who}: p95",
                peer,
                p95(routes[slowest].wall),
                p95(theirs.wall),
                "ms",
                goal,
                slowest=slowest,
            ),
        ]
        if pages:
            heaviest = max(pages, key=lambda path: p95(asked[path].wall))
            rows.append(
                row(
                    f"the slowest page, {who}: p95",
                    peer,
                    p95(asked[heaviest].wall),
                    p95(theirs.wall),
                    "ms",
                    None,
                    slowest=heaviest,
                )
            )
    return rows


def view_rows(seen: Mapping[str, Mapping[str, Sequence[float]]]) -> list[dict[str, Any]]:
    """The first view, with an empty cache and with a full one."""
    rows = []
    for cache in ("cold", "warm"):
        ours, theirs = (seen[name][f"{cache} painted"] for name in ("ours", "airflow"))
        rows.append(
            row(
                f"first view of {MODELS} models in Chromium, {cache} cache",
                f"Airflow's page of DAGs, until {SHOWN} are there",
                statistics.median(ours),
                statistics.median(theirs),
                "s",
                VIEW_GOAL_S,
                spread={"ours": [min(ours), max(ours)], "theirs": [min(theirs), max(theirs)]},
            )
        )
    return rows


def main() -> None:
    """Bring the servers up, measure, print, write, and stop them whatever happens."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=ROOT / ".ratchet" / "bench-web")
    parser.add_argument("--port-base", type=int, default=28680)
    parser.add_argument("--quick", action="store_true", help="few rounds; nothing is written")
    asked = parser.parse_args()
    rounds, together, views = (10, 3, 2) if asked.quick else (ROUNDS, ROUNDS_AT_ONCE, VIEWS)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    models = [f"model_{number:03}" for number in range(MODELS)]
    home = asked.home.resolve()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    servers = Servers(home, asked.port_base, models, say)
    try:
        servers.prepare()
        say("the api-server without Ratchet")
        bare = servers.serve(with_ratchet=False)
        with servers.client(PEOPLE[0]) as client:
            ask([client], [AIRFLOW_LIST], 20)
        memory = {"without Ratchet": round(memory_mb(bare))}
        say("the api-server")
        pid = servers.serve()
        clients = [servers.client(person) for person in PEOPLE]
        memory["before the first request"] = round(memory_mb(pid))
        pages = page_paths(clients[0], models)
        paths = [*api_paths(clients[0], models[30]), AIRFLOW_LIST, *pages]
        say(f"{len(paths)} paths, {len(pages)} of them pages, {rounds} times each")
        load = machine(rounds, "apache-airflow", "fastapi", "sqlalchemy", "pydantic")
        alone = ask(clients, paths, rounds, cpu_of(pid))
        say(f"{AT_ONCE} clients at once")
        at_once = ask_at_once(servers, paths, together)
        seen = {}
        if pages:
            say("a browser")
            seen = look(servers, views)
        memory["after all"] = round(memory_mb(pid))
    finally:
        servers.down()
    rows = api_rows(alone, at_once, pages)
    if seen:
        rows += view_rows(seen)
    rows.append(
        row(
            "the api-server's memory with Ratchet, after all that",
            "the same without Ratchet's plugins, after Airflow's list",
            memory["after all"],
            memory["without Ratchet"],
            "MB",
            None,
        )
    )
    for each in rows:
        print(f"{each['name']}: {each['ours']} {each['unit']}; {each['peer']}: {each['theirs']}; goal: {each['goal']}")
    routes = {path: {"one": alone[path].told(), "four": at_once[path].told()} for path in paths}
    for path, told in routes.items():
        one, four = told["one"], told["four"]
        print(f"{one['p50']:8.1f} {one['p95']:8.1f} {one['cpu_ms']:8.1f} {four['p95']:8.1f}  {path}")
    if not asked.quick:
        write("web", rows, load, memory_mb=memory, milliseconds=routes, views=seen)


if __name__ == "__main__":
    main()
