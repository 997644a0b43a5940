/**
 * The health port of a worker application. GET /health answers 200 while every worker and projection has a connection and no
 * projection stands at a message whose effect fails, else 503. GET /metrics has counts in the text format of Prometheus, named as
 * by the other clients.
 */

import { invalid } from '../client/errors.js';
import type { ReaderHealth } from '../work/reader.js';
import type { AppHealth } from './app.js';

/** Returns host and port of an address such as `:8080` or `127.0.0.1:8080`. */
export function parseAddress(address: string | number): { host: string | undefined; port: number } {
    const [, host, port] = /^(?:(.*):)?(\d{1,5})$/.exec(String(address)) ?? [];
    if (port === undefined || Number(port) > 65535) {
        throw invalid(`invalid address of the health port: "${String(address).slice(0, 100)}"`, { hint: 'For example ":8080" or "127.0.0.1:8080".' });
    }
    return { host: host?.replace(/^\[|\]$/g, '') || undefined, port: Number(port) };
}

/** Returns the text of a label of Prometheus. */
const labelled = (name: string, value: string) => `${name}="${value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')}"`;

function metrics(workers: AppHealth[]): string {
    const label = (worker: AppHealth) => labelled('subscription', worker.subscription);
    const lines = ['# HELP outbox_worker_deliveries_total Deliveries by outcome of their handler.', '# TYPE outbox_worker_deliveries_total counter'];
    for (const worker of workers) {
        for (const outcome of ['completed', 'failed', 'dead', 'released', 'lost'] as const) {
            lines.push(`outbox_worker_deliveries_total{${label(worker)},outcome="${outcome}"} ${worker.summary[outcome]}`);
        }
    }
    lines.push('# HELP outbox_worker_running Handlers that run now.', '# TYPE outbox_worker_running gauge');
    for (const worker of workers) lines.push(`outbox_worker_running{${label(worker)}} ${worker.running}`);
    lines.push('# HELP outbox_worker_connected Whether the worker has a session.', '# TYPE outbox_worker_connected gauge');
    for (const worker of workers) lines.push(`outbox_worker_connected{${label(worker)}} ${worker.ok ? 1 : 0}`);
    const projections = workers.flatMap((worker) => worker.projections);
    const family = (name: string, kind: string, help: string, value: (one: ReaderHealth) => number) => {
        lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${kind}`);
        for (const one of projections) lines.push(`${name}{${labelled('consumer', one.consumer ?? '')}} ${value(one)}`);
    };
    if (projections.length > 0) {
        family('outbox_projection_messages_total', 'counter', 'Messages that the projection has applied.', (one) => one.applied);
        const failing = (one: ReaderHealth) => (one.failingPosition === null ? 0 : 1);
        family('outbox_projection_failing', 'gauge', 'Whether the projection stands at a message whose effect fails.', failing);
        family('outbox_projection_connected', 'gauge', 'Whether the reader of the projection has a session.', (one) => (one.connected ? 1 : 0));
    }
    return `${lines.join('\n')}\n`;
}

/** Serves on an address. `workers` is asked at each request. Returns the port, and a function that ends the server. */
export async function serveHealth(
    address: string | number,
    workers: () => AppHealth[],
): Promise<{ port: number; close: () => Promise<void> }> {
    const { host, port } = parseAddress(address);
    const { createServer } = require('node:http') as typeof import('node:http');
    const server = createServer((request, response) => {
        const path = (request.url ?? '/').split('?')[0]!;
        const answer = (status: number, type: string, body: string) => {
            response.writeHead(status, { 'content-type': type });
            response.end(body);
        };
        if (path === '/metrics') return answer(200, 'text/plain; version=0.0.4; charset=utf-8', metrics(workers()));
        if (!['/', '/health', '/healthz'].includes(path)) return answer(404, 'text/plain; charset=utf-8', 'there are /health and /metrics\n');
        const all = workers();
        const projections = all.flatMap((worker) => worker.projections);
        const failing = projections.some((one) => one.failingPosition !== null);
        const ok = all.length > 0 && all.every((worker) => worker.ok) && projections.every((one) => one.ok);
        const state = failing ? 'failing' : ok ? 'ok' : 'disconnected';
        answer(ok ? 200 : 503, 'application/json', `${JSON.stringify({ state, workers: all })}\n`);
    });
    await new Promise<void>((resolve, reject) => {
        server.once('error', reject);
        server.listen({ port, host }, resolve);
    });
    // A supervisor that keeps its connection open does not keep the process alive.
    const close = () => {
        server.closeAllConnections();
        return new Promise<void>((resolve) => server.close(() => resolve()));
    };
    return { port: (server.address() as { port: number }).port, close };
}
