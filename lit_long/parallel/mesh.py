"""The device mesh: rank = (replica * shards + shard) * context + place in the sequence.

Context-parallel ranks are neighbours, so that they are in one node where they fit: they exchange in every layer.
"""

from dataclasses import dataclass

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from lit_long.errors import UserError


@dataclass(frozen=True)
class Meshes:
    """Two views of the same ranks.

    Attributes:
        data: (data_parallel, context_parallel): who gets which rows, who shares them.
        shard: what parameters are sharded over: one dimension, or (replicate, shard).
    """

    data: DeviceMesh
    shard: DeviceMesh


def make_meshes(device_type: str, world_size: int, *, data_parallel: int, context: int, replicate: int) -> Meshes:
    """Meshes over all ranks.

    Args:
        device_type: ``cuda`` or ``cpu``.
        world_size: all ranks.
        data_parallel: ranks with different rows (replicas x shards).
        context: ranks that share a row.
        replicate: copies of the model; parameters are sharded over the ranks of each.

    Raises:
        UserError: the sizes do not multiply to the number of ranks.
    """
    if min(data_parallel, context, replicate) < 1 or data_parallel * context != world_size:
        raise UserError(
            f"strategy: data_parallel_size {data_parallel} x context_parallel_size {context} are not the {world_size} "
            f"processes of this run; both at least 1 and their product that number, or data_parallel_size: auto"
        )
    if data_parallel % replicate:
        raise UserError(f"strategy: replicate_size is {replicate}; it must divide data_parallel_size {data_parallel}")
    data = init_device_mesh(device_type, (data_parallel, context), mesh_dim_names=("data_parallel", "context_parallel"))
    if replicate == 1:
        return Meshes(data, init_device_mesh(device_type, (world_size,), mesh_dim_names=("shard",)))
    shape = (replicate, world_size // replicate)
    return Meshes(data, init_device_mesh(device_type, shape, mesh_dim_names=("replicate", "shard")))
