"""The table of devices: peaks, memory and links, with their sources (``hardware.yaml`` says what each key is)."""

from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from lit_long.errors import UserError

_TABLE = Path(__file__).with_name("hardware.yaml")


@dataclass(frozen=True, kw_only=True)
class Device:
    """One kind of device; bytes, bytes/s and FLOP/s.

    Attributes:
        name: as a user writes it.
        memory: bytes.
        bf16: dense peak of matrix products in bfloat16.
        fp32: in float32.
        bandwidth: of the memory.
        link: into a device from its node.
        network: into a device from other nodes.
        host: from and to CPU memory.
        node: devices in a node.
        matmul: share of the peak that matrix products reach.
        attention: share of the peak that flash attention reaches, forward and backward.
        source: of the figures.
        efficiency: where ``matmul`` and ``attention`` are from.
        torch: what PyTorch calls it.
    """

    name: str
    memory: float
    bf16: float
    fp32: float
    bandwidth: float
    link: float
    network: float
    host: float
    node: int
    matmul: float
    attention: float
    source: str
    efficiency: str
    torch: tuple[str, ...] = ()


@cache
def known_devices() -> dict[str, Device]:
    """The table that comes with lit-long, by name."""
    return read_devices(_TABLE)


def read_devices(path: Path) -> dict[str, Device]:
    """A table of devices.

    Raises:
        UserError: no such file, no YAML, a key that is missing or unknown, or a figure that is no number above 0.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path}: no table of devices ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        raise UserError(f"{path}: no table of devices; a name and its keys each, as in lit_long/hardware.yaml")
    return {str(name): _device(path, str(name), entry) for name, entry in content.items()}


def find_device(name: str, extra: Path | None = None) -> Device:
    """A device by its name, of the user's table before lit-long's.

    Raises:
        UserError: no such device (those that are known are named), or see :func:`read_devices`.
    """
    devices = known_devices() | (read_devices(extra) if extra is not None else {})
    if name not in devices:
        known = ", ".join([*sorted(devices), "cpu"])
        raise UserError(f"no device {name!r}; known: {known}; add others with --hardware FILE")
    return devices[name]


def bf16_peak(torch_name: str) -> float | None:
    """Dense bfloat16 peak in FLOP/s of what PyTorch calls a GPU; None where the table has none of this name."""
    return next((device.bf16 for device in known_devices().values() if torch_name in device.torch), None)


def _device(path: Path, name: str, entry: dict[str, Any]) -> Device:
    kinds = {field.name: field for field in fields(Device) if field.name != "name"}
    wrong = sorted(set(entry) - set(kinds))
    missing = sorted(set(kinds) - {"torch"} - set(entry))
    if wrong or missing:
        raise UserError(
            f"{path}: {name} has unknown keys {wrong} and misses {missing}; it needs {sorted(set(kinds) - {'torch'})}"
        )
    values = dict(entry) | {"torch": tuple(entry.get("torch", ()))}
    for key, field in kinds.items():
        if field.type not in ("float", "int", float, int):
            continue
        try:
            values[key] = float(values[key]) if field.type in ("float", float) else int(values[key])
        except (TypeError, ValueError):
            values[key] = -1
        if values[key] <= 0:
            raise UserError(f"{path}: {name}.{key} is {entry[key]!r}; it must be a number above 0")
    return Device(name=name, **values)
