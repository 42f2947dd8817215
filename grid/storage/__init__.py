"""Files that are written whole or not at all: strict JSON, sealed records."""
