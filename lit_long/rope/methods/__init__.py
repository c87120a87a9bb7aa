"""The RoPE scaling methods, one file each."""
