"""Release side of lit-long: checkpoints to proved Hugging Face folders."""
