"""Talking to the Hub: publishing a folder in one commit, and fetching one with every byte checked."""
