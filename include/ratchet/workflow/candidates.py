"""What an attempt judges: the tuned challenger, and where the spec asks for it the recalibrated champion beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from ratchet.domain.artifact import ModelArtifact
from ratchet.domain.candidates import RECALIBRATED, TUNED, Choice, judge_each, share_of_each
from ratchet.domain.gate import Evidence, policy_from
from ratchet.domain.spec import ModelSpec
from ratchet.workflow.dossiers import plain
from ratchet.workflow.evidence import CHALLENGER
from ratchet.workflow.training import NotRecalibrated


class Recalibrate(Protocol):
    """:func:`ratchet.workflow.training.recalibrate` on the attempt's rows."""

    def __call__(self, *, champion: ModelArtifact, version: int) -> ModelArtifact:
        """The champion (``version``) with a calibration of its own, or ``NotRecalibrated``."""
        ...


@dataclass(frozen=True)
class Candidates:
    """The challengers of an attempt by name, in the order of judging; ``share`` is what each may spend of alpha.

    ``not_judged`` says of each that the spec asks for and that could not be made why not. It is settled before any row
    of the holdout is looked at, so that alpha is shared by those that are judged.
    """

    models: Mapping[str, ModelArtifact]
    share: float = 1.0
    not_judged: Mapping[str, str] = field(default_factory=dict)


def candidates_of(
    spec: ModelSpec,
    tuned: ModelArtifact,
    champion: ModelArtifact | None,
    version: int | None,
    recalibrate: Recalibrate,
) -> Candidates:
    """The tuned challenger, and the recalibrated champion (``version``) where the spec asks and the rows allow it."""
    models = {TUNED: tuned}
    if RECALIBRATED not in (spec.gate.also_judge or ()):
        return Candidates(models)
    if champion is None or version is None:
        return Candidates(models, not_judged={RECALIBRATED: "there is no champion yet"})
    try:
        models[RECALIBRATED] = recalibrate(champion=champion, version=version)
    except NotRecalibrated as reason:
        return Candidates(models, not_judged={RECALIBRATED: str(reason)})
    return Candidates(models, share_of_each(len(models)))


def frozen(before: Mapping[str, Any], challenger: ModelArtifact) -> Candidates:
    """The one challenger that the look ``before`` (its dossier) left, with the share of alpha that it had there.

    Which of several goes on was chosen on the rows of the look before, so the others' share is not its to spend.
    """
    judged = before.get("candidates")
    return Candidates({kind_of(challenger.provenance): challenger}, judged["share"] if judged else 1.0)


def told(choice: Choice, share: float, made: Mapping[str, Mapping[str, Any]], unit: str) -> dict[str, Any]:
    """How a dossier lists the candidates; ``made`` is what it says of each one's artifact."""
    return {
        "share": share,
        "chosen": choice.chosen,
        "why": choice.why,
        "judged": [
            {"name": name} | dict(made[name]) | {"verdict": plain(asdict(verdict)) | {"unit": unit}}
            for name, verdict in choice.verdicts.items()
        ],
        "not_judged": dict(choice.not_judged),
    }


def judge_again(
    dossier: Mapping[str, Any], evidence: Callable[[str], Evidence]
) -> tuple[Choice, dict[str, Any] | None]:
    """Every verdict of a dossier from its evidence by its policy, and what the dossier should list of them.

    ``evidence`` gives that of a challenger by the name of its columns.
    """
    policy, listed = policy_from(dossier["policy"]), dossier.get("candidates")
    if listed is None:
        return judge_each({TUNED: evidence(CHALLENGER)}, policy), None
    names = [entry["name"] for entry in listed["judged"]]
    columns = {name: CHALLENGER if name == listed["chosen"] else name for name in names}
    choice = judge_each({name: evidence(columns[name]) for name in names}, policy, listed["not_judged"])
    made = {entry["name"]: {key: entry[key] for key in ("digest", "provenance")} for entry in listed["judged"]}
    return choice, told(choice, listed["share"], made, dossier["verdict"]["unit"])


def kind_of(provenance: Mapping[str, Any]) -> str:
    """Which candidate an artifact is, by its provenance."""
    return str(provenance.get("kind", TUNED))


def scorer_of(provenance: Mapping[str, Any]) -> int | None:
    """The version whose scorer a recalibrated champion shares; None for a challenger with a scorer of its own."""
    version: int | None = provenance.get("scorer_of")
    return version
