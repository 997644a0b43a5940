#!/usr/bin/env node
/**
 * The command `pg-outbox worker ./app.js`: runs the worker applications that a module exports, until SIGTERM or Ctrl-C. The command
 * `pg-outbox with-server node --test` runs a command with a throwaway server, which all its processes find.
 *
 * The exit code is 0 after SIGTERM, 130 after Ctrl-C, 1 after an error, and 2 if the command line is wrong; `with-server` has the exit
 * code of its command.
 */

import { spawn } from 'node:child_process';
import { constants } from 'node:os';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';

import { connected, WorkerApp } from './app/app.js';
import { serveHealth } from './app/health.js';
import { VERSION } from './client/version.js';

const USAGE = `Usage: pg-outbox worker APP [options]
       pg-outbox with-server COMMAND [argument ...]

worker runs the worker applications that the module APP exports (events.worker(...)), until SIGTERM or Ctrl-C.
with-server runs a command, for example node --test, with a throwaway server of PostgreSQL, whose connection string is in
PG_OUTBOX_TEST_DSN. useDatabase() of pg-outbox/testing makes databases on it.

Options:
  --concurrency N    handlers at once, where the application does not say it (10)
  --health ADDRESS   answer /health and /metrics there, for example :8080
  --watch            begin again when a file of the application changes; for development
  --version          print the version
  --help             print this text

DATABASE_URL is the connection string, unless the application has a client of its own.
`;

class Usage extends Error {}

function parsed() {
    try {
        const { values, positionals } = parseArgs({
            allowPositionals: true,
            options: {
                concurrency: { type: 'string' },
                health: { type: 'string' },
                watch: { type: 'boolean' },
                version: { type: 'boolean' },
                help: { type: 'boolean', short: 'h' },
            },
        });
        const concurrency = values.concurrency === undefined ? undefined : Number(values.concurrency);
        if (concurrency !== undefined && !(Number.isInteger(concurrency) && concurrency >= 1 && concurrency <= 10_000)) {
            throw new Usage('--concurrency is a number from 1 to 10000');
        }
        return { ...values, concurrency, positionals };
    } catch (error) {
        throw new Usage((error as Error).message);
    }
}

/** Returns the worker applications that a module exports, alone or in lists. */
async function appsOf(path: string): Promise<WorkerApp[]> {
    const exported = (await import(pathToFileURL(resolve(path)).href)) as Record<string, unknown>;
    const found = new Set<WorkerApp>();
    // A CommonJS module appears as its default export.
    for (const value of [...Object.values(exported), ...Object.values((exported.default as object | undefined) ?? {})]) {
        for (const one of Array.isArray(value) ? value : [value]) if (one instanceof WorkerApp) found.add(one);
    }
    if (found.size === 0) throw new Usage(`"${path}" exports no worker application; for example: export default events.worker('billing', { ... })`);
    return [...found];
}

/** Runs this command again under `node --watch`, which begins again when a module changes. */
function watch(): void {
    const args = process.argv.slice(2).filter((arg) => arg !== '--watch');
    const child = spawn(process.execPath, ['--watch', ...process.execArgv, __filename, ...args], { stdio: 'inherit' });
    for (const name of ['SIGINT', 'SIGTERM'] as const) process.on(name, () => child.kill(name));
    child.on('exit', (code) => (process.exitCode = code ?? 0));
}

async function work(path: string, concurrency: number | undefined, health: string | undefined): Promise<void> {
    const controller = new AbortController();
    let interrupted = false;
    for (const name of ['SIGINT', 'SIGTERM'] as const) {
        process.on(name, () => {
            // The second signal ends the process.
            if (controller.signal.aborted) process.exit(name === 'SIGINT' ? 130 : 143);
            interrupted = name === 'SIGINT';
            controller.abort();
        });
    }
    const apps = await appsOf(path);
    const server = health === undefined ? undefined : await serveHealth(health, () => apps.map((app) => app.health));
    // One pool for all applications that have no client of their own.
    let shared: ReturnType<typeof connected> | undefined;
    const client = apps.some((app) => !app.hasClient) ? (shared = connected(undefined)).client : undefined;
    try {
        await Promise.all(
            apps.map((app) =>
                app.run({ client: app.hasClient ? undefined : client, concurrency, signal: controller.signal }).catch((error: unknown) => {
                    controller.abort();
                    throw error;
                }),
            ),
        );
    } finally {
        await server?.close();
        await shared?.end();
    }
    process.exitCode = interrupted ? 130 : 0;
}

async function withServer([command, ...args]: string[]): Promise<void> {
    if (command === undefined) throw new Usage('a command is needed');
    const { TEST_DSN, TestServer } = await import('./testing/server.js');
    const server = await TestServer.given();
    try {
        const child = spawn(command, args, { stdio: 'inherit', env: { ...process.env, [TEST_DSN]: server.dsn } });
        // Ctrl-C goes to the command as well, and this process waits for it.
        for (const name of ['SIGINT', 'SIGTERM'] as const) process.on(name, () => child.kill(name));
        process.exitCode = await new Promise<number>((done, failed) => {
            child.once('error', failed);
            child.once('close', (code, signal) => done(code ?? 128 + (signal === null ? 0 : constants.signals[signal])));
        });
    } finally {
        await server.end();
    }
}

async function main(): Promise<void> {
    // The rest of the line belongs to the command.
    if (process.argv[2] === 'with-server') return withServer(process.argv.slice(3));
    const { positionals, concurrency, health, watch: watching, version, help } = parsed();
    if (help) return void process.stdout.write(USAGE);
    if (version) return void process.stdout.write(`${VERSION}\n`);
    const [command, path, ...rest] = positionals;
    if (command !== 'worker' || path === undefined || rest.length > 0) throw new Usage('a command and a module are needed');
    if (watching) return watch();
    await work(path, concurrency, health);
}

main().then(
    // Something of the application may keep the process alive, such as a client that nobody ends.
    () => process.exitCode !== undefined && process.exit(),
    (error: unknown) => {
        if (error instanceof Usage) process.stderr.write(`pg-outbox: ${error.message}\n\n${USAGE}`);
        else console.error(error);
        process.exit(error instanceof Usage ? 2 : 1);
    },
);
