"""Upstreams beyond this machine: relay, breaker, spend. Who answers is decided above; what leaves is decided here."""
