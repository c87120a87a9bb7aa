"""One measurement: a command in a process of its own, its result, and the memory of all its processes.

Memory is sampled four times a second (unless told otherwise) from ``/proc/PID/smaps_rollup`` (Linux), over every
process of the command's session, so that workers count wherever they hang. *Own* memory (anonymous and shared pages) is
what must be there; *with files* adds mapped files, which the system takes back when it wants memory. Both are
proportional set sizes: a page that several processes share counts once. A peak shorter than the time between two
samples may be missed.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

SAMPLE_SECONDS = 0.25
_OWN, _ALL = ("Pss_Anon", "Pss_Shmem"), ("Pss",)


class MemoryPeak:
    """Peak memory of a session in MiB: ``own``, ``with_files`` and ``processes`` at once."""

    def __init__(self, session, every=SAMPLE_SECONDS):
        self.session, self.every = session, every
        self.own, self.with_files, self.processes = 0.0, 0.0, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while not self._stop.wait(self.every):
            found = [memory for pid in _session_members(self.session) if (memory := proportional_memory(pid))]
            self.own = max(self.own, sum(own for own, _ in found))
            self.with_files = max(self.with_files, sum(everything for _, everything in found))
            self.processes = max(self.processes, len(found))

    def stop(self):
        self._stop.set()
        self._thread.join()
        return {"own": round(self.own), "with_files": round(self.with_files), "processes": self.processes}


def _session_members(session):
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                # the name in parentheses may hold spaces: state, parent, group, session follow the last one
                fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            if int(fields[3]) == session:
                yield int(entry.name)


def proportional_memory(pid):
    """(own, with mapped files) in MiB, or None where the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return None
    sizes = {key: int(rest.split()[0]) for key, _, rest in (line.partition(":") for line in lines)}
    return tuple(sum(sizes.get(key, 0) for key in keys) / 1024 for keys in (_OWN, _ALL))


def run_alone(script, arguments, *, environment=None, seconds=None, every=SAMPLE_SECONDS):
    """Run ``python SCRIPT ARGUMENTS --result FILE`` and return its JSON, with ``wall``, ``cpu`` and ``memory``.

    ``wall`` and ``cpu`` are seconds, ``memory`` is what ``MemoryPeak`` found, in MiB. What fails comes back as
    ``{"error": last line}``: a benchmark of several goes on without it. ``seconds``: it is killed after so many.
    ``every``: seconds between two samples of memory.
    """
    with tempfile.TemporaryDirectory() as folder:
        result, log = Path(folder) / "result.json", Path(folder) / "log"
        command = [sys.executable, str(script), *map(str, arguments), "--result", str(result)]
        began = time.perf_counter()
        with log.open("w") as output:
            process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=os.environ | (environment or {}),
            )
            peak = MemoryPeak(process.pid, every)
            alarm = threading.Timer(seconds, process.kill) if seconds else None
            if alarm is not None:
                alarm.start()
            _, status, usage = os.wait4(process.pid, 0)  # with the processes that it waited for
            if alarm is not None:
                alarm.cancel()
            code = process.returncode = os.waitstatus_to_exitcode(status)
        wall, memory = time.perf_counter() - began, peak.stop()
        if code or not result.exists():
            lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] or ["no output"]
            print("\n".join(lines[-20:]), file=sys.stderr)
            return {"error": f"exit code {code}: {lines[-1]}"}
        cpu = round(usage.ru_utime + usage.ru_stime, 2)
        return json.loads(result.read_text()) | {"wall": round(wall, 2), "cpu": cpu, "memory": memory}


def spread(values):
    """Least, median and greatest of some numbers."""
    return {"min": min(values), "median": median(values), "max": max(values)}


def versions(packages):
    """Package -> its version, None where it is not installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def machine():
    """What the numbers depend on, without the machine's name."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "load_before": os.getloadavg()[0],
    }


def warn_if_busy(facts):
    """Say so where other programs run: such numbers are good for trying the script only."""
    if facts["load_before"] > 0.5:
        print(f"the machine is busy (load {facts['load_before']:.1f}): do not publish these numbers", file=sys.stderr)


def environment_line(facts, found, load="Load of the machine before"):
    """Machine and versions as a paragraph; ``load``: what ``load_before`` is called."""
    packages = ", ".join(f"{name} {number}" for name, number in found.items() if number)
    missing = [name for name, number in found.items() if not number]
    return (
        f"{facts['cpu']}, {facts['cores']} core{'s' * (facts['cores'] > 1)}, {facts['memory_gib']} GiB, "
        f"{facts['system']}, Python {facts['python']}; {packages}"
        + (f"; not installed: {', '.join(missing)}" if missing else "")
        + f". {load}: {facts['load_before']:.2f}."
    )


def write_results(folder, stem, data, text):
    """``stem.json`` and ``stem.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.json").write_text(json.dumps(data, indent=2) + "\n")
    (folder / f"{stem}.md").write_text(text)
