"""The same functions as Snakepen's handlers."""

import work

import snakepen

for function in (work.echo, work.sleep5ms, work.spin, work.stream):
    snakepen.handler(function)
