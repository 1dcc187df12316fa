"""Searches that ended, so that a run that goes on repeats them exactly, though the clock ended them. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pruning.ratio_log import RatioLog
from pruning.refine import Loss, Refined
from supernet.architecture import Architecture


class SearchRecord:
    """What searches visited, by what they were asked.

    Args:
        path: the file; None keeps it in memory.
        context: what the losses are of; a file of another context is refused.
    """

    def __init__(self, path: Path | None, context: Mapping[str, Any]) -> None:
        self._log = RatioLog(path, context)

    def once(self, question: Mapping[str, Any], loss: Loss, search: Callable[[], Refined]) -> Architecture:
        """Return the best network of a search, which runs only if none was asked the same before.

        Args:
            question: all that the search depends on, plain JSON types.
            loss: asked for every network that was visited, in the same order: what it keeps in a file is not computed
                again.
            search: runs it.
        """
        key = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:16]
        known = self._log.known.get(key)
        if known is None:
            found = search()
            self._log.add(key, {"best": found.arch.id, "visited": [arch.id for arch in found.visited]})
            return found.arch
        for text in known["visited"]:
            loss(Architecture.from_id(text))
        return Architecture.from_id(known["best"])
