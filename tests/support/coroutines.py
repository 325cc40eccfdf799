"""Tests that are coroutines."""

import asyncio
import functools


def asynchronous(test):
    """Runs a coroutine, for no longer than five minutes."""

    @functools.wraps(test)
    def run(*arguments, **named):
        async def main():
            async with asyncio.timeout(300):
                await test(*arguments, **named)

        asyncio.run(main())

    return run
