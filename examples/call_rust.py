"""The Python half of call_rust.rs: handlers that call the Rust program."""

import snakepen

pricing = snakepen.actor("pricing")


@snakepen.handler
def quote(cart: dict[str, int]) -> float:
    """What a cart costs. The prices are those of an actor in Rust, asked for one by one."""
    total = sum(count * pricing.call(sku) for sku, count in cart.items())
    pricing.cast("quoted")
    return total


@snakepen.handler
async def digest(lines: list[str]) -> list[str]:
    """The hashes of all lines, computed in Rust at once."""
    import asyncio

    return await asyncio.gather(*(snakepen.actor("hash").acall(line) for line in lines))


@snakepen.handler
def outer(sku: str) -> str:
    """Asks Rust, which asks another handler, which asks Rust."""
    return f"the label says {snakepen.actor('label').call(sku)!r}"


@snakepen.handler
def label(sku: str) -> str:
    return f"{sku}: {pricing.call(sku):.2f}"


@snakepen.handler
def careful(sku: str) -> str:
    try:
        return outer(sku)
    except snakepen.WouldDeadlock as error:
        return f"no label, {error.message}"
