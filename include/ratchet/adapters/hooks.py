"""Payoff hooks: a function in a Python file of the model's folder, bound to the spec by the file's SHA-256.

The file stands alone: it may import installed packages, and nothing of its folder, because only its own bytes are
bound.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused

MAX_HOOK_BYTES = 64_000


def bind(spec: ModelSpec, folder: Path) -> ModelSpec:
    """The spec with the digest of its hook's file, which the spec's own digest then covers; without a hook as it is.

    The file is read, not run. Raises :class:`Refused` when it is missing, no Python, does not define the function, or
    is not the one whose digest the spec names.
    """
    payoff = spec.business.payoff
    if payoff.hook is None:
        return spec
    name, _, function = payoff.hook.partition(":")
    content = _content(folder / name, payoff.hook)
    try:
        tree = ast.parse(content, filename=name)
    except (SyntaxError, ValueError) as error:
        raise Refused(f"{payoff.hook}: {name} is not Python: {error}") from None
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    if function not in defined:
        raise Refused(f"{payoff.hook}: {name} must define the function {function!r}, but defines {defined}")
    digest = hashlib.sha256(content).hexdigest()
    if payoff.sha256 not in {None, digest}:
        raise Refused(f"{payoff.hook}: {name} must have sha256 {payoff.sha256}, but has {digest}")
    bound = spec.business.model_copy(update={"payoff": payoff.model_copy(update={"sha256": digest})})
    return spec.model_copy(update={"business": bound})


def load(spec: ModelSpec, folder: Path) -> Callable[..., Any] | None:
    """The function of the spec's hook, from a file that is the one the spec is bound to; None without a hook.

    Raises :class:`Refused` when the file is missing, changed since the spec was read, or fails when it is run.
    """
    payoff = spec.business.payoff
    if payoff.hook is None:
        return None
    name, _, function = payoff.hook.partition(":")
    content = _content(folder / name, payoff.hook)
    digest = hashlib.sha256(content).hexdigest()
    if digest != payoff.sha256:
        raise Refused(
            f"{payoff.hook}: the attempt is bound to sha256 {payoff.sha256}, but {folder / name} has {digest}. Put the "
            "file back, or deploy the spec and start a new run."
        )
    module = ModuleType(f"ratchet_hook_{digest[:12]}")
    try:
        # The verified bytes themselves are run: a file read again, or a cached bytecode, might be others.
        exec(compile(content, str(folder / name), "exec"), module.__dict__)  # noqa: S102 - the owner's own code
    except Exception as error:
        raise Refused(f"{payoff.hook}: cannot be imported: {type(error).__name__}: {error}") from error
    found = getattr(module, function, None)
    if not callable(found):
        raise Refused(f"{payoff.hook}: {function!r} must be a function, but is {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def _content(file: Path, hook: str) -> bytes:
    try:
        size = file.stat().st_size
        if size > MAX_HOOK_BYTES:
            raise Refused(f"{hook}: a hook's file has at most {MAX_HOOK_BYTES:,} bytes, but {file.name} has {size:,}")
        return file.read_bytes()
    except OSError as error:
        raise Refused(f"{hook}: {file.name} cannot be read beside the spec: {error.strerror}") from None
