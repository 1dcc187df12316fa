"""lm-eval on a litgpt GPT and local files: nothing is exported, nothing is downloaded. Needs the `eval` extra."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import litgpt
import yaml

from pruning.zero_shot import DEFAULT_TASKS, ChoiceScores, log_likelihoods
from pruning.zero_shot_tasks import task_file, task_named
from supernet.text import Tokenizer


def lm_eval_scores(
    gpt: litgpt.GPT,
    tokenizer: Tokenizer,
    folder: str | Path,
    *,
    tasks: Sequence[str] = DEFAULT_TASKS,
    limit: int | None = None,
    max_tokens: int = 2048,
    precision: str = "32",
    progress: bool = False,
) -> dict[str, ChoiceScores]:
    """Score a network with lm-eval; arguments as in `zero_shot.zero_shot`.

    Raises:
        ModuleNotFoundError: lm-eval is not installed.
        KeyError: an unknown task.
        FileNotFoundError: a file is missing.
    """
    model = litgpt_model(gpt, tokenizer, max_tokens=max_tokens, precision=precision, progress=progress)
    return evaluate_locally(model, folder, tasks=tasks, limit=limit)


def evaluate_locally(
    model: Any, folder: str | Path, *, tasks: Sequence[str] = DEFAULT_TASKS, limit: int | None = None
) -> dict[str, ChoiceScores]:
    """Score any lm-eval model (e.g. HFLM of an exported folder) on tasks whose files lie in a folder."""
    evaluator, manager = _lm_eval("evaluator"), _lm_eval("tasks")
    with tempfile.TemporaryDirectory() as place:
        for task in tasks:
            _write_task(Path(place), task, folder)
        known = manager.TaskManager(include_path=place, include_defaults=False)
        found = evaluator.simple_evaluate(model, tasks=list(tasks), limit=limit, task_manager=known, log_samples=False)
    return {task: _scores(found["results"][task], found["n-samples"][task]["effective"]) for task in tasks}


def litgpt_model(
    gpt: litgpt.GPT, tokenizer: Tokenizer, *, max_tokens: int = 2048, precision: str = "32", progress: bool = False
) -> Any:
    """Return an lm-eval model (`lm_eval.api.model.LM`) that scores with a litgpt GPT; it does not generate."""
    template = _lm_eval("api.model").TemplateLM
    first = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    last = tokenizer.eos_id if tokenizer.eos_id is not None else 0

    class LitGPT(template):  # type: ignore[misc, valid-type]
        """A litgpt GPT for lm-eval's log-likelihood tasks."""

        @property
        def eot_token_id(self) -> int:
            return last

        @property
        def prefix_token_id(self) -> int:
            return first[0] if first else last

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
            return ([] if add_special_tokens is False else first) + tokenizer.encode(string).tolist()

        def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
            pairs = [(context, continuation) for _, context, continuation in requests]
            found = log_likelihoods(gpt, pairs, max_tokens=max_tokens, precision=precision, progress=progress)
            return [(value, False) for value in found]  # whether greedy: no task here asks

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
            raise NotImplementedError("perplexity is taken with supernet.evaluate")

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            raise NotImplementedError("this model only scores: use multiple-choice tasks")

    return LitGPT()


def _write_task(place: Path, name: str, folder: str | Path) -> None:
    """Write lm-eval's description of a task on a local file."""
    text, choices, target = task_named(name).templates
    metrics = [{"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")]
    description = {
        "task": name, "dataset_path": "json", "test_split": "test", "output_type": "multiple_choice",
        "dataset_kwargs": {"data_files": {"test": str(task_file(name, folder).resolve())}},
        "doc_to_text": text, "doc_to_choice": choices, "doc_to_target": target, "metric_list": metrics,
        "metadata": {"version": 1.0},
    }  # fmt: skip
    (place / f"{name}.yaml").write_text(yaml.safe_dump(description), encoding="utf-8")


def _scores(found: dict[str, Any], n_items: int) -> ChoiceScores:
    values = (found[f"{name},none"] for name in ("acc", "acc_stderr", "acc_norm", "acc_norm_stderr"))
    return ChoiceScores(*(float("nan") if value == "N/A" else float(value) for value in values), n_items=int(n_items))


def _lm_eval(module: str) -> Any:
    """Return a module of lm-eval, an optional package."""
    import importlib

    try:
        return importlib.import_module(f"lm_eval.{module}")
    except ImportError as error:
        raise ModuleNotFoundError(f"lm-eval is needed: pip install 'paretolm[eval]' ({error})") from error
