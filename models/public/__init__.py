"""Layouts of public code: what its keys say about a network, and what its networks are that dynvid has not."""
