"""Jobs per second of procrastinate, the same work as in bench.mjs: a job that does nothing."""

import asyncio
import os
import time

import procrastinate

dsn = os.environ["DSN"]
jobs = min(int(os.environ.get("JOBS", "10000")), 4000)
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=dsn, max_size=24))


@app.task(queue="bench", name="bench")
async def bench(n: int) -> None:
    pass


async def main() -> None:
    async with app.open_async():
        try:
            await app.schema_manager.apply_schema_async()
        except procrastinate.exceptions.ConnectorException:
            pass
        for workers in map(int, os.environ.get("WORKERS", "1,4,16").split(",")):
            await bench.batch_defer_async(*({"n": n} for n in range(jobs)))
            started = time.perf_counter()
            await app.run_worker_async(queues=["bench"], concurrency=workers, wait=False, listen_notify=False, install_signal_handlers=False)
            print(f"{'procrastinate':16} batch    1  workers {workers:2}  {jobs / (time.perf_counter() - started):7.0f} jobs/s")


asyncio.run(main())
