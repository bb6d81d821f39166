"""The same functions as Snakepen's handlers."""

import snakepen
import work

for function in (work.echo, work.sleep5ms, work.spin, work.stream):
    snakepen.handler(function)
