"""Memory of a process, measured one way: Linux' own count of its resident pages, now (statm) and at most (VmHWM)."""

from __future__ import annotations

import os
from pathlib import Path


def peak_bytes() -> float:
    """Largest resident memory of this process so far; NaN where the system is not Linux.

    Not `ru_maxrss`: that of a child starts at its parent's peak.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    return next(int(line.split()[1]) * 1024.0 for line in status.read_text().splitlines() if line.startswith("VmHWM"))


def resident_bytes(process: int) -> int:
    """Memory that a process holds now; 0 where the system does not say."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
