"""Imports HW-GPT-Bench from a clone of its repository: the raw result files, aligned by architecture. No torch.

The raw files are in the repository's history only (`hwgpt_layout` says where), so they are read out of a commit, or
out of a checkout that has them. They are pickles; `restricted_pickle` reads them without running any of their code.

Gives the rows of `hwgpt_tables`. What is put right on the way:

- CPU times were printed in s or ms (a unit a repeat); all become ms.
- The power tracker's energy is labelled "KWh", but its code divides W s by 3600: it is Wh.
- CodeCarbon's energy of the P100 and its host is 0, and is left out (`HwgptDevice.codecarbon`).
- Files may have another order (a6000 at m) and architectures of another space (17 there): rows are matched by
  architecture, and what is not in the list is left out with a warning.
- Architectures of the hold-out bucket are left out, unless asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from hw_profiles.importers.bulk import ImportResult, append_new
from hw_profiles.importers.hwgpt_arrays import HwgptArchitectures
from hw_profiles.importers.hwgpt_devices import (
    ACCURACY,
    DEVICES,
    ENERGY,
    HELD_OUT_BUCKET,
    HOST_ENERGY,
    LATENCY,
    MEMORY,
    MOVED_COMMIT,
    PERPLEXITY,
    HwgptDevice,
    Selection,
    n_runs,
)
from hw_profiles.importers.hwgpt_fields import codecarbon_wh, number, times_ms, tracker_wh
from hw_profiles.importers.hwgpt_layout import LATENCY_FILES, QUALITY_FILES, TRACKER_FILES, Layout, suffix
from hw_profiles.importers.hwgpt_protocol import HwgptKey
from hw_profiles.importers.hwgpt_rows import Observations, Scale, measurement_columns
from hw_profiles.importers.raw_files import CommitFiles, FolderFiles, RawFiles
from hw_profiles.table import ANY_DEVICE, MeasurementTable

_MOST_FOREIGN = 100  # rows of architectures that are not listed; more than that is another scale's folder

Rows = list[tuple[HwgptKey, Mapping[str, Any], str]]


def import_hwgpt_repository(
    path: str | Path, table: str | Path, *, selection: Selection | None = None, commit: str | None = None,
    keep_held_out: bool = False, progress: bool = False,
) -> ImportResult:  # fmt: skip
    """Import the raw results of HW-GPT-Bench's repository into a table; rows that are there already are left.

    Everything is read and checked before anything is written.

    Args:
        path: a clone of the repository with its history, or a folder that has the raw files.
        table: folder of the table; made when it does not exist.
        selection: scales, metrics and devices; None for all.
        commit: where in the history the raw files are; None for the checked-out files where they are there, else
            MOVED_COMMIT.
        keep_held_out: whether to import the architectures of the hold-out bucket too.
        progress: whether to show a progress bar.

    Raises:
        FileNotFoundError: there is no such folder, or git is not installed.
        ValueError: no such commit, files that do not look as expected (named, with what was expected), refused pickles,
            missing architectures, NaN, negative or mixed values.

    Warns:
        UserWarning: rows were left out, because their architecture is not in the list or was there already.
    """
    start, chosen, target = perf_counter(), selection or Selection(), MeasurementTable(table)
    target.check_writable()
    files = _raw_files(Path(path), commit)
    layout = Layout(files)
    tables: list[pa.Table] = []
    steps = [(scale, device) for scale in chosen.scales for device in (*chosen.devices, ANY_DEVICE)]
    sources = {scale: _Source(layout, scale, keep_held_out=keep_held_out) for scale in chosen.scales}
    for scale, device in tqdm(steps, desc="import", unit="device", disable=not progress):
        source = sources[scale]
        found = source.quality(chosen) if device == ANY_DEVICE else source.device(DEVICES[device], chosen)
        tables += [measurement_columns(source.scale, observations) for observations in found]
    added, known = append_new(target, tables)
    return ImportResult(str(files), target.path, added, known, perf_counter() - start)


def _raw_files(path: Path, commit: str | None) -> RawFiles:
    if commit is not None:
        return CommitFiles(path, commit)
    files = FolderFiles(path)
    if any(path.rglob(f"{LATENCY_FILES}_*.pkl")):
        return files
    return CommitFiles(path, MOVED_COMMIT)


def _scale(layout: Layout, scale: str) -> Scale:
    keys = layout.architectures(scale)
    try:
        return Scale(HwgptArchitectures.from_keys(keys, scale=scale), np.arange(len(keys)))
    except ValueError as error:
        raise ValueError(f"{layout.files}: architectures of scale {scale}: {error}") from error


class _Source:
    """The observations of one scale."""

    def __init__(self, layout: Layout, scale: str, *, keep_held_out: bool) -> None:
        self._layout, self.scale = layout, _scale(layout, scale)
        architectures = self.scale.architectures
        self._row_of = {key: row for row, key in enumerate(architectures.keys)}
        held_out = architectures.buckets == HELD_OUT_BUCKET
        self._kept = np.full(len(architectures), True) if keep_held_out else ~held_out

    def device(self, device: HwgptDevice, chosen: Selection) -> Iterator[Observations]:
        """Give what was observed on a device."""
        wanted = [metric for metric in device.metrics if metric in chosen.metrics]
        folder = f"latency_{device.folder}{suffix(self.scale.name)}"
        codecarbon = (ENERGY if device.is_cpu else HOST_ENERGY) if device.codecarbon else None
        if LATENCY in wanted or codecarbon in wanted:
            found = self._complete(self._layout.results(folder, LATENCY_FILES), folder)
            kind, repeats = "cpu" if device.is_cpu else "gpu", n_runs(self.scale.name, device.name)
            if LATENCY in wanted:
                yield self._sampled(LATENCY, device.name, found, lambda row, where: times_ms(row, where, kind, repeats))
            if codecarbon in wanted:
                assert codecarbon is not None
                yield self._codecarbon(codecarbon, device.name, found, kind)
        if ENERGY in wanted and not device.is_cpu:
            found = self._complete(self._layout.results(folder, TRACKER_FILES), folder)
            yield self._sampled(ENERGY, device.name, found, tracker_wh)
        if MEMORY in wanted:
            folder = f"mem_{device.folder}{suffix(self.scale.name)}"
            found = self._complete(self._layout.results(folder, LATENCY_FILES), folder)
            yield self._sampled(MEMORY, device.name, found, partial(_one, "mean_mem"))

    def quality(self, chosen: Selection) -> Iterator[Observations]:
        """Give perplexity and accuracy, of those architectures that have them."""
        wanted = [metric for metric in (PERPLEXITY, ACCURACY) if metric in chosen.metrics]
        if not wanted:
            return
        folder = f"arch_ppl_bench_{self.scale.name}"
        found = self._aligned(self._layout.results(folder, QUALITY_FILES), folder)
        for metric in wanted:
            yield self._sampled(metric, ANY_DEVICE, found, partial(_one, metric))

    def _aligned(self, rows: Rows, folder: str) -> dict[int, tuple[Mapping[str, Any], str]]:
        """Return observation and file by the architecture's row; of two of one architecture the first, as upstream."""
        found: dict[int, tuple[Mapping[str, Any], str]] = {}
        foreign = [where for key, _, where in rows if key not in self._row_of]
        if len(foreign) > _MOST_FOREIGN:
            raise ValueError(
                f"{folder}: {len(foreign)} of {len(rows)} observations are of architectures not in the list of "
                f"scale {self.scale.name}, for example in {foreign[0]}: expected results of that scale"
            )
        for key, row, where in rows:
            if key in self._row_of:
                found.setdefault(self._row_of[key], (row, where))
        repeated = len(rows) - len(foreign) - len(found)
        if foreign or repeated:
            warnings.warn(
                f"{folder}: {len(foreign)} observations of architectures that are not in the list, and {repeated} of "
                "architectures that have one already, were left out",
                UserWarning,
                stacklevel=2,
            )
        return {row: found[row] for row in sorted(found)}

    def _complete(self, rows: Rows, folder: str) -> dict[int, tuple[Mapping[str, Any], str]]:
        found = self._aligned(rows, folder)
        missing = [row for row in range(len(self._kept)) if self._kept[row] and row not in found]
        if missing:
            raise ValueError(
                f"{folder} of {self._layout.files}: {len(missing)} of {len(self._kept)} architectures have no "
                f"observation, the first is arch_id {missing[0]}; expected one of each"
            )
        return found

    def _sampled(
        self, metric: str, device: str, found: Mapping[int, tuple[Mapping[str, Any], str]],
        samples_of: Callable[[Mapping[str, Any], str], list[float]],
    ) -> Observations:  # fmt: skip
        rows = [row for row in found if self._kept[row]]
        samples = [samples_of(*found[row]) for row in rows]
        lengths = np.array([len(values) for values in samples], np.int64)
        flat = np.array([value for values in samples for value in values], np.float64)
        return Observations(metric, device, np.array(rows, np.int64), flat, lengths, str(self._layout.files))

    def _codecarbon(
        self, metric: str, device: str, found: Mapping[int, tuple[Mapping[str, Any], str]], kind: str
    ) -> Observations:
        mean, std = f"mean_energy_{kind}", f"std_energy_{kind}"
        means = self._sampled(metric, device, found, lambda row, where: [codecarbon_wh(row, where, mean)])
        spread = np.array([codecarbon_wh(*found[row], std) for row in means.rows.tolist()])
        return Observations(metric, device, means.rows, means.samples, means.lengths, means.where, spread)


def _one(name: str, row: Mapping[str, Any], where: str) -> list[float]:
    return [number(row, name, where)]
