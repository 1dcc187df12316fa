"""Memory of a process in huge pages that are kept: what glibc's malloc is told before a process starts.

By default malloc asks the system for every large array anew and gives it back at once, in pages of 4 KiB: a forward of
SmolLM2-135M's shape over 512 tokens meets 25,000 to 80,000 page faults, and under a hypervisor each access that misses
the translation buffer walks two page tables. With huge pages (2 MiB) that are kept it meets none. On a quiet virtual
machine that took a tenth off (benchmarks/run_memory_pages.py); on a noisy one a third and more, and the times of
one network scattered by 6 to 9 % instead of 12 to 35 % (docs/log.md, 2026-11-30).

Source: glibc manual, "Memory Allocation Tunables"; Linux, Documentation/admin-guide/mm/transhuge.rst.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "GLIBC_TUNABLES"
_PREFIX = "glibc.malloc."
_TUNABLES = (
    "glibc.malloc.hugetlb=1",  # madvise(MADV_HUGEPAGE) on what malloc gets from the system; since glibc 2.35
    "glibc.malloc.mmap_max=0",  # large arrays come from the heap like others, so that their pages are used again
    "glibc.malloc.trim_threshold=1099511627776",  # bytes (1 TiB): the end of the heap is kept too
)
_LEAST_GLIBC = (2, 35)
_SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def is_possible() -> bool:
    """Return whether this system can: Linux with glibc 2.35 or later and transparent huge pages."""
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        numbers = tuple(int(part) for part in version.split(".")[:2])
        return name == "glibc" and numbers >= _LEAST_GLIBC and "[never]" not in _SWITCH.read_text()
    except (AttributeError, OSError, ValueError):  # another system, another C library
        return False


def with_huge_pages(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment whose processes keep huge pages; unchanged where malloc was told something already."""
    known = environment.get(VARIABLE, "")
    if _PREFIX in known or not is_possible():
        return dict(environment)
    return {**environment, VARIABLE: ":".join([*filter(None, [known]), *_TUNABLES])}


def without_huge_pages(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what `with_huge_pages` added, for processes whose memory is to be told by size."""
    kept = [one for one in environment.get(VARIABLE, "").split(":") if one and one not in _TUNABLES]
    others = {name: value for name, value in environment.items() if name != VARIABLE}
    return {**others, VARIABLE: ":".join(kept)} if kept else others


def in_use(environment: Mapping[str, str] | None = None) -> bool:
    """Return whether processes of this environment keep huge pages; None is this process's."""
    told = (os.environ if environment is None else environment).get(VARIABLE, "").split(":")
    return is_possible() and all(one in told for one in _TUNABLES)


def start_again_with_huge_pages() -> None:
    """Start this Python process again, in its place, with huge pages; does nothing where it has them or cannot.

    For console scripts, before anything is computed: malloc reads its tunables once, when a process starts.
    """
    environment = with_huge_pages(os.environ)
    if environment == dict(os.environ) or not sys.executable or not sys.orig_argv:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
