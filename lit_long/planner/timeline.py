"""Memory over one micro-batch, from the terms of :func:`lit_long.model.memory.estimate`, for a picture and its peak.

Forward: what the layers keep grows, a layer at a time. Loss: its own term beside all of it. Backward: it goes again,
one layer is there whole, and in a step's only micro-batch gradients grow meanwhile. Then the optimizer runs on what
stays.
"""

from dataclasses import dataclass

from lit_long.model.memory import MemoryEstimate

KINDS = ("parameters", "gathered parameters", "optimizer", "gradients", "kept activations", "layer at work", "loss")


@dataclass(frozen=True)
class Moment:
    """Bytes by kind, in the order of :data:`KINDS`, at one point of a step."""

    where: str
    bytes: tuple[int, ...]

    @property
    def total(self) -> int:
        """All kinds."""
        return sum(self.bytes)


def timeline(memory: MemoryEstimate, layers: int) -> list[Moment]:
    """The moments of a step's last micro-batch.

    Args:
        memory: the terms.
        layers: decoder layers.
    """
    moments = []
    stay = (memory.weights - memory.gathered, memory.gathered, memory.optimizer)
    before = memory.gradients if memory.accumulates else 0

    def add(where: str, gradients: int, kept: int, live: int, loss: int) -> None:
        moments.append(Moment(where, (*stay, gradients, kept, live, loss)))

    for layer in range(layers + 1):
        add(f"forward, layer {layer}" if layer else "begin", before, memory.kept * layer // layers, 0, 0)
    add("loss", before, memory.kept, 0, memory.loss)
    for layer in range(layers, 0, -1):
        grown = memory.gradients if memory.accumulates else memory.gradients * (layers - layer) // layers
        add(f"backward, layer {layer}", grown, memory.kept * layer // layers, memory.live, 0)
    add("end of the backward pass", memory.gradients, 0, memory.live, 0)
    add("optimizer", memory.gradients, 0, 0, 0)
    return moments


def highest(moments: list[Moment]) -> Moment:
    """The moment with most bytes."""
    return max(moments, key=lambda moment: moment.total)
