"""A gateway for local LLMs. Imports nothing: the gateway and every worker load this file."""

__version__ = "0.1.0"
