"""
THE OPERATOR'S FILE: from YAML text to a Registry, or to every problem with its line.

The door of yaml and pydantic.
"""
