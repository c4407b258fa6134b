"""Continuous batching over one loaded model. No sockets, no threads, no clock but what is handed in."""
