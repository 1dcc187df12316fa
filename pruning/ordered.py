"""A pretrained network with the most important parts first, and the moments that go with that order."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pruning.importance import importance
from pruning.moments import Moments
from pruning.prepared import Prepared
from pruning.reorder import Order, order_by, reorder, reorder_moments
from pruning.structure import Sizes
from supernet.model import Supernet


@dataclass(frozen=True, eq=False)
class Ordered:
    """A network in which every pruned one is a prefix.

    Attributes:
        supernet: it computes what the network before did.
        moments: of its projections' inputs, in the same order.
        order: what was moved where.
    """

    supernet: Supernet
    moments: Moments
    order: Order


def put_in_order(prepared: Prepared, *, criterion: str = "obs", channels: bool = False) -> Ordered:
    """Score everything by a criterion and put the most important first.

    Args:
        prepared: the network as it was loaded, with what calibration text tells about it.
        criterion: a name in `importance.CRITERIA`.
        channels: order the residual channels too, by Minitron's norms where the criterion does not score them.

    Raises:
        KeyError: an unknown criterion.
        ValueError: the criterion needs gradients, and `prepared` has none.
    """
    supernet, moments = prepared.supernet, prepared.moments
    scores = importance(criterion, supernet, moments=moments, gradients=prepared.gradients, seed=prepared.seed)
    if channels and scores.channels is None:
        scores = replace(scores, channels=importance("minitron", supernet, moments=moments).channels)
    order = order_by(scores, channels=channels)
    moved = reorder(supernet, order).eval()
    return Ordered(moved, reorder_moments(moments, order, Sizes.of(supernet.config)), order)
