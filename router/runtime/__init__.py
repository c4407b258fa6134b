"""Worker processes seen from the gateway: how they start, what they say, how they end."""
