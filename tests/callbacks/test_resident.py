"""Peak memory of a process is its own, not that of the process that started it."""

import subprocess
import sys

from lit_long.callbacks.resident import peak_resident

CHILD = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("resident", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
before = module.peak_resident()
held = bytearray(64 << 20)
held[::4096] = b"x" * len(held[::4096])
print(before, module.peak_resident())
"""


def test_a_child_of_a_large_process_begins_anew():
    large = bytearray(256 << 20)
    large[::4096] = b"x" * len(large[::4096])
    assert peak_resident() > 256 << 20
    file = sys.modules[peak_resident.__module__].__file__
    done = subprocess.run([sys.executable, "-c", CHILD, file], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before < 200 << 20
    assert 60 << 20 < after - before < 80 << 20
