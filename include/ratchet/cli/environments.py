"""Environments of models: locked beside the spec, made once on each machine."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from ratchet import settings
from ratchet.adapters.environments import SHOWN, WISHES, differences
from ratchet.adapters.specs import load_all, load_spec
from ratchet.bootstrap import Elsewhere, Ratchet, wire
from ratchet.cli.completing import known_models
from ratchet.cli.progress import working
from ratchet.cli.tables import AsJson, print_done, print_rows
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused

app = typer.Typer(
    help="Packages of a model's own: the environment that runtime.environment names, by its lock file.",
    no_args_is_help=True,
)
Model = Annotated[str, typer.Argument(help="Which model.", autocompletion=known_models)]


@app.command("lock")
def lock(
    model: Model,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Start from the deployment's versions instead of the present lock file's.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Resolve what a model wants into its lock file, with hashes, beside what Ratchet's steps need themselves.

    The wishes stand in requirements.in of the model's folder, such as xgboost==3.1.2. All else stays as the deployment
    has it, as far as the wishes let it. Then write `environment: requirements.txt` below `runtime` in model.yaml.

    ratchet environment lock flight_delay
    """
    ratchet = wire()
    place = ratchet.settings
    folder = place.models_dir / model
    if not folder.is_dir():
        raise Refused(f"there is no model {model!r} in {place.models_dir}. Run: ratchet validate")
    file = folder / "requirements.txt"
    with working(f"resolving what {model} needs"):
        ratchet.environments.lock(folder / WISHES, file, place.root / "requirements.txt", upgrade=upgrade)
    found = differences(file)
    lines = [f"{file} is written; it differs from what is installed here in:", *(f"  {each}" for each in found)]
    print_done({"model": model, "lock": str(file), "differs": found}, lines, as_json=as_json)


@app.command("build")
def build(
    models: Annotated[
        list[str] | None, typer.Argument(help="Which models; all when left out.", autocompletion=known_models)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make the environments that specs name on this machine, where they are missing: before a worker's first step.

    Where RATCHET_BUILD_ENVIRONMENTS is on, as it is unless said otherwise, the first step does it, and takes longer.

    ratchet environment build flight_delay
    """
    ratchet = wire()
    specs = load_all(ratchet.settings.models_dir)
    if unknown := sorted(set(models or ()) - specs.keys()):
        raise Refused(f"there is no model {unknown[0]!r} in {ratchet.settings.models_dir}. Run: ratchet validate")
    made = []
    for name, spec in specs.items():
        if spec.runtime.environment is None or (models and name not in models):
            continue
        with working(f"making the environment of {name}"):
            python = ratchet.interpreter(_place(spec), build=True)
        digest = (spec.runtime.environment_sha256 or "")[:SHOWN]
        made.append({"model": name, "environment": digest, "python": str(python)})
    lines = [f"{one['model']}: {one['environment']} is there, {one['python']}" for one in made]
    print_done({"built": made}, lines or ["no model has an environment of its own"], as_json=as_json)


@app.command("list")
def list_all(as_json: AsJson = False) -> None:
    """The models that have an environment of their own: whether it is here, and in what it differs from this one.

    ratchet environment list
    """
    ratchet = wire()
    rows = [_row(ratchet, spec) for spec in load_all(ratchet.settings.models_dir).values() if spec.runtime.environment]
    print_rows(rows, ["model", "lock", "environment", "here", "differs"], as_json=as_json)


@app.command("run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def run(
    model: Model,
    command: Annotated[list[str], typer.Argument(help="A command of ratchet with its arguments, such as reproduce.")],
    as_json: AsJson = False,
) -> None:
    """Run a command of ratchet in a model's environment, for those that make its models again: reproduce, backtest.

    ratchet environment run flight_delay reproduce flight_delay.4
    """
    ratchet = wire()
    spec = load_spec(ratchet.settings.models_dir / model)
    if spec.runtime.environment is None:
        raise Refused(f"{model} has no environment of its own. Run: ratchet {' '.join(command)}")
    with working(f"making the environment of {model}"):
        python = str(ratchet.interpreter(_place(spec), build=True))
    variables = settings.environment() | {"PYTHONPATH": str(ratchet.code_folder)}
    asked = [*command, "--json"] if as_json else command
    os.execve(python, [python, "-m", "ratchet", *asked], variables)  # noqa: S606 - no shell


@app.command("prune")
def prune(as_json: AsJson = False) -> None:
    """Remove the environments of this machine that no spec names and no open attempt is in.

    One that is asked for later is made again from its lock file.

    ratchet environment prune
    """
    ratchet = wire()
    with working("removing environments"):
        gone = ratchet.environments.prune(ratchet.environments_in_use())
    print_done({"removed": gone}, [f"removed {name}" for name in gone] or ["all are in use"], as_json=as_json)


def _place(spec: ModelSpec) -> Elsewhere:
    return Elsewhere(spec.model, spec.runtime.environment or "", spec.runtime.environment_sha256 or "")


def _row(ratchet: Ratchet, spec: ModelSpec) -> dict[str, Any]:
    place = _place(spec)
    return {
        "model": spec.model,
        "lock": place.file,
        "environment": place.sha256[:SHOWN],
        "here": "yes" if ratchet.environments.is_built(place.sha256) else "no",
        "differs": ", ".join(differences(ratchet.settings.models_dir / spec.model / place.file)) or "in nothing",
    }
