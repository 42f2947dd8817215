"""The paper's training recipe and the generator of the demonstration clips."""
