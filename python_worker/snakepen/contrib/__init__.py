"""Handlers for particular Python libraries. Each needs its library in the worker's environment."""
