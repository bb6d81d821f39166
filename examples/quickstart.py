import snakepen


@snakepen.handler
def add(a: int, b: int) -> int:
    return a + b
