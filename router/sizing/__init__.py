"""How much memory a model takes and how much there is. Reads headers and counters, never weights."""
