"""FSDP2 and context parallelism: device mesh, strategy, splitting of sequences, sharded loading and checkpoints."""
