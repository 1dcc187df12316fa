"""Where HW-GPT-Bench's repository keeps its raw results, and what a file of them must look like. No torch.

Names were taken from the scripts that wrote and read the files, and from the list of files at MOVED_COMMIT:

- <any folder>/latency_<device>[_m|_l]/efficiency_observations_<from>_<to>.pkl: latency, counts, CodeCarbon
- the same folder, efficiency_energy_observations_tracker_<from>_<to>.pkl: the GPUs' power tracker, 50 repeats.
  Names without "tracker" are earlier, partial series and are not read.
- <any folder>/mem_<a100|rtx2080>[_m|_l]/efficiency_observations_<from>_<to>.pkl: memory
- <any folder>/arch_ppl_bench_<scale>/ppl_observations_tracker_<from>_<to>.pkl: perplexity, accuracy
- sampled_archs.pkl (s) or sampled_archs_<scale>.pkl, in any folder: the architectures in their order.

Every file is a pickled list of dictionaries; those of results have the architecture as `arch`. Not established: where
the lists of architectures lay at each commit. Where there is none, the order of the A100's latency files stands for
it, which the jobs took from the list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from hw_profiles.importers.hwgpt_protocol import HwgptKey, hwgpt_key
from hw_profiles.importers.raw_files import RawFiles
from hw_profiles.importers.restricted_pickle import RefusedPickleError, read_pickle

LATENCY_FILES, TRACKER_FILES = "efficiency_observations", "efficiency_energy_observations_tracker"
QUALITY_FILES = "ppl_observations_tracker"
_REFERENCE = "a100"  # its latency files stand for a missing list of architectures


class Layout:
    """The raw result files among all files of a checkout or a commit.

    Args:
        files: all files.

    Raises:
        ValueError: it holds no raw results.
    """

    def __init__(self, files: RawFiles) -> None:
        self.files = files
        self.names = files.names()
        self._pieces: dict[tuple[str, str], list[tuple[int, int, str]]] = {}
        for name in self.names:
            path = PurePosixPath(name)
            if match := re.fullmatch(r"(.+)_(\d+)_(\d+)\.pkl", path.name):
                piece = (int(match[2]), int(match[3]), name)
                self._pieces.setdefault((path.parent.name, match[1]), []).append(piece)
        if not any(folder.startswith("latency_") for folder, _ in self._pieces):
            raise ValueError(
                f"{files} holds no raw results: expected files such as "
                f"latency_a100/{LATENCY_FILES}_0_2500.pkl in some folder"
            )

    def result_files(self, folder: str, kind: str) -> list[str]:
        """Return the files of one kind in a folder, in the order of their first architecture.

        Raises:
            ValueError: there are none, or folders of that name in two places.
        """
        pieces = sorted(self._pieces.get((folder, kind), []))
        if not pieces:
            raise ValueError(f"{self.files} has no files {folder}/{kind}_<from>_<to>.pkl")
        if len(places := {str(PurePosixPath(name).parent) for _, _, name in pieces}) > 1:
            raise ValueError(f"{self.files} has {folder} in several places: {', '.join(sorted(places))}")
        return [name for _, _, name in pieces]

    def results(self, folder: str, kind: str) -> list[tuple[HwgptKey, Mapping[str, Any], str]]:
        """Return all observations of a kind: architecture, the dictionary, the file it is from."""
        found = []
        for name in self.result_files(folder, kind):
            for row in self._rows(name):
                if not isinstance(row.get("arch"), Mapping):
                    raise ValueError(f"{self._where(name)}: expected a dictionary `arch` in every observation")
                found.append((self._key(row["arch"], name), row, self._where(name)))
        return found

    def architectures(self, scale: str) -> list[HwgptKey]:
        """Return the architectures of a scale in upstream's order: their arch_ids are 0, 1, ...

        Raises:
            ValueError: lists that differ, or one that has an architecture twice.
        """
        wanted = {f"sampled_archs_{scale}.pkl"} | ({"sampled_archs.pkl"} if scale == "s" else set())
        names = [name for name in self.names if PurePosixPath(name).name in wanted]
        lists = [[self._key(row, name) for row in self._rows(name)] for name in names]
        if not lists:
            found = self.results(f"latency_{_REFERENCE}{suffix(scale)}", LATENCY_FILES)
            names, lists = [f"the order of latency_{_REFERENCE}{suffix(scale)}"], [[key for key, _, _ in found]]
        if any(other != lists[0] for other in lists[1:]):
            raise ValueError(f"{self.files}: the lists of architectures {', '.join(names)} differ; keep the right one")
        if len(set(lists[0])) < len(lists[0]):
            raise ValueError(f"{self.files}: {names[0]} has an architecture twice")
        return lists[0]

    def _rows(self, name: str) -> Sequence[Mapping[str, Any]]:
        try:
            rows = read_pickle(self.files.read(name), self._where(name))
        except RefusedPickleError:
            raise
        if not isinstance(rows, (list, tuple)) or not all(isinstance(row, Mapping) for row in rows):
            raise ValueError(f"{self._where(name)}: expected a list of dictionaries, found {_described(rows)}")
        return rows

    def _key(self, config: Mapping[str, Any], name: str) -> HwgptKey:
        try:
            return hwgpt_key(config)
        except ValueError as error:
            raise ValueError(f"{self._where(name)}: {error}") from error

    def _where(self, name: str) -> str:
        return f"{name} of {self.files}"


def suffix(scale: str) -> str:
    """Return what folder names of a scale end with."""
    return "" if scale == "s" else f"_{scale}"


def _described(rows: Any) -> str:
    kinds = sorted({type(row).__name__ for row in rows}) if isinstance(rows, (list, tuple)) else []
    return f"a {type(rows).__name__}" + (f" of {', '.join(kinds)}" if kinds else "")
