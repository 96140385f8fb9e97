"""Time and peak memory of a call, several alternatives side by side.

Alternatives take turns within each round, so a machine that slows down slows all of them, and each
round begins with the next one, so none is always the one after the same other (which leaves caches
and the allocator as it does). The best round of each is compared: what disturbs a measurement only
ever adds to it.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping

import torch


def best_seconds(
    calls: Mapping[str, Callable[[], object]], rounds: int, device: str = "cpu"
) -> dict[str, float]:
    """Return each call's best time in seconds; each is called once before, unmeasured."""
    for call in calls.values():
        call()
    best = dict.fromkeys(calls, float("inf"))
    names = list(calls)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            _wait(device)
            started = time.perf_counter()
            calls[name]()
            _wait(device)
            best[name] = min(best[name], time.perf_counter() - started)
    return best


def peak_extra_bytes(script: str, timeout: float = 600.0) -> int:
    """Return how far a fresh process's memory rises above what it holds before the call.

    Args:
        script: Python that defines ``prepare()`` and ``call(prepared)``. What `prepare` makes is
            not counted; the process's high-water mark is set back in between (Linux's clear_refs).
        timeout: seconds.
    """
    done = subprocess.run(
        [sys.executable, "-c", script + _MEASURE], capture_output=True, text=True, timeout=timeout
    )
    if done.returncode:
        raise RuntimeError(f"the measured process failed: {done.stderr[-2000:]}")
    return int(done.stdout.split()[-1])


def cuda_peak_extra_bytes(call: Callable[[], object]) -> int:
    """Return how far the GPU's allocated memory rises above what is held before the call."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


_MEASURE = """
import gc, pathlib, re
def _status(name):
    text = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(name + r":\\s+(\\d+) kB", text)[1]) * 1024
_prepared = prepare()
gc.collect()
pathlib.Path("/proc/self/clear_refs").write_text("5")
_before = _status("VmRSS")
call(_prepared)
print(_status("VmHWM") - _before)
"""
