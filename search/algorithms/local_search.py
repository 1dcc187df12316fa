"""Local search: change one gene of a random member of the front, keep what is not dominated (HW-GPT-Bench's LS).

With `sweep`, all neighbours of a member are tried before the next member's turn: Pareto local search (Paquete et al.
2004). Where every neighbour of the front is known, a random architecture restarts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from search.algorithms.front_archive import FrontArchive
from search.algorithms.gene_arrays import GeneArrays, Genes
from search.algorithms.optimizer import BaseOptimizer
from supernet.architecture import Architecture
from supernet.encoding import to_genes
from supernet.space import SearchSpace

Which = Literal["active", "any"]
_TRIES = 100  # draws of an unseen neighbour before the neighbours of the whole front are listed
_MOST = 20_000  # neighbours listed of one member: "subset" spaces of distant depths have millions


class LocalSearch(BaseOptimizer):
    """Local search from a random architecture, or from `initial`.

    Args:
        space: where to search.
        rng: the only source of randomness.
        genes: "active" changes a gene that the network expresses. "any" is HW-GPT-Bench's form: the genome also has
            genes of blocks that are not kept, as likely to be drawn. Such a change gives the same network: it counts
            as a duplicate and is redrawn, and `n_redrawn` says how often. What "any" keeps is the memory: blocks
            that come back have the genes of the ancestors, where "active" draws them.
        sweep: try all neighbours of a member before the next one's turn; active genes only.
        initial: architectures evaluated first (a warm start); without them one random one.

    Attributes:
        n_redrawn: draws given up because the network was known, or (subset spaces) not in the space.
    """

    name = "local_search"

    def __init__(
        self,
        space: SearchSpace,
        *,
        rng: np.random.Generator,
        genes: Which = "active",
        sweep: bool = False,
        initial: Sequence[Architecture] = (),
    ) -> None:
        super().__init__(space, rng=rng)
        if genes not in get_args(Which) or (sweep and genes == "any"):
            raise ValueError(f"genes = {genes!r}, sweep = {sweep}: allowed are 'active', 'any' without sweep")
        self.genes: Which = genes
        self.sweep = sweep
        self.initial = [space.validate(arch) for arch in dict.fromkeys(initial)]
        self.n_redrawn = 0
        self._front = FrontArchive()
        self._arrays = GeneArrays(space)
        self._rows: dict[Architecture, Genes] = {}  # "any": whole genomes of the front and of what is evaluated
        self._queue: list[Architecture] = []  # sweep: neighbours still to try
        self._done: dict[Architecture, None] = {}  # members whose neighbours are all known, or (sweep) queued

    def settings(self) -> dict[str, Any]:
        """Return which genes change, whether in sweeps, and the warm start."""
        return {"genes": self.genes, "sweep": self.sweep, "initial": [arch.id for arch in self.initial]}

    # --- ask ----------------------------------------------------------------------------------------------------------

    def _propose(self, n: int) -> list[Architecture]:
        first = [arch for arch in self.initial if arch not in self._seen][:n]
        if first:
            return [self._give_out(arch) for arch in first]
        wanted = min(n, self.n_left) if self._seen else 1  # there is one start
        return [self._give_out(self._next()) for _ in range(wanted)]

    def _next(self) -> Architecture:
        members = [arch for arch in self._front.archs if arch not in self._done]
        if self.sweep:
            return self._next_of_sweep(members)
        for _ in range(_TRIES if members else 0):
            child = self._neighbour(self._pick(members))
            if child is not None and child not in self._seen:
                return child
            self.n_redrawn += 1
        around = {member: self._neighbours(member) for member in members}
        self._done |= {member: None for member, known in around.items() if not known}
        left = list(dict.fromkeys(arch for archs in around.values() for arch in archs))
        return self._pick(left) if left else self._random_new()

    def _neighbour(self, member: Architecture) -> Architecture | None:
        """Return `member` with one gene changed; None where that is no architecture of the space."""
        if self.genes == "active":
            return self.space.mutate(member, self._rng)
        row = self._row(member).copy()
        changeable = np.flatnonzero(self._arrays.sizes > 1)
        if not len(changeable):
            return None
        gene = int(self._rng.choice(changeable))
        row[gene] = (row[gene] + self._rng.integers(1, self._arrays.sizes[gene])) % self._arrays.sizes[gene]
        if not self._arrays.is_legal(row[None])[0]:
            return None
        child = self._arrays.architectures(row[None])[0]
        if child not in self._seen:
            self._rows[child] = row
        return child

    def _row(self, arch: Architecture) -> Genes:
        """Return the whole genome; one that came without silent genes gets random ones."""
        if arch not in self._rows:
            silent = self._arrays.random(1, self._rng)
            self._rows[arch] = self._arrays.expressed(to_genes(self.space, [arch]), silent)[0]
        return self._rows[arch]

    def _next_of_sweep(self, members: list[Architecture]) -> Architecture:
        """Return the next neighbour of the member whose turn it is; `members` had none yet."""
        while True:
            while self._queue:
                arch = self._queue.pop()
                if arch not in self._seen:
                    return arch
            if not members:
                return self._random_new()
            member = members.pop(int(self._rng.integers(len(members))))
            self._done[member] = None
            around = self._neighbours(member)
            self._queue = [around[i] for i in self._rng.permutation(len(around))]

    def _neighbours(self, member: Architecture) -> list[Architecture]:
        """Return the neighbours that have not been given out."""
        return [arch for arch in islice(self.space.neighbours(member), _MOST) if arch not in self._seen]

    def _pick(self, archs: Sequence[Architecture]) -> Architecture:
        return archs[int(self._rng.integers(len(archs)))]

    # --- tell ---------------------------------------------------------------------------------------------------------

    def tell(self, archs: Sequence[Architecture], values: ArrayLike, violation: ArrayLike | None = None) -> None:
        """Update the front."""
        points, missed = self._receive(archs, values, violation)
        self._front.add(archs, points, missed)
        members = dict.fromkeys(self._front.archs)
        self._done = {arch: None for arch in self._done if arch in members}
        self._rows = {arch: row for arch, row in self._rows.items() if arch in members or arch in self._pending}

    # --- state --------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return the front, the open sweep and the generator."""
        return super().state() | {
            "front": self._front.state(),
            "rows": {arch.id: row.tolist() for arch, row in self._rows.items()},
            "queue": [arch.id for arch in self._queue],
            "done": [arch.id for arch in self._done],
            "n_redrawn": self.n_redrawn,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`; ValueError for another algorithm, setting or space."""
        super().load_state(state)
        self._front.load_state(state["front"])
        self._rows = {Architecture.from_id(i): np.array(row, dtype=np.int64) for i, row in state["rows"].items()}
        self._queue = [Architecture.from_id(i) for i in state["queue"]]
        self._done = {Architecture.from_id(i): None for i in state["done"]}
        self.n_redrawn = state["n_redrawn"]
