"""A trace replayed through the real residency core on virtual time. Nothing here reads a clock or awaits."""
