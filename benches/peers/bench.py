"""Measures the jobs per second of procrastinate. The work is the same as in bench.mjs, jobs that do nothing."""

import asyncio
import json
import os
import time

import procrastinate

dsn = os.environ["DSN"]
limit = float(os.environ.get("LIMIT", "2"))
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=dsn, max_size=24))
done = 0


@app.task(queue="bench", name="bench")
async def bench(n: int) -> None:
    global done
    done += 1


async def drain(workers: int, jobs: int, most: float) -> float:
    """Works off up to `jobs` jobs, for at most `most` seconds; jobs per second."""
    global done
    done = 0
    await bench.batch_defer_async(*({"n": n} for n in range(jobs)))
    started = time.perf_counter()
    worker = asyncio.create_task(
        app.run_worker_async(queues=["bench"], concurrency=workers, wait=False, listen_notify=False, install_signal_handlers=False)
    )
    await asyncio.wait({worker}, timeout=most)
    rate = done / (time.perf_counter() - started)
    if not worker.done():
        worker.cancel()
        await asyncio.wait({worker}, timeout=20)
    return rate


def note(**line: object) -> None:
    with open(os.environ["OUT"], "a") as out:
        out.write(json.dumps(line) + "\n")


async def main() -> None:
    async with app.open_async():
        try:
            await app.schema_manager.apply_schema_async()
        except procrastinate.exceptions.ConnectorException:
            pass
        for workers in map(int, os.environ.get("WORKERS", "1,4,16").split(",")):
            rate = await drain(workers, 1000, limit)
            print(f"{'procrastinate':16} batch    1  workers {workers:2}  {rate:7.0f} jobs/s")
            note(system="procrastinate", batch=1, workers=workers, rate=round(rate))


asyncio.run(main())
