"""One pruning study: its settings, texts, evidence and measurements, each kept in a folder as soon as it is known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import litgpt
import torch
from torch import Tensor
from tqdm import tqdm

from hw_profiles.device import Workload
from pruning.families import trunk_parameters
from pruning.first_tokens import with_first_tokens
from pruning.latency_check import measure_ratios
from pruning.moments import load_moments, save_moments
from pruning.precision import Precision
from pruning.prepared import Prepared, prepare
from pruning.pretrained import load_pretrained
from pruning.settings import Mode, PruneSettings, SearchSettings, VerifySettings
from pruning.texts import CalibrationSettings, Texts, draw_texts, first_blocks
from supernet.architecture import Architecture
from supernet.artifacts import read_json, write_json
from supernet.checkpoint import LoadedSupernet
from supernet.corpus import find_documents
from supernet.evaluate import block_losses
from supernet.extract import build_gpt
from supernet.litgpt_config import whole_architecture
from supernet.tokens import tokenise

_MAY_CHANGE = (
    "n_draws",
    "batch_size",
    "repeats",
    "precision",
    "search_precision",
)  # without a change of what is kept already
_OF_DRAW = (
    "texts.safetensors", "held_out.json", "moments.safetensors", "overlays", "quality.jsonl", "quick_losses.jsonl",
    "further_losses.jsonl",
)  # fmt: skip
_NOT_REPORTED = ("latency", "ours")
_FAR = 0.08  # from the target: a network whose ratio need not be known well
SHARED = Path(__file__).parents[1].parent / "shared"


@dataclass(frozen=True)
class StudySettings:
    """What a study is of; kept in its folder, and the folder belongs to it.

    Attributes:
        model: as in `pruning.pretrained.find_checkpoint`.
        calibration: text for moments, search and recovery.
        scored: name -> text that perplexity is reported on.
        zero_shot: folder of the zero-shot files.
        n_score_tokens: of each text, from its start.
        seq_len: tokens of a block, of calibration and scores.
        n_calibration_blocks: blocks for moments.
        n_search_blocks: blocks for the search: a third for the quality table, the rest to compare candidates on.
        mode: of ours, "heterogeneous" or "uniform".
        effort: of ours, "full" or "smoke".
        n_draws: calibration draws.
        prefill: tokens of the prefill workload.
        cache: positions in the cache of the decode workload.
        dtype: of latency measurements.
        repeats: paired samples of a latency, at most; of ours, which all others are made equal to, three times as many.
        precision: relative half width of a latency ratio at which sampling ends.
        threads: CPU threads; None is the physical cores.
        search_precision: of forwards on calibration text, for ours and for all that looks at the quality table.
        batch_size: blocks of one forward.
    """

    model: str
    calibration: str
    scored: Mapping[str, str]
    zero_shot: str
    n_score_tokens: int = 16384
    seq_len: int = 512
    n_calibration_blocks: int = 64
    n_search_blocks: int = 12
    mode: Mode = "heterogeneous"
    effort: str = "full"
    n_draws: int = 3
    prefill: int = 512
    cache: int = 256
    dtype: str = "float32"
    repeats: int = 40
    precision: float = 0.004
    threads: int | None = None
    search_precision: Precision = "auto"
    batch_size: int = 4

    @property
    def workloads(self) -> dict[str, Workload]:
        """The workloads by name."""
        return {
            "prefill": Workload(1, self.prefill, dtype=self.dtype),
            "decode": Workload(1, 1, dtype=self.dtype, phase="decode", cache_len=self.cache),
        }

    @property
    def ours(self) -> PruneSettings:
        """How we prune."""
        if self.effort == "full":
            return PruneSettings(mode=self.mode, threads=self.threads, precision=self.search_precision)
        verify = VerifySettings(top=1, repeats=3, final_repeats=5, rounds=1, n_networks=8, seconds=0.2)
        search = SearchSettings(n_evaluations=4, seconds=10)
        own = PruneSettings(mode=self.mode, threads=self.threads, precision=self.search_precision)
        return replace(own, search=search, verify=verify)

    def texts(self, draw: int) -> CalibrationSettings:
        """Return which text a draw sees."""
        first = next(iter(self.scored.values()))
        return CalibrationSettings(
            text=self.calibration, held_out=first, seq_len=self.seq_len, n_blocks=self.n_calibration_blocks,
            n_search_blocks=self.n_search_blocks, n_held_out_blocks=2, seed=draw,
        )  # fmt: skip


def default_settings(model: str = "smollm2-135m") -> StudySettings:
    """Return the settings of the acceptance run."""
    text = SHARED / "text"
    return StudySettings(
        model=model,
        calibration=str(text / "wikitext-2" / "wiki.valid.raw.gz"),
        scored={
            "wikitext-2 test": str(text / "wikitext-2" / "wiki.test.raw.gz"),
            "tiny shakespeare": str(text / "tinyshakespeare" / "input.txt.gz"),
        },
        zero_shot=str(SHARED / "eval"),
    )


def smoke_settings() -> StudySettings:
    """Return the settings of a run of a minute on stories260K, whose numbers mean nothing."""
    return replace(
        default_settings(str(SHARED / "models" / "stories260K")), n_score_tokens=512, seq_len=64,
        n_calibration_blocks=8, n_search_blocks=2, effort="smoke", n_draws=1, prefill=64, cache=32, repeats=6,
        precision=0.05,
    )  # fmt: skip


def plain(settings: StudySettings) -> dict[str, Any]:
    """Return settings with files' names instead of their places on this machine."""
    values = json.loads(json.dumps(asdict(settings)))
    names = {key: Path(values[key]).name for key in ("model", "calibration", "zero_shot")}
    return {**values, **names, "scored": {name: Path(path).name for name, path in values["scored"].items()}}


