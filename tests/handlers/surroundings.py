"""Handlers that tell where they run."""

import importlib
import os
import sys

import snakepen


@snakepen.handler
def variable(name: str) -> "str | None":
    return os.environ.get(name)


@snakepen.handler
def working_dir() -> str:
    return os.getcwd()


@snakepen.handler
def search_path() -> "list[str]":
    return sys.path


@snakepen.handler
def interpreter() -> "dict[str, object]":
    return {
        "prefix": sys.prefix,
        "base": sys.base_prefix,
        "version": sys.version.split()[0],
        "optimize": sys.flags.optimize,
    }


@snakepen.handler
def attribute(module: str, name: str) -> object:
    return getattr(importlib.import_module(module), name)


@snakepen.handler
def pids() -> "list[int]":
    return [os.getpid(), os.getppid()]
