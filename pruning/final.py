"""The final network of an architecture: solved layer by layer behind what is pruned, in the better of several ways."""

from __future__ import annotations

from dataclasses import dataclass, field

from pruning.overlay import OverlayDatabase
from pruning.pruned import Pruned
from pruning.realise import Target, realise
from pruning.settings import PruneSettings
from pruning.texts import Texts
from supernet.architecture import Architecture
from supernet.evaluate import Evaluation, evaluate
from supernet.model import Supernet


@dataclass(frozen=True, eq=False)
class Final:
    """A finished network.

    Attributes:
        pruned: network and architecture (with a bias where intercepts were put in).
        selection: the architecture in the supernet.
        way: how its projections were solved: "dense" or "own" (see `realise`), or "overlays".
        search_losses: cross-entropy on the search text of each way that was tried, nats a token.
        before: the dense network on the held-out text.
        after: this network on it.
    """

    pruned: Pruned
    selection: Architecture
    way: str
    search_losses: dict[str, float] = field(default_factory=dict)
    before: Evaluation | None = None
    after: Evaluation | None = None


def finish(
    database: OverlayDatabase,
    arch: Architecture,
    texts: Texts,
    *,
    dense: Supernet,
    settings: PruneSettings,
    progress: bool = False,
) -> Final:
    """Return the best network that was found for an architecture: by its loss on the search text.

    The overlays of the search are always among what is tried, so the result is never worse than them there.
    """
    made: dict[str, Pruned] = {"overlays": database.extract(arch)}
    target: Target = "own" if dense.config.post_attention_norm or dense.config.post_mlp_norm else "dense"
    made[target] = realise(
        dense, arch, texts.calibration[:, :-1], settings=database.settings, target=target, progress=progress
    )
    losses = {way: evaluate(one.gpt, [None], texts.search)[0].loss for way, one in made.items()}
    way = min(losses, key=losses.__getitem__)
    (before,), (after,) = (evaluate(net, [None], texts.held_out) for net in (dense, made[way].gpt))
    return Final(made[way], arch, way, losses, before, after)
