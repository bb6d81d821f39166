"""A handler file with heavy imports: all of them from the standard library."""

import asyncio  # noqa: F401
import decimal  # noqa: F401
import email.message  # noqa: F401
import http.client  # noqa: F401
import logging.config  # noqa: F401
import statistics  # noqa: F401
import sys
import unittest.mock  # noqa: F401
import urllib.request  # noqa: F401

import snakepen


@snakepen.handler
def modules() -> int:
    """How many modules this worker has."""
    return len(sys.modules)
