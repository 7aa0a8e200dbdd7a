"""Processes that tests look for among what a process has started."""

import psutil


def descendants(process: psutil.Process, named: str) -> list[psutil.Process]:
    """Those whose command line, or the title that Ray gives them in its place, has `named` in it."""
    return [child for child in process.children(recursive=True) if named in _title(child)]


def private_bytes(process: psutil.Process) -> int:
    """Memory that belongs to no file; of what several processes share, a part each.

    Pages of files are left out: those of a library are divided by the processes that map it, so that a process seems to
    grow whenever another one ends.
    """
    with open(f"/proc/{process.pid}/smaps_rollup") as file:
        (line,) = (line for line in file if line.startswith("Pss_Anon:"))
    return int(line.split()[1]) << 10


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""
