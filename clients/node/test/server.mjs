// A real server for a test file. tools/harness starts the server, and stops it with this process.
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import pg from 'pg';

const root = fileURLToPath(new URL('../../../', import.meta.url));

/** Starts a server with the extension preloaded. Each of `settings` is `name=value`. */
export async function startServer(settings = ['max_worker_processes=60', 'pg_outbox.poll_interval=1s']) {
    const program = process.env.OUTBOX_SERVE ?? `${root}target/release/serve`;
    const child = spawn(program, settings, { stdio: ['pipe', 'pipe', 'inherit'] });
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    const failed = new Promise((_, reject) => child.once('error', reject));
    const first = await Promise.race([lines.next(), failed]);
    if (first.done) throw new Error('the server did not start');
    const dsn = first.value;
    return {
        dsn,
        pid: child.pid,
        /** Sends a command: `restart fast`, `restart immediate`, `stop fast`, `stop immediate` or `start`. */
        async tell(command) {
            child.stdin.write(`${command}\n`);
            const { value } = await lines.next();
            if (value !== 'ok') throw new Error(`${command}: ${value}`);
        },
        /** Sends a command and returns its answer, for instance `tls FOLDER`. */
        async ask(command) {
            child.stdin.write(`${command}\n`);
            const { value } = await lines.next();
            if (value.startsWith('error')) throw new Error(`${command}: ${value}`);
            return value;
        },
        /** Creates a database, by default with the extension, and returns its connection string. */
        async database({ extension = true } = {}) {
            const name = `t_${randomBytes(6).toString('hex')}`;
            const admin = new pg.Client(dsn);
            await admin.connect();
            await admin.query(`create database ${name}`);
            await admin.end();
            const url = new URL(dsn);
            url.pathname = `/${name}`;
            if (extension) {
                const client = new pg.Client(url.href);
                await client.connect();
                await client.query('create extension pg_outbox');
                await client.end();
            }
            return url.href;
        },
        async end() {
            const ended = new Promise((resolve) => child.once('exit', resolve));
            child.stdin.end();
            await ended;
        },
    };
}

/** Waits until `check` returns a true value, and returns that value. */
export async function waitFor(what, check, timeout = 60_000) {
    const deadline = Date.now() + timeout;
    for (;;) {
        const value = await check();
        if (value) return value;
        if (Date.now() > deadline) throw new Error(`waited in vain until ${what}`);
        await new Promise((resolve) => setTimeout(resolve, 10));
    }
}
