"""What the workers of an engine do: a function found by its name, so that it crosses processes and machines as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

Job = Mapping[str, Any]  # plain JSON types, as is a result
Work = Callable[[Job], dict[str, Any]]


@dataclass(frozen=True)
class Task:
    """A function that prepares a worker once, and returns the function that does its jobs.

    Attributes:
        target: "module:function".
        arguments: its keyword arguments, plain JSON types.
    """

    target: str
    arguments: Mapping[str, Any]

    def open(self) -> Work:
        """Call the function, which may take long (it loads a supernet), and return what does the jobs."""
        module, _, function = self.target.partition(":")
        work: Work = getattr(import_module(module), function)(**self.arguments)
        return work
