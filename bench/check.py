"""Do the contenders' answers agree? Whoever is wrong is not timed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np

from rnnkern.problems import Problem

from .data import Array

_EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


def tolerance(problem: Problem, name: str) -> float:
    """How far two right answers may lie apart, as a share of the array's largest magnitude.

    Two sums of n terms in different orders differ by about sqrt(n) roundings of what accumulates (float32 for the half
    types). n is I + H for outputs, and T * B more for gradients of parameters. To that come the roundings of stored
    values: torch, for one, also rounds gates and their gradients to a half type. The recurrence itself contracts with
    weights of torch's initial range, so T adds nothing. Factor 4 on the first and 16 on the second: several standard
    deviations, since the largest error of many thousand elements is looked at.
    """
    accumulated = _EPS["float64"] if problem.dtype == "float64" else _EPS["float32"]
    terms = problem.hidden_size + max(problem.layer_inputs)
    if name.startswith("d") and name != "dx":
        terms += problem.seq_len * problem.batch
    return 4 * sqrt(terms) * accumulated + 16 * _EPS[problem.dtype]


def error(ours: Array, theirs: Array) -> float:
    """Largest difference as a share of the largest magnitude; inf when the shapes differ or anything is not finite."""
    if ours.shape != theirs.shape or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return inf
    scale = float(np.abs(theirs).max(initial=0.0))
    difference = float(np.abs(ours - theirs).max(initial=0.0))
    return difference / scale if scale else (inf if difference else 0.0)


def disagreement(problem: Problem, ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> str:
    """What differs, and by how much, or "". Arrays that only one side has are not compared, but "y" both must have."""
    for name in ours:
        if name == "y" or name in theirs:
            found, allowed = error(ours[name], theirs[name]), tolerance(problem, name)
            if not found <= allowed:
                return f"{name} differs by {found:.1e} of its largest magnitude, {allowed:.1e} allowed"
    return ""


@dataclass(frozen=True)
class Verdict:
    """wrong: contender -> why it is not timed. by: contender -> whom it agreed with (other makers)."""

    wrong: dict[str, str]
    by: dict[str, list[str]]


def judge(problem: Problem, answers: Mapping[str, Mapping[str, Array]], makers: Mapping[str, str]) -> Verdict:
    """Who is wrong. answers: contender -> arrays; makers: contender -> who made it (kernels of one library share one).

    The answer that most other makers agree with is taken as right, the first of them when there are several; whoever
    disagrees with it is wrong. Without any agreement all are. A contender that is alone cannot be checked.
    """
    why: dict[tuple[str, str], str] = {}
    by: dict[str, list[str]] = {name: [] for name in answers}
    for one in answers:
        for other in answers:
            if makers[one] == makers[other]:
                why[one, other] = disagreement(problem, answers[one], answers[other]) if one != other else ""
                continue
            why[one, other] = disagreement(problem, answers[one], answers[other])
            if not why[one, other]:
                by[one].append(other)
    votes = {name: len({makers[other] for other in others}) for name, others in by.items()}
    if not votes or len({makers[name] for name in answers}) == 1:
        return Verdict({}, by)
    right = max(votes, key=lambda name: votes[name])
    if votes[right] == 0:
        others = {name: next(other for other in answers if makers[other] != makers[name]) for name in answers}
        return Verdict(
            {name: f"{why[name, other]} from {other}, and nobody agrees" for name, other in others.items()}, by
        )
    return Verdict({name: f"{why[name, right]} from {right}" for name in answers if why[name, right]}, by)
