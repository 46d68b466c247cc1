"""Measures the engine itself: how few evaluations a search needs, beside its peers."""
