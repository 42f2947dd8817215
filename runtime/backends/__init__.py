"""Backends that execute the subgraphs of a bundle, behind one protocol."""
