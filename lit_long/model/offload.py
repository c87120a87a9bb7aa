"""Layer inputs of checkpointed layers in pinned host memory, copied while the device computes.

What checkpointing keeps of a layer is its input, S x D values: at long lengths, the largest part of what is left. Here
it goes to the host on a stream of its own as soon as the layer starts, and comes back on another one while the layer
behind it is in its backward, so a copy has the whole compute of a layer to hide behind. (transformers' own ``offload``
copies on the compute stream, which waits.) Host buffers are pinned once and used again. On a CPU the same code copies
plainly, which is how it is tested.

Bits are copied, so losses and gradients are those of a run without it.
"""

import threading
import weakref
from collections import deque
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks

_IN_FLIGHT = 2  # layer inputs that may wait on the device for their copy to end


class HostStore:
    """Host buffers and copy streams of one model; shared by its layers."""

    def __init__(self) -> None:
        self._free: list[tuple[torch.Tensor, Any]] = []  # buffer, event after which it may be written
        self._lock = threading.Lock()  # the backward runs in another thread
        self._leaving: deque[tuple[torch.Tensor, Any]] = deque()
        self._last: weakref.ref[_Slot] | None = None
        self._streams: dict[torch.device, tuple[Any, Any]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "HostStore":
        return memo.setdefault(id(self), HostStore())  # the copies of all layers share one, too

    def holding(self, hidden: torch.Tensor) -> saved_tensors_hooks:
        """Context in which a tensor like ``hidden`` that autograd saves is held on the host."""

        kind = (hidden.shape, hidden.dtype, hidden.device)

        def pack(tensor: torch.Tensor) -> "_Slot | torch.Tensor":
            return self._put(tensor) if (tensor.shape, tensor.dtype, tensor.device) == kind else tensor

        return saved_tensors_hooks(pack, lambda held: self._get(held) if isinstance(held, _Slot) else held)

    @property
    def free_buffers(self) -> int:
        """Host buffers that hold nothing now."""
        return len(self._free)

    # -- forward ----------------------------------------------------------------------------------------------------
    def _put(self, tensor: torch.Tensor) -> "_Slot":
        host, readable = self._take_buffer(tensor)
        slot = _Slot(self, host, tensor.device, self._last)
        if tensor.device.type == "cuda":
            out, _ = self._copy_streams(tensor.device)
            out.wait_stream(torch.cuda.current_stream(tensor.device))
            if readable is not None:
                out.wait_event(readable)
            with torch.cuda.stream(out):
                host.copy_(tensor.detach(), non_blocking=True)
                slot.stored = out.record_event()
            # held until the copy is over, in the order of the compute stream (record_stream would let the allocator
            # see it much later, and a host that runs ahead of the device would need more and more memory)
            self._leaving.append((tensor, slot.stored))
            self._let_go(_IN_FLIGHT)
        else:
            host.copy_(tensor.detach())
        self._last = weakref.ref(slot)
        return slot

    def _let_go(self, keep: int) -> None:
        while len(self._leaving) > keep:
            tensor, stored = self._leaving.popleft()
            torch.cuda.current_stream(tensor.device).wait_event(stored)

    def _take_buffer(self, like: torch.Tensor) -> tuple[torch.Tensor, Any]:
        with self._lock:
            if self._free and (self._free[-1][0].shape != like.shape or self._free[-1][0].dtype != like.dtype):
                self._free.clear()  # another stage of the length schedule
            if self._free:
                return self._free.pop()
        pinned = like.device.type == "cuda"
        return torch.empty(like.shape, dtype=like.dtype, device="cpu", pin_memory=pinned), None

    def give_back(self, host: torch.Tensor, loaded: Any) -> None:
        """A buffer is free once ``loaded`` (an event or None) is over."""
        with self._lock:
            self._free.append((host, loaded))

    def _copy_streams(self, device: torch.device) -> tuple[Any, Any]:
        if device not in self._streams:
            self._streams[device] = (torch.cuda.Stream(device), torch.cuda.Stream(device))
        return self._streams[device]

    # -- backward ---------------------------------------------------------------------------------------------------
    def _get(self, slot: "_Slot") -> torch.Tensor:
        self._let_go(0)
        self._fetch(slot)
        tensor, slot.device_copy = slot.device_copy, None
        assert tensor is not None
        if slot.loaded is not None:
            torch.cuda.current_stream(slot.device).wait_event(slot.loaded)
        before = slot.before() if slot.before is not None else None
        if before is not None:
            self._fetch(before)  # the next one that the backward asks for
        return tensor

    def _fetch(self, slot: "_Slot") -> None:
        if slot.device_copy is not None:
            return
        slot.device_copy = torch.empty_like(slot.host, device=slot.device, pin_memory=False)
        if slot.device.type != "cuda":
            slot.device_copy.copy_(slot.host)
            return
        _, back = self._copy_streams(slot.device)
        back.wait_stream(torch.cuda.current_stream(slot.device))  # earlier users of that memory
        back.wait_event(slot.stored)
        with torch.cuda.stream(back):
            slot.device_copy.copy_(slot.host, non_blocking=True)
            slot.loaded = back.record_event()


class _Slot:
    """One layer input on the host. Its buffer is free again when autograd forgets the slot."""

    def __init__(
        self, store: HostStore, host: torch.Tensor, device: torch.device, before: "weakref.ref[_Slot] | None"
    ) -> None:
        self.store, self.host, self.device, self.before = store, host, device, before
        self.stored: Any = None  # event: the host has it
        self.loaded: Any = None  # event: the device has it again
        self.device_copy: torch.Tensor | None = None

    def __del__(self) -> None:
        if self.device_copy is not None and self.loaded is not None:  # fetched and never asked for
            torch.cuda.current_stream(self.device).wait_event(self.loaded)
        # a buffer that is still being filled must not be filled with something else before
        self.store.give_back(self.host, self.loaded or self.stored)
