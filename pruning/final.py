"""The final network of an architecture: solved layer by layer behind what is pruned, in the better of several ways."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pruning.local_distillation import LocalDistillation
from pruning.overlay import OverlayDatabase
from pruning.pruned import Pruned
from pruning.realise import Target, realise
from pruning.texts import Texts
from supernet.architecture import Architecture
from supernet.artifacts import read_json
from supernet.checkpoint import load_subnet, save_subnet
from supernet.evaluate import Evaluation, evaluate
from supernet.model import Supernet


@dataclass(frozen=True, eq=False)
class Final:
    """A finished network.

    Attributes:
        pruned: network and architecture (with a bias where intercepts were put in).
        selection: the architecture in the supernet.
        way: how its projections were solved: "dense" or "own" (see `realise`), "distilled" ("dense" with MLPs distilled
            locally), or "overlays".
        search_losses: cross-entropy on the search text of each way that was tried, nats a token.
        before: the dense network on the held-out text.
        after: this network on it.
    """

    pruned: Pruned
    selection: Architecture
    way: str
    search_losses: dict[str, float]
    before: Evaluation
    after: Evaluation


def finish(
    database: OverlayDatabase,
    arch: Architecture,
    texts: Texts,
    *,
    dense: Supernet,
    distillation: LocalDistillation | None = None,
    folder: Path | None = None,
    precision: str = "32",
    progress: bool = False,
) -> Final:
    """Return the best network that was found for an architecture: by its loss on the search text.

    The overlays of the search are always among what is tried, so the result is never worse than them there.

    Args:
        database: overlays of the ordered network.
        arch: what to make.
        texts: of the run.
        dense: the ordered network.
        distillation: of MLPs, where the family allows it (see `realise`); None solves the projections only.
        folder: keeps the finished network, and gives it back when it is there; None keeps nothing.
        precision: of the forwards on calibration text (see `realise`); the losses are float32's.
        progress: show a progress bar.
    """
    ends_in_norms = dense.config.post_attention_norm or dense.config.post_mlp_norm
    target: Target = "own" if ends_in_norms else "dense"
    distillation = None if ends_in_norms else distillation
    way = target if distillation is None else "distilled"
    name = arch.id if distillation is None else f"{arch.id} {distillation}"
    place = None if folder is None else folder / hashlib.sha256(name.encode()).hexdigest()[:16]
    if place is not None and place.is_dir():
        return _stored(place, arch)
    realised = realise(
        dense, arch, texts.calibration[:, :-1], settings=database.settings, target=target,
        distillation=distillation, held_out=texts.search[:, :-1], precision=precision, progress=progress,
    )  # fmt: skip
    final = _best({"overlays": database.extract(arch), way: realised}, arch, texts, dense)
    if place is not None:
        card = {"way": final.way, "search_losses": final.search_losses}
        card |= {"before": _plain(final.before), "after": _plain(final.after)}
        save_subnet(place, final.pruned.gpt, final.pruned.arch, card={"scores": card})
    return final


def _best(made: Mapping[str, Pruned], arch: Architecture, texts: Texts, dense: Supernet) -> Final:
    """Return the network of the least loss on the search text, by the way it was made, with its held-out scores."""
    losses = {way: evaluate(one.gpt, [None], texts.search)[0].loss for way, one in made.items()}
    way = min(losses, key=losses.__getitem__)
    (before,), (after,) = (evaluate(net, [None], texts.held_out) for net in (dense, made[way].gpt))
    return Final(made[way], arch, way, losses, before, after)


def _plain(evaluation: Evaluation) -> dict[str, Any]:
    """Return plain JSON types; unknown numbers are None."""
    values = {name: value for name, value in asdict(evaluation).items() if name != "architecture"}
    return {name: None if value != value else value for name, value in values.items()}


def _stored(folder: Path, arch: Architecture) -> Final:
    scores = read_json(folder / "card.json")["scores"]
    before, after = (
        Evaluation(None, **{name: math.nan if value is None else value for name, value in scores[which].items()})
        for which in ("before", "after")
    )
    gpt, own = load_subnet(folder)
    return Final(Pruned(gpt.eval(), own), arch, scores["way"], scores["search_losses"], before, after)
