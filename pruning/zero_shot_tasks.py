"""Multiple-choice questions from local files, in the prompts of lm-eval's tasks of the same names.

The files are jsonl, plain or .gz, with the columns of the well-known Hugging Face data sets. No torch.
"""

from __future__ import annotations

import difflib
import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ChoiceItem:
    """One question.

    Attributes:
        context: the prompt, without white space at its end.
        choices: the possible continuations; a space goes between.
        gold: which one is right.
    """

    context: str
    choices: tuple[str, ...]
    gold: int


@dataclass(frozen=True, slots=True)
class ChoiceTask:
    """A task.

    Attributes:
        file: name of the data, without .jsonl or .jsonl.gz.
        item: row -> question.
        templates: the same as lm-eval's doc_to_text, doc_to_choice and doc_to_target.
        chance: accuracy of guessing.
    """

    file: str
    item: Callable[[Row], ChoiceItem]
    templates: tuple[str, str, str]
    chance: float


def _arc(row: Row) -> ChoiceItem:
    choices = row["choices"]
    gold = list(choices["label"]).index(row["answerKey"])
    return ChoiceItem(f"Question: {row['question']}\nAnswer:", tuple(choices["text"]), gold)


def _openbookqa(row: Row) -> ChoiceItem:
    choices = row["choices"]
    gold = list(choices["label"]).index(row["answerKey"].lstrip())
    return ChoiceItem(row["question_stem"], tuple(choices["text"]), gold)


def _piqa(row: Row) -> ChoiceItem:
    return ChoiceItem(f"Question: {row['goal']}\nAnswer:", (row["sol1"], row["sol2"]), int(row["label"]))


def _hellaswag(row: Row) -> ChoiceItem:
    return ChoiceItem(row["query"], tuple(row["choices"]), int(row["gold"]))


def _sciq(row: Row) -> ChoiceItem:
    choices = tuple(row[name] for name in ("distractor1", "distractor2", "distractor3", "correct_answer"))
    return ChoiceItem(f"{row['support'].lstrip()}\nQuestion: {row['question']}\nAnswer:", choices, 3)


_ARC = ("Question: {{question}}\nAnswer:", "{{choices.text}}", "{{choices.label.index(answerKey)}}")
TASKS: Mapping[str, ChoiceTask] = {
    "arc_easy": ChoiceTask("arc_easy_test", _arc, _ARC, 0.25),
    "arc_challenge": ChoiceTask("arc_challenge_test", _arc, _ARC, 0.25),
    "piqa": ChoiceTask("piqa_val", _piqa, ("Question: {{goal}}\nAnswer:", "{{[sol1, sol2]}}", "label"), 0.5),
    "hellaswag": ChoiceTask("hellaswag_val1k", _hellaswag, ("{{query}}", "choices", "gold"), 0.25),
    "openbookqa": ChoiceTask(
        "openbookqa_test", _openbookqa,
        ("question_stem", "{{choices.text}}", "{{choices.label.index(answerKey.lstrip())}}"), 0.25,
    ),
    "sciq": ChoiceTask(
        "sciq_val", _sciq,
        ("{{support.lstrip()}}\nQuestion: {{question}}\nAnswer:",
         "{{[distractor1, distractor2, distractor3, correct_answer]}}", "{{3}}"), 0.25,
    ),
}  # fmt: skip


def task_named(name: str) -> ChoiceTask:
    """Return a task by its name.

    Raises:
        KeyError: an unknown name; the message lists them and near matches.
    """
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=3, cutoff=0.4)
        raise KeyError(f"no task {name!r}; near matches: {near or 'none'}; all: {', '.join(TASKS)}")
    return TASKS[name]


def task_file(name: str, folder: str | Path) -> Path:
    """Return the file of a task's questions.

    Raises:
        KeyError: an unknown task.
        FileNotFoundError: the folder does not have it.
    """
    stem = task_named(name).file
    for suffix in (".jsonl.gz", ".jsonl"):
        if (Path(folder) / f"{stem}{suffix}").is_file():
            return Path(folder) / f"{stem}{suffix}"
    raise FileNotFoundError(f"no {stem}.jsonl.gz or {stem}.jsonl in {folder}: the questions of {name}")


def read_items(name: str, folder: str | Path, *, limit: int | None = None) -> list[ChoiceItem]:
    """Return the first questions of a task.

    Args:
        name: a name in `TASKS`.
        folder: where its file lies.
        limit: how many; None is all.

    Raises:
        KeyError: an unknown task.
        FileNotFoundError: the folder does not have its file.
        ValueError: a row that is not one of this task (names the line), or no question.
    """
    task, path = task_named(name), task_file(name, folder)
    items: list[ChoiceItem] = []
    for number, row in _rows(path):
        if limit is not None and len(items) >= limit:
            break
        try:
            items.append(task.item(row))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path}, line {number} is no question of {name} ({error!r})") from error
    if not items:
        raise ValueError(f"{path} holds no question, or limit = {limit}: give at least 1")
    return items


def _rows(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                yield number, json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is damaged, or no jsonl ({error})") from error