def _link(path: Path, target: Path) -> None:
    if target.exists() and not path.exists():
        path.symlink_to(target.resolve())


class Study:
    """A study in a folder.

    Args:
        folder: where everything is kept; a run that was cut goes on where it stopped.
        settings: of the study.
        progress: show progress bars.

    Raises:
        ValueError: the folder is of a study with other settings.
    """

    def __init__(self, folder: str | Path, settings: StudySettings, *, progress: bool = True) -> None:
        self.folder, self.settings, self.progress = Path(folder), settings, progress
        stored, own = self.folder / "settings.json", json.loads(json.dumps(asdict(settings)))
        before = read_json(stored) if stored.is_file() else own
        changed = sorted(key for key in own if before.get(key) != own[key] and key not in _MAY_CHANGE)
        if changed:
            raise ValueError(f"{self.folder} is of a study with other {', '.join(changed)}: give another folder")
        write_json(stored, own)

    # --- what is kept ---------------------------------------------------------------------------------------------

    def record(self, name: str, make: Callable[[], Any] | None = None) -> Any:
        """Return a record, read or made now.

        Raises:
            FileNotFoundError: it is not there, and nothing makes it.
        """
        path = self.folder / "records" / f"{name}.json"
        if not path.is_file():
            if make is None:
                raise FileNotFoundError(f"no record {name} in {self.folder}: run the stage that makes it first")
            write_json(path, make())
        return read_json(path)

    def records(self, prefix: str) -> list[Any]:
        """Return all records whose names begin with a folder's name."""
        return [read_json(path) for path in sorted((self.folder / "records" / prefix).rglob("*.json"))]

    def all_records(self) -> dict[str, Any]:
        """Return the records that a report keeps, by name: all but those of single latencies and of our searches."""
        base = self.folder / "records"
        names = sorted(path.relative_to(base).with_suffix("").as_posix() for path in base.rglob("*.json"))
        return {name: self.record(name) for name in names if name.split("/")[0] not in _NOT_REPORTED}

    def adopt(self, report: str | Path, *, without: Callable[[str], bool] = lambda name: False) -> list[str]:
        """Take over what an earlier report has and this folder lacks, marked with where it is from; return the names.

        Args:
            report: a .json that `pruning_report.write_report` wrote, e.g. on another machine.
            without: which names are left there.

        Raises:
            ValueError: it is of a study with other settings.
        """
        given = read_json(Path(report))
        own = plain(self.settings)
        changed = sorted(key for key in own if given["settings"].get(key) != own[key] and key not in _MAY_CHANGE)
        if changed:
            raise ValueError(f"{report} is of a study with other {', '.join(changed)}: its records do not belong here")
        source = {"from": Path(report).name, "cpu": given["machine"].get("cpu"), "date": given["date"]}
        base = self.folder / "records"
        taken = [name for name in given["records"] if not (base / f"{name}.json").is_file() and not without(name)]
        for name in taken:
            record = given["records"][name]  # a list, as of blocks in the order they go, has no place for the mark
            write_json(base / f"{name}.json", {"adopted": source, **record} if isinstance(record, dict) else record)
        return taken

    def run_folder(self, draw: int, workload: str) -> Path:
        """Return the folder of `prune_to_budget` for a draw and a workload, whatever the budget.

        What was measured of the device is shared between draws, what depends on the draw alone between workloads.
        """
        folder = self.folder / f"draw-{draw}" / workload
        device = self.folder / "device" / workload
        folder.mkdir(parents=True, exist_ok=True)
        device.mkdir(parents=True, exist_ok=True)
        _link(folder / "device", device)
        if workload != "prefill":
            for name in _OF_DRAW:
                _link(folder / name, self.run_folder(draw, "prefill") / name)
        return folder

    # --- network and texts ----------------------------------------------------------------------------------------

    @cached_property
    def loaded(self) -> LoadedSupernet:
        """The dense network."""
        loaded = load_pretrained(self.settings.model)
        loaded.supernet.eval().requires_grad_(False)
        return loaded

    @cached_property
    def search_precision(self) -> str:
        """The settings' search precision, resolved."""
        return self.settings.ours.resolved(self.loaded.supernet).precision

    @property
    def config(self) -> litgpt.Config:
        """litgpt's Config of the dense network."""
        return self.loaded.supernet.config

    @cached_property
    def whole(self) -> Architecture:
        """Architecture of the dense network."""
        return whole_architecture(self.config)

    def texts(self, draw: int) -> Texts:
        """Return the blocks of a calibration draw."""
        return draw_texts(self.loaded, self.settings.texts(draw))

    def prepared(self, draw: int) -> Prepared:
        """Return the evidence of a draw for the baselines, collected once: of its blocks, as the peers do."""
        blocks = self.texts(draw).calibration[:, :-1]
        path = self.run_folder(draw, "prefill") / "plain_moments.safetensors"
        if path.is_file():
            return Prepared(self.loaded.supernet, blocks, load_moments(path), None, draw)
        found = prepare(
            self.loaded.supernet, blocks, seed=draw, batch_size=self.settings.batch_size, progress=self.progress
        )
        save_moments(path, found.moments)
        return found

    def our_evidence(self, draw: int) -> Prepared:
        """Return the evidence of a draw for ours: with first tokens; where `prune_to_budget` looks for it."""
        plain, path = self.prepared(draw), self.run_folder(draw, "prefill") / "moments.safetensors"
        if not path.is_file():
            save_moments(path, with_first_tokens(plain.supernet, plain.moments, plain.blocks))
        return replace(plain, moments=load_moments(path))

    @cached_property
    def scored(self) -> dict[str, Tensor]:
        """The texts that are reported, as (n, T + 1) blocks."""
        T, tokenizer = self.settings.seq_len, self.loaded.tokenizer
        n = max(1, self.settings.n_score_tokens // T)
        assert tokenizer is not None
        return {
            name: first_blocks(tokenise(find_documents(path), tokenizer), n, T)
            for name, path in self.settings.scored.items()
        }

    # --- measuring ------------------------------------------------------------------------------------------------

    def losses(self, gpt: litgpt.GPT, what: str) -> dict[str, list[float]]:
        """Return the mean loss of every block of every reported text, in nats a token."""
        total = sum(len(blocks) for blocks in self.scored.values())
        found: dict[str, list[float]] = {}
        with tqdm(total=total, unit="block", desc=f"score {what}", disable=not self.progress) as bar:
            for name, blocks in self.scored.items():
                found[name] = []
                for batch in blocks.split(self.settings.batch_size):
                    with torch.inference_mode():
                        found[name] += block_losses(gpt.eval(), batch).tolist()
                    bar.update(len(batch))
        return found

    def trunk_ratio(self, arch: Architecture) -> float:
        """Return an architecture's trunk parameters relative to the dense network's."""
        return trunk_parameters(self.config, arch) / trunk_parameters(self.config, self.whole)

    def latency(self, arch: Architecture, workload: str, *, repeats: int | None = None) -> dict[str, Any]:
        """Return the measured latency of an architecture's shape, relative to the dense network's.

        Which blocks are kept does not matter for it, so that is not part of the record's name. Weights are random.
        """
        shape = replace(arch, layers=tuple(range(arch.n_layer)))
        if shape == self.whole:
            return {"ratio": 1.0, "low": 1.0, "high": 1.0}
        repeats = repeats or self.settings.repeats
        digest = hashlib.sha256(shape.id.encode()).hexdigest()[:16]  # ids can be longer than file names may be
        name = f"latency/{self.settings.workloads[workload].id}/{repeats}-{digest}"
        return self.record(name, partial(self._measured, shape, workload, repeats))

    def ratio(self, workload: str, *, target: float) -> Callable[[Architecture], float]:
        """Return the function architecture -> measured ratio, for what is compared at this target.

        A quarter of the pairs, at least 3, is enough for a network that is far from it.
        """

        def measured(arch: Architecture) -> float:
            rough = self.latency(arch, workload, repeats=max(3, self.settings.repeats // 4))["ratio"]
            return float(rough if abs(rough - target) > _FAR else self.latency(arch, workload)["ratio"])

        return measured

    def _measured(self, shape: Architecture, workload: str, repeats: int) -> dict[str, Any]:
        settings = self.settings
        (found,) = measure_ratios(
            [partial(build_gpt, self.config, shape)], self.loaded.supernet, settings.workloads[workload],
            repeats=repeats, threads=settings.threads, precision=settings.precision, progress=self.progress,
        )  # fmt: skip
        return found.to_dict() | {"arch": shape.id}
