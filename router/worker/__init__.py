"""The child process: one engine, two threads, one socket to the gateway."""
