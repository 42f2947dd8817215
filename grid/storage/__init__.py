"""Files written atomically: strict JSON, sealed records."""
