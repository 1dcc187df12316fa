"""How methods are called and drawn; a method looks the same in every figure. Okabe-Ito colours, and a marker each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from search.figure_style import BLUE, GREEN, LIGHT, ORANGE, PURPLE, SKY, VERMILLION

INK, MUTED = LIGHT.ink, LIGHT.muted
SOLID, DASHED, DOTTED = "-", (0, (4, 1.5)), (0, (1, 1.2))
MOST = 8  # lines in one figure


@dataclass(frozen=True)
class MethodStyle:
    """How one method is drawn and what it is called in figures and text."""

    label: str
    color: str
    marker: str
    line: str | tuple[int, tuple[float, float]] = SOLID


_STYLES = {
    "random": MethodStyle("Random", MUTED, "x"),
    "local-search": MethodStyle("Local search", GREEN, "^"),
    "local-search-any": MethodStyle("Local search (any gene)", GREEN, "v", DASHED),
    "mo-rea": MethodStyle("MO-REA", ORANGE, "P"),
    "nsga2": MethodStyle("NSGA-II", BLUE, "o"),
    "nsga2-100": MethodStyle("NSGA-II (pop. 100)", BLUE, "h", DASHED),
    "nsga3": MethodStyle("NSGA-III", SKY, "<", DASHED),
    "sms-emoa": MethodStyle("SMS-EMOA", SKY, ">"),
    "tpe": MethodStyle("TPE", GREEN, "1", DOTTED),
    "ehvi": MethodStyle("EHVI", BLUE, "2", DOTTED),
    "lsbo": MethodStyle("LSBO", ORANGE, "3", DOTTED),
    "rsbo": MethodStyle("RSBO", SKY, "4", DOTTED),
    "lts-warm-start": MethodStyle("LTS warm start", VERMILLION, "s"),
    "model-guided": MethodStyle("Model-guided", PURPLE, "D"),
    "lts": MethodStyle("LTS (decoder parameters)", INK, "*"),
    "lts-non-embedding": MethodStyle("LTS (non-embedding)", "#8a5a00", "d"),
    "lts-flops": MethodStyle("LTS (FLOPs)", "#00664a", "p"),
    "lts-width": MethodStyle("LTS (width only)", "#004a75", "X"),
}
_SPARE = (GREEN, BLUE, ORANGE, SKY, PURPLE)
_FAMILIES = (
    ("main", ("random", "local-search", "mo-rea", "nsga2", "sms-emoa", "lts-warm-start", "model-guided")),
    ("variants", ("local-search-any", "nsga2-100", "nsga3")),
    ("bayesian", ("tpe", "ehvi", "lsbo", "rsbo")),
)
_CONTEXT = {"variants": ("random", "local-search", "nsga2"), "bayesian": ("random", "nsga2")}


def method_style(method: str) -> MethodStyle:
    """Return the style of a method; one that is not known gets one by its name."""
    if method in _STYLES:
        return _STYLES[method]
    number = sum(method.encode())
    return MethodStyle(method, _SPARE[number % len(_SPARE)], "^vPohD"[number % 6], (SOLID, DASHED, DOTTED)[number % 3])


def method_label(method: str) -> str:
    """Return what a method is called in text."""
    return method_style(method).label


@dataclass(frozen=True)
class Family:
    """Searching methods that are drawn together.

    Attributes:
        name: of the family, for file names.
        methods: of the family.
        context: methods of other families to compare with, drawn thin.
    """

    name: str
    methods: tuple[str, ...]
    context: tuple[str, ...] = ()


def families(methods: Iterable[str], default: str) -> list[Family]:
    """Return the searching methods in families of at most eight lines each; those that are not known come last.

    Example:
        >>> [f.name for f in families(["random", "nsga2", "tpe", "mine"], "mine")]
        ['main', 'bayesian']
    """
    present = list(dict.fromkeys(methods))
    found = []
    for name, members in _FAMILIES:
        wanted = (*members, default) if name == "main" else tuple(m for m in members if m != default)
        own = tuple(m for m in dict.fromkeys(wanted) if m in present)
        if own:
            found.append(Family(name, own, () if name == "main" else _context(name, present, own, default)))
    rest = [m for m in present if not any(m in family.methods for family in found)]
    if found and found[0].name == "main" and len(found[0].methods) + len(rest) <= MOST:
        return [Family("main", (*found[0].methods, *rest)), *found[1:]]
    for start in range(0, len(rest), MOST - 2):
        own = tuple(rest[start : start + MOST - 2])
        found.append(Family(f"more{start // (MOST - 2) + 1}", own, _context("more", present, own, default)))
    return found


def _context(name: str, present: Sequence[str], own: Sequence[str], default: str) -> tuple[str, ...]:
    wanted = (*_CONTEXT.get(name, ("random",)), default)
    return tuple(m for m in dict.fromkeys(wanted) if m in present and m not in own)[: MOST - len(own)]
