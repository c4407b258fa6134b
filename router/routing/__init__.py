"""Which model answers, and the one retry that a client never sees. No HTTP, no decisions about memory."""
